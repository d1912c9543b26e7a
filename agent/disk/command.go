package disk

import "refurb/agent/drive"

// Drive takes commands for this very disk, on the descriptor that was opened and
// checked.
func (d *Disk) Drive() drive.Drive { return drive.On(d.f) }
