package dashboard

import (
	"net/http"
	"strings"
	"testing"

	"refurb/appliance/workshop"
)

// A volunteer may switch a PC on and have its memory tested; root on it is a
// lead's to give, by whatever address it is asked for.
func TestRescueByRole(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	h.user("Vito", Volunteer)
	h.user("Wim", Viewer)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, false); err != nil {
		t.Fatal(err)
	}
	rep := someReport(1, "HP", "EliteDesk", blankDisk("S4EVNX0R704413"))
	on := true
	rep.Firmware.SecureBoot = &on
	p := h.start(rep)
	page := "/devices/" + p.device().ID

	if _, body := h.as("Wim").get(page); strings.Contains(body, page+"/rescue") || strings.Contains(body, page+"/wake") {
		t.Error("a viewer is offered to start something")
	}
	v := h.as("Vito")
	_, body := v.get(page)
	wants(t, body, `action="`+page+`/rescue"`, "Memory test", "Secure Boot is on in this PC", "own screen only")
	if strings.Contains(body, page+"/shell") {
		t.Error("a volunteer is offered the shell")
	}
	if code, _ := v.post(page + "/shell"); code != http.StatusForbidden {
		t.Errorf("a volunteer asks for the shell: %d", code)
	}
	_, body = v.post(page+"/rescue", "start", "shell")
	wants(t, body, "can&#39;t start")
	if k := p.device().Rescue; k != "" {
		t.Fatalf("a volunteer chose %s", k)
	}
	_, body = v.post(page+"/rescue", "start", "memtest")
	wants(t, body, "Noted. Start the PC from the network.", "Next start: memory test", "Something else was chosen for its next start")
	// What is chosen says so and can be taken back; only the rest is still offered.
	wants(t, body, "Chosen", "/rescue/forget", `value="local"`, `<div class="note hold">`, "Secure Boot is on in this PC")
	if strings.Contains(body, `value="memtest"`) || strings.Count(body, "Secure Boot is on in this PC") > 1 {
		t.Errorf("the memory test is offered again, or warned of twice:\n%s", text(body))
	}
	if _, body = v.get("/"); !strings.Contains(body, "Next start: memory test") {
		t.Error("the bench doesn't say what starts next")
	}
	_, body = h.as("Lena").post(page + "/shell")
	wants(t, body, "Next start: rescue shell", `value="memtest"`, `class="caution hold"`)
	if strings.Contains(body, page+"/shell") {
		t.Error("the shell is offered again")
	}
	if k := p.device().Rescue; k != workshop.RescueShell {
		t.Fatalf("chosen: %q", k)
	}
	_, body = v.post(page + "/rescue/forget")
	wants(t, body, "Taken back. The PC starts as usual.")
	if k := p.device().Rescue; k != "" {
		t.Fatalf("still chosen: %q", k)
	}
	// What a lead has asked for concerns who starts the PC.
	if err := h.reg.Cancel(t.Context(), lead.ID, p.device().Job.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := h.reg.ImageAgain(t.Context(), lead.ID, p.device().ID, ""); err != nil {
		t.Fatal(err)
	}
	_, body = v.get(page)
	wants(t, body, "It will be installed again: start this PC from the network.")
	if strings.Contains(body, "/again") {
		t.Error("a volunteer is offered to take a lead's wish back")
	}
}
