package screen

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The layouts that real machines have, with strides that are not the width.
var layouts = map[string]pixels{
	"32 efifb":   {width: 321, height: 201, stride: 321*4 + 28, bits: 32, red: channel{16, 8}, green: channel{8, 8}, blue: channel{0, 8}},
	"32 rgb":     {width: 320, height: 200, stride: 1280, bits: 32, red: channel{0, 8}, green: channel{8, 8}, blue: channel{16, 8}},
	"32 deep":    {width: 320, height: 200, stride: 1280, bits: 32, red: channel{22, 8}, green: channel{12, 8}, blue: channel{2, 8}},
	"24 efifb":   {width: 333, height: 205, stride: 333*3 + 5, bits: 24, red: channel{16, 8}, green: channel{8, 8}, blue: channel{0, 8}},
	"16 vesa":    {width: 320, height: 200, stride: 2 * 323, bits: 16, red: channel{11, 5}, green: channel{5, 6}, blue: channel{0, 5}},
	"15 in 16":   {width: 320, height: 200, stride: 640, bits: 16, red: channel{10, 5}, green: channel{5, 5}, blue: channel{0, 5}},
	"32 shifted": {width: 320, height: 200, stride: 1400, start: 3*1400 + 16, bits: 32, red: channel{16, 8}, green: channel{8, 8}, blue: channel{0, 8}},
}

// pixel reads one pixel back out of a framebuffer's bytes.
func (p pixels) pixel(b []byte, x, y int) color.RGBA {
	at := b[p.start+y*p.stride+x*p.bits/8:]
	var v uint32
	for i := range p.bits / 8 {
		v |= uint32(at[i]) << (8 * i)
	}
	get := func(c channel) uint8 { return uint8(v >> c.shift & (1<<c.bits - 1) << (8 - c.bits)) }
	return color.RGBA{get(p.red), get(p.green), get(p.blue), 0xff}
}

func TestPack(t *testing.T) {
	for name, p := range layouts {
		t.Run(name, func(t *testing.T) {
			img := Paint(samples[0], p.width, p.height)
			out := append(make([]byte, p.start), p.pack(img, 0, p.height)...)
			if len(out) != p.start+p.height*p.stride {
				t.Fatalf("%d bytes", len(out))
			}
			for y := range p.height {
				for x := range p.width {
					got, want := p.pixel(out, x, y), img.RGBAAt(x, y)
					want.R &= 0xff << (8 - p.red.bits)
					want.G &= 0xff << (8 - p.green.bits)
					want.B &= 0xff << (8 - p.blue.bits)
					if got != want {
						t.Fatalf("at %d,%d: %v, want %v", x, y, got, want)
					}
				}
			}
		})
	}
}

// Painting view after view gives the same bytes as painting the last one whole,
// and nothing outside the picture is touched.
func TestFramebufferShow(t *testing.T) {
	for name, p := range layouts {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "fb0"))
			if err != nil {
				t.Fatal(err)
			}
			fb := &framebuffer{file: f, pixels: p}
			bar := samples[0]
			bar.Percent, bar.Rate = 57, 98e6
			for _, v := range []View{samples[0], bar, samples[1], odd[3], samples[2]} {
				if err := fb.show(v); err != nil {
					t.Fatal(err)
				}
			}
			fb.close()
			got, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			want := append(make([]byte, p.start), p.pack(Paint(samples[2], p.width, p.height), 0, p.height)...)
			if !bytes.Equal(got, want) {
				t.Errorf("the picture is another one (%d and %d bytes)", len(got), len(want))
			}
			if err := fb.show(samples[0]); err == nil {
				t.Error("a closed framebuffer took a picture")
			}
		})
	}
}

// Moving a picture gives what painting it anew gives, at every percent, and
// repaints little.
func TestMove(t *testing.T) {
	for _, size := range []image.Point{{320, 240}, {180, 300}} {
		v := samples[0].tidy()
		v.Percent, v.Rate, v.ETA = 0, 0, 0
		pic := newPicture(v, size.X, size.Y)
		for i := range 21 {
			v.Percent, v.Rate, v.ETA = float64(i)*5, int64(i)*int64(i)*1e6, time.Duration(i)*time.Minute
			parts, ok := pic.move(v)
			lines := 0
			for _, r := range parts {
				lines += r.Dy()
			}
			if !ok || lines == 0 || lines > size.Y*6/10 {
				t.Errorf("%v at %v %%: %v, %d lines", size, v.Percent, ok, lines)
			}
			if !bytes.Equal(pic.img.Pix, Paint(v, size.X, size.Y).Pix) {
				t.Errorf("%v at %v %%: moving and painting differ", size, v.Percent)
			}
		}
		v.Title = "Something else"
		if _, ok := pic.move(v); ok {
			t.Error("another title is more than progress")
		}
	}
}

func TestParsePixels(t *testing.T) {
	raw := func(change func(v []uint32, f []byte)) ([160]byte, [80]byte) {
		v := make([]uint32, 40)
		copy(v, []uint32{1024, 768, 1024, 768, 0, 0, 32, 0, 16, 8, 0, 8, 8, 0, 0, 8, 0})
		var variable [160]byte
		var fixed [80]byte
		binary.NativeEndian.PutUint32(fixed[36:], 2)
		binary.NativeEndian.PutUint32(fixed[48:], 4096)
		change(v, fixed[:])
		for i, n := range v {
			binary.NativeEndian.PutUint32(variable[4*i:], n)
		}
		return variable, fixed
	}
	p, err := parsePixels(raw(func(v []uint32, f []byte) { v[4], v[5] = 2, 3 }))
	want := pixels{width: 1024, height: 768, stride: 4096, start: 3*4096 + 8, bits: 32, red: channel{16, 8}, green: channel{8, 8}, blue: channel{0, 8}}
	if err != nil || p != want {
		t.Errorf("got %+v, %v", p, err)
	}
	for name, change := range map[string]func(v []uint32, f []byte){
		"8 bits":         func(v []uint32, f []byte) { v[6] = 8 },
		"palette":        func(v []uint32, f []byte) { f[36] = 3 },
		"no size":        func(v []uint32, f []byte) { v[0], v[1] = 0, 0 },
		"huge":           func(v []uint32, f []byte) { v[0] = 1 << 31 },
		"short lines":    func(v []uint32, f []byte) { binary.NativeEndian.PutUint32(f[48:], 4095) },
		"endless lines":  func(v []uint32, f []byte) { binary.NativeEndian.PutUint32(f[48:], 1<<31) },
		"far offset":     func(v []uint32, f []byte) { v[5] = 1 << 30 },
		"colour too far": func(v []uint32, f []byte) { v[8] = 28 },
		"deep colour":    func(v []uint32, f []byte) { v[9] = 10 },
		"no colour":      func(v []uint32, f []byte) { v[15] = 0 },
		"wrapping":       func(v []uint32, f []byte) { v[8] = 1<<32 - 1 },
	} {
		if p, err := parsePixels(raw(change)); err == nil {
			t.Errorf("%s passed: %+v", name, p)
		}
	}
}
