package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/appliance/workshop"
)

var (
	key   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	pub   = key.Public().(ed25519.PublicKey)
	thief = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	noon  = time.Date(2026, 3, 4, 12, 0, 0, 123456789, time.UTC)
)

const device = "DEV1"

func history(t testing.TB, n int) []Entry {
	t.Helper()
	var entries []Entry
	var seq int64
	prev := ""
	for i := range n {
		e := workshop.Event{
			Time: noon.Add(time.Duration(i) * time.Second), Device: device, Job: "JOB", Kind: "job", From: "a", To: fmt.Sprint("state ", i),
			Actor: "agent", Reason: "<b>π & \u2028</b>", Params: map[string]string{"serial": "S1", "bytes": "256"}, Evidence: strings.Repeat("ab", 32),
		}
		line, hash, err := Seal(seq, prev, e)
		if err != nil {
			t.Fatal(err)
		}
		seq, prev = seq+1, hash
		entries = append(entries, Entry{Seq: seq, Hash: hash, Line: line})
	}
	return entries
}

func export(t testing.TB, entries []Entry, f Format) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Export(&b, device, entries, f, key, noon); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The form of a line is what other programs verify: it must never change.
func TestSealGolden(t *testing.T) {
	line, hash, err := Seal(0, "", workshop.Event{Time: noon, Device: "D", Kind: "k", Actor: "a", Params: map[string]string{"z": "1", "b": "<é>"}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"actor":"a","device":"D","event":"k","params":{"b":"<é>","z":"1"},"prev_hash":"` + Start + `","seq":1,"time":"2026-03-04T12:00:00.123456789Z"}`
	if string(line) != want {
		t.Errorf("%s", line)
	}
	sum := sha256.Sum256(append(make([]byte, 32), want...))
	if hash != hex.EncodeToString(sum[:]) {
		t.Errorf("%s", hash)
	}
	if _, _, err := Seal(1, "nonsense", workshop.Event{Time: noon}); err == nil {
		t.Error("a line behind nonsense was sealed")
	}
	if _, _, err := Seal(0, "", workshop.Event{Time: noon, Reason: strings.Repeat("x", MaxLine)}); err == nil {
		t.Error("an endless line was sealed")
	}
}

func TestGoodFiles(t *testing.T) {
	for _, n := range []int{0, 1, 2, 50} {
		f := export(t, history(t, n), JSONLines)
		for _, p := range []ed25519.PublicKey{pub, nil} {
			rep, err := VerifyFile(bytes.NewReader(f), p)
			if err != nil {
				t.Fatalf("%d lines: %v", n, err)
			}
			if rep.Device != device || rep.Count != int64(n) || !rep.Key.Equal(pub) || rep.Trusted != (p != nil) || !rep.Exported.Equal(noon.Truncate(time.Second)) {
				t.Fatalf("%+v", rep)
			}
		}
	}
}

// forge signs a header of its own.
func forge(k ed25519.PrivateKey, entries []Entry, change func(*header)) []byte {
	h, err := sign(device, entries, nil, k, noon)
	if err != nil {
		panic(err)
	}
	if change != nil {
		change(&h)
		h.Signature = ""
		b, _ := canonical(h)
		h.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(k, append([]byte(signed), b...)))
	}
	b, _ := canonical(h)
	return b
}

// reseal changes line i (from 1) and gives it, and all behind it, new hashes.
func reseal(entries []Entry, i, until int, change func(*line)) []Entry {
	out := slices.Clone(entries)
	for k := i - 1; k < until; k++ {
		var l line
		if err := json.Unmarshal(out[k].Line, &l); err != nil {
			panic(err)
		}
		if k == i-1 {
			change(&l)
		} else {
			l.Prev = out[k-1].Hash
		}
		b, err := canonical(l)
		if err != nil {
			panic(err)
		}
		h, err := chain(l.Prev, b)
		if err != nil {
			panic(err)
		}
		out[k] = Entry{Seq: out[k].Seq, Line: b, Hash: h}
	}
	return out
}

func TestTampering(t *testing.T) {
	const n = 8
	entries := history(t, n)
	whole := export(t, entries, JSONLines)
	rows := bytes.Split(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
	file := func(head []byte, e []Entry) []byte {
		b := append(slices.Clone(head), '\n')
		for _, x := range e {
			b = append(append(b, rowOf(x)...), '\n')
		}
		return b
	}
	cut := func(f func([][]byte) [][]byte) []byte {
		return append(bytes.Join(f(slices.Clone(rows)), []byte("\n")), '\n')
	}
	edit := func(i int, old, new string) []byte {
		return cut(func(r [][]byte) [][]byte {
			if !bytes.Contains(r[i], []byte(old)) {
				t.Fatalf("row %d holds no %s", i, old)
			}
			r[i] = bytes.Replace(r[i], []byte(old), []byte(new), 1)
			return r
		})
	}
	lie := func(l *line) { l.To = "verified" }
	swapped := slices.Clone(entries)
	swapped[2], swapped[4] = swapped[4], swapped[2]
	other := history(t, n)
	for i := range n {
		other = reseal(other, i+1, n, func(l *line) { l.Device = "DEV2" })
	}

	for _, c := range []struct {
		name string
		file []byte
		pub  ed25519.PublicKey
		seq  int64
		kind Kind
	}{
		{"a letter of a line", edit(3, "state 2", "state 9"), pub, 3, Changed},
		{"a letter of the first line", edit(1, "state 0", "state 9"), pub, 1, Changed},
		{"a letter of the last line", edit(n, "state 7", "state 9"), pub, n, Changed},
		{"a hash", edit(3, `"hash":"`, `"hash":"0`), pub, 3, Changed},
		{"a hash in capitals", edit(3, entries[2].Hash, strings.ToUpper(entries[2].Hash)), pub, 3, Changed},
		{"blanks inside a line", edit(3, `"actor":`, `"actor": `), pub, 3, Changed},
		{"blanks round a line", edit(3, `{"entry"`, ` {"entry"`), pub, 3, Changed},
		{"a carriage return", edit(3, `"}`, "\"}\r"), pub, 3, Changed},
		{"a further field in a row", edit(3, `{"entry":`, `{"note":1,"entry":`), pub, 3, Changed},
		{"a further field in a line", edit(3, `{"actor":`, `{"a":1,"actor":`), pub, 3, Changed},
		{"a field twice", edit(3, `{"actor":"agent"`, `{"actor":"agent","actor":"agent"`), pub, 3, Changed},
		{"a row that is no JSON", edit(3, `{"entry":`, `<entry>`), pub, 3, Changed},
		{"an empty row", cut(func(r [][]byte) [][]byte { return slices.Insert(r, 3, []byte{}) }), pub, 3, Changed},
		{"a row of a mebibyte", edit(3, "state 2", strings.Repeat("x", 1<<20)), pub, 3, Changed},
		{"a line and its hash", file(rows[0], reseal(entries, 3, 3, lie)), pub, 3, Changed},
		{"a line, its hash and all behind it", file(rows[0], reseal(entries, 3, n, lie)), pub, n, Changed},
		{"the last line and its hash", file(rows[0], reseal(entries, n, n, lie)), pub, n, Changed},
		{"the time of a line", edit(5, "12:00:04", "12:00:03"), pub, 5, Changed},
		{"another device's line", file(rows[0], slices.Concat(entries[:3], other[3:4], entries[4:])), pub, 4, Changed},
		{"a line is gone", cut(func(r [][]byte) [][]byte { return slices.Delete(r, 4, 5) }), pub, 4, Missing},
		{"the first line is gone", cut(func(r [][]byte) [][]byte { return slices.Delete(r, 1, 2) }), pub, 1, Missing},
		{"three lines are gone", cut(func(r [][]byte) [][]byte { return slices.Delete(r, 4, 7) }), pub, 4, Missing},
		{"the last line is gone", cut(func(r [][]byte) [][]byte { return r[:n] }), pub, n, CutOff},
		{"all lines are gone", cut(func(r [][]byte) [][]byte { return r[:1] }), pub, 1, CutOff},
		{"cut in the middle of a row", whole[:len(whole)-40], pub, n, Changed},
		{"two lines swapped", file(rows[0], swapped), pub, 3, Reordered},
		{"two neighbours swapped", cut(func(r [][]byte) [][]byte { r[4], r[5] = r[5], r[4]; return r }), pub, 4, Reordered},
		{"backwards", cut(func(r [][]byte) [][]byte { slices.Reverse(r[1:]); return r }), pub, 1, Reordered},
		{"a line twice", cut(func(r [][]byte) [][]byte { return slices.Insert(r, 5, r[4]) }), pub, 5, Duplicated},
		{"an early line again", cut(func(r [][]byte) [][]byte { return slices.Insert(r, 7, r[2]) }), pub, 7, Duplicated},
		{"the last line twice", cut(func(r [][]byte) [][]byte { return append(r, r[n]) }), pub, n + 1, Duplicated},
		{"a line of one's own", file(rows[0], history(t, n+1)), pub, n + 1, Added},
		{"a second line of that number", file(rows[0], slices.Concat(entries[:4], reseal(entries, 2, 2, lie)[1:2], entries[4:])), pub, 5, Changed},
		{"a header with another count", edit(0, `"count":8`, `"count":7`), pub, 0, Forged},
		{"a header for another device", edit(0, `"DEV1"`, `"DEV2"`), pub, 0, Forged},
		{"a header with another time", edit(0, "2026", "2025"), pub, 0, Forged},
		{"a header with blanks", edit(0, `"count":8`, `"count": 8`), pub, 0, Forged},
		{"a header with one thing more", edit(0, `{`, `{"a":1,`), pub, 0, Forged},
		{"a header of another version", edit(0, `"refurb_audit":1`, `"refurb_audit":2`), pub, 0, Forged},
		{"no header", cut(func(r [][]byte) [][]byte { return r[1:] }), pub, 0, Forged},
		{"nothing at all", nil, pub, 0, Forged},
		{"a byte order mark", append([]byte("\xef\xbb\xbf"), whole...), pub, 0, Forged},
		{"signed by somebody else", file(forge(thief, entries, nil), entries), pub, 0, Forged},
		{"their signature under our key", file(forge(thief, entries, func(h *header) { h.PublicKey = KeyText(pub) }), entries), pub, 0, Forged},
		{"no signature", edit(0, `"signature":"`, `"signature":"AAAA`), nil, 0, Forged},
		{"our header over another history", file(forge(key, entries[:3], nil), entries), pub, 4, Added},
		{"a negative count", file(forge(key, entries, func(h *header) { h.Count = -1 }), entries), pub, 0, Forged},
		{"a rewritten history, signed by somebody else, key not known", file(forge(thief, entries, nil), reseal(entries, 3, n, lie)), nil, n, Changed},
	} {
		t.Run(c.name, func(t *testing.T) {
			rep, err := VerifyFile(bytes.NewReader(c.file), c.pub)
			var tr *Trouble
			if !errors.As(err, &tr) {
				t.Fatalf("%+v %v", rep, err)
			}
			if tr.Seq != c.seq || tr.Kind != c.kind || tr.Row != int(c.seq)+1 || tr.Text == "" {
				t.Fatalf("%v, not %s at %d", tr, c.kind, c.seq)
			}
			if rep.Key != nil || rep.Count != 0 {
				t.Fatalf("a report of a bad file: %+v", rep)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	broken := errors.New("the stick was pulled")
	_, err := VerifyFile(io.MultiReader(bytes.NewReader(export(t, history(t, 3), JSONLines)), failing{broken}), pub)
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Nothing of a damaged history leaves the house, in no format.
func TestDamagedIsNotExported(t *testing.T) {
	bad := history(t, 5)
	bad[2].Line = bytes.Replace(bad[2].Line, []byte("state 2"), []byte("state 9"), 1)
	for _, f := range []Format{JSONLines, CSV, HTML} {
		var b bytes.Buffer
		err := Export(&b, device, bad, f, key, noon)
		var tr *Trouble
		if !errors.As(err, &tr) || tr.Seq != 3 || b.Len() > 0 {
			t.Errorf("%s: %v, %d bytes", f, err, b.Len())
		}
	}
	if err := Export(io.Discard, device, history(t, 1), "xlsx", key, noon); err == nil {
		t.Error("a format that doesn't exist")
	}
}

func TestCSVIsNoFormula(t *testing.T) {
	evil := []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "plain", "\"quoted\", with comma"}
	var entries []Entry
	prev := ""
	for i, s := range evil {
		line, hash, err := Seal(int64(i), prev, workshop.Event{Time: noon, Device: device, Kind: "job", Actor: s, Reason: s, From: s, To: s})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, Entry{Seq: int64(i + 1), Hash: hash, Line: line})
		prev = hash
	}
	rows, err := csv.NewReader(bytes.NewReader(export(t, entries, CSV))).ReadAll()
	if err != nil || len(rows) != len(evil)+1 {
		t.Fatal(len(rows), err)
	}
	for _, r := range rows {
		for _, c := range r {
			if c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
				t.Errorf("%q", c)
			}
		}
	}
	if rows[7][5] != "plain" || rows[8][5] != evil[7] {
		t.Errorf("%q", rows[8])
	}
}

// What was done stands on the first page in sentences: erasures as erasures, and
// none that failed as an installation.
func TestWhatWasDone(t *testing.T) {
	disk := map[string]string{"model": "SSD", "serial": "S1", "level": "purge", "read": "512000000000", "mismatches": "0"}
	job := func(id, from, to, reason string, p map[string]string) line {
		return line{Event: workshop.Event{Time: noon, Device: device, Job: id, Kind: "job", From: from, To: to, Reason: reason, Params: p}}
	}
	order := map[string]string{"job": "erase"}
	for name, c := range map[string]struct {
		lines []line
		want  []string
	}{
		"erased": {
			[]line{job("A", "held", "approved", "", order), job("A", "approved", "erasing", "", disk), job("A", "erasing", "erased", "", disk)},
			[]string{"disk SSD, serial number S1: an erasure began", "erased (level: purge), 512.0 GB were read back, 0 blocks were not empty"},
		},
		"exceptions": {
			[]line{job("A", "held", "approved", "", order), job("A", "approved", "erasing", "", disk), job("A", "erasing", "failed", "14 blocks.", nil)},
			[]string{"an erasure began", "the disk may hold data: 14 blocks."},
		},
		"cancelled before": {
			[]line{job("A", "held", "approved", "", order), job("A", "approved", "cancelled", "wrong PC", nil)},
			[]string{"nothing was erased: wrong PC."},
		},
		"installed instead": {
			[]line{job("A", "held", "approved", "", order), job("A", "approved", "held", "", nil), job("A", "held", "approved", "", nil), job("A", "imaging", "failed", "", nil)},
			[]string{"an installation failed: no cause is known."},
		},
		"another job": {
			[]line{job("A", "approved", "erasing", "", disk), job("B", "imaging", "cancelled", "", nil)},
			[]string{"an erasure began"},
		},
	} {
		got := proofs(c.lines)
		if len(got) != len(c.want) {
			t.Errorf("%s: %q", name, got)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%s: %q, want %q", name, got[i], want)
			}
		}
	}
}

func TestHTMLEscapes(t *testing.T) {
	line, hash, err := Seal(0, "", workshop.Event{Time: noon, Device: device, Kind: "job", To: "<script>alert(1)</script>", Params: map[string]string{"<i>": "\"><img src=x>"}})
	if err != nil {
		t.Fatal(err)
	}
	b := export(t, []Entry{{1, hash, line}}, HTML)
	if bytes.Contains(b, []byte("<script")) || bytes.Contains(b, []byte("<img")) || bytes.Contains(b, []byte("<i>")) {
		t.Fatalf("%s", b)
	}
	for _, want := range []string{hash, KeyText(pub), "@media print", "<bdi>"} {
		if !bytes.Contains(b, []byte(strings.ReplaceAll(want, "+", "&#43;"))) {
			t.Errorf("no %s", want)
		}
	}
	if bytes.Contains(b, []byte("http://")) || bytes.Contains(b, []byte("https://")) {
		t.Error("the paper wants something from a network")
	}
}

// Whatever is done to a file: it is refused, or it still says the same.
func FuzzVerifyFile(f *testing.F) {
	entries := history(f, 4)
	whole := export(f, entries, JSONLines)
	f.Add(whole, 10, []byte("x"), 1)
	f.Add(whole[:100], 10, []byte(""), 5)
	f.Fuzz(func(t *testing.T, file []byte, at int, put []byte, drop int) {
		if len(file) > 1<<20 {
			return
		}
		for _, b := range [][]byte{file, splice(file, at, drop, put), splice(whole, at, drop, put)} {
			rep, err := VerifyFile(bytes.NewReader(b), pub)
			if err != nil {
				continue
			}
			if rep.Count != 4 || !bytes.Equal(bytes.TrimSuffix(b, []byte("\n")), bytes.TrimSuffix(whole, []byte("\n"))) {
				t.Fatalf("taken for good: %q", b)
			}
		}
	})
}

func splice(b []byte, at, drop int, put []byte) []byte {
	if len(b) == 0 {
		return put
	}
	at = int(uint(at) % uint(len(b)))
	end := min(len(b), at+int(uint(drop)%64))
	return slices.Concat(b[:at], put, b[end:])
}

// Sealing what a line says gives the line again: the store checks by it.
func FuzzSealAgain(f *testing.F) {
	f.Add("kind", "reason \u2028 <b>", "k", "v", int64(1))
	f.Fuzz(func(t *testing.T, kind, reason, k, v string, ns int64) {
		e := workshop.Event{Time: time.Unix(0, ns).UTC(), Device: device, Kind: kind, Reason: reason, Params: map[string]string{k: v}}
		line, hash, err := Seal(3, strings.Repeat("a", 64), e)
		if err != nil {
			return
		}
		var back workshop.Event
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatal(err)
		}
		again, hash2, err := Seal(3, strings.Repeat("a", 64), back)
		if err != nil || hash != hash2 || !bytes.Equal(line, again) {
			t.Fatalf("%s\n%s %v", line, again, err)
		}
		if _, err := parse(line); err != nil {
			t.Fatal(err)
		}
	})
}
