// Package images is the format of a disk image that Refurb writes: frames of
// 4 MiB, each compressed alone, and a signed manifest that names them.
//
// On disk an image is a folder named by its root hash with two files:
//
//	manifest  one line "refurb-image-1 <base64 Ed25519 signature>\n", then the
//	          JSON of Manifest, exactly the bytes that were signed
//	frames    the compressed frames, one after the other
//
// One format serves parallel streams, sharing between PCs, reading back and
// resuming. The package knows nothing else of ours.
package images

import (
	"encoding/hex"
	"fmt"
	"time"
)

// What Manifest.Boots can hold.
const (
	BootsBIOS = "bios"
	BootsUEFI = "uefi"
)

const (
	FrameSize   = 4 << 20  // raw bytes of every frame but the last
	MaxManifest = 64 << 20 // bytes; a 2 TiB image stays below
	Head        = 1 << 20  // raw bytes at the start that go to the disk last
)

// StickType is the type of the GPT partition that marks a USB stick which PCs are
// started from. A disk that has one is a tool and is never written to.
const StickType = "530BC661-C4CA-46B6-9447-587B71F31277"

// Hash is BLAKE3-256.
type Hash [32]byte

func (h Hash) String() string               { return hex.EncodeToString(h[:]) }
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }
func (h Hash) IsZero() bool                 { return h == Hash{} }

func (h *Hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("a hash has %d hex digits, not %d", 2*len(h), len(b))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Manifest describes one image whole. Root covers Bytes, Block, the slots and
// every frame's raw hash; the signature covers all of it.
type Manifest struct {
	Name    string    `json:"name"`
	Version string    `json:"version,omitempty"`
	Created time.Time `json:"created"`
	Bytes   int64     `json:"bytes"` // of the raw disk
	Block   int       `json:"block"` // logical block size its partition table was made for: 512 or 4096
	Boots   []string  `json:"boots"` // what its head shows: "bios", "uefi"
	Grow    int       `json:"grow"`  // number of the GPT partition that grows to the disk's end; 0: none
	Slots   []Slot    `json:"slots,omitempty"`
	Frames  []Frame   `json:"frames"`
	Root    Hash      `json:"root"`
}

// Frame number i holds the raw bytes from i*FrameSize. Length 0 means that all
// of them are zero: such a frame has no bytes in the file and no hash.
type Frame struct {
	Offset int64 `json:"o,omitempty"` // in the file of frames
	Length int64 `json:"l,omitempty"` // compressed
	Hash   Hash  `json:"h,omitzero"`  // of the raw bytes
}

// Slot is a reserved place in the raw image that is filled per PC after the
// read-back, so it differs between PCs: "checkin" holds wire.Checkin as JSON.
// An image reserves one by a file whose content starts with SlotMark, the
// slot's name and a newline, at a multiple of 512 bytes, Length bytes long.
// Several slots may have one name (a file system can hold a stale copy of the
// file): each of them is filled.
type Slot struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Length int    `json:"length"`
}

// SlotMark starts a reserved place; SlotSize is its length.
const (
	SlotMark = "refurb-slot-6a1f0c52 "
	SlotSize = 4096
)

// RawLength of frame i: FrameSize but for the last.
func (m *Manifest) RawLength(i int) int {
	return int(min(FrameSize, m.Bytes-int64(i)*FrameSize))
}

// Compressed is the number of bytes that have to travel.
func (m *Manifest) Compressed() (n int64) {
	for _, f := range m.Frames {
		n += f.Length
	}
	return n
}
