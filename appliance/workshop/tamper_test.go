package workshop_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"refurb/appliance/audit"
	"refurb/appliance/workshop"
)

// acts are what people and the appliance do beside jobs: who is one PC and who is
// two, and what starts when.
var acts = []string{
	"merged_into", "merged_from", "split_off", "split_from", "kept_apart", "identity_doubt", "doubt_settled",
	"wake", "rescue_chosen", "rescue_forgotten", "rescue_started",
}

// everyAct is a house in whose history each of them stands.
func everyAct(t *testing.T) *house {
	w := wakerOf(t)
	w.lot(true)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a := w.pc(1).done()
	w.pc(12).done()
	idA, idB := w.number(1).ID, w.number(2).ID
	w.clock.pass(time.Hour)
	must(w.Wake(bg, "vol1", idA))
	must(w.ChooseRescue(bg, "vol1", idA, workshop.RescueMemory))
	must(w.ForgetRescue(bg, "vol1", idA))
	must(w.ChooseRescue(bg, "lead1", idA, workshop.RescueShell))
	if got := a.fetch(time.Second); got != workshop.StartShell {
		t.Fatal(got)
	}
	must(w.Merge(bg, "lead1", idA, idB, "one sticker"))
	_, err := w.Split(bg, "lead1", idA, workshop.Parting{Record: idB}, "two of them")
	must(err)

	w.pc(3, bare(fake)).done()
	c := w.pc(3, bare(fake), otherCard, otherDisk).from("00:21:cc:00:00:02")
	c.boots = 1000
	c.boot()
	must(w.Decide(bg, "lead1", w.number(4).ID, workshop.DoubtPartly, w.number(3).ID, "two cards, two boards"))

	d := w.pc(5, data)
	d.boot()
	w.clock.pass(10 * time.Minute)
	e := w.pc(5, data)
	e.boots = 1000
	e.script()
	w.clock.pass(time.Second)
	d.poll()
	_, err = w.Report(bg, e.token, e.rep)
	refused(t, err, workshop.Conflict)
	must(w.Decide(bg, "lead1", w.number(5).ID, workshop.DoubtTwins, "", "restarted in haste"))
	return w.house
}

// Whatever is changed in a line that tells of such an act, it is noticed: changed
// alone, with its own hash, with all that stands behind it sealed anew, and left out.
func TestActsCantBeChanged(t *testing.T) {
	h := everyAct(t)
	tried := map[string]int{}
	for n := range 5 {
		id := h.number(n + 1).ID
		lines, err := h.store.Lines(bg, id)
		if err != nil {
			t.Fatal(err)
		}
		var chain []audit.Entry
		for _, l := range lines {
			chain = append(chain, audit.Entry(l))
		}
		var whole bytes.Buffer
		if err := audit.Export(&whole, id, chain, audit.JSONLines, key, time.Now()); err != nil {
			t.Fatal(err)
		}
		head, _, _ := bytes.Cut(whole.Bytes(), []byte("\n"))
		if file := fileOf(head, chain); !bytes.Equal(file, whole.Bytes()) {
			t.Fatalf("exports have another form: %s", file)
		}
		if _, err := audit.VerifyFile(&whole, nil); err != nil {
			t.Fatal(err)
		}
		for i, x := range chain {
			e := eventOf(t, x)
			if !slices.Contains(acts, e.Kind) {
				continue
			}
			noticed := func(what string, chain []audit.Entry) {
				t.Helper()
				tried[e.Kind]++
				var found *audit.Trouble
				if _, err := audit.VerifyFile(bytes.NewReader(fileOf(head, chain)), nil); !errors.As(err, &found) {
					t.Errorf("%s of number %d, %s: %v", e.Kind, n+1, what, err)
				}
			}
			noticed("left out", slices.Delete(slices.Clone(chain), i, i+1))
			for what, changed := range changes(e) {
				alone := sealed(t, chain, i, i+1, changed)
				noticed(what, alone)
				alone[i].Hash = x.Hash
				noticed(what+" under its old hash", alone)
				noticed(what+" with all behind it", sealed(t, chain, i, len(chain), changed))
			}
		}
	}
	for _, k := range acts {
		if tried[k] < 20 {
			t.Errorf("%s: only %d changes were tried", k, tried[k])
		}
	}
}

func eventOf(t *testing.T, x audit.Entry) (e workshop.Event) {
	if err := json.Unmarshal(x.Line, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// fileOf is an export with this header.
func fileOf(head []byte, chain []audit.Entry) []byte {
	b := append(bytes.Clone(head), '\n')
	for _, x := range chain {
		b = fmt.Appendf(b, "{\"entry\":%s,\"hash\":\"%s\"}\n", x.Line, x.Hash)
	}
	return b
}

// sealed puts another event at i and seals the lines up to until anew.
func sealed(t *testing.T, chain []audit.Entry, i, until int, e workshop.Event) []audit.Entry {
	chain = slices.Clone(chain)
	for ; i < until; i++ {
		prev := ""
		if i > 0 {
			prev = chain[i-1].Hash
		}
		line, hash, err := audit.Seal(int64(i), prev, e)
		if err != nil {
			t.Fatal(err)
		}
		chain[i].Line, chain[i].Hash = line, hash
		if i+1 < until {
			e = eventOf(t, chain[i+1])
		}
	}
	return chain
}

// changes are ways to have an event say something else.
func changes(e workshop.Event) map[string]workshop.Event {
	all := map[string]workshop.Event{}
	change := func(name string, f func(*workshop.Event)) {
		v := e
		v.Params = maps.Collect(maps.All(e.Params))
		f(&v)
		all[name] = v
	}
	change("another kind", func(e *workshop.Event) { e.Kind = "note" })
	change("another time", func(e *workshop.Event) { e.Time = e.Time.Add(time.Second) })
	change("another actor", func(e *workshop.Event) { e.Actor = "somebody" })
	change("another reason", func(e *workshop.Event) { e.Reason += "!" })
	change("another result", func(e *workshop.Event) { e.Result += "!" })
	change("from elsewhere", func(e *workshop.Event) { e.From += "!" })
	change("to elsewhere", func(e *workshop.Event) { e.To += "!" })
	change("another device", func(e *workshop.Event) { e.Device += "!" })
	change("more", func(e *workshop.Event) { e.Params["more"] = "x" })
	for k := range e.Params {
		change("another "+k, func(e *workshop.Event) { e.Params[k] += "0" })
		change("no "+k, func(e *workshop.Event) { delete(e.Params, k) })
	}
	return all
}
