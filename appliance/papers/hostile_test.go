package papers

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// A PC that says the worst of itself, kept by a program that forgot to clean it,
// makes no paper do anything.
func TestHostileStrings(t *testing.T) {
	evil := `"></pre><script>alert(1)</script><img src=x onerror=alert(2)>{{.}}' onmouseover='x` + "\r\n\u202eTLS\u2066\x00\x1b[31m" + strings.Repeat("A", 4000)
	rep := somePC()
	rep.BootID, rep.Agent, rep.Kernel = evil, evil, evil
	rep.Identity = wire.Identity{UUID: evil, Manufacturer: evil, Model: evil, ModelVersion: evil, SystemSerial: evil, BoardSerial: evil, ChassisSerial: evil, ChassisType: "Laptop " + evil, Placeholders: []string{evil}}
	rep.NICs[0].Permanent = evil
	rep.Controllers = []string{evil}
	d := ssd
	d.Class = wire.ClassBlank
	d.Path, d.Serial, d.Model, d.WWN, d.Firmware, d.Transport, d.Found = evil, evil, evil, evil, evil, evil, []string{evil}
	rep.Disks = []wire.Disk{d}
	b := newBook(t)
	b.device("DEV1", 1, rep)
	huge := int64(1)<<62 + 1
	o := erased()
	o.Disk = &d.DiskID
	e := o.Erasure
	e.Medium, e.Transport, e.Tool, e.Exceptions = evil, evil, evil, []string{evil, evil}
	e.Result, e.Level = wire.ErasureResult(evil), wire.Level(evil)
	e.Steps = []wire.EraseStep{{Method: evil, Level: wire.Level(evil), Bits: evil, Command: evil, Code: evil, Result: wire.Result(evil), Why: evil}}
	e.Hidden = &wire.HiddenArea{Visible: huge, Native: huge, Real: -huge, Note: evil}
	e.Check = wire.ReadCheck{Kind: wire.CheckKind(evil), Seed: evil, Expect: evil, Bytes: huge, Mismatches: -huge, Errors: huge}
	e.Before = &wire.Health{Source: evil, Error: evil, Hours: &huge, SelfTest: &wire.SelfTest{State: evil, Text: evil}}
	e.Abilities = &wire.Abilities{Error: evil}
	b.step("DEV1", "JOB1", "held", "approved", evil, workshop.Event{Params: diskParams(d.DiskID, "typed", evil, "boot", evil, "class", evil, "image", evil, "image_name", evil, "health", evil)})
	b.step("DEV1", "JOB1", "approved", "erasing", "agent", workshop.Event{Params: diskParams(d.DiskID)})
	b.step("DEV1", "JOB1", "erasing", "failed", "agent", workshop.Event{Reason: evil, Result: evil, Evidence: b.doc(o)})
	o.Finish, o.Warnings, o.Birth, o.Erasure = []string{evil}, []string{evil}, evil, nil
	b.step("DEV1", "JOB2", "held", "approved", evil, workshop.Event{Params: diskParams(d.DiskID, "image", evil, "image_name", evil)})
	b.step("DEV1", "JOB2", "approved", "imaging", "agent", workshop.Event{Params: diskParams(d.DiskID)})
	b.step("DEV1", "JOB2", "imaging", "failed", "agent", workshop.Event{Reason: evil, Evidence: b.doc(o)})
	b.add(workshop.Event{Kind: "lot_opened", Actor: evil, Params: map[string]string{"lot": "LOT1", "donor": evil, "promised": evil}})
	office := New(b, key)
	var page bytes.Buffer
	if err := office.WriteLot(t.Context(), &page, "LOT1"); err != nil {
		t.Fatal(err)
	}
	r, err := Verify(bytes.NewReader(page.Bytes()), pub)
	if err != nil || len(r.Papers) != 4 || r.Page != SamePage {
		t.Fatalf("%v %+v", err, r.Papers)
	}
	if v := r.Papers[2].Verdict(); v != "Unknown" {
		t.Errorf("the erasure: %s", v)
	}
	doc, err := html.Parse(bytes.NewReader(page.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "img", "iframe", "a", "form", "object", "embed", "link", "base":
			t.Errorf("<%s> on a paper", n.Data)
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "src" || a.Key == "href" {
				t.Errorf("%s=%q on a paper", a.Key, a.Val)
			}
		}
	}
	if strings.ContainsAny(page.String(), "\u202e\x00\x1b\r") || strings.Contains(page.String(), strings.Repeat("A", wire.MaxText+1)) {
		t.Error("a paper holds what turns text around, or has no end")
	}
	for _, word := range []string{"compliant", "certified"} {
		if strings.Contains(strings.ToLower(page.String()), word) {
			t.Errorf("a paper says %q", word)
		}
	}
}

// Nothing gets past Verify that the key's holder did not sign, and nothing makes
// it fall.
func FuzzVerify(f *testing.F) {
	o, _ := office(f)
	known := map[string]bool{}
	for _, k := range theKinds {
		file := write(f, o, k.kind, k.id, JSON)
		known[hashOf(file)] = true
		f.Add(file)
		f.Add(write(f, o, k.kind, k.id, HTML))
	}
	f.Add([]byte(`{"content":{},"content_sha256":"","id":"","kind":"erasure","public_key":"","refurb_paper":1}`))
	f.Add([]byte(htmlStart + signedStart + preEnd + besideStart))
	f.Fuzz(func(t *testing.T, b []byte) {
		Is(b)
		rep, err := Verify(bytes.NewReader(b), pub)
		if err != nil {
			return
		}
		if len(rep.Papers) == 0 || !rep.Trusted {
			t.Error("nothing was checked and nothing is wrong")
		}
		for _, p := range rep.Papers {
			if !known[p.SHA256] {
				t.Errorf("%s passes and was never signed", p.SHA256)
			}
		}
	})
}
