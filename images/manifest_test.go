package images

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

func pub(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// sample is an image of 3 frames (random, zeroes, a short last one), with its
// compressed frames.
func sample(t testing.TB) (*Manifest, []byte, []byte) {
	t.Helper()
	raw := make([]byte, 2*FrameSize+3*4096)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(raw[:FrameSize])
	r.Read(raw[2*FrameSize:])
	m := &Manifest{
		Name: "Debian 13 desktop", Version: "2026.1", Created: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC),
		Bytes: int64(len(raw)), Block: 512, Boots: []string{BootsUEFI, BootsBIOS}, Grow: 2,
		Slots: []Slot{{"checkin", 2 << 20, SlotSize}, {"other-1", 2<<20 + SlotSize, 512}},
	}
	e, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	var frames []byte
	for i := range Count(m.Bytes) {
		part := raw[i*FrameSize:][:min(FrameSize, len(raw)-int(i)*FrameSize)]
		n := len(frames)
		var h Hash
		frames, h = e.Encode(part, frames)
		f := Frame{Length: int64(len(frames) - n), Hash: h}
		if f.Length > 0 {
			f.Offset = int64(n)
		}
		m.Frames = append(m.Frames, f)
	}
	return m, raw, frames
}

func TestSignParse(t *testing.T) {
	m, _, _ := sample(t)
	b, err := Sign(m, testKey)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b, pub(testKey))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("parsed %+v, signed %+v", got, m)
	}
	if m.Frames[1].Length != 0 || m.Compressed() >= int64(m.Bytes) {
		t.Errorf("the frame of zeroes has bytes: %+v", m.Frames)
	}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	if _, err := Parse(b, pub(other)); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	if _, err := Parse(b, nil); err == nil {
		t.Error("parsed without a key")
	}
	// The same bytes, signed by the same key for another purpose.
	line, body, _ := bytes.Cut(b, []byte("\n"))
	plain := base64.StdEncoding.EncodeToString(ed25519.Sign(testKey, body))
	if _, err := Parse(fmt.Appendf(nil, "%s %s\n%s", prefix, plain, body), pub(testKey)); !errors.Is(err, ErrSignature) {
		t.Errorf("a signature without the manifest's context: %v", err)
	}
	if len(line) != len(prefix)+1+88 {
		t.Errorf("first line has %d bytes", len(line))
	}
}

// TestFlip changes every byte of a manifest file in turn.
func TestFlip(t *testing.T) {
	m, _, _ := sample(t)
	b, err := Sign(m, testKey)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		for _, x := range []byte{1, 0x20, 0x80} {
			c := bytes.Clone(b)
			c[i] ^= x
			if _, err := Parse(c, pub(testKey)); err == nil {
				t.Fatalf("byte %d of %d changed by %#x: accepted", i, len(b), x)
			} else if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrSignature) {
				t.Fatalf("byte %d: looked at before the signature: %v", i, err)
			}
		}
	}
	for n := range b {
		if _, err := Parse(b[:n], pub(testKey)); err == nil {
			t.Fatalf("cut to %d bytes: accepted", n)
		}
	}
	if _, err := Parse(append(bytes.Clone(b), ' '), pub(testKey)); err == nil {
		t.Error("one byte more: accepted")
	}
}

// TestBounds signs manifests that are out of bounds, as a faulty program with
// our key might, and expects Parse to refuse each.
func TestBounds(t *testing.T) {
	keepRoot := func(m *Manifest) {}
	root := func(m *Manifest) { m.Root = m.ComputeRoot() }
	for _, c := range []struct {
		name, want string
		change     func(*Manifest)
		fix        func(*Manifest)
	}{
		{"no bytes", "bytes", func(m *Manifest) { m.Bytes = 0 }, root},
		{"negative", "bytes", func(m *Manifest) { m.Bytes = -512 }, root},
		{"huge", "bytes", func(m *Manifest) { m.Bytes = MaxBytes + 4096 }, root},
		{"odd size", "bytes", func(m *Manifest) { m.Bytes++ }, root},
		{"odd for 4096", "bytes", func(m *Manifest) { m.Block, m.Bytes = 4096, m.Bytes-512 }, root},
		{"too short", "frames", func(m *Manifest) { m.Bytes = FrameSize }, root},
		{"too long", "frames", func(m *Manifest) { m.Bytes = 3*FrameSize + 512 }, root},
		{"no frames", "frames", func(m *Manifest) { m.Frames = nil }, root},
		{"block", "block", func(m *Manifest) { m.Block = 1024 }, root},
		{"block 0", "block", func(m *Manifest) { m.Block = 0 }, root},
		{"no name", "name", func(m *Manifest) { m.Name = "" }, root},
		{"long name", "name", func(m *Manifest) { m.Name = strings.Repeat("x", 129) }, root},
		{"control in name", "name", func(m *Manifest) { m.Name = "a\x1b[2J" }, root},
		{"newline in version", "version", func(m *Manifest) { m.Version = "a\nb" }, root},
		{"direction override", "name", func(m *Manifest) { m.Name = "a\u202eb" }, root},
		{"boots", "boots", func(m *Manifest) { m.Boots = []string{"coreboot"} }, root},
		{"boots twice", "boots", func(m *Manifest) { m.Boots = []string{"bios", "bios"} }, root},
		{"grow", "grow", func(m *Manifest) { m.Grow = 129 }, root},
		{"grow negative", "grow", func(m *Manifest) { m.Grow = -1 }, root},
		{"slot name", "slot", func(m *Manifest) { m.Slots[0].Name = "../x" }, root},
		{"slot name empty", "slot", func(m *Manifest) { m.Slots[0].Name = "" }, root},
		{"slot in head", "slot", func(m *Manifest) { m.Slots[0].Offset = Head - 512 }, root},
		{"slot negative", "slot", func(m *Manifest) { m.Slots[0].Offset = -512 }, root},
		{"slot unaligned", "slot", func(m *Manifest) { m.Slots[0].Offset++ }, root},
		{"slot odd", "slot", func(m *Manifest) { m.Slots[0].Length = 100 }, root},
		{"slot empty", "slot", func(m *Manifest) { m.Slots[0].Length = 0 }, root},
		{"slot big", "slot", func(m *Manifest) { m.Slots[1].Length = 1 << 20 }, root},
		{"slots overlap", "slot", func(m *Manifest) { m.Slots[1].Offset -= 512 }, root},
		{"slots swapped", "slot", func(m *Manifest) { m.Slots[0], m.Slots[1] = m.Slots[1], m.Slots[0] }, root},
		{"slot over the end", "slot", func(m *Manifest) { m.Slots[1].Offset = m.Bytes }, root},
		{"slot far over the end", "slot", func(m *Manifest) { m.Slots[1].Offset = 1<<63 - 512 }, root},
		{"many slots", "slots", func(m *Manifest) { m.Slots = make([]Slot, MaxSlots+1) }, root},
		{"frame offset", "frame 2", func(m *Manifest) { m.Frames[2].Offset++ }, root},
		{"frame negative", "frame 0", func(m *Manifest) { m.Frames[0].Length = -1 }, root},
		{"frame long", "frame 0", func(m *Manifest) { m.Frames[0].Length = MaxFrame + 1 }, root},
		{"frame gap", "frame 2", func(m *Manifest) { m.Frames[0].Length-- }, root},
		{"frame without hash", "frame 0", func(m *Manifest) { m.Frames[0].Hash = Hash{} }, root},
		{"zero frame with hash", "frame 1", func(m *Manifest) { m.Frames[1].Hash[3] = 1 }, root},
		{"zero frame with offset", "frame 1", func(m *Manifest) { m.Frames[1].Offset = 5 }, root},
		{"root", "root", func(m *Manifest) { m.Root[0] ^= 1 }, keepRoot},
		{"hash under an old root", "root", func(m *Manifest) { m.Frames[0].Hash[0] ^= 1 }, keepRoot},
		{"slot under an old root", "root", func(m *Manifest) { m.Slots[1].Offset += 512 }, keepRoot},
		{"size under an old root", "root", func(m *Manifest) { m.Bytes -= 512 }, keepRoot},
		{"block under an old root", "root", func(m *Manifest) { m.Block = 4096 }, keepRoot},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _, _ := sample(t)
			m.Root = m.ComputeRoot()
			c.change(m)
			c.fix(m)
			body, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(signed(body), pub(testKey))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
			if m.ComputeRoot() == m.Root {
				if _, err := Sign(m, testKey); err == nil {
					t.Error("Sign accepts it")
				}
			}
		})
	}
}

func TestStrictJSON(t *testing.T) {
	m, _, _ := sample(t)
	m.Root = m.ComputeRoot()
	body, _ := json.Marshal(m)
	for _, c := range []string{
		"", "null", "[]", "{}",
		string(body) + "{}", string(body) + "x",
		strings.Replace(string(body), `"grow"`, `"shrink":1,"grow"`, 1),
		strings.Replace(string(body), `"grow":2`, `"grow":2.5`, 1),
		strings.Replace(string(body), `"grow":2`, `"grow":99999999999999999999`, 1),
		strings.Replace(string(body), `"h":"`, `"h":"zz`, 1),
		strings.Replace(string(body), m.Frames[0].Hash.String(), "g"+m.Frames[0].Hash.String()[1:], 1),
	} {
		if _, err := Parse(signed([]byte(c)), pub(testKey)); err == nil {
			t.Errorf("accepted %.60q", c)
		}
	}
	if _, err := Parse(signed(body), pub(testKey)); err != nil {
		t.Errorf("the untouched one: %v", err)
	}
}

func TestRootCoversWhatIsWritten(t *testing.T) {
	m, _, _ := sample(t)
	root := m.ComputeRoot()
	m.Name, m.Version, m.Grow, m.Boots, m.Created = "x", "", 0, nil, time.Time{}
	m.Frames[0].Length, m.Frames[0].Offset = 5, 9
	if m.ComputeRoot() != root {
		t.Error("the root changes with something that isn't written")
	}
	// Moving a byte between a slot's name and its neighbour must show.
	m.Slots[0].Name, m.Slots[1].Name = "checkino", "ther-1"
	if m.ComputeRoot() == root {
		t.Error("slot names run together")
	}
}

// The format is kept on disk, so its root and its signed bytes must not drift.
func TestVector(t *testing.T) {
	m := &Manifest{Name: "v", Created: time.Unix(0, 0).UTC(), Bytes: FrameSize + 512, Block: 512, Boots: []string{BootsBIOS},
		Slots: []Slot{{"checkin", 1 << 20, SlotSize}}, Frames: []Frame{{Length: 9, Hash: Sum([]byte("frame"))}, {}}}
	b, err := Sign(m, testKey)
	if err != nil {
		t.Fatal(err)
	}
	const want = "refurb-image-1 D2a38vyk4AJ8lpqImEhPSky1aeLAA9nRDXAgp8tGGJF4gbABoc3PtiVrfho+pCGk+v4Wvu7947+aWHm+eXlrCg==\n" +
		`{"name":"v","created":"1970-01-01T00:00:00Z","bytes":4194816,"block":512,"boots":["bios"],"grow":0,` +
		`"slots":[{"name":"checkin","offset":1048576,"length":4096}],` +
		`"frames":[{"l":9,"h":"b84bbbf495b3f5fe35085304d048e337853f0cc3dac096870ec35322b385d9bc"},{}],` +
		`"root":"65abe8226c269b8c4f1a1c5a172a3917a376c749daf1c02eadc3f2c2850dc338"}`
	if string(b) != want {
		t.Errorf("manifest file is now\n%s", b)
	}
}

func signed(body []byte) []byte {
	sig, err := testKey.Sign(nil, body, signing)
	if err != nil {
		panic(err)
	}
	return fmt.Appendf(nil, "%s %s\n%s", prefix, base64.StdEncoding.EncodeToString(sig), body)
}

func FuzzParse(f *testing.F) {
	m, _, _ := sample(f)
	b, err := Sign(m, testKey)
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(b, []byte("\n"))
	f.Add(b)
	f.Add(body)
	f.Add([]byte(`{"name":"x","bytes":-1,"frames":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := Parse(b, pub(testKey)); err == nil {
			again(t, m)
		}
		// Past the signature, where fuzzing would never come.
		if m, err := Parse(signed(b), pub(testKey)); err == nil {
			again(t, m)
		}
	})
}

func again(t *testing.T, m *Manifest) {
	root := m.Root
	b, err := Sign(m, testKey)
	if err != nil {
		t.Fatalf("parsed, but can't be signed: %v", err)
	}
	m2, err := Parse(b, pub(testKey))
	if err != nil || m2.Root != root {
		t.Fatalf("parsed, but not again: %v", err)
	}
	end := int64(0)
	for i := range m2.Frames {
		if n := m2.RawLength(i); n <= 0 || n > FrameSize {
			t.Fatalf("frame %d has %d raw bytes", i, n)
		}
		end += int64(m2.RawLength(i))
	}
	if end != m2.Bytes {
		t.Fatalf("frames hold %d bytes of %d", end, m2.Bytes)
	}
}
