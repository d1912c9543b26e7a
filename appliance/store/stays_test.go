package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
	"refurb/images"
)

// shelf has no images.
type shelf struct{}

func (shelf) Image(root string) (string, *images.Manifest, error) {
	return "", nil, fmt.Errorf("no image %s", root)
}

// Records of a version that didn't follow disks: its reports tell where they were.
// testdata/version3.sql is what that version wrote when PC 1 was imaged on disk 1, the
// disk went to PC 2, back to PC 1 and out of it for disk 5; PC 3 had disk 3, a stick
// and two disks of one number; and PC 4 had disk 4, and then a controller that hides
// what is behind it.
func TestStaysOfOlderRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refurb.db")
	old, err := os.ReadFile("testdata/version3.sql")
	if err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	if _, err := db.Exec(string(old)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"S4EVNF0M000001 1: in 1, gone", "S4EVNF0M000001 2: in 2, gone", "S4EVNF0M000001 3: in 1, gone",
		"S4EVNF0M000003 1: in 3", "S4EVNF0M000004 1: in 4", "S4EVNF0M000005 1: in 1",
	}
	for range 2 { // the second time they are there
		s, err := store.Open(path, audit.Seal)
		if err != nil {
			t.Fatal(err)
		}
		st, err := s.Load(bg)
		if err != nil {
			t.Fatal(err)
		}
		numbers := map[string]int{}
		for _, v := range st.Devices {
			numbers[v.ID] = v.Number
		}
		got := map[string]bool{}
		for _, v := range st.Stays {
			text := fmt.Sprintf("%s %d: in %d", v.ID.Serial, v.N, numbers[v.Device])
			if !v.Gone.IsZero() {
				text += ", gone"
			}
			got[text] = true
			if v.Disk != workshop.DiskKey(v.ID) || v.Since.IsZero() || v.Last.Before(v.Since) || !v.Gone.IsZero() && !v.Gone.After(v.Last) {
				t.Errorf("%+v", v)
			}
		}
		for _, w := range want {
			if !got[w] {
				t.Errorf("not told: %s", w)
			}
		}
		if len(got) != len(want) || len(st.Stays) != len(want) {
			t.Errorf("told: %v", got)
		}
		r, err := workshop.Open(bg, workshop.Config{Store: s, Images: shelf{}, BaseURL: func() (string, string) { return "", "" }})
		if err != nil {
			t.Fatal(err)
		}
		d, ok := r.Disk(workshop.DiskKey(wire.DiskID{Serial: "S4EVNF0M000001", Model: "Samsung SSD"}))
		if !ok || len(d.Stays) != 3 || len(d.Stays[2].Jobs) != 1 || d.Stays[2].Jobs[0].State != workshop.Verified {
			t.Errorf("the disk that was imaged: %+v", d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStaysComeAndGo(t *testing.T) {
	s, _ := open(t)
	c := change(1)
	c.Stays = []workshop.Stay{{Disk: "a", N: 1, Device: "D1", Since: noon, Last: noon, Gone: noon}, {Disk: "a", N: 2, Device: "D1", Since: noon, Last: noon}, {Disk: "b", N: 1, Device: "D1", Since: noon, Last: noon}}
	if err := s.Commit(bg, c); err != nil {
		t.Fatal(err)
	}
	later := c.Stays[1]
	later.Gone = noon.Add(time.Second)
	// What is forgotten in the change that tells of it is forgotten.
	err := s.Commit(bg, workshop.Change{Stays: []workshop.Stay{later, c.Stays[2]}, Unstay: []workshop.StayKey{{Disk: "a", N: 1}, {Disk: "b", N: 1}, {Disk: "nonsense", N: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := s.Load(bg); err != nil || !reflect.DeepEqual(st.Stays, []workshop.Stay{later}) {
		t.Fatalf("%v %+v", err, st.Stays)
	}
}
