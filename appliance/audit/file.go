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
	"time"

	"github.com/gowebpki/jcs"
)

// MaxFile bounds what VerifyFile reads, in bytes.
const MaxFile = 256 << 20

// header is the first row of an export. The signature covers the canonical form
// of the rest of it.
type header struct {
	Version   int    `json:"refurb_audit"` // 1
	Device    string `json:"device"`
	Count     int64  `json:"count"`
	Head      string `json:"head"`
	Exported  string `json:"exported"`   // RFC 3339, UTC
	PublicKey string `json:"public_key"` // base64 of 32 bytes, Ed25519
	Signature string `json:"signature,omitempty"`
}

// row is every further one.
type row struct {
	Entry json.RawMessage `json:"entry"`
	Hash  string          `json:"hash"`
}

// signed starts what is signed, so that no other use of the key can be taken
// for an export.
const signed = "refurb-audit-1\n"

func sign(device string, entries []Entry, key ed25519.PrivateKey, now time.Time) (header, error) {
	h := header{
		Version: 1, Device: device, Count: int64(len(entries)), Head: Start,
		Exported:  now.UTC().Truncate(time.Second).Format(time.RFC3339),
		PublicKey: base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
	}
	if n := len(entries); n > 0 {
		h.Head = entries[n-1].Hash
	}
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
}

// VerifyFile checks an export in JSON Lines. With pub it must be signed by that
// key; without, by the key it names itself, which shows damage and amateurs but
// not a forger with a key of his own. The error is a *Trouble that names the
// first bad line, unless r could not be read.
func VerifyFile(r io.Reader, pub ed25519.PublicKey) (Report, error) {
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
	h, rep, trouble := verifyHeader(first, pub)
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
	return rep, nil
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

func verifyHeader(b []byte, pub ed25519.PublicKey) (header, Report, *Trouble) {
	forged := func(text string) (header, Report, *Trouble) {
		return header{}, Report{}, &Trouble{Row: 1, Kind: Forged, Text: text}
	}
	var h header
	if err := json.Unmarshal(b, &h); err != nil {
		return forged("it can't be read")
	}
	if h.Version != 1 {
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
	if pub != nil && !pub.Equal(ed25519.PublicKey(key)) {
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
	return h, Report{Device: h.Device, Count: h.Count, Head: h.Head, Exported: at, Key: key, Trusted: pub != nil}, nil
}
