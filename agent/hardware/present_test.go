package hardware

import (
	"slices"
	"strings"
	"testing"
)

// Present differs whenever a person has put something in or taken it out, and
// only then.
func TestPresent(t *testing.T) {
	seq := func(n string, f files) files { f["sys/"+ataPath+"/diskseq"] = n + "\n"; return f }
	pc := func(f ...files) []string { return Present(plant(t, f...)) }
	one := pc(seq("3", sata()))
	if !slices.Equal(one, pc(seq("3", sata()))) {
		t.Error("the same is not the same")
	}
	if !slices.Equal(one, pc(seq("3", sata()), disk("loop0", "devices/virtual/block/loop0", nil), disk("sr0", "devices/pci0000:00/ata2/block/sr0", nil))) {
		t.Error("what is no disk counts")
	}
	for name, other := range map[string][]string{
		"none":                  pc(),
		"a second one":          pc(seq("3", sata()), nvme()),
		"another in its place":  pc(seq("8", sata())),
		"another size":          pc(seq("3", disk("sda", ataPath, files{"size": "7\n"}))),
		"one with a new number": pc(seq("4", sata())),
	} {
		if slices.Equal(one, other) {
			t.Errorf("%s: still %q", name, other)
		}
	}
	if n, ok := Sequence(plant(t, seq("12", sata())), "/dev/sda"); n != 12 || !ok {
		t.Error(n, ok)
	}
	if _, ok := Sequence(plant(t, sata()), "/dev/sda"); ok {
		t.Error("an old kernel gave a number")
	}
}

// Two disks that give the same serial number are two disks, and so are two paths
// to one: who decides has to see both.
func TestTwins(t *testing.T) {
	other := disk("sdb", strings.ReplaceAll(ataPath, "sda", "sdb"), files{})
	for k, v := range sata() {
		if rest, ok := strings.CutPrefix(k, "sys/"+ataPath); ok {
			other["sys/"+strings.ReplaceAll(ataPath, "sda", "sdb")+rest] = v
		}
	}
	disks, _ := Disks(plant(t, sata(), other))
	if len(disks) != 2 {
		t.Fatalf("%+v", disks)
	}
	a, b := disks[0].DiskID, disks[1].DiskID
	if a.Path == b.Path || a.Serial == "" || a.Serial != b.Serial || a.WWN != b.WWN {
		t.Errorf("%+v %+v", a, b)
	}
	// A multipath that is in use holds its paths.
	held := files{"sys/" + ataPath + "/holders/dm-0/": ""}
	disks, _ = Disks(plant(t, sata(), other, held))
	if len(disks) != 2 || disks[0].InUse != "held by dm-0" {
		t.Errorf("%+v", disks)
	}
}
