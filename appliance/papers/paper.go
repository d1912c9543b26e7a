// Package papers makes what leaves the house as proof: the certificate that a PC
// came without storage, the certificate of an erasure, the record of an
// installation, and a donor's report.
//
// A paper is a signed JSON document, made from the lines of the audit chain and
// the documents that they point to by hash, never from records that can be
// edited. The same history gives the same paper to the byte, so its SHA-256 is
// one and the same wherever it is printed. The page that prints well carries the
// document inside and is a function of it: whoever has only the page can check
// both, by making the page again.
//
// Fields of an erasure follow NIST SP 800-88 rev. 1 §4.8 and its appendix G, and
// so do the words Clear and Purge. No paper says that anything conforms to it:
// it says what was done and what was read back.
package papers

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/gowebpki/jcs"
)

// Kind of a paper.
type Kind string

const (
	NoStorage Kind = "no-storage"   // of a device
	Erasure   Kind = "erasure"      // of a job that erased one medium
	Imaging   Kind = "imaging"      // of a job that imaged one disk
	Donor     Kind = "donor-report" // of a lot
)

// Format of a rendering.
type Format string

const (
	HTML Format = "html"
	JSON Format = "json"
)

// Signed is a paper as it is kept: its canonical JSON (RFC 8785) is the file,
// and the file's SHA-256 is the paper's fingerprint.
type Signed struct {
	Version   int             `json:"refurb_paper"` // 1
	Kind      Kind            `json:"kind"`
	ID        string          `json:"id"` // of the device, the job or the lot
	Content   json.RawMessage `json:"content"`
	Hash      string          `json:"content_sha256"`
	PublicKey string          `json:"public_key"` // base64 of 32 bytes, Ed25519
	Signature string          `json:"signature,omitempty"`
}

// signed starts what is signed, so that no other use of the key can be taken
// for a paper. Behind it comes the canonical JSON without its signature.
const signed = "refurb-paper-1\n"

// content is what one kind of paper says.
type content interface{ face() face }

func blank(k Kind) content {
	switch k {
	case NoStorage:
		return &NoStoragePaper{}
	case Erasure:
		return &ErasurePaper{}
	case Imaging:
		return &ImagingPaper{}
	case Donor:
		return &DonorPaper{}
	}
	return nil
}

func canonical(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(b)
}

func (s Signed) payload() ([]byte, error) {
	s.Signature = ""
	b, err := canonical(s)
	return append([]byte(signed), b...), err
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// sign makes the file of a paper.
func sign(k Kind, id string, c content, key ed25519.PrivateKey) ([]byte, error) {
	exact(reflect.ValueOf(c))
	raw, err := canonical(c)
	if err != nil {
		return nil, fmt.Errorf("signing a paper: %w", err)
	}
	s := Signed{
		Version: 1, Kind: k, ID: id, Content: raw, Hash: hashOf(raw),
		PublicKey: base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
	}
	p, err := s.payload()
	if err != nil {
		return nil, fmt.Errorf("signing a paper: %w", err)
	}
	s.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, p))
	file, err := canonical(s)
	if err != nil {
		return nil, fmt.Errorf("signing a paper: %w", err)
	}
	if len(file) > MaxFile {
		return nil, fmt.Errorf("signing a paper: %d bytes are more than %d", len(file), MaxFile)
	}
	return file, nil
}

// maxExact is the largest number that every reader of JSON takes as it stands.
const maxExact = 1 << 53

// exact bounds every number: a disk may report any, and canonical JSON keeps
// those beyond 2^53 only roughly.
func exact(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			exact(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			exact(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			exact(v.Index(i))
		}
	case reflect.Int, reflect.Int64:
		if v.CanSet() {
			v.SetInt(max(-maxExact, min(v.Int(), maxExact)))
		}
	}
}
