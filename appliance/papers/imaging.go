package papers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// ImagingPaper says how one disk got its system, or that it did not.
type ImagingPaper struct {
	Device    Device     `json:"device"`
	Job       string     `json:"job"`
	Disk      DiskSeen   `json:"disk"`             // class: what it held before
	Health    string     `json:"health,omitempty"` // of the disk when it was approved, with the reasons
	Image     string     `json:"image"`
	Root      string     `json:"root"`      // of the image's hashes: it names every byte
	SignedBy  string     `json:"signed_by"` // the key that agents check the image's signature with
	Result    Installed  `json:"result"`
	Reasons   []string   `json:"reasons"`
	Order     Order      `json:"order"`
	Outcome   *Installer `json:"outcome,omitempty"`
	FirstBoot *FirstBoot `json:"first_boot,omitempty"`
	History   []Step     `json:"history"`
	Evidence  []string   `json:"evidence_sha256"`
	Basis     Basis      `json:"basis"`
}

// Installed is what came of an installation. There are three, and none is the
// zero value.
type Installed string

const (
	ReadBack    Installed = "verified"     // every byte was read back and matched
	NotFinished Installed = "not_finished" // it failed or was cancelled: the disk doesn't start
	NotKnown    Installed = "unknown"
)

// Installer is what the agent reported, without what only matters to the network.
type Installer struct {
	Written    int64          `json:"written"`
	ReadBack   int64          `json:"read_back"`
	Mismatches int            `json:"mismatches"`
	Fetched    int64          `json:"fetched"`
	FromPeers  int64          `json:"from_peers"`
	Resumed    int            `json:"resumed_frames"`
	Retries    int            `json:"retries"`
	Streams    int            `json:"streams"`
	WriteMS    int64          `json:"write_ms"`
	ReadMS     int64          `json:"read_ms"`
	Finish     []string       `json:"finish"`
	Warnings   []string       `json:"warnings"`
	Birth      string         `json:"birth_record_sha256,omitempty"`
	SelfTest   *wire.SelfTest `json:"self_test,omitempty"`
}

// FirstBoot is the installed system's own word that it started.
type FirstBoot struct {
	At     time.Time `json:"at"`
	System string    `json:"system,omitempty"`
	Kernel string    `json:"kernel,omitempty"`
}

// images reports whether a job came to write an image.
func images(job []line) bool {
	return slices.ContainsFunc(job, func(l line) bool { return l.Kind == "job" && l.To == string(workshop.Imaging) })
}

// imaging makes the paper of one job that imaged, whatever came of it. key is
// the one that the appliance signs with today.
func imaging(f facts, id, key string) (*ImagingPaper, error) {
	job := f.job(id)
	if !images(job) {
		return nil, notFound("There is no installation with this number")
	}
	p := &ImagingPaper{Job: id, Result: NotKnown, Reasons: []string{}, Evidence: []string{}}
	var began, end, proof line
	for _, l := range job {
		if l.Kind == "job" && l.To == string(workshop.Imaging) && began.seq == 0 {
			began = l
		}
		end = ending(end, l)
		if l.Kind == "job" && l.To == string(workshop.Verified) {
			proof = l
		}
		if l.Kind == "job" && l.To == string(workshop.FirstBoot) {
			p.FirstBoot = &FirstBoot{At: l.Time, System: workshop.Text(l.Params["system"]), Kernel: workshop.Text(l.Params["kernel"])}
		}
		if l.Evidence != "" && !slices.Contains(p.Evidence, l.Evidence) {
			p.Evidence = append(p.Evidence, l.Evidence)
		}
		p.History = append(p.History, stepOf(l))
		p.Basis = basisOf(f.device, l)
	}
	if end.seq == 0 {
		return nil, &workshop.Refusal{Kind: workshop.Conflict, Message: "This installation has not ended", Next: "Wait for it; the PC's screen shows how far it is"}
	}
	rep, err := f.reportBefore(began.seq)
	if err != nil {
		return nil, err
	}
	p.Device = f.about(rep)
	p.SignedBy = f.keyAt(began.Time, key)
	p.Disk = DiskSeen{DiskID: diskOf(began.Params), Seen: began.Time}
	if d := diskIn(rep, p.Disk.DiskID); d != nil {
		p.Disk.Transport, p.Disk.Class = d.Transport, d.Class
	}
	order, at := orderOf(job)
	if p.Order = order; at != nil {
		p.Image, p.Root = workshop.Text(at.Params["image_name"]), workshop.Text(at.Params["image"])
		p.Health = workshop.Text(strings.TrimSuffix(at.Params["health"]+": "+at.Params["health_reasons"], ": "))
		if c := workshop.Text(at.Params["class"]); c != "" {
			p.Disk.Class = wire.Class(c)
		}
	}
	if proof.seq == 0 {
		proof = end
	}
	if proof.Evidence != "" {
		o, err := document[wire.Outcome](f, proof)
		if err != nil {
			return nil, err
		}
		p.Outcome = &Installer{
			Written: o.Written, ReadBack: o.ReadBack, Mismatches: o.Mismatches, Fetched: o.Fetched, FromPeers: o.FromPeers, Resumed: o.Resumed,
			Retries: o.Retries, Streams: o.Streams, WriteMS: o.WriteTime.Milliseconds(), ReadMS: o.ReadTime.Milliseconds(),
			Finish: append([]string{}, o.Finish...), Warnings: append([]string{}, o.Warnings...), SelfTest: o.SelfTest,
		}
		// The line says which record the appliance had signed for this disk.
		if o.Birth != "" && proof.Params["birth"] == o.Birth {
			p.Outcome.Birth = o.Birth
		} else if o.Birth != "" {
			p.Outcome.Warnings = append(p.Outcome.Warnings, "The agent named a birth record that is not the one the appliance had signed")
		}
	}
	p.judge(proof)
	return p, nil
}

// judge believes the agent's word only where the chain and its numbers do.
func (p *ImagingPaper) judge(proof line) {
	if proof.Reason != "" {
		p.Reasons = append(p.Reasons, workshop.Text(proof.Reason))
	}
	o := p.Outcome
	switch {
	case proof.To == string(workshop.Verified) && o != nil && o.ReadBack > 0 && o.Mismatches == 0:
		p.Result = ReadBack
	case proof.To == string(workshop.Verified):
		p.Reasons = append(p.Reasons, "The appliance called it verified, and the agent's report doesn't bear that out")
	case proof.Result == "unknown", proof.To == string(workshop.JobLost), proof.Kind == "late_outcome":
		p.Reasons = append(p.Reasons, "Nobody can say how far it came")
	default:
		p.Result = NotFinished
	}
}

func (p *ImagingPaper) face() face {
	f := face{Title: "Installation record", Sub: append([]string{or(p.Image, "unknown image")}, p.Device.title()...), Reasons: p.Reasons}
	switch p.Result {
	case ReadBack:
		f.Sign, f.Verdict = "✓", "Written and read back"
		f.Lead = fmt.Sprintf("The image was written to the disk below, and every byte of it, %s, was then read from the disk and matched.", bytesText(p.Outcome.ReadBack))
		if p.FirstBoot != nil {
			f.Lead += " The PC started from that disk on " + day(p.FirstBoot.At) + "."
		}
	case NotFinished:
		f.Sign, f.Verdict, f.Lead = "✗", "Not finished", "The installation below did not come to its end. A disk that is half written does not start."
	default:
		f.Sign, f.Verdict, f.Lead = "?", "Unknown", "An installation was begun, and nobody can say how it ended."
	}
	img := section{Title: "The image"}
	img.fact("Name", or(p.Image, "not recorded"))
	img.code("Root of its hashes (BLAKE3)", p.Root)
	img.code("Its signature's key (Ed25519)", or(p.SignedBy, "not known: the history of the house is damaged"))
	disk := section{Title: "The disk"}
	disk.fact("Maker and model", or(p.Disk.Model, "not given by the disk"))
	disk.code("Serial number", or(p.Disk.Serial, "none given by the disk"))
	disk.code("WWN", p.Disk.WWN)
	disk.fact("Size", exactBytes(p.Disk.Bytes))
	if p.Disk.Transport != "" {
		disk.fact("Plug", busOf(p.Disk.Transport))
	}
	disk.fact("Content before, by its signatures", string(p.Disk.Class))
	disk.fact("Health when it was approved", p.Health)
	who := section{Title: "Who"}
	who.Facts = append(who.Facts, fact{Name: "Approved by", Who: p.Order.By}, fact{Name: "Approved at", Value: clock(p.Order.At)})
	who.fact("How it was confirmed", or(confirmed(p.Order), "not recorded"))
	f.add(img, disk, p.Device.section(), who)
	if o := p.Outcome; o != nil {
		did := section{Title: "What was done"}
		did.fact("Written", exactBytes(o.Written)+speed(o.Written, o.WriteMS))
		did.fact("Read back and equal", exactBytes(o.ReadBack)+speed(o.ReadBack, o.ReadMS))
		did.fact("Differences", count(int64(o.Mismatches), ""))
		did.fact("Received, compressed", exactBytes(o.Fetched))
		if o.FromPeers > 0 {
			did.fact("Of that from other PCs", exactBytes(o.FromPeers))
		}
		did.fact("Connections to the appliance", count(int64(o.Streams), ""))
		did.fact("Fetched again after an error", count(int64(o.Retries), ""))
		if o.Resumed > 0 {
			did.fact("Found on the disk from an earlier attempt", count(int64(o.Resumed), "frames of 4 MiB"))
		}
		for _, s := range o.Finish {
			did.fact("Then", s)
		}
		for _, s := range o.Warnings {
			did.fact("Warning", s)
		}
		did.code("Birth record on the disk (SHA-256)", or(o.Birth, "none was written"))
		if t := o.SelfTest; t != nil {
			did.fact("The disk's short self-test", strings.TrimSpace(t.State+" "+t.Text))
		}
		f.add(did)
	}
	boot := section{Title: "First start from the disk"}
	if b := p.FirstBoot; b != nil {
		boot.fact("Seen", clock(b.At))
		boot.fact("System", b.System)
		boot.fact("Linux", b.Kernel)
	} else {
		boot.fact("Seen", "not yet")
	}
	f.add(boot)
	f.history(p.History, p.Basis)
	f.Proves = []string{"What was written to which disk, who had approved it, and what was read back from it, as the programs recorded it at the time."}
	f.Not = []string{
		"It is no proof of an erasure: what was on the disk before and wasn't written over can remain.",
		"It doesn't show what was done with the PC afterwards.",
	}
	return f
}

func speed(n, ms int64) string {
	if ms <= 0 || n <= 0 {
		return ""
	}
	return fmt.Sprintf(" in %s (%.0f MB/s)", span(time.Duration(ms)*time.Millisecond), float64(n)/1e3/float64(ms))
}
