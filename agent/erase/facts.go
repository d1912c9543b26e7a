package erase

import (
	"context"
	"time"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// facts are what a drive says of itself.
type facts struct {
	wire.Abilities
	nsid, format uint32   // of the NVMe namespace
	unallocated  int64    // bytes of the NVMe drive that belong to no namespace
	words        ataWords // IDENTIFY DEVICE
}

// hidden is what the drive holds back from the system, if it can and says so.
func (f *facts) hidden(d drive.Drive, size int64, sector int) *wire.HiddenArea {
	switch {
	case f.words != nil:
		return f.hiddenATA(d, size, int64(sector))
	case f.unallocated > 0: // it may hold what a namespace did that was deleted
		return &wire.HiddenArea{Visible: size, Real: size + f.unallocated, Note: "capacity that belongs to no namespace"}
	}
	return nil
}

// ask reads the facts by the commands that fit the transport. What can't be read
// is said in Error, and is nothing to erase by.
func ask(d drive.Drive, transport string) *facts {
	f := &facts{}
	var err error
	switch {
	case d == nil:
	case transport == wire.TransportNVMe:
		err = f.askNVMe(d)
	case transport == wire.TransportSATA:
		err = f.askATA(d)
	case transport == wire.TransportSCSI:
		err = f.askSCSI(d)
	}
	if err != nil {
		f.Error = short(err.Error())
	}
	return f
}

// lookTime is how long a disk may take for the questions of Look.
const lookTime = 20 * time.Second

// Look reads how a disk can erase itself, without claiming it; nil when there is
// no way to ask a disk of its kind.
func Look(ctx context.Context, path, transport string) *wire.Abilities {
	switch transport {
	case wire.TransportNVMe, wire.TransportSATA, wire.TransportSCSI:
	default:
		return nil
	}
	a, err := aside(lookTime, func() (*wire.Abilities, error) {
		d, err := drive.Open(path)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return &ask(d, transport).Abilities, nil
	})
	if err != nil {
		return &wire.Abilities{Error: short(err.Error())}
	}
	return a
}

// short bounds a text.
func short(s string) string {
	if len(s) > wire.MaxText {
		s = s[:wire.MaxText-3] + "..."
	}
	return s
}
