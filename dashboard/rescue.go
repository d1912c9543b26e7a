package dashboard

import (
	"github.com/labstack/echo/v4"

	"refurb/appliance/workshop"
)

// rescueWords are how the choices for a PC's next start are shown: an icon, and
// ids of messages.
var rescueWords = map[workshop.Rescue]struct{ Icon, Word, Why, Next string }{
	workshop.RescueMemory: {"ram", "rescue.memtest", "rescue.memtest.why", "rescue.memtest.next"},
	workshop.RescueDisk:   {"disk", "rescue.local", "rescue.local.why", "rescue.local.next"},
	workshop.RescueShell:  {"key", "rescue.shell", "rescue.shell.why", "rescue.shell.next"},
}

// nextStart says what a person chose for a PC's next start; empty: nothing.
func nextStart(k workshop.Rescue) Say { return Say{ID: rescueWords[k].Next} }

// StartChoice is something else that a PC may start once.
type StartChoice struct {
	Kind            workshop.Rescue
	Icon, Word, Why string
	Path            string // behind the device's address
	Chosen          bool
	Warn            string // id of what stands in its way
}

// choicesOf lists what somebody of a role may choose for a PC's next start.
func choicesOf(v workshop.DeviceDetail, lead bool) (list []StartChoice) {
	if !mayRescue(v) {
		return nil
	}
	for _, k := range []workshop.Rescue{workshop.RescueMemory, workshop.RescueDisk, workshop.RescueShell} {
		w, path := rescueWords[k], "rescue"
		if k == workshop.RescueShell {
			if path = "shell"; !lead {
				continue
			}
		}
		list = append(list, StartChoice{Kind: k, Icon: w.Icon, Word: w.Word, Why: w.Why, Path: path, Chosen: v.Rescue == k, Warn: warnStart(v, k)})
	}
	return list
}

// warnStart says what stands in the way of a choice, as far as the PC's last
// report tells; empty: nothing.
func warnStart(v workshop.DeviceDetail, k workshop.Rescue) string {
	if on := v.Report.Firmware.SecureBoot; k == workshop.RescueMemory && on != nil && *on {
		return "rescue.memtest.secure"
	}
	return ""
}

// mayRescue reports whether a choice for the next start would be taken.
func mayRescue(v workshop.DeviceDetail) bool {
	switch jobState(v.Job) {
	case workshop.Approved, workshop.Imaging, workshop.Verifying, workshop.Erasing:
		return false
	}
	return inWork(v.State)
}

// rescue chooses what harms nobody: the memory test, or the PC's own disk.
func (d *Dashboard) rescue(c echo.Context) error {
	kind := workshop.Rescue(c.FormValue("start"))
	if kind == workshop.RescueShell {
		kind = "" // that has an address, and a role, of its own
	}
	err := d.cfg.Registry.ChooseRescue(c.Request().Context(), actor(c), c.Param("id"), kind)
	return d.done(c, err, d.back(c), "rescue.done")
}

// rescueShell is root on the PC, with whatever its disks hold.
func (d *Dashboard) rescueShell(c echo.Context) error {
	err := d.cfg.Registry.ChooseRescue(c.Request().Context(), actor(c), c.Param("id"), workshop.RescueShell)
	return d.done(c, err, d.back(c), "rescue.done")
}

func (d *Dashboard) forgetRescue(c echo.Context) error {
	err := d.cfg.Registry.ForgetRescue(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, d.back(c), "rescue.forgotten")
}

// wake switches a PC on.
func (d *Dashboard) wake(c echo.Context) error {
	err := d.cfg.Registry.Wake(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, d.back(c), "wake.done")
}

// wakeLot switches on all PCs of a lot for which something waits.
func (d *Dashboard) wakeLot(c echo.Context) error {
	err := d.cfg.Registry.WakeLot(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, "/lots/"+c.Param("id"), "wake.done")
}
