package images

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/zeebo/blake3"
)

// Limits of what Parse accepts. A manifest is signed by us, so they guard
// against our own mistakes and against an older program's images.
const (
	MaxBytes    = 16 << 40        // of the raw disk
	MaxFrame    = FrameSize + 512 // compressed bytes of a frame: zstd adds 3 per 128 KiB block and a header
	MaxSlots    = 64
	maxSlot     = 64 << 10
	maxName     = 128 // bytes of Name and of Version
	maxSlotName = 32
	maxGrow     = 128 // GPT tables have 128 entries; nobody makes more
)

const prefix = "refurb-image-1"

// The signature is Ed25519ctx (RFC 8032, 5.1), so a signature that the same key
// made for something else never passes for a manifest's.
var signing = &ed25519.Options{Context: prefix}

var (
	ErrFormat    = errors.New("not an image manifest")
	ErrSignature = errors.New("the manifest is not signed by this key")
)

// Sum is BLAKE3-256 of raw.
func Sum(raw []byte) Hash { return blake3.Sum256(raw) }

// ComputeRoot gives the hash that names the image. It covers what ends up on a
// disk: size, block size, slots, and the raw hash of every frame. Name, version
// and compression don't change it.
func (m *Manifest) ComputeRoot() Hash {
	h := blake3.New()
	var b []byte
	flush := func() { h.Write(b); b = b[:0] }
	b = append(b, prefix+"\x00root\x00"...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Bytes))
	b = binary.BigEndian.AppendUint64(b, uint64(m.Block))
	b = binary.BigEndian.AppendUint64(b, uint64(len(m.Slots)))
	for _, s := range m.Slots {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s.Name)))
		b = append(b, s.Name...)
		b = binary.BigEndian.AppendUint64(b, uint64(s.Offset))
		b = binary.BigEndian.AppendUint64(b, uint64(s.Length))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(m.Frames)))
	for i := range m.Frames {
		b = append(b, m.Frames[i].Hash[:]...)
		if len(b) >= 32<<10 {
			flush()
		}
	}
	flush()
	var r Hash
	h.Sum(r[:0])
	return r
}

// Sign sets m.Root and returns the bytes of the manifest file. It refuses what
// Parse would refuse.
func Sign(m *Manifest, key ed25519.PrivateKey) ([]byte, error) {
	m.Root = m.ComputeRoot()
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("this image can't be signed: %w", err)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding a manifest: %w", err)
	}
	sig, err := key.Sign(nil, body, signing)
	if err != nil {
		return nil, fmt.Errorf("signing a manifest: %w", err)
	}
	b := fmt.Appendf(nil, "%s %s\n", prefix, base64.StdEncoding.EncodeToString(sig))
	if b = append(b, body...); len(b) > MaxManifest {
		return nil, fmt.Errorf("the manifest has %d bytes, more than %d: the image is too big", len(b), MaxManifest)
	}
	return b, nil
}

// Parse checks the signature, before it looks at anything else, then every
// bound, then the root. Errors are ErrFormat, ErrSignature, or say which field
// is out of bounds.
func Parse(b []byte, pub ed25519.PublicKey) (*Manifest, error) {
	if len(pub) != ed25519.PublicKeySize {
		return nil, errors.New("no public key to check the manifest with")
	}
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrFormat, MaxManifest)
	}
	const sigText = 88 // base64 of 64 bytes
	head, body, ok := bytes.Cut(b[:min(len(b), len(prefix)+sigText+2)], []byte{'\n'})
	if !ok || len(body) != 0 || !bytes.HasPrefix(head, []byte(prefix+" ")) {
		return nil, ErrFormat
	}
	body = b[len(head)+1:]
	sig, err := base64.StdEncoding.Strict().DecodeString(string(head[len(prefix)+1:]))
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, ErrFormat
	}
	if ed25519.VerifyWithOptions(pub, body, sig, signing) != nil {
		return nil, ErrSignature
	}
	m := new(Manifest)
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows its JSON", ErrFormat)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	if m.ComputeRoot() != m.Root {
		return nil, errors.New("the manifest's root is not the hash of its frames")
	}
	return m, nil
}

func (m *Manifest) check() error {
	if err := CheckName(m.Name, m.Version); err != nil {
		return err
	}
	if y := m.Created.Year(); y < 1 || y > 9999 {
		return fmt.Errorf("created in the year %d", y)
	}
	if m.Block != 512 && m.Block != 4096 {
		return fmt.Errorf("block size %d: want 512 or 4096", m.Block)
	}
	if m.Bytes <= 0 || m.Bytes > MaxBytes || m.Bytes%int64(m.Block) != 0 {
		return fmt.Errorf("%d bytes: want a multiple of %d, up to %d", m.Bytes, m.Block, int64(MaxBytes))
	}
	for i, b := range m.Boots {
		if b != BootsBIOS && b != BootsUEFI || slices.Contains(m.Boots[:i], b) {
			return fmt.Errorf("boots %.40q: want bios, uefi, each at most once", b)
		}
	}
	if m.Grow < 0 || m.Grow > maxGrow {
		return fmt.Errorf("grow %d: want a partition number up to %d, or 0", m.Grow, maxGrow)
	}
	return errors.Join(m.checkSlots(), m.checkFrames())
}

func (m *Manifest) checkSlots() error {
	if len(m.Slots) > MaxSlots {
		return fmt.Errorf("%d slots, more than %d", len(m.Slots), MaxSlots)
	}
	from := int64(Head)
	for _, s := range m.Slots {
		switch {
		case !SlotName(s.Name):
			return fmt.Errorf("slot name %.40q: want 1 to %d of a-z, 0-9 and -", s.Name, maxSlotName)
		case s.Length <= 0 || s.Length > maxSlot || s.Length%512 != 0 || s.Offset%512 != 0:
			return fmt.Errorf("slot %s: %d bytes at %d: want multiples of 512, up to %d long", s.Name, s.Length, s.Offset, maxSlot)
		case s.Offset < from:
			return fmt.Errorf("slot %s at %d: lies in the first MiB, or slots overlap or are out of order", s.Name, s.Offset)
		case s.Offset > m.Bytes-int64(s.Length):
			return fmt.Errorf("slot %s: ends behind the disk's end", s.Name)
		}
		from = s.Offset + int64(s.Length)
	}
	return nil
}

func (m *Manifest) checkFrames() error {
	if want := Count(m.Bytes); int64(len(m.Frames)) != want {
		return fmt.Errorf("%d frames: want %d for %d bytes", len(m.Frames), want, m.Bytes)
	}
	var at int64
	for i, f := range m.Frames {
		switch {
		case f.Length == 0:
			if f.Offset != 0 || !f.Hash.IsZero() {
				return fmt.Errorf("frame %d: empty, but has an offset or a hash", i)
			}
		case f.Length < 0 || f.Length > MaxFrame:
			return fmt.Errorf("frame %d: %d compressed bytes, more than %d", i, f.Length, MaxFrame)
		case f.Offset != at:
			return fmt.Errorf("frame %d: at %d, but the one before ends at %d", i, f.Offset, at)
		case f.Hash.IsZero():
			return fmt.Errorf("frame %d: has bytes, but no hash", i)
		}
		at += f.Length
	}
	return nil
}

// CheckName says whether an image can have this name and version.
func CheckName(name, version string) error {
	if name == "" || !printable(name) {
		return fmt.Errorf("name %.40q: want 1 to %d bytes of printable text", name, maxName)
	}
	if !printable(version) {
		return fmt.Errorf("version %.40q: want up to %d bytes of printable text", version, maxName)
	}
	return nil
}

// Count is the number of frames of a raw disk that long.
func Count(bytes int64) int64 { return (bytes + FrameSize - 1) / FrameSize }

// SlotName reports whether s can name a slot.
func SlotName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxSlotName
}

func printable(s string) bool {
	if len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
