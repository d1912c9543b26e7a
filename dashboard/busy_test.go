package dashboard

import (
	"fmt"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// busy fills the house as on an ordinary afternoon.
func busy(t *testing.T, h *house) (held, working *pc) {
	t.Helper()
	lead, err := h.dash.cfg.Users.Check(t.Context(), "Amina", testPassword)
	if err != nil {
		t.Fatal(err)
	}
	h.user("Lena Weber", Lead)
	h.user("Tesfaye", Volunteer)
	h.user("Ville d’Esch", Viewer)
	if u := h.user("Marc", Volunteer); h.dash.cfg.Users.SetDisabled(t.Context(), lead.ID, u.ID, true) != nil {
		t.Fatal("disable")
	}
	root := h.shelf.list[0].Root
	old, err := h.reg.OpenLot(t.Context(), lead.ID, "Lycée Guillaume Kroll", root, true)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	serial := func() string { return fmt.Sprintf("50026B7782A1%04X", 0x1f00+n*7) }
	next := func(maker, model string, d ...wire.Disk) *pc {
		n++
		return h.start(someReport(n, maker, model, d...))
	}
	for range 3 {
		next("Lenovo", "ThinkCentre M710q", blankDisk(serial())).image().verify().done().firstBoot()
	}
	next("Lenovo", "ThinkCentre M710q")
	if err := h.reg.CloseLot(t.Context(), lead.ID, old.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Ville d’Esch-sur-Alzette", root, true); err != nil {
		t.Fatal(err)
	}
	held = next("HP", "EliteDesk 800 G2 DM 35W", dataDisk("S4EVNX0R704413"))
	next("Dell Inc.", "OptiPlex 3050", blankDisk(serial())).image().fail("the disk failed: write /dev/sda: input/output error", "put another disk in")
	working = next("HP", "ProDesk 400 G3 SFF", blankDisk(serial())).image().progress(wire.PhaseImaging, 4_620_000_000, 12*gb, 112_300_000)
	next("Dell Inc.", "OptiPlex 7040", blankDisk(serial())).image().progress(wire.PhaseImaging, 9_960_000_000, 12*gb, 108_900_000)
	next("FUJITSU", "ESPRIMO Q556", blankDisk(serial())).image().verify().progress(wire.PhaseVerifying, 7_400_000_000, 12*gb, 241_000_000)
	next("Acer", "Veriton X2640G", blankDisk(serial())).image().progress(wire.PhaseImaging, 310_000_000, 12*gb, 96_500_000)
	two := blankDisk(serial())
	two.Path, two.Rotational, two.Model, two.Class, two.Bytes = "/dev/sdb", true, "WDC WD10EZEX-08WN4A0", wire.ClassStructured, 1000*gb
	next("LENOVO", "10MQS00500", blankDisk("50026B7782A1AA01"), two)
	for range 4 {
		next("HP", "EliteDesk 800 G2 DM 35W", blankDisk(serial())).image().verify().done().firstBoot()
	}
	next("HP", "ProDesk 400 G3 SFF", blankDisk(serial())).image().verify().done()
	next("Apple Inc.", "Macmini7,1", blankDisk(serial()))
	// Donors' disks: one to be erased, three that are or were, one that fails.
	erasing := func(disk wire.Disk) *pc {
		p := next("HP", "EliteDesk 800 G3", disk)
		tail := disk.Serial[len(disk.Serial)-6:]
		if err := h.reg.Erase(t.Context(), lead.ID, p.device().ID, disk.Path, tail, workshop.EraseWish{Check: wire.CheckFull}); err != nil {
			t.Fatal(err)
		}
		return p.erase()
	}
	hours, used, bad, good := int64(31_204), int64(88), false, true
	locked := dataDisk("WD-WCC3F1LA7K2P")
	locked.Path, locked.Model, locked.Bytes, locked.Transport, locked.Rotational = "/dev/sda", "WDC WD5000AZLX-60K2TA0", 500*gb, wire.TransportSATA, true
	locked.Class, locked.Found = wire.ClassLocked, nil
	locked.Health = &wire.Health{Passed: &good, Hours: &hours}
	secret := dataDisk("S4EVNX0R704988")
	secret.Class, secret.Found = wire.ClassEncrypted, []string{"gpt", "luks"}
	secret.Health = &wire.Health{Passed: &good, Hours: &hours, PercentUsed: &used, SelfTest: &wire.SelfTest{State: wire.TestPassed}}
	next("Lenovo", "ThinkPad T480", secret, locked)
	erasing(locked)
	erasing(dataDisk("S4EVNX0R704111")).progress(wire.PhaseErasing, 130*gb, 512*gb, 402_000_000)
	erasing(dataDisk("S4EVNX0R704222")).progress(wire.PhaseChecking, 400*gb, 512*gb, 1_210_000_000)
	some := erasing(dataDisk("S4EVNX0R704333"))
	o := some.erasure()
	o.Result, o.Erasure.Result, o.Erasure.Check.Errors = wire.Failed, wire.ErasedExceptions, 14
	o.Erasure.Exceptions = []string{"14 blocks could not be read"}
	some.ended(o)
	whole := erasing(dataDisk("S4EVNX0R704444"))
	whole.ended(whole.erasure())
	failing := blankDisk("50026B7782A1FFFF")
	failing.Health = &wire.Health{Passed: &bad, Hours: &hours}
	next("Dell Inc.", "OptiPlex 3060", failing)
	// They pass their data on to each other: 7 is served first, 10 came late, and
	// 13 stays on for one of them. 8 is not to be trusted.
	job := func(n int) string { return h.reg.View().Devices[n-1].Job.ID }
	h.reg.Arranged(map[string]workshop.Flow{
		job(7):  {Appliance: true, To: []int{8, 9}, Place: 1, Of: 4},
		job(8):  {From: []int{7}, To: []int{10}, Place: 2, Of: 4},
		job(9):  {From: []int{7, 13}, Place: 3, Of: 4, Slow: "its disk can't follow"},
		job(10): {From: []int{8}, After: 7, Place: 4, Of: 4},
		job(13): {To: []int{9}},
	})
	for _, n := range []int{8, 15} {
		if err := h.reg.Suspect(t.Context(), job(n), "It passes damaged data on: test its memory"); err != nil {
			t.Fatal(err)
		}
	}
	return held, working
}

// tangled adds what a lead has to see to: a record that may be another PC's too,
// one that was merged with another and may hold two PCs all the same, and a disk
// that went from one PC to the next.
func tangled(t *testing.T, h *house) (doubted, twins *pc, moved wire.Disk) {
	t.Helper()
	lead := h.reg.View().Lots[0].OpenedBy
	like := func(n int, p *pc, serial string) wire.Report {
		rep := someReport(n, p.rep.Identity.Manufacturer, p.rep.Identity.Model, blankDisk(serial))
		rep.Identity.UUID = p.rep.Identity.UUID
		return rep
	}
	one := h.start(someReport(61, "HP", "EliteDesk 800 G2 DM 35W", blankDisk("50026B7782A16101"))).image().verify().done()
	doubted = h.start(like(62, one, "50026B7782A16102")).fail("The disk was pulled while it was written", "Put it back and ask for imaging again")

	twins = h.start(someReport(63, "FUJITSU", "ESPRIMO Q556", blankDisk("50026B7782A16103")))
	rep := twins.rep
	rep.BootID, rep.Disks = "boot-of-the-other", nil
	_, token, err := h.reg.Boot(t.Context(), workshop.Start{MAC: rep.NICs[0].MAC, UUID: rep.Identity.UUID})
	if err != nil {
		t.Fatal(err)
	}
	twins.replan() // the first one is still on
	if _, err := h.reg.Report(t.Context(), token, rep); err == nil {
		t.Fatal("one of two PCs that are on with one identity is not turned away")
	}
	twins.fail("No disk was found in this PC", "Put a disk in, or check its cable, and ask for imaging again")
	again := h.start(like(64, twins, "50026B7782A16104")).fail("The disk was pulled while it was written", "Put it back and ask for imaging again")
	if err := h.reg.Merge(t.Context(), lead, twins.device().ID, again.device().ID, "one sticker, one case"); err != nil {
		t.Fatal(err)
	}

	moved = one.rep.Disks[0]
	moved.Class = wire.ClassOurs
	h.start(someReport(65, "Dell Inc.", "OptiPlex 3050", moved)).image().verify().done()
	return doubted, twins, moved
}
