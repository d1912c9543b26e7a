package images

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func decoder(t testing.TB) *Decoder {
	t.Helper()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestRoundTrip(t *testing.T) {
	m, raw, frames := sample(t)
	d := decoder(t)
	buf := make([]byte, FrameSize)
	for i, f := range m.Frames {
		buf[len(buf)-1] = 0xAA
		got, err := d.Decode(m, i, frames[f.Offset:][:f.Length], buf)
		if err != nil {
			t.Fatal(err)
		}
		if &got[0] != &buf[0] {
			t.Errorf("frame %d is not in the caller's buffer", i)
		}
		if !bytes.Equal(got, raw[i*FrameSize:][:m.RawLength(i)]) {
			t.Errorf("frame %d differs", i)
		}
		if err := m.Check(i, got); err != nil {
			t.Error(err)
		}
		got[0] ^= 1
		if err := m.Check(i, got); !errors.Is(err, ErrHash) {
			t.Errorf("frame %d changed: %v", i, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	m, _, frames := sample(t)
	enc, _ := zstd.NewWriter(nil)
	last := m.RawLength(2)
	put := func(b []byte) func(*Manifest) []byte {
		return func(m *Manifest) []byte { m.Frames[2].Length = int64(len(b)); return b }
	}
	good := frames[m.Frames[2].Offset:][:m.Frames[2].Length]
	bomb := make([]byte, 512<<20)
	for _, c := range []struct {
		name string
		make func(*Manifest) []byte
		want error
	}{
		{"nothing", func(*Manifest) []byte { return nil }, ErrLength},
		{"one byte less than the manifest says", func(*Manifest) []byte { return good[:len(good)-1] }, ErrLength},
		{"truncated", put(good[:len(good)-1]), nil},
		{"not zstd", put(bytes.Repeat([]byte("x"), 100)), nil},
		{"another frame", put(frames[:m.Frames[0].Length]), nil},
		{"shorter", put(enc.EncodeAll(make([]byte, last-1), nil)), ErrLength},
		{"longer", put(enc.EncodeAll(make([]byte, last+1), nil)), nil},
		{"bomb", put(enc.EncodeAll(bomb, nil)), nil},
		{"other content", put(enc.EncodeAll(make([]byte, last), nil)), ErrHash},
		{"two in one", put(append(bytes.Clone(good), enc.EncodeAll([]byte{1}, nil)...)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _, _ := sample(t)
			b := c.make(m)
			arr := bytes.Repeat([]byte{0xAA}, FrameSize)
			var before, after runtime.MemStats
			d := decoder(t)
			runtime.ReadMemStats(&before)
			_, err := d.Decode(m, 2, b, arr)
			runtime.ReadMemStats(&after)
			var fe *FrameError
			if !errors.As(err, &fe) || fe.Frame != 2 {
				t.Fatalf("error %v, want one that names frame 2", err)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if n := len(arr) - last - bytes.Count(arr[last:], []byte{0xAA}); n != 0 {
				t.Errorf("wrote %d bytes behind the frame's end", n)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 2*FrameSize {
				t.Errorf("took %d bytes of memory", used)
			}
		})
	}
	for _, i := range []int{-1, 3, 1 << 40} {
		if _, err := decoder(t).Decode(m, i, good, make([]byte, FrameSize)); err == nil {
			t.Errorf("decoded frame %d of 3", i)
		}
	}
	if _, err := decoder(t).Decode(m, 2, good, make([]byte, last-1)); err == nil {
		t.Error("decoded into a buffer that is too small")
	}
	if _, err := decoder(t).Decode(m, 1, []byte{1}, make([]byte, FrameSize)); err == nil {
		t.Error("a frame of zeroes took bytes")
	}
}

func TestFlippedFrames(t *testing.T) {
	m, _, frames := sample(t)
	d := decoder(t)
	buf := make([]byte, FrameSize)
	f := m.Frames[2]
	for at := range f.Length {
		b := bytes.Clone(frames[f.Offset:][:f.Length])
		b[at] ^= 0x10
		got, err := d.Decode(m, 2, b, buf)
		if err == nil && m.Check(2, got) != nil {
			t.Fatalf("byte %d changed: accepted other content", at)
		}
	}
}

func TestIncompressibleFits(t *testing.T) {
	raw := make([]byte, FrameSize)
	rand.NewChaCha8([32]byte{3}).Read(raw)
	e, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := e.Encode(raw, nil); len(b) > MaxFrame {
		t.Errorf("%d bytes, more than MaxFrame %d", len(b), MaxFrame)
	}
}

func TestZero(t *testing.T) {
	b := make([]byte, 5000)
	for n := range b {
		if !Zero(b[:n]) {
			t.Fatal(n)
		}
	}
	for i := range b {
		b[i] = 1
		if Zero(b) {
			t.Fatal(i)
		}
		b[i] = 0
	}
}

func FuzzDecode(f *testing.F) {
	m, _, frames := sample(f)
	f.Add(frames[m.Frames[2].Offset:])
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Add([]byte("\x28\xb5\x2f\xfd\xa4\xff\xff\xff\x7f\x01\x00\x00"))
	d := decoder(f)
	arr := make([]byte, FrameSize)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := *m
		m.Frames = append([]Frame(nil), m.Frames...)
		m.Frames[2].Length = int64(len(b))
		n := m.RawLength(2)
		clear(arr[n:])
		got, err := d.Decode(&m, 2, b, arr)
		if err == nil && m.Check(2, got) != nil {
			t.Fatal("accepted what is not the frame")
		}
		if !Zero(arr[n:]) {
			t.Fatal("wrote behind the frame's end")
		}
	})
}

func benchFrame() []byte {
	raw := make([]byte, FrameSize)
	r := rand.New(rand.NewPCG(1, 2))
	// Words from a small vocabulary: compresses about as an installed system does.
	var words [512][8]byte
	for i := range words {
		for j := range words[i] {
			words[i][j] = byte(r.Uint32())
		}
	}
	for i := 0; i < len(raw); i += 8 {
		copy(raw[i:], words[r.IntN(len(words))][:])
	}
	return raw
}

func BenchmarkEncode(b *testing.B) {
	raw := benchFrame()
	e, _ := NewEncoder()
	buf := make([]byte, 0, MaxFrame)
	b.SetBytes(FrameSize)
	for b.Loop() {
		buf, _ = e.Encode(raw, buf[:0])
	}
	b.ReportMetric(float64(len(raw))/float64(len(buf)), "ratio")
}

func BenchmarkDecode(b *testing.B) {
	raw := benchFrame()
	e, _ := NewEncoder()
	c, h := e.Encode(raw, nil)
	m := &Manifest{Bytes: FrameSize, Frames: []Frame{{Length: int64(len(c)), Hash: h}}}
	d := decoder(b)
	b.SetBytes(FrameSize)
	for b.Loop() {
		if _, err := d.Decode(m, 0, c, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	raw := benchFrame()
	b.SetBytes(FrameSize)
	for b.Loop() {
		Sum(raw)
	}
}
