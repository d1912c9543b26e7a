package workshop_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// fetch asks for a boot script as the PC does: since is when it last asked for an
// address, before now.
func (p *pc) fetch(since time.Duration, grub ...bool) workshop.StartKind {
	p.h.t.Helper()
	kind, token, err := p.h.Boot(bg, workshop.Start{MAC: p.mac, UUID: p.rep.Identity.UUID, Since: p.h.clock.Now().Add(-since), IPXE: len(grub) == 0})
	if err != nil || (kind == workshop.StartAgent) != (token != "") {
		p.h.t.Fatalf("%s with token %q: %v", kind, token, err)
	}
	return kind
}

// A choice is for one start: GRUB and iPXE may fetch the script of that one
// several times, and the next one is an ordinary one.
func TestRescueOnce(t *testing.T) {
	for _, c := range []struct {
		kind workshop.Rescue
		want workshop.StartKind
	}{{workshop.RescueShell, workshop.StartShell}, {workshop.RescueMemory, workshop.StartMemory}, {workshop.RescueDisk, workshop.StartDisk}} {
		for _, again := range []struct {
			name  string
			after time.Duration // since the first fetch
			since time.Duration // since the PC last asked for an address
			same  bool
		}{
			{"the same start, at once", 0, 20 * time.Second, true},
			{"the same start, GRUB's third try", 40 * time.Second, time.Minute, true},
			{"the same start, where iPXE in the card gave up and GRUB asks", 15 * time.Second, 5 * time.Second, true},
			{"a new start, at once", 15 * time.Second, 5 * time.Second, false},
			{"a new start that nobody saw begin", 3 * time.Minute, 10 * time.Minute, false},
		} {
			t.Run(string(c.kind)+", "+again.name, func(t *testing.T) {
				h := open(t)
				h.lot(false)
				p := h.pc(1)
				p.boot()
				id := p.device().ID
				before := *p.device().Job
				if err := h.ChooseRescue(bg, "lead1", id, c.kind); err != nil {
					t.Fatal(err)
				}
				h.crash() // what was chosen is kept
				h.clock.pass(time.Minute)
				if got := p.fetch(10 * time.Second); got != c.want {
					t.Fatalf("the chosen start is %s", got)
				}
				if v := p.device(); v.Rescue != "" {
					t.Fatalf("%s is still chosen", v.Rescue)
				}
				h.crash() // and so is what was given to which start
				h.clock.pass(again.after)
				want := workshop.StartAgent
				if again.same {
					want = c.want
				}
				var grub []bool
				if strings.Contains(again.name, "GRUB asks") {
					grub = []bool{true}
				}
				if got := p.fetch(again.since, grub...); got != want {
					t.Errorf("fetched again: %s, want %s", got, want)
				}
				// The job doesn't know of any of it.
				if j := *p.device().Job; j.State != before.State || j.ID != before.ID || len(p.device().Jobs) != 1 {
					t.Errorf("the job was %s and is %s", before.State, j.State)
				}
				h.clock.pass(3 * time.Minute)
				if got := p.fetch(10 * time.Second); got != workshop.StartAgent {
					t.Errorf("the start after it: %s", got)
				}
				kinds := h.kinds(id)
				for _, want := range []string{"rescue_chosen", "rescue_started"} {
					if n := len(slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return k != want })); n != 1 {
						t.Errorf("%d times %s in the history", n, want)
					}
				}
				h.verify(id)
			})
		}
	}
}

// Another card's start, or one that may be another PC's, spends nothing.
func TestRescueInDoubt(t *testing.T) {
	h := open(t)
	h.lot(false)
	dongle := "00:21:cc:dd:dd:dd"
	with := func(r *wire.Report) {
		r.NICs = append(r.NICs, wire.NIC{Name: "eth1", MAC: dongle, Permanent: dongle, Bus: "usb"})
	}
	p := h.pc(1, with)
	p.boot()
	id := p.device().ID
	if err := h.ChooseRescue(bg, "lead1", id, workshop.RescueShell); err != nil {
		t.Fatal(err)
	}
	for _, s := range []workshop.Start{
		{MAC: dongle}, // whoever has it now
		{MAC: dongle, UUID: "11111111-2222-3333-4444-555555555555"}, // another PC
		{MAC: p.mac, UUID: "11111111-2222-3333-4444-555555555555"},  // its card in another PC
		{MAC: "00:21:cc:00:00:99", UUID: p.rep.Identity.UUID},       // its UUID from elsewhere
	} {
		if kind, _, err := h.Boot(bg, s); kind != workshop.StartAgent || err != nil {
			t.Errorf("%+v starts %s, %v", s, kind, err)
		}
	}
	if v := p.device(); v.Rescue != workshop.RescueShell {
		t.Fatal("it was spent")
	}
	// With the dongle and its own UUID it is known.
	if kind, _, err := h.Boot(bg, workshop.Start{MAC: dongle, UUID: p.rep.Identity.UUID}); kind != workshop.StartShell || err != nil {
		t.Errorf("%s, %v", kind, err)
	}
	// A start of its other card is another start.
	if kind, _, err := h.Boot(bg, workshop.Start{MAC: p.mac, UUID: p.rep.Identity.UUID}); kind != workshop.StartAgent || err != nil {
		t.Errorf("%s, %v", kind, err)
	}
}

// A stick carries a shell and no memory test: what it can't start stays chosen.
func TestRescueFromAStick(t *testing.T) {
	h := open(t)
	h.lot(false)
	p := h.pc(1)
	p.boot()
	id := p.device().ID
	ask := wire.BootAsk{MAC: p.mac, UUID: p.rep.Identity.UUID, Key: base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))}
	for kind, want := range map[workshop.Rescue]wire.BootAnswer{
		workshop.RescueMemory: {}, workshop.RescueDisk: {Local: true}, workshop.RescueShell: {Shell: true},
	} {
		if err := h.ChooseRescue(bg, "lead1", id, kind); err != nil {
			t.Fatal(err)
		}
		a, err := h.StickBoot(bg, ask)
		if token := a.Token; err != nil || (token != "") != (kind == workshop.RescueMemory) {
			t.Errorf("%s: %+v, %v", kind, a, err)
		}
		if a.Token = ""; a != want {
			t.Errorf("%s: %+v", kind, a)
		}
		if left := p.device().Rescue; (left != "") != (kind == workshop.RescueMemory) {
			t.Errorf("%s: %q is left", kind, left)
		}
	}
	// The memory test came over the network, and right after it the PC starts from
	// the stick.
	if err := h.ChooseRescue(bg, "lead1", id, workshop.RescueMemory); err != nil {
		t.Fatal(err)
	}
	h.clock.pass(time.Minute)
	if got := p.fetch(time.Second); got != workshop.StartMemory {
		t.Fatalf("it starts %s", got)
	}
	h.clock.pass(time.Minute)
	if a, err := h.StickBoot(bg, ask); err != nil || a.Token == "" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestRescueRefused(t *testing.T) {
	h := open(t)
	h.lot(true)
	p := h.pc(1)
	p.boot()
	id := p.device().ID
	refused(t, h.ChooseRescue(bg, "lead1", id, workshop.RescueMemory), workshop.Conflict) // approved
	p.wants(wire.ActionImage)
	if err := p.send(wire.EventImaging, nil); err != nil {
		t.Fatal(err)
	}
	refused(t, h.ChooseRescue(bg, "lead1", id, workshop.RescueMemory), workshop.Conflict) // imaging
	refused(t, h.ForgetRescue(bg, "lead1", id), workshop.Conflict)
	refused(t, h.ChooseRescue(bg, "lead1", "nonsense", workshop.RescueMemory), workshop.NotFound)
	refused(t, h.ChooseRescue(bg, "lead1", id, "format"), workshop.Invalid)
	refused(t, h.ChooseRescue(bg, "", id, workshop.RescueMemory), workshop.Invalid)
	// A PC that broke down in the middle is the very one to look at.
	if err := p.send(wire.EventOutcome, &wire.Outcome{Result: wire.Failed, Cause: "it broke"}); err != nil {
		t.Fatal(err)
	}
	for _, k := range []workshop.Rescue{workshop.RescueMemory, workshop.RescueShell} {
		if err := h.ChooseRescue(bg, "lead1", id, k); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.ForgetRescue(bg, "vol1", id); err != nil {
		t.Fatal(err)
	}
	h.clock.pass(time.Minute)
	if got := p.fetch(time.Second); got != workshop.StartDisk {
		t.Errorf("what was taken back still holds: %s", got)
	}
	if err := h.MoveDevice(bg, "lead1", id, workshop.Rejected, "broken"); err != nil {
		t.Fatal(err)
	}
	refused(t, h.ChooseRescue(bg, "lead1", id, workshop.RescueMemory), workshop.Conflict)
}
