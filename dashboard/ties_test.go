package dashboard

import (
	"net/http"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// twoBoards are a PC under two numbers: first by somebody else's network card, and
// with the first one's disk in a third PC.
func twoBoards(t *testing.T) (*house, *browser, [2]workshop.DeviceView) {
	h := newHouse(t)
	lead := h.user("Amina", Lead)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Ville d’Esch", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	a := h.start(someReport(1, "HP", "EliteDesk", blankDisk("S4EVNX0R704413"))).image().verify().done()
	other := someReport(2, "HP", "EliteDesk", blankDisk("S4EVNX0R704499"))
	other.Identity.UUID, other.Identity.SystemSerial = a.rep.Identity.UUID, "5CG0000002X"
	b := h.start(other).fail("the disk was pulled", "Put it back")
	return h, h.as("Amina"), [2]workshop.DeviceView{a.device(), b.device()}
}

func TestMergeAndSplitOnThePages(t *testing.T) {
	h, b, v := twoBoards(t)
	_, body := b.get("/devices/" + v[1].ID)
	wants(t, body, "the UUID", "with number 1 and differs in the rest", "It shares something with another PC", "It is the same PC", "They are two PCs")
	_, body = b.get("/devices/" + v[1].ID + "/merge?with=1")
	wants(t, body, "What will happen", "Number 2 stays", "5CG0000002X", "Ville d’Esch", `name="reason" required`)
	if n := strings.Count(body, "same</span>"); n != 2 {
		t.Errorf("one value is the same in both records, %d are marked", n)
	}
	_, body = b.get("/devices/" + v[1].ID + "/merge?with=1&keep=other")
	wants(t, body, "Number 1 stays")
	for _, with := range []string{"2", "77", "x", ""} {
		if _, body = b.get("/devices/" + v[1].ID + "/merge?with=" + with); !strings.Contains(body, "no other PC of that number") {
			t.Errorf("%q: %s", with, text(body))
		}
	}
	if _, body = b.post("/devices/"+v[0].ID+"/merge", "keep", v[0].ID, "gone", v[1].ID); !strings.Contains(body, "needs a reason") && !strings.Contains(body, "reason") || len(h.reg.View().Devices) != 2 {
		t.Fatal(text(body))
	}
	if status, _ := b.post("/devices/x/merge", "keep", v[0].ID, "gone", v[1].ID, "reason", "x"); status != http.StatusNotFound {
		t.Fatal(status)
	}
	_, body = b.post("/devices/"+v[0].ID+"/merge", "keep", v[0].ID, "gone", v[1].ID, "reason", "one sticker")
	wants(t, body, "are one PC now", "Number 2 is this PC, too.", "Number 2 was found to be this PC", "one sticker")
	// The other number leads there, in the address and in the search; its history is its own.
	_, body = b.get("/devices/" + v[1].ID)
	wants(t, body, "Number 2 is this PC, too.")
	_, body = b.get("/devices?q=2")
	wants(t, body, "/devices/"+v[0].ID)
	_, own := b.get("/devices/" + v[1].ID + "/history/csv")
	if !strings.Contains(own, "merged_into") || strings.Contains(own, "merged_from") {
		t.Fatal(own)
	}
	_, body = b.get("/devices/" + v[0].ID + "/split")
	wants(t, body, "which was merged into this one")
	_, body = b.post("/devices/"+v[0].ID+"/split", "record", v[1].ID, "reason", "two stickers")
	wants(t, body, "The other PC is number 2")
	if len(h.reg.View().Devices) != 2 {
		t.Fatal("still one")
	}
}

func TestDoubtIsDecidedOnThePage(t *testing.T) {
	h, b, v := twoBoards(t)
	_, body := b.post("/devices/"+v[1].ID+"/doubt", "doubt", "partly", "other", v[0].ID, "reason", "I have both here")
	wants(t, body, "It is another PC than number", "I have both here")
	if strings.Contains(body, "They are two PCs") {
		t.Fatal("it is still asked")
	}
	if d, _ := h.reg.Device(v[0].ID); len(d.Apart) != 1 {
		t.Fatalf("%+v", d.Apart)
	}
	h.user("Vic", Viewer)
	_, body = h.as("Vic").get("/devices/" + v[0].ID)
	if strings.Contains(body, "/doubt") || strings.Contains(body, "/merge") || strings.Contains(body, "/split") {
		t.Fatal("a viewer is offered what only a lead may do")
	}
}

func TestDiskThatMoved(t *testing.T) {
	h, b, v := twoBoards(t)
	moved := blankDisk("S4EVNX0R704413")
	moved.Class = wire.ClassOurs
	if _, body := b.get("/devices/" + v[0].ID); strings.Contains(body, `id="unfit"`) {
		t.Error("a PC with its own disk may not be given away")
	}
	c := h.start(someReport(3, "Dell", "OptiPlex", moved))
	_, body := b.get("/")
	for _, card := range strings.Split(body, `<li id="c-`)[1:] {
		if was := strings.HasPrefix(card, v[0].ID); was != strings.Contains(card, "Not to be given away") {
			t.Errorf("the card of a PC, from which the disk was taken: %v\n%s", was, card)
		}
	}
	_, body = b.get("/devices/" + c.device().ID)
	wants(t, body, "Disks that went elsewhere", "S4EVNX0R704413", "In this PC", "/devices/"+v[0].ID, "/papers/imaging/"+v[0].Job.ID)
	_, body = b.get("/devices/" + v[0].ID)
	wants(t, body, "Disks that went elsewhere", "/devices/"+c.device().ID, `id="unfit"`, "This PC may not be given away yet.", "The disk that was installed was seen in PC", "Put it back and start this PC from the network once, or install it again.")
	_, body = b.post("/devices/"+v[0].ID+"/move", "to", "ready")
	wants(t, body, "was seen in PC")
	_, body = b.get("/disks?q=704413")
	wants(t, body, "S4EVNX0R704413", "KINGSTON")
	if strings.Contains(body, "704499") {
		t.Fatal("the search finds all")
	}
	key := h.reg.Disks()[0].Key
	if status, _ := b.get("/disks/" + key); status != http.StatusOK {
		t.Fatal(status)
	}
	if status, _ := b.get("/disks/nobody"); status != http.StatusNotFound {
		t.Fatal(status)
	}
}
