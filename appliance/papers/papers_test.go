package papers

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/workshop"
)

var update = flag.Bool("update", false, "write the golden papers anew; raise layout when a page changes")

var (
	key   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	pub   = key.Public().(ed25519.PublicKey)
	thief = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	noon  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

// book is a source whose chains are sealed as the store seals them.
type book struct {
	t      testing.TB
	chains map[string][]audit.Entry
	docs   map[string][]byte
	lots   map[string][]string
	at     time.Time
}

func newBook(t testing.TB) *book {
	b := &book{t: t, chains: map[string][]audit.Entry{}, docs: map[string][]byte{}, lots: map[string][]string{}, at: noon}
	b.add(workshop.Event{Kind: "lot_opened", Actor: "LEAD7", Params: map[string]string{"lot": "LOT1", "donor": "Ville d’Esch", "standing": "true"}})
	b.add(workshop.Event{Kind: "lot_intake", Actor: "LEAD7", Params: map[string]string{"lot": "LOT1", "promised": "12", "refused": "1"}})
	return b
}

func (b *book) Chain(_ context.Context, device string) ([]audit.Entry, error) {
	return b.chains[device], nil
}
func (b *book) Document(_ context.Context, hash string) ([]byte, error)    { return b.docs[hash], nil }
func (b *book) LotDevices(_ context.Context, lot string) ([]string, error) { return b.lots[lot], nil }
func (b *book) JobDevice(_ context.Context, job string) (string, error) {
	for device, c := range b.chains {
		for _, e := range c {
			if strings.Contains(string(e.Line), `"job":"`+job+`"`) {
				return device, nil
			}
		}
	}
	return "", nil
}
func (b *book) Names(context.Context) (map[string]string, error) {
	return map[string]string{"LEAD7": "Amina <Haddad>", "OTHER": "Nobody’s business", "lot:LOT1": "the lot of Ville d’Esch"}, nil
}

func (b *book) add(e workshop.Event) {
	b.t.Helper()
	b.at = b.at.Add(time.Minute)
	e.Time = b.at
	var seq int64
	prev := ""
	if c := b.chains[e.Device]; len(c) > 0 {
		seq, prev = c[len(c)-1].Seq, c[len(c)-1].Hash
	}
	line, hash, err := audit.Seal(seq, prev, e)
	if err != nil {
		b.t.Fatal(err)
	}
	b.chains[e.Device] = append(b.chains[e.Device], audit.Entry{Seq: seq + 1, Hash: hash, Line: line})
}

func (b *book) doc(v any) string {
	j, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	b.docs[hashOf(j)] = j
	return hashOf(j)
}

// device makes one that has reported once.
func (b *book) device(id string, number int, rep wire.Report) {
	b.add(workshop.Event{Device: id, Kind: "device_created", To: "received", Actor: "appliance", Params: map[string]string{"number": strconv.Itoa(number), "lot": "LOT1"}})
	b.lots["LOT1"] = append(b.lots["LOT1"], id)
	b.report(id, rep)
}

func (b *book) report(id string, rep wire.Report) {
	b.add(workshop.Event{Device: id, Kind: "report", Actor: "agent", Evidence: b.doc(rep), Params: map[string]string{"boot": rep.BootID}})
}

func (b *book) step(device, job, from, to, actor string, more workshop.Event) {
	more.Device, more.Job, more.Kind, more.From, more.To, more.Actor = device, job, "job", from, to, actor
	b.add(more)
}

func diskParams(d wire.DiskID, more ...string) map[string]string {
	p := map[string]string{"disk": d.Path, "serial": d.Serial, "wwn": d.WWN, "model": d.Model, "bytes": strconv.FormatInt(d.Bytes, 10), "logical_block": strconv.Itoa(d.LogicalBlock)}
	for i := 0; i < len(more); i += 2 {
		p[more[i]] = more[i+1]
	}
	return p
}

// erase plays a job that erases up to its outcome; nil: the PC was never heard of again.
func (b *book) erase(device, job string, d wire.DiskID, o *wire.Outcome, to, result, reason string) {
	b.step(device, job, "held", "approved", "LEAD7", workshop.Event{Params: diskParams(d, "typed", "704413", "boot", "boot-1", "job", "erase", "class", "data")})
	b.step(device, job, "approved", "erasing", "agent", workshop.Event{Params: diskParams(d, "check", "full")})
	e := workshop.Event{Result: result, Reason: reason}
	if o != nil {
		e.Evidence = b.doc(o)
	}
	b.step(device, job, "erasing", to, "agent", e)
}

// image plays a job that images.
func (b *book) image(device, job string, d wire.DiskID, by string) {
	root := strings.Repeat("a1", 32)
	b.step(device, job, "reported", "approved", by, workshop.Event{Params: diskParams(d, "boot", "boot-1", "class", "blank", "image", root, "image_name", "Debian desktop 13.2", "health", "good")})
	b.step(device, job, "approved", "imaging", "agent", workshop.Event{Params: diskParams(d)})
	b.step(device, job, "imaging", "verifying", "agent", workshop.Event{})
	birth := strings.Repeat("b7", 32)
	b.step(device, job, "verifying", "verified", "agent", workshop.Event{Result: "ok", Params: map[string]string{"birth": birth}, Evidence: b.doc(wire.Outcome{
		Result: wire.Done, Disk: &d, Root: root, Raw: 12e9, Fetched: 3_870_000_000, Written: 12e9, ReadBack: 12e9, Retries: 2, Streams: 1, FromPeers: 1_200_000_000,
		WriteTime: 110 * time.Second, ReadTime: 64 * time.Second, Finish: []string{"partition 3 grown to 510 GB", "boot entry 0007 first"}, Birth: birth,
		SelfTest: &wire.SelfTest{State: wire.TestPassed},
	})})
	b.step(device, job, "verified", "first_boot_seen", "system", workshop.Event{Result: "ok", Params: map[string]string{"system": "Debian GNU/Linux 13 (trixie)", "kernel": "6.12.57"}})
}

func somePC(disks ...wire.Disk) wire.Report {
	return wire.Report{
		BootID: "boot-1", Agent: "1.4", Kernel: "6.12.57+deb13-amd64",
		Identity: wire.Identity{
			UUID: "4c4c4544-0038-4a10-8051-000000000012", Manufacturer: "HP", Model: "HP EliteBook 840 G3", SystemSerial: "5CG4182312X",
			BoardSerial: "To be filled by O.E.M.", ChassisType: "Notebook", Placeholders: []string{"board_serial"},
		},
		NICs:        []wire.NIC{{Name: "eth0", MAC: "54:e1:ad:00:0a:01", Permanent: "54:e1:ad:00:0a:01"}, {Name: "eth1", MAC: "00:e0:4c:00:00:01", Permanent: "00:e0:4c:00:00:01", Bus: "usb"}},
		Controllers: []string{"SATA controller (8086:9d03 at 0000:00:17.0, ahci)"},
		Disks:       disks,
	}
}

var (
	ssd = wire.Disk{DiskID: wire.DiskID{Path: "/dev/sda", Serial: "S4EVNX0R704413", WWN: "0x5002538e40a1b2c3", Model: "Samsung SSD 860 EVO 500GB", Bytes: 500_107_862_016, LogicalBlock: 512},
		Firmware: "RVT04B6Q", Transport: wire.TransportSATA, Class: wire.ClassData, Found: []string{"gpt", "ntfs"}}
	fresh = wire.Disk{DiskID: wire.DiskID{Path: "/dev/nvme0n1", Serial: "2212E5F1A0B7", Model: "CT500P2SSD8", Bytes: 500_107_862_016, LogicalBlock: 512},
		Transport: wire.TransportNVMe, Class: wire.ClassBlank}
)

func num[T any](v T) *T { return &v }

func erased() *wire.Outcome {
	d := ssd.DiskID
	from := noon.Add(-2 * time.Hour)
	return &wire.Outcome{Result: wire.Done, Disk: &d, Erasure: &wire.Erasure{
		Result: wire.Erased, Level: wire.LevelPurge, Medium: "ssd", Transport: wire.TransportSATA, Tool: "1.4", Started: from, Ended: from.Add(20 * time.Minute),
		Abilities: &wire.Abilities{ATASanitize: num(uint16(0x5000)), ATASecurity: num(uint16(0x0021))},
		Steps: []wire.EraseStep{
			{Method: "ata sanitize crypto scramble", Level: wire.LevelPurge, Bits: "word 59=5000h", Command: "B4h/0011h", Code: "status=51h error=04h", Result: wire.Failed, Why: "the disk aborted the command"},
			{Method: "ata sanitize block erase", Level: wire.LevelPurge, Bits: "word 59=5000h", Command: "B4h/0012h", Code: "status=50h", Result: wire.Done, Started: from, Ended: from.Add(90 * time.Second)},
			{Method: "overwrite", Level: wire.LevelClear, Why: "not needed"},
		},
		Hidden: &wire.HiddenArea{Visible: d.Bytes, Native: d.Bytes},
		Check:  wire.ReadCheck{Kind: wire.CheckFull, Seed: strings.Repeat("5e", 32), Expect: "zero", Bytes: d.Bytes},
		Before: &wire.Health{Source: "ata smart", Passed: num(true), Hours: num(int64(14210)), Reallocated: num(int64(0))},
		After:  &wire.Health{Source: "ata smart", Passed: num(true), Hours: num(int64(14210)), Reallocated: num(int64(0)), Temperature: num(int64(31))},
	}}
}

// office has one device of each kind of fate.
func office(t testing.TB) (*Office, *book) {
	b := newBook(t)
	b.device("DEV1", 11, somePC())
	later := somePC(fresh)
	later.BootID = "boot-2"
	b.report("DEV1", later)
	b.image("DEV1", "JOB1", fresh.DiskID, "lot:LOT1")
	b.add(workshop.Event{Device: "DEV1", Kind: "device_moved", From: "received", To: "handed_out", Actor: "LEAD7"})
	arabic := somePC(ssd)
	arabic.Identity.Manufacturer, arabic.Identity.Model = "حاسوب", "مكتبي ٨٠٠ G2"
	arabic.Identity.ChassisType = "Mini Tower"
	b.device("DEV2", 12, arabic)
	b.erase("DEV2", "JOB2", ssd.DiskID, erased(), "erased", "ok", "")
	b.add(workshop.Event{Device: "DEV2", Kind: "device_moved", From: "received", To: "recycled", Actor: "LEAD7", Reason: "board broken"})
	o := New(b, key)
	o.now = func() time.Time { return noon.Add(48 * time.Hour) }
	return o, b
}

var theKinds = []struct {
	kind Kind
	id   string
}{{NoStorage, "DEV1"}, {Imaging, "JOB1"}, {Erasure, "JOB2"}, {Donor, "LOT1"}}

func write(t testing.TB, o *Office, k Kind, id string, f Format) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := o.Write(t.Context(), &b, k, id, f); err != nil {
		t.Fatalf("%s %s: %v", k, id, err)
	}
	return b.Bytes()
}

// The form of a paper is what others keep and check: it must never change unseen.
func TestGoldens(t *testing.T) {
	o, _ := office(t)
	for _, k := range theKinds {
		for _, f := range []Format{JSON, HTML} {
			got := write(t, o, k.kind, k.id, f)
			if again := write(t, o, k.kind, k.id, f); !bytes.Equal(got, again) {
				t.Errorf("%s: two papers from one history differ", k.kind)
			}
			name := filepath.Join("testdata", string(k.kind)+"."+string(f))
			if f == JSON {
				var b bytes.Buffer
				if err := json.Indent(&b, got, "", "\t"); err != nil {
					t.Fatal(err)
				}
				got = append(b.Bytes(), '\n')
			}
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s is another one (line %d); if that is meant, run with -update, and raise layout for a page", name, 1+bytes.Count(got[:max(0, differ(got, want))], []byte("\n")))
			}
		}
	}
}

func TestGoodPapers(t *testing.T) {
	o, _ := office(t)
	for _, k := range theKinds {
		file, page := write(t, o, k.kind, k.id, JSON), write(t, o, k.kind, k.id, HTML)
		for _, p := range []ed25519.PublicKey{pub, nil} {
			rep, err := Verify(bytes.NewReader(file), p)
			if err != nil || !Is(file) {
				t.Fatalf("%s: %v", k.kind, err)
			}
			if got := rep.Papers[0]; len(rep.Papers) != 1 || got.Kind != k.kind || got.ID != k.id || got.SHA256 != hashOf(file) || rep.Page != NoPage || !rep.Key.Equal(pub) || rep.Trusted != (p != nil) || got.Verdict() == "" || got.Time().IsZero() {
				t.Errorf("%s: %+v", k.kind, rep)
			}
			rep, err = Verify(bytes.NewReader(page), p)
			if err != nil || !Is(page) {
				t.Fatalf("%s as a page: %v", k.kind, err)
			}
			if rep.Papers[0].SHA256 != hashOf(file) || rep.Page != SamePage || !rep.Printed.Equal(noon.Add(48*time.Hour)) || rep.Names["OTHER"] != "" {
				t.Errorf("%s as a page: %+v", k.kind, rep)
			}
		}
		// The two are bound: the page names the file's hash and signature.
		var s Signed
		if err := json.Unmarshal(file, &s); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{hashOf(file), strings.ReplaceAll(s.Signature, "+", "&#43;"), strings.ToUpper(hashOf(file)), "<svg class=\"qr\""} {
			if !strings.Contains(string(page), want) {
				t.Errorf("%s: the page lacks %s", k.kind, want)
			}
		}
		if _, err := Verify(bytes.NewReader(append(file, '\n')), pub); err != nil {
			t.Errorf("%s with a line end that an editor added: %v", k.kind, err)
		}
	}
	if Is([]byte(`{"count":1,"device":""}`)) || Is([]byte("<!doctype html><p>")) || Is(nil) {
		t.Error("something else counts as a paper")
	}
}

// All papers of a lot on one page are checked like one.
func TestLotPage(t *testing.T) {
	o, _ := office(t)
	var b bytes.Buffer
	if err := o.WriteLot(t.Context(), &b, "LOT1"); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(bytes.NewReader(b.Bytes()), pub)
	if err != nil || rep.Page != SamePage {
		t.Fatalf("%v %+v", err, rep)
	}
	var kinds []string
	for _, p := range rep.Papers {
		kinds = append(kinds, string(p.Kind))
	}
	if got := strings.Join(kinds, " "); got != "donor-report no-storage imaging erasure" {
		t.Errorf("on the page: %s", got)
	}
	// Every hash that the report names is that of a paper here.
	donor := rep.Papers[0].content.(*DonorPaper)
	for _, l := range donor.Lines {
		for _, ref := range l.Papers {
			found := false
			for _, p := range rep.Papers {
				found = found || p.SHA256 == ref.SHA256 && p.ID == ref.ID
			}
			if !found {
				t.Errorf("%s %s is named and not there", ref.Kind, ref.ID)
			}
		}
	}
}

// A broken chain, changed evidence and missing evidence give no paper.
func TestDamagedHistory(t *testing.T) {
	for name, harm := range map[string]func(b *book){
		"a changed line": func(b *book) {
			c := b.chains["DEV2"]
			c[2].Line = bytes.Replace(c[2].Line, []byte("data"), []byte("blank"), 1)
		},
		"a missing line": func(b *book) { b.chains["DEV2"] = append(b.chains["DEV2"][:2:2], b.chains["DEV2"][3:]...) },
		"changed evidence": func(b *book) {
			h := b.doc(erased())
			b.docs[h] = bytes.Replace(b.docs[h], []byte("50h"), []byte("51h"), 1)
		},
		"missing evidence": func(b *book) { delete(b.docs, b.doc(erased())) },
	} {
		o, b := office(t)
		harm(b)
		if err := o.Write(t.Context(), &bytes.Buffer{}, Erasure, "JOB2", JSON); err == nil {
			t.Errorf("%s: there is a certificate", name)
		}
		if err := o.Write(t.Context(), &bytes.Buffer{}, Donor, "LOT1", JSON); err == nil && name != "missing evidence" {
			t.Errorf("%s: there is a donor's report", name)
		}
	}
	o, b := office(t)
	b.add(workshop.Event{Kind: "lot_opened", Actor: "LEAD7", Params: map[string]string{"lot": "LOT3", "donor": "Eve"}})
	b.lots["LOT3"] = []string{"DEV1"}
	if err := o.Write(t.Context(), &bytes.Buffer{}, Donor, "LOT3", JSON); err == nil || !strings.Contains(err.Error(), "its history says LOT1") {
		t.Errorf("a device that was put into another lot: %v", err)
	}
	for _, k := range []struct {
		kind Kind
		id   string
	}{{Erasure, "JOB1"}, {Erasure, "JOB9"}, {Imaging, "JOB2"}, {"deed", "DEV1"}, {Donor, "LOT2"}, {NoStorage, "DEV9"}, {NoStorage, ""}, {Erasure, ""}} {
		var ref *workshop.Refusal
		if err := o.Write(t.Context(), &bytes.Buffer{}, k.kind, k.id, JSON); !errors.As(err, &ref) || ref.Kind != workshop.NotFound {
			t.Errorf("%v: %v", k, err)
		}
	}
}

func TestList(t *testing.T) {
	o, b := office(t)
	look := func(device string) []Paper {
		t.Helper()
		l, err := o.List(t.Context(), device)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := look("DEV2")
	if len(l) != 2 || l[0].Kind != NoStorage || l[0].Refused == nil || l[1].Kind != Erasure || l[1].Result != "erased" || l[1].SHA256 != hashOf(write(t, o, Erasure, "JOB2", JSON)) || l[1].Time.IsZero() {
		t.Errorf("%+v", l)
	}
	// What is kept is good until the history grows.
	b.docs = nil
	if got := look("DEV2"); len(got) != 2 {
		t.Errorf("%+v", got)
	}
	b.docs = map[string][]byte{}
	b.report("DEV2", somePC(ssd))
	if _, err := o.List(t.Context(), "DEV2"); err == nil {
		got := look("DEV2")
		if len(got) == 2 && got[1].Refused == nil {
			t.Error("an old list is shown for a new history")
		}
	}
	if got := look("DEV9"); got != nil {
		t.Errorf("a device that isn't there: %+v", got)
	}
}
