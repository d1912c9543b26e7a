package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"refurb/agent/hardware"
	"refurb/images"
)

// StickMark is what Found says of a stick that PCs are started from.
const StickMark = "refurb stick"

var stickType = guid(images.StickType)

// StickID gives the GUID of a stick that PCs are started from: a disk whose GPT
// has a partition of images.StickType. It asks for no checksum: a stick with a
// damaged table is one all the same. The image was made for blocks of 512 bytes
// and is found where these put it, whatever blocks the disk has.
func StickID(r io.ReaderAt) (id string, ok bool) {
	b := make([]byte, stickHead)
	if n, _ := r.ReadAt(b, 0); n < len(b) {
		return "", false
	}
	return stickIn(b)
}

const stickHead = 34 * 512 // up to the end of the usual 128 entries

func stickIn(head []byte) (id string, ok bool) {
	if len(head) < stickHead || !bytes.HasPrefix(head[512:], []byte("EFI PART")) {
		return "", false
	}
	for at := 1024; at < stickHead; at += 128 {
		if [16]byte(head[at:]) == stickType {
			return guidText([16]byte(head[512+56:])), true
		}
	}
	return "", false
}

// Stick is one that is plugged in.
type Stick struct {
	Path     string
	sequence uint64
}

// FindStick looks for the stick with that GUID among the disks.
func FindStick(id string) (Stick, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	hits := make(chan Stick)
	present := hardware.Present("/")
	for _, line := range present { // all at once: a dying disk may take minutes
		name, _, _ := strings.Cut(line, " ")
		go func() {
			s := Stick{Path: "/dev/" + strings.ReplaceAll(name, "!", "/")}
			if got, ok := readStick(s.Path); !ok || !strings.EqualFold(got, id) {
				s.Path = ""
			}
			s.sequence, _ = hardware.Sequence("/", s.Path)
			select {
			case hits <- s:
			case <-ctx.Done():
			}
		}()
	}
	for range present {
		select {
		case s := <-hits:
			if s.Path != "" {
				return s, true
			}
		case <-ctx.Done():
			return Stick{}, false
		}
	}
	return Stick{}, false
}

func readStick(path string) (string, bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	return StickID(f)
}

// There says whether the stick is still plugged in.
func (s Stick) There() bool {
	n, ok := hardware.Sequence("/", s.Path)
	return ok && n == s.sequence
}

// guid is how a GUID stands on a disk: its first three numbers are little-endian
// (UEFI 2.10, appendix A).
func guid(s string) (g [16]byte) {
	var a uint32
	var b, c uint16
	var d, e []byte
	if n, err := fmt.Sscanf(s, "%8X-%4X-%4X-%4X-%12X", &a, &b, &c, &d, &e); n != 5 || err != nil || len(d) != 2 || len(e) != 6 {
		panic("no GUID: " + s)
	}
	le := binary.LittleEndian
	le.PutUint32(g[:], a)
	le.PutUint16(g[4:], b)
	le.PutUint16(g[6:], c)
	copy(g[8:], d)
	copy(g[10:], e)
	return g
}

func guidText(g [16]byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}
