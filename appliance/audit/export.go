package audit

import (
	"crypto/ed25519"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"refurb/appliance/sheet"
)

// Format of an export.
type Format string

const (
	JSONLines Format = "jsonl" // the only one that VerifyFile takes
	CSV       Format = "csv"
	HTML      Format = "html"
)

// Cover is what people look for first on the printed page. It comes from the
// appliance's records of today, is not in the chain, and is not signed.
type Cover struct {
	Title string // "PC 12 · HP EliteDesk 800 G2"
	Facts []Fact
	Names map[string]string // of actors, by id
}

// Fact is one line of a cover.
type Fact struct{ Name, Value string }

// Export writes the history of a device ("": of the house), signed by key. It
// checks the whole chain first and writes nothing of a broken one.
func Export(w io.Writer, device string, entries []Entry, format Format, key ed25519.PrivateKey, now time.Time) error {
	return ExportWith(w, device, entries, format, key, now, nil, Cover{})
}

// ExportWith is Export with the proof that a checkpoint covers the chain, if
// there is one, and with a cover on the printed page; other formats have none.
func ExportWith(w io.Writer, device string, entries []Entry, format Format, key ed25519.PrivateKey, now time.Time, proof *Proof, cover Cover) error {
	head := Start
	if n := len(entries); n > 0 {
		head = entries[n-1].Hash
	}
	lines, trouble := check(device, entries, int64(len(entries)), head, 0)
	if trouble != nil {
		return fmt.Errorf("this history is damaged and was not exported: %w", trouble)
	}
	if proof != nil {
		c, err := parseCheckpoint(noteText(proof.Note))
		if err != nil {
			return fmt.Errorf("the checkpoint can't be read: %w", err)
		}
		if bad := proof.holds(c, entries, 0); bad != nil {
			return fmt.Errorf("this history doesn't go on from a checkpoint and was not exported: %w", bad)
		}
	}
	h, err := sign(device, entries, proof, key, now)
	if err != nil {
		return fmt.Errorf("signing the history: %w", err)
	}
	switch format {
	case JSONLines:
		return writeJSONL(w, h, entries)
	case CSV:
		return writeCSV(w, lines, entries)
	case HTML:
		return page.Execute(w, paper(h, lines, entries, cover))
	}
	return fmt.Errorf("there is no format %q: choose %s, %s or %s", format, JSONLines, CSV, HTML)
}

func writeCSV(w io.Writer, lines []line, entries []Entry) error {
	rows := [][]string{{"seq", "time", "event", "from", "to", "actor", "result", "reason", "device", "job", "params", "evidence_sha256", "prev_hash", "hash"}}
	for i, l := range lines {
		params := ""
		if len(l.Params) > 0 {
			b, err := json.Marshal(l.Params)
			if err != nil {
				return err
			}
			params = string(b)
		}
		rows = append(rows, []string{
			strconv.FormatInt(l.Seq, 10), l.Time.Format(time.RFC3339), l.Kind, l.From, l.To, l.Actor, l.Result, l.Reason,
			l.Device, l.Job, params, l.Evidence, l.Prev, entries[i].Hash,
		})
	}
	return sheet.Write(w, rows)
}

//go:embed paper.html
var paperHTML string

var page = template.Must(template.New("paper").Parse(paperHTML))

type paperLine struct {
	Seq                                                                int64
	Time, Event, From, To, Actor, Name, Result, Reason, Evidence, Hash string
	Params                                                             []paperParam
}

type paperParam struct{ Name, Value string }

type paperView struct {
	Cover
	Proofs                                 []string
	Device, Exported, Head, Key, Signature string
	Count                                  int64
	Checkpoint                             string // which one covers how much; empty: none
	NoteHash                               string
	Lines                                  []paperLine
}

func paper(h header, lines []line, entries []Entry, cover Cover) paperView {
	v := paperView{Cover: cover, Proofs: proofs(lines), Device: h.Device, Exported: h.Exported, Head: h.Head, Key: h.PublicKey, Signature: h.Signature, Count: h.Count}
	if h.Proof != nil {
		if c, err := parseCheckpoint(noteText(h.Proof.Note)); err == nil {
			v.Checkpoint = fmt.Sprintf("%d of %s, %s: lines 1 to %d", c.Number, c.Time.Format("2006-01-02 15:04"), c.Origin, h.Proof.Seq)
		}
		v.NoteHash = NoteHash([]byte(h.Proof.Note))
	}
	for i, l := range lines {
		p := paperLine{
			Seq: l.Seq, Time: l.Time.Format("2006-01-02 15:04:05"), Event: l.Kind, From: l.From, To: l.To,
			Actor: l.Actor, Name: cover.Names[l.Actor], Result: l.Result, Reason: l.Reason, Evidence: l.Evidence, Hash: entries[i].Hash,
		}
		for _, k := range slices.Sorted(maps.Keys(l.Params)) {
			p.Params = append(p.Params, paperParam{k, l.Params[k]})
		}
		v.Lines = append(v.Lines, p)
	}
	return v
}

// proofs says in sentences how each installation and each erasure went.
func proofs(lines []line) []string {
	var all []string
	say := func(l line, format string, a ...any) {
		all = append(all, l.Time.Format("2006-01-02 15:04")+" UTC: "+fmt.Sprintf(format, a...))
	}
	erases := map[string]bool{} // jobs that do
	for _, l := range lines {
		if l.Kind != "job" || l.Device == "" {
			continue
		}
		p := l.Params
		disk := "disk " + or(p["model"], p["disk"]) + ", serial number " + or(p["serial"], "none")
		switch l.To {
		case "verified":
			say(l, "%s: %s were written, %s were read back, %s differences.", disk, amount(p["written"]), amount(p["read_back"]), or(p["mismatches"], "?"))
		case "first_boot_seen":
			say(l, "the PC started from its own disk.")
		case "approved":
			erases[l.Job] = p["job"] == "erase"
		case "erasing":
			erases[l.Job] = true
			say(l, "%s: an erasure began.", disk)
		case "erased":
			say(l, "%s: erased (level: %s), %s were read back, %s blocks were not empty.", disk, or(p["level"], "unknown"), amount(p["read"]), or(p["mismatches"], "?"))
		case "failed", "cancelled", "lost":
			why := strings.TrimSuffix(or(l.Reason, "no cause is known"), ".")
			switch {
			case erases[l.Job] && l.From == "erasing":
				say(l, "the erasure did not end as it should, the disk may hold data: %s.", why)
			case erases[l.Job]:
				say(l, "nothing was erased: %s.", why)
			case l.To == "failed":
				say(l, "an installation failed: %s.", why)
			}
		}
	}
	return all
}

// amount of bytes, given in decimal digits.
func amount(s string) string {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return "an unknown amount"
	}
	if n < 1e9 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// KeyText is how a public key is printed for people to compare.
func KeyText(pub ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(pub) }
