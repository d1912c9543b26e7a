// Package audit makes the history of a device hard to change unseen: every line
// carries the hash of the one before it, and what leaves the house is signed.
//
// A line is canonical JSON (RFC 8785) of an event with its place in the chain;
// its hash is SHA-256 of the 32 bytes of the hash before it followed by the
// line. A chain starts with 32 zero bytes.
//
// A checkpoint is a signed note over the heads of all chains, so that what was
// published once can't be told differently later; an export carries the proof
// that its chain is in one.
//
// What it proves: that nothing was changed, left out, added or reordered since
// an export was signed, and, with a checkpoint that was published, since then.
// What it doesn't: that the house was honest when a line was written, or that
// the signing key was in good hands.
package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/gowebpki/jcs"

	"refurb/appliance/workshop"
)

// MaxLine bounds a line, in bytes.
const MaxLine = 64 << 10

// Start is the hash before the first line.
var Start = strings.Repeat("0", 64)

// Entry is one line of a chain as it is kept.
type Entry struct {
	Seq  int64 // 1, 2, 3…
	Hash string
	Line []byte
}

type line struct {
	Seq  int64  `json:"seq"`
	Prev string `json:"prev_hash"`
	workshop.Event
}

// Seal puts an event behind the line with number seq (0: none) and hash prev.
// The same event in the same place gives the same bytes.
func Seal(seq int64, prev string, e workshop.Event) (sealed []byte, hash string, err error) {
	if seq == 0 && prev == "" {
		prev = Start
	}
	e.Time = e.Time.UTC()
	b, err := json.Marshal(line{Seq: seq + 1, Prev: prev, Event: e})
	if err != nil {
		return nil, "", fmt.Errorf("sealing a line: %w", err)
	}
	if sealed, err = jcs.Transform(b); err != nil {
		return nil, "", fmt.Errorf("sealing a line: %w", err)
	}
	if len(sealed) > MaxLine {
		return nil, "", fmt.Errorf("sealing a line: %d bytes are more than %d", len(sealed), MaxLine)
	}
	hash, err = chain(prev, sealed)
	return sealed, hash, err
}

func chain(prev string, sealed []byte) (string, error) {
	b, err := hex.DecodeString(prev)
	if err != nil || len(b) != sha256.Size || strings.ToLower(prev) != prev {
		return "", errors.New("a hash is 64 hex digits in lower case")
	}
	h := sha256.New()
	h.Write(b)
	h.Write(sealed)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// parse reads a line that must be canonical to the byte.
func parse(sealed []byte) (line, error) {
	var l line
	if len(sealed) > MaxLine {
		return l, errors.New("it is too long")
	}
	canonical, err := jcs.Transform(sealed)
	if err != nil {
		return l, errors.New("it is not JSON")
	}
	if string(canonical) != string(sealed) {
		return l, errors.New("it is not in canonical form")
	}
	if err := json.Unmarshal(sealed, &l); err != nil {
		return l, errors.New("its fields are not those of an event")
	}
	return l, nil
}

// Trouble says what is wrong with a history and where it begins.
type Trouble struct {
	Part string // "the proof", "checkpoint 7"; empty: the header or a line
	Row  int    // in the file, from 1; 0 if it was no file
	Seq  int64  // of the line; 0 for the header
	Kind Kind
	Text string
}

// Kind of a Trouble.
type Kind string

const (
	Changed    Kind = "changed"
	Missing    Kind = "missing"
	Reordered  Kind = "reordered"
	Duplicated Kind = "duplicated"
	CutOff     Kind = "cut off"
	Added      Kind = "added"
	Forged     Kind = "forged" // what is signed
)

func (t *Trouble) Error() string {
	where := "the header"
	if t.Part != "" {
		where = t.Part
	}
	if t.Seq > 0 {
		where = fmt.Sprintf("line %d", t.Seq)
	}
	if t.Row > 0 {
		where += fmt.Sprintf(" (row %d of the file)", t.Row)
	}
	return fmt.Sprintf("%s: %s: %s", where, t.Kind, t.Text)
}

// check walks a chain that ought to have count lines and end in head. The
// trouble it finds is the first one. row is where line 1 stands in a file, or 0.
func check(device string, entries []Entry, count int64, head string, row int) ([]line, *Trouble) {
	trouble := func(i int, k Kind, format string, args ...any) *Trouble {
		t := &Trouble{Seq: int64(i + 1), Kind: k, Text: fmt.Sprintf(format, args...)}
		if row > 0 {
			t.Row = row + i
		}
		return t
	}
	lines := make([]line, len(entries))
	places := map[int64]int{} // seq → first index, of lines that can be read
	var bad *Trouble
	for i, e := range entries {
		l, err := parse(e.Line)
		if err == nil && l.Device != device {
			err = errors.New("it belongs to another device")
		}
		if err == nil {
			var own string
			if own, err = chain(l.Prev, e.Line); err == nil && own != e.Hash {
				err = errors.New("it doesn't fit its hash")
			}
		}
		if err != nil {
			if bad == nil {
				bad = trouble(i, Changed, "%v", err)
			}
			continue
		}
		lines[i] = l
		if _, ok := places[l.Seq]; !ok {
			places[l.Seq] = i
		}
	}
	prev := Start
	for i, e := range entries {
		if bad != nil && bad.Seq == int64(i+1) {
			return nil, bad
		}
		want, l := int64(i+1), lines[i]
		switch first, ok := places[want]; {
		case l.Seq == want:
		case l.Seq < want && e.Hash == entries[places[l.Seq]].Hash:
			return nil, trouble(i, Duplicated, "it is line %d again", l.Seq)
		case l.Seq < want:
			return nil, trouble(i, Changed, "a second line %d stands here", l.Seq)
		case ok && first > i:
			return nil, trouble(i, Reordered, "line %d stands here, line %d comes later", l.Seq, want)
		default:
			return nil, trouble(i, Missing, "line %d stands here", l.Seq)
		}
		if l.Prev != prev {
			if i == 0 {
				return nil, trouble(0, Changed, "it doesn't start a chain")
			}
			return nil, trouble(i-1, Changed, "line %d was written behind another one", want)
		}
		prev = e.Hash
	}
	switch n := int64(len(entries)); {
	case n < count:
		return nil, trouble(int(n), CutOff, "the signed head stands at line %d, the last one here is %d", count, n)
	case n > count:
		return nil, trouble(int(count), Added, "the signed head stands at line %d", count)
	case n > 0 && prev != head:
		return nil, trouble(int(n-1), Changed, "the history up to here doesn't lead to the signed head")
	case n == 0 && head != Start:
		return nil, trouble(0, CutOff, "an empty history has no head")
	}
	return lines, nil
}
