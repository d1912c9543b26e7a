package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/gowebpki/jcs"
)

// MaxFile bounds what VerifyFile reads, in bytes.
const MaxFile = 256 << 20

// header is the first row of an export. The signature covers the canonical form
// of the rest of it.
type header struct {
	Version   int    `json:"refurb_audit"` // 1, or 2 with a proof
	Device    string `json:"device"`
	Count     int64  `json:"count"`
	Head      string `json:"head"`
	Exported  string `json:"exported"`   // RFC 3339, UTC
	PublicKey string `json:"public_key"` // base64 of 32 bytes, Ed25519
	// Proof that a checkpoint covers the chain; none if none does yet.
	Proof     *Proof `json:"proof,omitempty"`
	Signature string `json:"signature,omitempty"`
}

func (h header) version() int {
	if h.Proof != nil {
		return 2
	}
	return 1
}

// row is every further one.
type row struct {
	Entry json.RawMessage `json:"entry"`
	Hash  string          `json:"hash"`
}

// signed starts what is signed, so that no other use of the key can be taken
// for an export.
const signed = "refurb-audit-1\n"

func sign(device string, entries []Entry, proof *Proof, key ed25519.PrivateKey, now time.Time) (header, error) {
	h := header{
		Device: device, Count: int64(len(entries)), Head: Start, Proof: proof,
		Exported:  now.UTC().Truncate(time.Second).Format(time.RFC3339),
		PublicKey: base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
	}
	if n := len(entries); n > 0 {
		h.Head = entries[n-1].Hash
	}
	h.Version = h.version()
	b, err := canonical(h)
	if err != nil {
		return h, err
	}
	h.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, append([]byte(signed), b...)))
	return h, nil
}

func canonical(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(b)
}

func writeJSONL(w io.Writer, h header, entries []Entry) error {
	b, err := canonical(h)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	out.Write(append(b, '\n'))
	for _, e := range entries {
		out.Write(rowOf(e))
		out.WriteByte('\n')
	}
	return out.Flush()
}

func rowOf(e Entry) []byte {
	b := append([]byte(`{"entry":`), e.Line...)
	return append(append(append(b, `,"hash":"`...), e.Hash...), `"}`...)
}

// Report is what VerifyFile found in a good file.
type Report struct {
	Device   string
	Count    int64
	Head     string
	Exported time.Time
	Key      ed25519.PublicKey // that signed it
	Trusted  bool              // it is the key that the caller gave
	// Checkpoint covers the first Covered lines; nil: the file carries no proof.
	Checkpoint *Checkpoint
	Covered    int64
	Published  bool // it is the checkpoint that the caller gave
}

// Trust is what a verifier knows from elsewhere.
type Trust struct {
	// Keys: one of them must have signed. None: the key that the file names
	// itself is taken, which shows damage and amateurs but not a forger with a
	// key of his own.
	Keys []ed25519.PublicKey
	// Note is a checkpoint that was published, which must cover the file; nil:
	// the one that the file brings, if any.
	Note []byte
}

// VerifyFile checks an export in JSON Lines that pub must have signed; nil:
// whoever did.
func VerifyFile(r io.Reader, pub ed25519.PublicKey) (Report, error) {
	if pub == nil {
		return Trust{}.VerifyFile(r)
	}
	return Trust{Keys: []ed25519.PublicKey{pub}}.VerifyFile(r)
}

// VerifyFile checks an export in JSON Lines. The error is a *Trouble that names
// the first bad line, unless r could not be read.
func (t Trust) VerifyFile(r io.Reader) (Report, error) {
	in := bufio.NewScanner(io.LimitReader(r, MaxFile+1))
	in.Buffer(make([]byte, 0, 64<<10), MaxLine+256)
	in.Split(rows)
	var first []byte
	var entries []Entry
	var bad *Trouble // the first row that can't be read
	total := 0
	for n := 1; in.Scan(); n++ {
		b := in.Bytes()
		if total += len(b) + 1; total > MaxFile {
			return Report{}, fmt.Errorf("the file has more than %d bytes", MaxFile)
		}
		if n == 1 {
			first = bytes.Clone(b)
			continue
		}
		var v row
		err := json.Unmarshal(b, &v)
		e := Entry{Seq: int64(n - 1), Hash: v.Hash, Line: bytes.Clone(v.Entry)}
		if err == nil && !bytes.Equal(rowOf(e), b) {
			err = errors.New("the row was rewritten")
		}
		if err != nil && bad == nil {
			bad = &Trouble{Row: n, Seq: int64(n - 1), Kind: Changed, Text: "the row can't be read"}
		}
		entries = append(entries, e)
	}
	if err := in.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return Report{}, fmt.Errorf("reading the history: %w", err)
	} else if err != nil {
		bad = &Trouble{Row: len(entries) + 2, Seq: int64(len(entries) + 1), Kind: Changed, Text: "the row is too long"}
	}
	h, rep, trouble := t.verifyHeader(first)
	if trouble != nil {
		return Report{}, trouble
	}
	if bad != nil {
		// What stands before it may be bad too, and then comes first.
		if _, t := check(h.Device, entries[:bad.Seq-1], bad.Seq-1, "", 2); t != nil && t.Seq < bad.Seq-1 {
			return Report{}, t
		}
		return Report{}, bad
	}
	if _, t := check(h.Device, entries, h.Count, h.Head, 2); t != nil {
		return Report{}, t
	}
	if h.Proof != nil {
		if t := h.Proof.holds(*rep.Checkpoint, entries, 2); t != nil {
			return Report{}, t
		}
	}
	return rep, nil
}

// verifyProof checks the proof that the header brings, before its lines are read.
func (t Trust) verifyProof(h header, key ed25519.PublicKey) (*Checkpoint, *Trouble) {
	keys := t.Keys
	if keys == nil {
		keys = []ed25519.PublicKey{key}
	}
	var want Checkpoint
	if t.Note != nil {
		var bad *Trouble
		if want, _, bad = openCheckpoint(t.Note, keys); bad != nil {
			bad.Part = "the checkpoint that was given"
			return nil, bad
		}
	}
	if h.Proof == nil {
		if t.Note != nil {
			return nil, &Trouble{Part: "the proof", Kind: Missing, Text: "the file proves nothing of any checkpoint: it was exported before the first one that covers this device"}
		}
		return nil, nil
	}
	c, bad := h.Proof.check(h.Device, keys)
	if bad != nil {
		return nil, bad
	}
	switch {
	case t.Note == nil || string(t.Note) == h.Proof.Note:
		return &c, nil
	case c.Origin == want.Origin && c.Number == want.Number:
		return nil, &Trouble{Part: "the checkpoint", Kind: Forged, Text: fmt.Sprintf("there are two different checkpoints %d: the house has told two stories", c.Number)}
	}
	return nil, &Trouble{Part: "the proof", Kind: Missing, Text: fmt.Sprintf("it is for checkpoint %d, the one that was given is %d: ask for an export with --checkpoint %d", c.Number, want.Number, want.Number)}
}

// rows splits at line feeds and keeps everything else: a carriage return is a
// change too.
func rows(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func (t Trust) verifyHeader(b []byte) (header, Report, *Trouble) {
	forged := func(text string) (header, Report, *Trouble) {
		return header{}, Report{}, &Trouble{Row: 1, Kind: Forged, Text: text}
	}
	var h header
	if err := json.Unmarshal(b, &h); err != nil {
		return forged("it can't be read")
	}
	if h.Version != h.version() {
		return forged("it is no history that this program knows")
	}
	if c, err := canonical(h); err != nil || !bytes.Equal(c, b) {
		return forged("it is not in canonical form")
	}
	key, err := base64.StdEncoding.DecodeString(h.PublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return forged("it names no key")
	}
	sig, err := base64.StdEncoding.DecodeString(h.Signature)
	if err != nil {
		return forged("its signature can't be read")
	}
	known := func(k ed25519.PublicKey) bool { return k.Equal(ed25519.PublicKey(key)) }
	if t.Keys != nil && !slices.ContainsFunc(t.Keys, known) {
		return forged("it was signed by another key")
	}
	bare := h
	bare.Signature = ""
	c, err := canonical(bare)
	if err != nil || !ed25519.Verify(key, append([]byte(signed), c...), sig) {
		return forged("its signature is wrong")
	}
	at, err := time.Parse(time.RFC3339, h.Exported)
	if err != nil || h.Count < 0 {
		return forged("its fields make no sense")
	}
	rep := Report{Device: h.Device, Count: h.Count, Head: h.Head, Exported: at, Key: key, Trusted: t.Keys != nil}
	point, bad := t.verifyProof(h, key)
	if bad != nil {
		return header{}, Report{}, bad
	}
	if point != nil {
		rep.Checkpoint, rep.Covered, rep.Published = point, h.Proof.Seq, t.Note != nil
	}
	return h, rep, nil
}
