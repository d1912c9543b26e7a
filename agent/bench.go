package agent

import (
	"context"
	"crypto/ed25519"
	"net"

	"refurb/agent/disk"
	"refurb/agent/imaging"
	"refurb/agent/wire"
)

// Bench stands in for the PC where there is none: the fault campaign runs the
// agent on disks and a network that fail and lie. On a PC it is nil.
type Bench struct {
	// Report looks at the PC, in place of drivers, network and hardware.
	Report func(context.Context) wire.Report
	// Open opens a disk as disk.Open does.
	Open func(plan wire.DiskID, approved ...wire.Class) (Disk, error)
	// Dial connects to the appliance.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Disk is an opened disk: *disk.Disk, but on a Bench.
type Disk interface {
	imaging.Device
	ID() wire.DiskID
	// Check says whether this is still the disk of the plan, holding what was
	// approved.
	Check(plan wire.DiskID, key ed25519.PublicKey, approved ...wire.Class) error
	Close() error
}

func (a *agent) open(plan wire.DiskID, approved ...wire.Class) (Disk, error) {
	if b := a.cfg.Bench; b != nil {
		return b.Open(plan, approved...)
	}
	d, err := disk.Open(plan, a.cfg.Key, approved...)
	if err != nil {
		return nil, err
	}
	return d, nil
}
