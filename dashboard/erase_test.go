package dashboard

import (
	"encoding/csv"
	"net/http"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// A donor's disk is erased by a lead who types its serial number, and the PC is
// installed afterwards; all of it by plain forms.
func TestEraseAndInstall(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	h.user("Vito", Volunteer)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	disk := dataDisk("S4EVNX0R704413")
	disk.Class = wire.ClassEncrypted
	p := h.start(someReport(1, "HP", "EliteDesk", disk))
	page := "/devices/" + p.device().ID
	b, job := h.as("Lena"), p.device().Job.ID
	_, body := b.get(page)
	wants(t, body, "Encrypted", "only somebody with the key can read", `action="`+page+`/erase"`, "Everything on the disk will be destroyed.",
		"S4EVNX0R<mark>704413</mark>", "behind S/N or SN", `value="full" required checked`, `value="sample"`, "Then install", "is the disk going back?", "About")
	if _, body := h.as("Vito").get(page); strings.Contains(body, "/erase") {
		t.Error("a volunteer is offered to erase")
	}
	good := []string{"job", job, "disk", disk.Path, "serial", "704413", "check", "sample", "install", "yes"}
	for want, change := range map[string][2]string{
		"does not match this disk":      {"serial", "000000"},
		"This page was out of date":     {"job", "another"},
		"No disk was chosen":            {"disk", ""},
		"how much to read afterwards":   {"check", "none"},
		"can&#39;t be erased":           {"disk", "/dev/sdz"},
		"Type the last six characters ": {"serial", ""},
	} {
		form := append([]string{}, good...)
		for i := 0; i < len(form); i += 2 {
			if form[i] == change[0] {
				form[i+1] = change[1]
			}
		}
		_, body := b.post(page+"/erase", form...)
		wants(t, body, want)
		if s := p.device().Job.State; s != workshop.Held {
			t.Fatalf("with %v the job is %s", change, s)
		}
	}
	good[5] = " 704413 "
	_, body = b.post(page+"/erase", good...)
	wants(t, body, "The PC begins to erase", "About to erase")
	p.erase()
	_, body = b.get("/")
	wants(t, body, "Erasing", "Step 1 of 2")
	if strings.Contains(body, `<progress`) {
		t.Error("a disk that doesn't say how far it is has a bar")
	}
	_, body = b.get(page)
	wants(t, body, "say how far it is", "Began to erase", `class="way three"`)
	if strings.Contains(body, `action="`+page+`/erase"`) {
		t.Error("erasing is offered while it is going on")
	}
	p.progress(wire.PhaseErasing, 128*gb, 512*gb, 900_000_000)
	_, body = b.get("/")
	wants(t, body, "25<small>%</small>", "900\u00a0MB/s")
	p.progress(wire.PhaseChecking, 20*gb, 25*gb, 1_500_000_000)
	_, body = b.get("/")
	wants(t, body, "Reading back", "80<small>%</small>", "Step 2 of 2")
	p.ended(p.erasure())
	_, body = b.get(page)
	wants(t, body, "Erased", "what was read back is empty", "Purge", "nvme sanitize block", "SSTAT=1h", "a sample", "0 blocks not empty", "Not tried")
	// The agent looks again: the disk is blank and gets its image, without a question.
	disk.Class, disk.Found = wire.ClassBlank, nil
	p.looksAgain(disk)
	p.image().verify().done()
	_, body = b.get(page)
	wants(t, body, "Every byte was read back and matched", "Blank")
	_, body = b.post(page+"/move", "to", "ready")
	wants(t, body, "Moved.")
}

// What is not erased without exception is a failure, in words that say which.
func TestEraseThatIsNone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*wire.Outcome)
		says   []string
	}{
		"exceptions": {func(o *wire.Outcome) {
			o.Result, o.Erasure.Result, o.Erasure.Exceptions = wire.Failed, wire.ErasedExceptions, []string{"14 blocks could not be read"}
			o.Erasure.Check.Errors = 14
		}, []string{"Erased with exceptions", "14 blocks could not be read", "14 blocks unreadable", "take the disk out and destroy it", "may still hold data"}},
		"not": {func(o *wire.Outcome) {
			o.Result, o.Erasure.Result, o.Erasure.Level, o.Cause, o.Next = wire.Failed, wire.NotErased, wire.LevelNone, "The disk is frozen", "Switch it off and on"
		}, []string{"Not erased", "The disk is frozen", "Switch it off and on", "Nothing was erased for sure"}},
		"unknown": {func(o *wire.Outcome) { o.Result, o.Erasure.Result = wire.Unknown, wire.ErasureUnknown }, []string{"Erased or not: unknown"}},
		"claimed": {func(o *wire.Outcome) { o.Erasure.Check.Bytes = 0 }, []string{"Erased or not: unknown", "without proof"}},
		"odd":     {func(o *wire.Outcome) { o.Erasure.Result = "" }, []string{"Erased or not: unknown"}},
		"nothing": {func(o *wire.Outcome) { o.Result, o.Erasure, o.Cause = wire.Unknown, nil, "The disk is gone" }, []string{"Erased or not: unknown", "The disk is gone"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.user("Lena", Lead)
			b := h.as("Lena")
			p := h.start(someReport(1, "HP", "EliteDesk", dataDisk("S4EVNX0R704413"))) // no lot: erasing needs none
			page := "/devices/" + p.device().ID
			_, body := b.post(page+"/erase", "job", p.device().Job.ID, "disk", "/dev/nvme0n1", "serial", "704413", "check", "full")
			wants(t, body, "The PC begins to erase")
			p.erase()
			o := p.erasure()
			c.change(o)
			p.ended(o)
			_, body = b.get(page)
			wants(t, body, c.says...)
			if strings.Contains(body, "Purge:") {
				t.Error("the page says how deep it went")
			}
			_, body = b.get("/")
			wants(t, body, c.says[0], `tile fail`)
			if name == "exceptions" { // said in the reader's language, the detail as it came
				_, body = b.get("/", "Cookie", langCookie+"=de")
				wants(t, body, `Die Platte wurde mit Ausnahmen gelöscht: <span lang="en" dir="ltr">14 blocks could not be read</span>`)
			}
			v := p.device()
			card := cardOf(v)
			if card.Group != groupNeeds || card.Tone != toneFail || v.Job.State.Proved() {
				t.Errorf("%+v", card)
			}
			for _, tag := range []string{"de", "fr", "ar"} {
				w, _ := h.dash.langs.byTag(tag)
				if word := w.T(card.Word); word == card.Word || word == h.dash.langs.list[0].T(card.Word) {
					t.Errorf("%s says %q", tag, word)
				}
			}
		})
	}
}

// Somebody cancels while a disk is being erased: nobody knows what is on it, and
// the bench says so.
func TestEraseCancelled(t *testing.T) {
	h := newHouse(t)
	h.user("Lena", Lead)
	b := h.as("Lena")
	p := h.start(someReport(1, "HP", "EliteDesk", dataDisk("S4EVNX0R704413")))
	page := "/devices/" + p.device().ID
	b.post(page+"/erase", "job", p.device().Job.ID, "disk", "/dev/nvme0n1", "serial", "704413", "check", "full")
	p.erase()
	_, body := b.post(page+"/cancel", "job", p.device().Job.ID)
	wants(t, body, "Erased or not: unknown")
	if c := cardOf(p.device()); c.Group != groupNeeds {
		t.Errorf("%+v", c)
	}
}

// A PC that is done and gone can be asked to wait, and the wish taken back.
func TestWaitAtNextStart(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	b := h.as("Lena")
	h.start(someReport(1, "Dell", "OptiPlex"))
	id := h.reg.View().Devices[0].ID
	page := "/devices/" + id
	for path, says := range map[string]string{"/wait": "At its next start from the network this PC waits.", "/again": "It will be installed again"} {
		_, body := b.post(page+path, "image", h.shelf.list[1].Root)
		wants(t, body, "Noted.", says, "Take it back")
		_, body = b.post(page + "/again/forget")
		wants(t, body, "Nothing will be installed.", "was taken back")
		if strings.Contains(body, "Take it back") {
			t.Errorf("%s can be taken back twice", path)
		}
		if v := h.reg.View().Devices[0]; v.Again || v.Wait {
			t.Errorf("%s still stands", path)
		}
	}
}

// Every class and every verdict has a word, an icon and a sentence of its own.
func TestClassesAndHealth(t *testing.T) {
	sprite, err := templateFiles.ReadFile("templates/icons.svg")
	if err != nil {
		t.Fatal(err)
	}
	langs, err := loadLanguages(localeFiles)
	if err != nil {
		t.Fatal(err)
	}
	icons, words := map[string]bool{}, map[string]bool{}
	for _, c := range []wire.Class{wire.ClassBlank, wire.ClassOurs, wire.ClassStructured, wire.ClassData, wire.ClassEncrypted, wire.ClassLocked, wire.ClassUnreadable} {
		v := diskOf(wire.Disk{Class: c})
		if icons[v.Class.Icon] || words[v.Class.Word] || !strings.Contains(string(sprite), `id="i-`+v.Class.Icon+`"`) {
			t.Errorf("%s looks like another: %+v", c, v.Class)
		}
		icons[v.Class.Icon], words[v.Class.Word] = true, true
		for _, w := range langs.list {
			if w.T(v.Class.Word) == v.Class.Word || w.T(v.Means) == v.Means {
				t.Errorf("%s doesn't say %s", w.Tag, c)
			}
		}
		if loud := v.Class.Tone != toneDone; loud == keeps(c) {
			t.Errorf("%s: tone %s", c, v.Class.Tone)
		}
	}
	for _, odd := range []wire.Class{"", "blanc", "OURS"} {
		if v := diskOf(wire.Disk{Class: odd}); v.Class.Word != "class.data" {
			t.Errorf("%q counts as %s", odd, v.Class.Word)
		}
	}
	no, yes := false, true
	for want, h := range map[string]*wire.Health{"health.unknown": nil, "health.failing": {Passed: &no}, "health.good": {Passed: &yes}} {
		if v := healthOf(&wire.Disk{Health: h}); v.Word != want || v.Icon == "" || want == "health.failing" && len(v.Reasons) == 0 {
			t.Errorf("want %s: %+v", want, v)
		}
	}
	// Every reason that the judge gives is said in the reader's language.
	n := func(v int64) *int64 { return &v }
	warnings := int64(0x3f | 1<<6)
	for _, h := range []wire.Health{
		{Passed: &no}, {CriticalWarning: &warnings}, {Spare: n(7), SpareThreshold: n(10)}, {SelfTest: &wire.SelfTest{State: wire.TestFailed}},
		{Pending: n(1), Reallocated: n(1)}, {Pending: n(12), Reallocated: n(345)}, {Pending: n(2e6), Reallocated: n(3e6)}, {MediaErrors: n(1), PercentUsed: n(88)}, {PercentUsed: n(101)},
	} {
		v := healthOf(&wire.Disk{Rotational: true, Health: &h})
		if len(v.Reasons) == 0 {
			t.Errorf("%+v has no reason", h)
		}
		for _, r := range v.Reasons {
			for _, w := range langs.list {
				if s := w.plain(r); r.ID == "" || s == r.ID || w.Tag != "en" && s == langs.list[0].plain(r) {
					t.Errorf("%s says %q", w.Tag, s)
				}
			}
		}
	}
	if s := langs.list[0].plain(healthOf(&wire.Disk{Rotational: true, Health: &wire.Health{Pending: n(12)}}).Reasons[0]); s != "12 sectors can’t be read." {
		t.Errorf("%q", s)
	}
	for look := range allLooks(eraseLooks, healths) {
		if !strings.Contains(string(sprite), `id="i-`+look.Icon+`"`) {
			t.Errorf("no icon %s", look.Icon)
		}
	}
}

func allLooks[A, B comparable](a map[A]Look, b map[B]Look) map[Look]bool {
	all := map[Look]bool{}
	for _, l := range a {
		all[l] = true
	}
	for _, l := range b {
		all[l] = true
	}
	for _, l := range looks {
		all[l] = true
	}
	return all
}

// Two disks: one is chosen, its own serial number is typed.
func TestEraseOneOfTwo(t *testing.T) {
	h := newHouse(t)
	h.user("Lena", Lead)
	b := h.as("Lena")
	second := blankDisk("")
	second.Path = "/dev/sdb"
	p := h.start(someReport(1, "Dell", "OptiPlex", dataDisk("AB12CD34"), second))
	page := "/devices/" + p.device().ID
	_, body := b.get(page)
	if n := strings.Count(body, `type="radio" name="disk"`); n != 2 {
		t.Errorf("%d disks to choose from", n)
	}
	wants(t, body, "Which disk?", "if it has none, its path")
	erase := func(disk, serial string) string {
		_, body := b.post(page+"/erase", "job", p.device().Job.ID, "disk", disk, "serial", serial, "check", "full")
		return body
	}
	wants(t, erase("/dev/sdb", "12CD34"), "does not match this disk")
	wants(t, erase("/dev/nvme0n1", "/dev/sdb"), "does not match this disk")
	wants(t, erase("/dev/nvme0n1", "12cd34"), "The PC begins to erase")
	p.replan()
	if p.plan.Action != wire.ActionErase || p.plan.Disk.Path != "/dev/nvme0n1" || p.plan.Erase.Check != wire.CheckFull {
		t.Errorf("%+v", p.plan)
	}
}

// The list for a spreadsheet: all devices, nothing that runs.
func TestDevicesCSV(t *testing.T) {
	h := newHouse(t)
	h.user("robot", Viewer)
	lead := h.user("Lena", Lead)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, `=HYPERLINK("http://evil.example")`, h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	evil := someReport(1, "@SUM(1)", "＝cmd|' /C calc'!A0", dataDisk("x;=1+1"))
	evil.Identity.SystemSerial = "\t-1"
	h.start(evil)
	h.start(someReport(2, "HP", "EliteDesk, 800", blankDisk("S4EVNX0R704413"), dataDisk("B")))
	status, body := h.as("robot").get("/devices.csv")
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(body, "\uFEFF"))).ReadAll()
	if status != http.StatusOK || err != nil || len(rows) != 3 {
		t.Fatalf("%d %v %q", status, err, body)
	}
	cell := func(row int, name string) string {
		for i, n := range rows[0] {
			if n == name {
				return rows[row][i]
			}
		}
		t.Fatalf("no column %s", name)
		return ""
	}
	for _, c := range []struct {
		row        int
		name, want string
	}{
		{1, "number", "1"}, {1, "maker", "'@SUM(1)"}, {1, "model", "'＝cmd|' /C calc'!A0"}, {1, "serial", "'-1"}, {1, "disk_serial", "x;'=1+1"}, {1, "disk_holds", "data"},
		{1, "donor", `'=HYPERLINK("http://evil.example")`}, {1, "job", "held"},
		{2, "model", "EliteDesk, 800"}, {2, "disk_serial", "S4EVNX0R704413 / B"}, {2, "disk_gb", "240 / 512"}, {2, "place", "received"}, {2, "memory_gb", "8"},
	} {
		if got := cell(c.row, c.name); got != c.want {
			t.Errorf("%s of row %d: %q, want %q", c.name, c.row, got, c.want)
		}
	}
	if _, err := time.Parse("2006-01-02 15:04", cell(1, "seen")); err != nil {
		t.Error(err)
	}
	r, _ := http.NewRequest(http.MethodGet, h.srv.URL+"/devices.csv", nil)
	r.SetBasicAuth("robot", testPassword)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || !strings.HasPrefix(res.Header.Get("Content-Disposition"), `attachment; filename="devices-`) || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/csv") {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

// What was counted at the door is typed once and stands on the lot's page.
func TestIntake(t *testing.T) {
	h := newHouse(t)
	h.user("Lena", Lead)
	b := h.as("Lena")
	b.post("/lots", "donor", "Ville d’Esch")
	page := "/lots/" + h.reg.View().Lots[0].ID
	_, body := b.post(page+"/intake", "promised", "many")
	wants(t, body, "That is no number.")
	_, body = b.post(page+"/intake", "promised", "40", "refused", "3")
	wants(t, body, "nobody says why")
	_, body = b.post(page+"/intake", "promised", "40", "refused", "3", "why", "no power supply")
	wants(t, body, "Saved.", "40 PCs", "3 PCs", "no power supply")
	if in := h.reg.View().Lots[0].Intake; in.Promised != 40 || in.Refused != 3 {
		t.Errorf("%+v", in)
	}
}
