package dashboard

import (
	"net/http"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// From the first start of a server to a PC that runs from its own disk.
func TestFromSetupToDone(t *testing.T) {
	h := newHouse(t)
	b := h.browser()

	_, body := b.get("/")
	wants(t, body, `action="/setup"`, `name="code"`)
	status, body := b.post("/setup", "code", "wrong", "name", "Amina", "password", testPassword)
	if status != http.StatusForbidden {
		t.Fatalf("a wrong code gives %d", status)
	}
	wants(t, body, "This is not the code.", `value="Amina"`)
	status, body = b.post("/setup", "code", testCode, "name", "Amina", "password", "short")
	if status != http.StatusBadRequest {
		t.Fatalf("a short password gives %d", status)
	}
	wants(t, body, "too short")
	_, body = b.post("/setup", "code", testCode, "name", "Amina", "password", testPassword)
	wants(t, body, "Open a lot", "Debian desktop", "Amina")
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if status, _ := b.do(method, "/setup", map[string][]string{"code": {testCode}, "name": {"Eve"}, "password": {testPassword}}); status != http.StatusNotFound {
			t.Errorf("%s /setup afterwards: %d", method, status)
		}
	}

	_, body = b.get("/")
	wants(t, body, "Nothing here yet", "Press F12")
	_, body = b.post("/lots", "donor", "", "image", h.shelf.list[0].Root)
	wants(t, body, "names no donor")
	_, body = b.post("/lots", "donor", "Ville d’Esch", "image", h.shelf.list[0].Root)
	wants(t, body, "The lot of", "Ville d’Esch", "is open")
	_, body = b.post("/lots", "donor", "Another", "image", h.shelf.list[0].Root)
	wants(t, body, "still open", "Close it first")

	p := h.start(someReport(1, "HP", "EliteDesk 800 G2", dataDisk("S4EVNX0R704413")))
	_, body = b.get("/")
	wants(t, body, "HP EliteDesk 800 G2", "Waiting for you", "There is data on the disk.", "overwrite the disk, or erase it")
	page := "/devices/" + p.device().ID
	job := p.device().Job.ID
	_, body = b.get(page)
	wants(t, body, "May this disk be overwritten?", "S4EVNX0R<mark>704413</mark>", "ntfs", "It is no secure erasure", "never filled in")

	_, body = b.post(page+"/approve", "job", job, "disk", "/dev/nvme0n1", "serial", "000000")
	wants(t, body, "does not match this disk", "last six characters")
	_, body = b.post(page+"/approve", "job", "another", "disk", "/dev/nvme0n1", "serial", "704413")
	wants(t, body, "out of date")
	_, body = b.post(page+"/approve", "job", job, "disk", "/dev/nvme0n1", "serial", " 704413 ")
	wants(t, body, "Approved.")
	if p.replan(); p.plan.Action != wire.ActionImage {
		t.Fatalf("after the approval the PC is told to %s", p.plan.Action)
	}

	p.image().progress(wire.PhaseImaging, 3*gb, 12*gb, 110_000_000)
	_, body = b.get("/")
	wants(t, body, "Writing", `<span class="pct">25<small>%</small></span>`, "110\u00a0MB/s", "Step 1 of 2")
	p.verify().progress(wire.PhaseVerifying, 6*gb, 12*gb, 200_000_000)
	_, body = b.get(page)
	wants(t, body, "Checking", "50%", "200\u00a0MB/s", "6\u00a0GB", "of \u206812\u00a0GB\u2069")
	p.done()
	_, body = b.get(page)
	wants(t, body, "Every byte was read back and matched", "0 differences", "partition 3 grown")
	p.firstBoot()
	_, body = b.get(page)
	wants(t, body, "Done and started", "Started from its own disk")

	_, body = b.post(page+"/move", "to", "ready")
	wants(t, body, "Moved.", "Ready")
	_, body = b.post(page+"/again", "image", h.shelf.list[1].Root)
	wants(t, body, "Noted.")
	if !p.device().Again {
		t.Error("nothing asks for another imaging")
	}

	for format, want := range map[string]string{"jsonl": `"event":"job"`, "csv": "verified", "html": "<html"} {
		status, body := b.get(page + "/history/" + format)
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("export %s: %d without %q", format, status, want)
		}
	}
	lot := h.reg.View().Lots[0].ID
	_, body = b.get("/lots/" + lot)
	wants(t, body, "Ville d’Esch", "1 PC", page)
	_, body = b.post("/lots/" + lot + "/close")
	wants(t, body, "The lot is still open.")
	_, body = b.get("/lots/" + lot)
	wants(t, body, "Close the lot of", "be opened again", `name="sure"`)
	_, body = b.post("/lots/"+lot+"/close", "sure", "yes")
	wants(t, body, "The lot is closed.", "Open a lot")
	_, body = b.get("/devices?q=704413")
	wants(t, body, page)
	_, body = b.get("/devices?q=nothing")
	wants(t, body, "No device matches")
	_, body = b.post("/logout")
	wants(t, body, `action="/login"`)
	if _, body = b.get(page); !strings.Contains(body, `action="/login"`) || strings.Contains(body, "EliteDesk") {
		t.Error("after the logout a page is shown")
	}
}

func TestCancelAndFailure(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	b := h.as("Lena")
	one := h.start(someReport(1, "Dell", "OptiPlex", blankDisk("50026B7782A11F02"))).image()
	page := "/devices/" + one.device().ID
	_, body := b.post(page+"/cancel", "job", one.device().Job.ID, "reason", "wrong <b>PC</b>")
	wants(t, body, "Cancelled", "wrong &lt;b&gt;PC&lt;/b&gt;")

	two := h.start(someReport(2, "Dell", "OptiPlex", blankDisk("50026B7782A11F03"))).image()
	two.fail("the disk failed: write /dev/sda: input/output error", "put another disk in")
	_, body = b.get("/devices/" + two.device().ID)
	wants(t, body, "Failed", "The disk gave an error: write /dev/sda: input/output error", "Put another disk in, then ask for the installation again.")

	none := h.start(someReport(3, "Dell", "OptiPlex"))
	_, body = b.get("/devices/" + none.device().ID)
	wants(t, body, "No disk was found")
}

// Several disks, and one without a serial number: each gets a question of its own.
func TestAskForEveryDisk(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	h.user("Vito", Volunteer)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	second := blankDisk("")
	second.Path = "/dev/sdb"
	p := h.start(someReport(1, "Dell", "OptiPlex", dataDisk("AB12"), second))
	page := "/devices/" + p.device().ID
	b := h.as("Lena")
	_, body := b.get(page)
	if n := strings.Count(body, `action="`+page+`/approve"`); n != 2 {
		t.Errorf("%d questions for two disks", n)
	}
	wants(t, body, "<mark>AB12</mark>", "No serial number", "more than one disk")

	_, body = h.as("Vito").get(page)
	wants(t, body, "Only a lead can approve this.")
	if strings.Contains(body, "/approve") || strings.Contains(body, "/again") {
		t.Error("a volunteer is offered what only a lead may do")
	}
	_, body = b.post(page+"/approve", "job", p.device().Job.ID, "disk", "/dev/sdb", "serial", "/dev/sdb")
	wants(t, body, "Approved.")
	if s := p.device().Job.State; s != workshop.Approved {
		t.Errorf("the job is %s", s)
	}
}

// What is shown to be typed is what the registry wants, for serials of every kind.
func TestTailIsWhatIsAsked(t *testing.T) {
	h := newHouse(t)
	h.user("Lena", Lead)
	b := h.as("Lena")
	for i, serial := range []string{"S4EVNX0R704413", "AB12", "WD WCC 12345", "ÄÖÜÄÖÜX", strings.Repeat("x", 150) + "abcdef", "\u202e12\x0034567", "<b>1</b>"} {
		p := h.start(someReport(i+1, "Dell", "OptiPlex", dataDisk(serial)))
		a := askOf("", p.device().Report.Disks[0])
		_, body := b.post("/devices/"+p.device().ID+"/erase", "job", p.device().Job.ID, "disk", a.Path, "serial", a.Tail, "check", "full")
		if p.device().Job.State != workshop.Approved {
			t.Errorf("%q: %q is shown and not taken\n%s", serial, a.Tail, text(body)[:300])
		}
	}
}
