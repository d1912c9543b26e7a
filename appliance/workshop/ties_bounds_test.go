package workshop

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// PCs that were turned away push out nothing of what was let in, and are few.
func TestTurnedFacesAreFew(t *testing.T) {
	var v Device
	add := func(id string, turned bool) { v.addFace(Face{ID: id, Turned: turned}) }
	for i := range 9 {
		add(fmt.Sprint("in ", i), false)
		add(fmt.Sprint("out ", i), true)
	}
	add("in 3", true) // one that was let in, seen again while it is on
	add("out 8", false)
	var ids []string
	for _, f := range v.Faces {
		ids = append(ids, fmt.Sprint(f.ID, " ", f.Turned))
	}
	want := []string{"in 2 false", "in 4 false", "in 5 false", "in 6 false", "in 7 false", "out 7 true", "in 8 false", "in 3 false", "out 8 false"}
	if !slices.Equal(ids, want) {
		t.Fatalf("%q", ids)
	}
}

// As many made-up PCs as there may be, with the UUID of a real one: whether that still
// identifies a PC is known at once, also where people have kept two of them apart.
func TestVoidAmongStrangers(t *testing.T) {
	r := &Registry{devices: map[string]*Device{}, found: map[string][]string{}}
	for i := range maxDevices {
		v := &Device{ID: fmt.Sprint(i)}
		r.devices[v.ID] = v
		r.found["uuid x"] = append(r.found["uuid x"], v.ID)
	}
	void := func(want bool) {
		t.Helper()
		start := time.Now()
		if got := r.void("uuid x"); got != want {
			t.Errorf("void %v", got)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	void(false)
	r.devices["7"].Apart = []string{"a PC that has another UUID", "7"}
	void(false)
	last := fmt.Sprint(maxDevices - 1)
	r.devices["7"].Apart, r.devices[last].Apart = []string{last}, []string{"7"}
	void(true)
	r.devices[last].Into, r.devices["8"].Absorbed = "8", []string{last}
	void(true)
	if r.only("uuid x") != nil || r.only("uuid y") != nil {
		t.Error("one of many")
	}
}
