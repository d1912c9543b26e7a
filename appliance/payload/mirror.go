package payload

// Mirror is the Debian archive that packages come from; it ends in "/debian".
func (p *Packages) Mirror() string { return p.from.Main }
