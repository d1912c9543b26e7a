package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// BirthPath is where a birth record lies on the EFI system partition.
const BirthPath = "EFI/refurb/birth.json"

// MaxBirth bounds a birth record, in bytes.
const MaxBirth = 4 << 10

// Birth says what was put on a disk. The appliance signs it when a job starts;
// the agent writes it only after every byte was read back. It names no person.
type Birth struct {
	Version   int       `json:"refurb_birth"` // 1
	Number    int       `json:"number"`       // the device's, in its workshop
	Job       string    `json:"job"`
	Disk      DiskID    `json:"disk"` // without its path
	Image     string    `json:"image"`
	Root      string    `json:"root"`
	Signed    time.Time `json:"signed"`
	PublicKey string    `json:"public_key"` // base64
	Signature string    `json:"signature,omitempty"`
}

// birthSigned starts what is signed, so that no other use of the key can be
// taken for a birth record.
const birthSigned = "refurb-birth-1\n"

func (b Birth) payload() ([]byte, error) {
	b.Signature = ""
	doc, err := json.Marshal(b)
	return append([]byte(birthSigned), doc...), err
}

// SignBirth gives the record as it is written.
func SignBirth(b Birth, key ed25519.PrivateKey) ([]byte, error) {
	b.Version, b.Disk.Path = 1, ""
	b.Signed = b.Signed.UTC().Truncate(time.Second)
	b.PublicKey = base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	p, err := b.payload()
	if err != nil {
		return nil, fmt.Errorf("signing a birth record: %w", err)
	}
	b.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, p))
	doc, err := json.Marshal(b)
	if err != nil || len(doc) > MaxBirth {
		return nil, fmt.Errorf("signing a birth record of %d bytes: %w", len(doc), errors.Join(err))
	}
	return doc, nil
}

// ParseBirth reads a record that key must have signed. Bytes after it, as a
// file padded to its size has them, may only be spaces, line ends or zeroes.
func ParseBirth(doc []byte, key ed25519.PublicKey) (Birth, error) {
	var b Birth
	doc = bytes.TrimRight(doc, " \r\n\x00")
	if len(doc) > MaxBirth {
		return b, errors.New("it is too long for a birth record")
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil || b.Version != 1 || dec.InputOffset() != int64(len(doc)) {
		return Birth{}, errors.New("it is no birth record")
	}
	sig, err := base64.StdEncoding.DecodeString(b.Signature)
	p, perr := b.payload()
	if err != nil || perr != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, p, sig) {
		return Birth{}, errors.New("it is not signed by this appliance")
	}
	return b, nil
}

// For tells whether the record was made for the disk. A disk without a serial
// number or WWN can't be told from another one of its kind, and is none of ours.
func (b Birth) For(d DiskID) bool {
	d.Path = ""
	return b.Disk == d && (d.Serial != "" || d.WWN != "")
}
