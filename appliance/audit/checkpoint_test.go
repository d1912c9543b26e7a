package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

var next = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))

func folder(t testing.TB) Folder {
	t.Helper()
	return Folder{Dir: filepath.Join(t.TempDir(), "checkpoints"), Keys: []ed25519.PublicKey{pub}}
}

func headOf(device string, e []Entry) Head {
	return Head{device, int64(len(e)), e[len(e)-1].Hash}
}

func add(t testing.TB, f Folder, k ed25519.PrivateKey, n Next, heads ...Head) Kept {
	t.Helper()
	all, err := f.All()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := f.Add(all, heads, k, n)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// other heads of the house; the device's own comes between them.
func others(n int, heads ...Head) []Head {
	for i := range n {
		heads = append(heads, Head{fmt.Sprintf("%c%d", 'A'+i%9, i), int64(i + 1), strings.Repeat(fmt.Sprintf("%02x", i), 32)})
	}
	return append(heads, Head{"", 40, strings.Repeat("ef", 32)})
}

// The form of a checkpoint is what others keep and compare: it must never change.
func TestCheckpointGolden(t *testing.T) {
	k := add(t, folder(t), key, Next{Time: noon}, others(2)...)
	want := `refurb/fe812c12f3ab4ce6
3
Y7xzQ5OMS64zpc1nKnsBoEhjyZa0vhOs7wBeSmtf69A=
checkpoint 1
lines 43
time 2026-03-04T12:00:00Z
previous ` + Start + `

— refurb/`
	if !strings.HasPrefix(string(k.Note), want) {
		t.Errorf("%s\nwant\n%s", k.Note, want)
	}
	// The leaves are what anybody can compute: canonical JSON, RFC 6962's hashes.
	leaf := tlog.RecordHash([]byte(`{"device":"A0","hash":"` + strings.Repeat("00", 32) + `","seq":1}`))
	if got, err := others(1)[0].leaf(); err != nil || got != leaf {
		t.Errorf("%v %v", got, err)
	}
	left := tlog.NodeHash(tlog.RecordHash([]byte(`{"device":"","hash":"`+strings.Repeat("ef", 32)+`","seq":40}`)), leaf)
	if right, err := others(2)[1].leaf(); err != nil || tlog.NodeHash(left, right) != k.Root {
		t.Errorf("another root than by hand: %v", err)
	}
}

// Whatever heads there are: each has a proof, and it proves nothing else.
func TestProofs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 70).Draw(t, "others")
		heads := sortHeads(others(n))
		c := Checkpoint{Origin: Origin(pub), Chains: int64(len(heads)), Number: 1, Time: noon, Prev: Start}
		var err error
		if c.Root, c.Lines, err = rootOf(heads); err != nil {
			t.Fatal(err)
		}
		b, err := c.sign(key)
		if err != nil {
			t.Fatal(err)
		}
		h := heads[rapid.IntRange(0, len(heads)-1).Draw(t, "which")]
		p, err := prove(b, heads, h.Device)
		if err != nil || p.Seq != h.Seq || p.Hash != h.Hash {
			t.Fatal(p, err)
		}
		if got, bad := p.check(h.Device, []ed25519.PublicKey{pub}); bad != nil || got.text() != c.text() {
			t.Fatal(bad)
		}
		for _, wrong := range []struct {
			device string
			change func(*Proof)
		}{
			{h.Device + "x", func(*Proof) {}},
			{h.Device, func(p *Proof) { p.Seq++ }},
			{h.Device, func(p *Proof) { p.Hash = Start[1:] + "1" }},
			{h.Device, func(p *Proof) { p.Index++ }},
			{h.Device, func(p *Proof) { p.Path = append(slices.Clone(p.Path), tlog.RecordHash(nil)) }},
		} {
			q := *p
			wrong.change(&q)
			if _, bad := q.check(wrong.device, []ed25519.PublicKey{pub}); bad == nil {
				t.Fatalf("proved: %+v", q)
			}
		}
		if p, err := prove(b, heads, "nobody"); p != nil || err != nil {
			t.Fatal(p, err)
		}
	})
}

// A history, a checkpoint over it, a second one after it has grown, and what
// may be done to the file, the proof and the checkpoints.
func TestTamperingWithProofs(t *testing.T) {
	const n = 8
	entries := history(t, n)
	f := folder(t)
	first := add(t, f, key, Next{Time: noon}, others(20, headOf(device, entries[:5]))...)
	second := add(t, f, key, Next{Time: noon.Add(24 * time.Hour)}, others(21, headOf(device, entries[:7]))...)
	proof := func(number int64) *Proof {
		p, err := f.Prove(device, number)
		if err != nil || p == nil {
			t.Fatal(p, err)
		}
		return p
	}
	file := func(e []Entry, p *Proof, k ed25519.PrivateKey, change func(*header)) []byte {
		b := forge(k, e, func(h *header) {
			h.Proof = p
			h.Version = h.version()
			if change != nil {
				change(h)
			}
		})
		for _, x := range e {
			b = append(append(b, '\n'), rowOf(x)...)
		}
		return append(b, '\n')
	}
	with := func(change func(*Proof)) []byte {
		p := *proof(2)
		p.Path = slices.Clone(p.Path)
		change(&p)
		return file(entries, &p, key, nil)
	}
	lie := func(l *line) { l.To = "verified" }
	rewritten := reseal(entries, 3, n, lie)
	grown := reseal(entries, 8, n, lie) // only what no checkpoint saw

	// A house that tells two stories: another second checkpoint.
	liar := Folder{Dir: filepath.Join(t.TempDir(), "liar"), Keys: f.Keys}
	add(t, liar, key, Next{Time: noon}, others(20, headOf(device, entries[:5]))...)
	story := add(t, liar, key, Next{Time: noon.Add(24 * time.Hour)}, others(21, headOf(device, rewritten[:7]))...)
	lying, err := liar.Prove(device, 0)
	if err != nil {
		t.Fatal(err)
	}
	// A stranger's house, with a chain of the same device.
	strange := Folder{Dir: filepath.Join(t.TempDir(), "strange"), Keys: []ed25519.PublicKey{thief.Public().(ed25519.PublicKey)}}
	theirs := add(t, strange, thief, Next{Time: noon}, others(20, headOf(device, entries))...)
	foreign, err := strange.Prove(device, 0)
	if err != nil {
		t.Fatal(err)
	}
	edited := func(b []byte, old, new string) []byte {
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("no %q in %s", old, b)
		}
		return bytes.Replace(b, []byte(old), []byte(new), 1)
	}
	good := file(entries, proof(2), key, nil)

	for _, c := range []struct {
		name string
		file []byte
		note []byte // that the verifier has from elsewhere
		kind Kind   // empty: it is good
		seq  int64
		part string
	}{
		{"good, no note", good, nil, "", 0, ""},
		{"good, with its note", good, second.Note, "", 0, ""},
		{"good, with the first note", file(entries, proof(1), key, nil), first.Note, "", 0, ""},
		{"only what no checkpoint saw is rewritten", file(grown, proof(2), key, nil), second.Note, "", 0, ""},

		{"rewritten, signed again by the house", file(rewritten, proof(2), key, nil), nil, Changed, 7, ""},
		{"the same beside a published note", file(rewritten, proof(2), key, nil), second.Note, Changed, 7, ""},
		{"rewritten, with the proof left out", file(rewritten, nil, key, nil), second.Note, Missing, 0, "the proof"},
		{"rewritten, with a checkpoint made for it", file(rewritten, lying, key, nil), second.Note, Forged, 0, "the checkpoint"},
		{"cut before the checkpoint's line", file(entries[:6], proof(2), key, nil), nil, CutOff, 7, ""},
		{"emptied", file(entries[:0], proof(1), key, nil), nil, CutOff, 1, ""},
		{"a proof for another checkpoint than asked", good, first.Note, Missing, 0, "the proof"},
		{"an older checkpoint than asked", file(entries, proof(1), key, nil), second.Note, Missing, 0, "the proof"},
		{"a stranger's checkpoint", file(entries, foreign, key, nil), nil, Forged, 0, "the checkpoint"},
		{"a stranger's note given", good, theirs.Note, Forged, 0, "the checkpoint that was given"},
		{"the note's time", with(func(p *Proof) { p.Note = string(edited(second.Note, "2026-03-05", "2026-03-06")) }), nil, Forged, 0, "the checkpoint"},
		{"the note's number of chains", with(func(p *Proof) { p.Note = string(edited(second.Note, "\n23\n", "\n24\n")) }), nil, Forged, 0, "the checkpoint"},
		{"the note's link", with(func(p *Proof) { p.Note = string(edited(second.Note, first.Hash, Start)) }), nil, Forged, 0, "the checkpoint"},
		{"a line more in the note", with(func(p *Proof) { p.Note = string(edited(second.Note, "\n\n", "\nbroken 1\n\n")) }), nil, Forged, 0, "the checkpoint"},
		{"a second signature", with(func(p *Proof) { p.Note += strings.SplitAfter(string(theirs.Note), "\n\n")[1] }), nil, Forged, 0, "the checkpoint"},
		{"the same signature twice", with(func(p *Proof) { p.Note += strings.SplitAfter(string(second.Note), "\n\n")[1] }), nil, Forged, 0, "the checkpoint"},
		{"no signature", with(func(p *Proof) { p.Note = strings.SplitAfter(string(second.Note), "\n\n")[0] }), nil, Forged, 0, "the checkpoint"},
		{"carriage returns in the note", with(func(p *Proof) { p.Note = strings.ReplaceAll(p.Note, "\n", "\r\n") }), nil, Forged, 0, "the checkpoint"},
		{"blanks after the note", with(func(p *Proof) { p.Note += "\n" }), nil, Forged, 0, "the checkpoint"},
		{"a hash of the way", with(func(p *Proof) { p.Path[1][3] ^= 1 }), nil, Forged, 0, "the proof"},
		{"a hash less", with(func(p *Proof) { p.Path = p.Path[1:] }), nil, Forged, 0, "the proof"},
		{"another place", with(func(p *Proof) { p.Index++ }), nil, Forged, 0, "the proof"},
		{"a place before the first", with(func(p *Proof) { p.Index = -1 }), nil, Forged, 0, "the proof"},
		{"fewer lines", with(func(p *Proof) { p.Seq, p.Hash = 6, entries[5].Hash }), nil, Forged, 0, "the proof"},
		{"no lines", with(func(p *Proof) { p.Seq = 0 }), nil, Forged, 0, "the proof"},
		{"another device's proof", with(func(p *Proof) {
			q, err := f.Prove("A0", 2)
			if err != nil {
				t.Fatal(err)
			}
			*p = *q
		}), nil, Forged, 0, "the proof"},
		{"a proof under the old version", file(entries, proof(2), key, func(h *header) { h.Version = 1 }), nil, Forged, 0, ""},
		{"the new version without a proof", file(entries, nil, key, func(h *header) { h.Version = 2 }), nil, Forged, 0, ""},
		{"a letter of the proof, header not signed again", edited(good, `"index":`, `"index":1`), nil, Forged, 0, ""},
		{"the note given is edited", good, edited(second.Note, "lines ", "lines 1"), Forged, 0, "the checkpoint that was given"},
		{"the note given is cut short", good, second.Note[:len(second.Note)-1], Forged, 0, "the checkpoint that was given"},
		{"the note given is empty", good, []byte{}, Forged, 0, "the checkpoint that was given"},
		{"the note given has a mark before it", good, append([]byte("\xef\xbb\xbf"), second.Note...), Forged, 0, "the checkpoint that was given"},
		{"the note given is another story", good, story.Note, Forged, 0, "the checkpoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rep, err := Trust{Keys: []ed25519.PublicKey{pub}, Note: c.note}.VerifyFile(bytes.NewReader(c.file))
			if c.kind == "" {
				if err != nil || rep.Checkpoint == nil || rep.Covered == 0 || rep.Published != (c.note != nil) {
					t.Fatalf("%v %+v", err, rep)
				}
				return
			}
			var bad *Trouble
			if !errors.As(err, &bad) || bad.Kind != c.kind || bad.Seq != c.seq || bad.Part != c.part {
				t.Fatalf("%+v (%v), want %s at %d of %q", bad, err, c.kind, c.seq, c.part)
			}
		})
	}
}

// A folder of five checkpoints, the third of which hands over to another key,
// and what may be done to it.
func TestFolder(t *testing.T) {
	nextPub := next.Public().(ed25519.PublicKey)
	build := func(t *testing.T) Folder {
		f := folder(t)
		f.Keys = []ed25519.PublicKey{nextPub, pub}
		e := history(t, 6)
		for i := range 5 {
			k, n := key, Next{Time: noon.Add(time.Duration(i) * 24 * time.Hour)}
			if i == 2 {
				n.NextKey = nextPub
			}
			if i > 2 {
				k = next
			}
			add(t, f, k, n, others(i+3, headOf(device, e[:i+1]))...)
		}
		return f
	}
	good := build(t)
	all, err := good.All()
	if err != nil || len(all) != 5 || !all[2].NextKey.Equal(nextPub) || all[4].Origin != Origin(pub) {
		t.Fatal(err, all)
	}
	for _, k := range all { // proofs can be made for each of them, for good
		p, err := good.Prove(device, k.Number)
		if err != nil || p.Seq != k.Number {
			t.Fatal(err, p)
		}
		if _, bad := p.check(device, good.Keys); bad != nil {
			t.Fatal(bad)
		}
	}
	// What outsiders do with the notes alone and the first key.
	var notes [][]byte
	for _, k := range all {
		notes = append(notes, k.Note)
	}
	if _, err := VerifyCheckpoints(notes, pub); err != nil {
		t.Error(err)
	}
	if _, err := VerifyCheckpoints(notes, thief.Public().(ed25519.PublicKey)); err == nil {
		t.Error("a stranger's key opened them")
	}
	if _, err := VerifyCheckpoints(notes[3:], pub); err == nil {
		t.Error("the former key is good for new checkpoints")
	}

	note := func(n int64) string { return nameOf(n) + noteExt }
	resign := func(f Folder, n int64, k ed25519.PrivateKey, change func(*Checkpoint)) error {
		b, err := os.ReadFile(filepath.Join(f.Dir, note(n)))
		if err != nil {
			return err
		}
		c, err := parseCheckpoint(noteText(string(b)))
		if err != nil {
			return err
		}
		change(&c)
		if b, err = c.sign(k); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(f.Dir, note(n)), b, 0o600)
	}
	copyTo := func(f Folder, from, to int64) error {
		b, err := os.ReadFile(filepath.Join(f.Dir, note(from)))
		return errors.Join(err, os.WriteFile(filepath.Join(f.Dir, note(to)), b, 0o600))
	}
	sed := func(f Folder, name, old, new string) error {
		b, err := os.ReadFile(filepath.Join(f.Dir, name))
		if err == nil && !bytes.Contains(b, []byte(old)) {
			err = fmt.Errorf("no %q in %s", old, b)
		}
		return errors.Join(err, os.WriteFile(filepath.Join(f.Dir, name), bytes.Replace(b, []byte(old), []byte(new), 1), 0o600))
	}
	for _, c := range []struct {
		name string
		do   func(f Folder) error
		kind Kind
		part string
	}{
		{"the first is gone", func(f Folder) error { return os.Remove(filepath.Join(f.Dir, note(1))) }, Missing, "checkpoint 2"},
		{"one in the middle is gone", func(f Folder) error { return os.Remove(filepath.Join(f.Dir, note(4))) }, Missing, "checkpoint 5"},
		{"one stands for another", func(f Folder) error { return copyTo(f, 1, 2) }, Duplicated, "checkpoint 1"},
		{"the handing over is gone", func(f Folder) error {
			return errors.Join(os.Remove(filepath.Join(f.Dir, note(3))), resign(f, 4, next, func(c *Checkpoint) { c.Number = 3 }), copyTo(f, 4, 3), os.Remove(filepath.Join(f.Dir, note(4))))
		}, Forged, "checkpoint 3 of 4"},
		{"an edited one", func(f Folder) error { return sed(f, note(2), "lines ", "lines 9") }, Forged, "checkpoint 2 of 5"},
		{"one that the former key made after all", func(f Folder) error { return resign(f, 4, key, func(*Checkpoint) {}) }, Forged, "checkpoint 4 of 5"},
		{"one that a stranger made", func(f Folder) error { return resign(f, 5, thief, func(*Checkpoint) {}) }, Forged, "checkpoint 5 of 5"},
		{"signed again with another time", func(f Folder) error { return resign(f, 2, key, func(c *Checkpoint) { c.Time = noon }) }, Changed, "checkpoint 3"},
		{"signed again with another link", func(f Folder) error { return resign(f, 2, key, func(c *Checkpoint) { c.Prev = Start }) }, Changed, "checkpoint 2"},
		{"another house's", func(f Folder) error { return resign(f, 5, next, func(c *Checkpoint) { c.Origin = "refurb/00" }) }, Forged, "checkpoint 5"},
		{"one that counts less", func(f Folder) error { return resign(f, 5, next, func(c *Checkpoint) { c.Lines = 1 }) }, Changed, "checkpoint 5"},
		{"the last under another name", func(f Folder) error {
			return os.Rename(filepath.Join(f.Dir, note(5)), filepath.Join(f.Dir, note(9)))
		}, Changed, "checkpoint 000009"},
		{"empty", func(f Folder) error { return os.Truncate(filepath.Join(f.Dir, note(5)), 0) }, Forged, "checkpoint 5 of 5"},
		{"endless", func(f Folder) error {
			return os.WriteFile(filepath.Join(f.Dir, note(5)), bytes.Repeat([]byte("x"), 1<<20), 0o600)
		}, Forged, "checkpoint 5 of 5"},
		{"heads are gone", func(f Folder) error { return os.Remove(filepath.Join(f.Dir, nameOf(2)+headsExt)) }, Missing, "the heads of checkpoint 000002"},
		{"a head is edited", func(f Folder) error { return sed(f, nameOf(5)+headsExt, `"seq":5`, `"seq":4`) }, Changed, "the heads of checkpoint 000005"},
		{"a head of long ago is edited", func(f Folder) error { return sed(f, nameOf(1)+headsExt, `"seq":2`, `"seq":1`) }, Changed, "the heads of checkpoint 000005"},
		{"heads are no JSON", func(f Folder) error { return sed(f, nameOf(1)+headsExt, `{"device"`, `<device>`) }, Changed, "the heads of checkpoint 000001"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := build(t)
			if err := c.do(f); err != nil {
				t.Fatal(err)
			}
			all, err := f.All()
			if err == nil {
				_, err = f.Heads(all, all[len(all)-1].Number)
			}
			var bad *Trouble
			if !errors.As(err, &bad) || bad.Kind != c.kind || bad.Part != c.part {
				t.Fatalf("%+v (%v), want %s of %s", bad, err, c.kind, c.part)
			}
		})
	}
}

// No checkpoint is ever written over another, and what a crash leaves behind is
// no hindrance.
func TestFolderKeeps(t *testing.T) {
	f := folder(t)
	e := history(t, 3)
	first := add(t, f, key, Next{Time: noon}, headOf(device, e[:1]))
	if _, err := f.Add(nil, []Head{headOf(device, e[:2])}, key, Next{Time: noon}); !errors.Is(err, os.ErrExist) {
		t.Fatalf("a second first one: %v", err)
	}
	for name, text := range map[string]string{"000002.heads": "half", ".new-1": "half", "README": "by hand"} {
		if err := os.WriteFile(filepath.Join(f.Dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := add(t, f, key, Next{Time: noon}, headOf(device, e[:2]))
	if second.Number != 2 || second.Prev != first.Hash {
		t.Fatalf("%+v", second)
	}
	// A chain that is gone, and people know.
	third := add(t, f, key, Next{Time: noon, Broken: 1}, Head{"", 1, Start})
	all, err := f.All()
	if err != nil {
		t.Fatal(err)
	}
	heads, err := f.Heads(all, third.Number)
	if err != nil || !slices.Equal(heads, []Head{{"", 1, Start}}) {
		t.Fatal(heads, err)
	}
	number, origin, err := f.SetAside(noon)
	if err != nil || number != 4 || origin != Origin(pub) {
		t.Fatal(number, origin, err)
	}
	if all, err := f.All(); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	if _, err := f.Add(nil, heads, key, Next{Time: noon, Number: number, Origin: origin, Broken: 1}); err != nil {
		t.Fatal(err)
	}
	if all, err := f.All(); err != nil || len(all) != 1 || all[0].Number != 4 {
		t.Fatal(all, err)
	}
}

// Whatever is done to a note: it is refused, or it is the same.
func FuzzOpenCheckpoint(f *testing.F) {
	c := Checkpoint{Origin: Origin(pub), Chains: 3, Number: 7, Lines: 9, Time: noon.Truncate(time.Second), Prev: Start, Broken: 2, NextKey: pub}
	whole, err := c.sign(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, 10, []byte("x"), 1)
	f.Add([]byte(""), 300, []byte("\n"), 0)
	f.Fuzz(func(t *testing.T, b []byte, at int, put []byte, drop int) {
		for _, b := range [][]byte{b, splice(whole, at, drop, put)} {
			if got, _, err := OpenCheckpoint(b, pub); err == nil && (!bytes.Equal(b, whole) || got.text() != c.text()) {
				t.Fatalf("taken for good: %q", b)
			}
		}
	})
}
