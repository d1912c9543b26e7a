package link

import (
	"log/slog"

	"github.com/safchain/ethtool"
)

// Arm has every wired card that can listen for a magic packet while the PC is off.
// Some cards keep it; others forget it with the next system's driver, or when the
// power was cut.
func Arm(log *slog.Logger) {
	all, err := cards()
	if err != nil {
		log.Warn("wake on LAN", "err", err)
		return
	}
	e, err := ethtool.NewEthtool()
	if err != nil {
		log.Warn("wake on LAN", "err", err)
		return
	}
	defer e.Close()
	for _, l := range all {
		name := l.Attrs().Name
		w, err := e.GetWakeOnLan(name)
		if err != nil || w.Supported&ethtool.WAKE_MAGIC == 0 || w.Opts&ethtool.WAKE_MAGIC != 0 {
			continue // most drivers of virtual and USB cards can't
		}
		w.Opts |= ethtool.WAKE_MAGIC
		if _, err := e.SetWakeOnLan(name, w); err != nil {
			log.Warn("wake on LAN", "interface", name, "err", err)
		}
	}
}
