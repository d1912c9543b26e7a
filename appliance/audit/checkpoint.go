package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint says where all chains of a house stand at one moment: the root of
// a Merkle tree (RFC 6962) over their heads. It is published as a signed note in
// the form of C2SP tlog-checkpoint: origin, number of leaves and root, then lines
// of our own. Each one names the one before it, so that none can be left out.
//
// A tree of heads is no growing log: that every chain goes on from the
// checkpoint before is what the house checks before it signs, and what a
// stranger sees from a proof for the same device in both.
type Checkpoint struct {
	Origin string // whose histories; stays when the key changes
	Chains int64
	Root   tlog.Hash
	Number int64 // 1, 2, 3…
	Lines  int64 // of all chains
	Time   time.Time
	Prev   string // SHA-256 of the note before it, hex; Start for the first
	// Broken counts the chains that do not go on from the checkpoint before: a
	// damage that people know of and said so. Zero in every other one.
	Broken int64
	// NextKey signs the checkpoints after this one; nil: the same key.
	NextKey ed25519.PublicKey
}

// MaxNote bounds a note, in bytes.
const MaxNote = 2 << 10

// Origin names the log that a house begins with key.
func Origin(key ed25519.PublicKey) string {
	h := sha256.Sum256(key)
	return "refurb/" + hex.EncodeToString(h[:8])
}

func (c Checkpoint) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\ncheckpoint %d\nlines %d\ntime %s\nprevious %s\n",
		c.Origin, c.Chains, c.Root, c.Number, c.Lines, c.Time.UTC().Format(time.RFC3339), c.Prev)
	if c.Broken > 0 {
		fmt.Fprintf(&b, "broken %d\n", c.Broken)
	}
	if c.NextKey != nil {
		fmt.Fprintf(&b, "next-key %s\n", KeyText(c.NextKey))
	}
	return b.String()
}

// parseCheckpoint takes only what text writes.
func parseCheckpoint(text string) (c Checkpoint, err error) {
	bad := errors.New("it is no checkpoint that this program knows")
	f := strings.Split(text, "\n")
	if len(f) < 8 {
		return c, bad
	}
	c.Origin = f[0]
	number := func(s, name string) (n int64) {
		v, ok := strings.CutPrefix(s, name)
		n, e := strconv.ParseInt(v, 10, 64)
		if !ok || e != nil || n < 0 {
			err = bad
		}
		return n
	}
	c.Chains, c.Number, c.Lines = number(f[1], ""), number(f[3], "checkpoint "), number(f[4], "lines ")
	for _, s := range f[7:] {
		switch {
		case strings.HasPrefix(s, "broken "):
			c.Broken = number(s, "broken ")
		case strings.HasPrefix(s, "next-key "):
			if c.NextKey, err = ParseKey(strings.TrimPrefix(s, "next-key ")); err != nil {
				return c, bad
			}
		}
	}
	if err != nil {
		return c, err
	}
	if c.Root, err = tlog.ParseHash(f[2]); err != nil {
		return c, bad
	}
	if c.Time, err = time.Parse("time "+time.RFC3339, f[5]); err != nil {
		return c, bad
	}
	c.Prev = strings.TrimPrefix(f[6], "previous ")
	if b, err := hex.DecodeString(c.Prev); err != nil || len(b) != sha256.Size || c.Number < 1 || c.text() != text {
		return c, bad
	}
	return c, nil
}

// signer signs notes with a key that signs other things too. A note begins with
// its origin, nothing else that the key signs does.
type signer struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

func verifier(origin string, pub ed25519.PublicKey) (note.Verifier, error) {
	text, err := note.NewEd25519VerifierKey(origin, pub)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(text)
}

// VerifierKey is the public key in the form that other tools for signed notes take.
func VerifierKey(origin string, pub ed25519.PublicKey) (string, error) {
	return note.NewEd25519VerifierKey(origin, pub)
}

func (c Checkpoint) sign(key ed25519.PrivateKey) ([]byte, error) {
	v, err := verifier(c.Origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	b, err := note.Sign(&note.Note{Text: c.text()}, signer{v, key})
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	return b, nil
}

// OpenCheckpoint reads a note that one of keys must have signed, and says which.
// The error is a *Trouble.
func OpenCheckpoint(b []byte, keys ...ed25519.PublicKey) (Checkpoint, ed25519.PublicKey, error) {
	c, key, t := openCheckpoint(b, keys)
	if t != nil {
		return Checkpoint{}, nil, t
	}
	return c, key, nil
}

func openCheckpoint(b []byte, keys []ed25519.PublicKey) (Checkpoint, ed25519.PublicKey, *Trouble) {
	forged := func(text string) (Checkpoint, ed25519.PublicKey, *Trouble) {
		return Checkpoint{}, nil, &Trouble{Part: "the checkpoint", Kind: Forged, Text: text}
	}
	if len(b) > MaxNote {
		return forged("it is too long")
	}
	origin, _, _ := strings.Cut(string(b), "\n")
	var known []note.Verifier
	for i, k := range keys {
		v, err := verifier(origin, k)
		if err != nil {
			return forged("it names no origin")
		}
		if !slices.ContainsFunc(keys[:i], func(o ed25519.PublicKey) bool { return o.Equal(k) }) {
			known = append(known, v)
		}
	}
	n, err := note.Open(b, note.VerifierList(known...))
	var other *note.UnverifiedNoteError
	var wrong *note.InvalidSignatureError
	switch {
	case errors.As(err, &other):
		return forged("it was signed by another key")
	case errors.As(err, &wrong):
		return forged("its signature is wrong")
	case err != nil:
		return forged("it can't be read")
	}
	// The bytes are what people compare: there is one form only.
	sig, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || n.Text+"\n— "+origin+" "+base64.StdEncoding.EncodeToString(sig)+"\n" != string(b) {
		return forged("it is not in its one form")
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return forged(err.Error())
	}
	for _, k := range keys {
		if v, err := verifier(origin, k); err == nil && v.KeyHash() == n.Sigs[0].Hash && v.Verify([]byte(n.Text), sig[4:]) {
			return c, k, nil
		}
	}
	return forged("its signature is wrong")
}

// noteText is what a note says, without its signature.
func noteText(b string) string {
	text, _, _ := strings.Cut(b, "\n\n")
	return text + "\n"
}

// NoteHash is what the next checkpoint names this one by.
func NoteHash(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// follows says what is wrong with c as the one after prev, which is nil if
// nothing from before c is here.
func (c Checkpoint) follows(prev *Checkpoint, prevHash string) (Kind, string) {
	switch {
	case prev == nil && c.Number == 1 && c.Prev != Start:
		return Changed, "the first checkpoint names one before it"
	case prev == nil && c.Number > 1 && c.Broken == 0:
		return Missing, fmt.Sprintf("checkpoint %d is not there", c.Number-1)
	case prev == nil:
		return "", ""
	case c.Origin != prev.Origin:
		return Forged, "it is another house's"
	case c.Number > prev.Number+1:
		return Missing, fmt.Sprintf("checkpoint %d is not there", prev.Number+1)
	case c.Number != prev.Number+1:
		return Duplicated, fmt.Sprintf("checkpoint %d stands here again", c.Number)
	case c.Prev != prevHash:
		return Changed, fmt.Sprintf("it was made after another checkpoint %d", prev.Number)
	case c.Lines < prev.Lines && c.Broken == 0:
		return Changed, "it counts fewer lines than the one before"
	}
	return "", ""
}

// VerifyCheckpoints checks notes, oldest first, as one unbroken sequence. One of
// keys must have signed the first; a checkpoint that names another key hands
// over to it. The error is a *Trouble.
func VerifyCheckpoints(notes [][]byte, keys ...ed25519.PublicKey) ([]Checkpoint, error) {
	var all []Checkpoint
	for i, b := range notes {
		c, key, t := openCheckpoint(b, keys)
		if t != nil {
			t.Part = fmt.Sprintf("checkpoint %d of %d", i+1, len(notes))
			return nil, t
		}
		var prev *Checkpoint
		var hash string
		if i > 0 {
			prev, hash = &all[i-1], NoteHash(notes[i-1])
		}
		if kind, text := c.follows(prev, hash); kind != "" {
			return nil, &Trouble{Part: fmt.Sprintf("checkpoint %d", c.Number), Kind: kind, Text: text}
		}
		if keys = []ed25519.PublicKey{key}; c.NextKey != nil {
			keys[0] = c.NextKey
		}
		all = append(all, c)
	}
	return all, nil
}

// ParseKey reads what KeyText writes.
func ParseKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("it is no public key: want 44 characters of base64")
	}
	return b, nil
}
