package screen

import (
	"encoding/binary"
	"fmt"
	"image"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pixels is how a framebuffer lays out its picture (linux/fb.h).
type pixels struct {
	width, height    int
	stride           int // bytes from one line to the next
	start            int // bytes before the first visible pixel
	bits             int // per pixel: 16, 24 or 32
	red, green, blue channel
}

// channel is where one colour sits in a pixel.
type channel struct{ shift, bits uint }

const (
	fbGetVariable = 0x4600 // FBIOGET_VSCREENINFO
	fbGetFixed    = 0x4602 // FBIOGET_FSCREENINFO
	fbTrueColor   = 2      // FB_VISUAL_TRUECOLOR
	kdSetMode     = 0x4B3A // KDSETMODE of linux/kd.h
	kdText        = 0
	kdGraphics    = 1
	maxSide       = 16384
)

// parsePixels reads struct fb_var_screeninfo and fb_fix_screeninfo, as a 64-bit
// kernel lays them out.
func parsePixels(variable [160]byte, fixed [80]byte) (pixels, error) {
	v := func(i int) int { return int(binary.NativeEndian.Uint32(variable[4*i:])) }
	color := func(i int) channel { return channel{uint(v(i)), uint(v(i + 1))} }
	p := pixels{
		width: v(0), height: v(1), bits: v(6),
		red: color(8), green: color(11), blue: color(14),
		stride: int(binary.NativeEndian.Uint32(fixed[48:])),
	}
	p.start = v(5)*p.stride + v(4)*p.bits/8
	visual := binary.NativeEndian.Uint32(fixed[36:])
	switch {
	case p.bits != 16 && p.bits != 24 && p.bits != 32:
		return p, fmt.Errorf("%d bits per pixel are not served", p.bits)
	case visual != fbTrueColor:
		return p, fmt.Errorf("pictures of kind %d are not served, only true colour", visual)
	case p.width < 320 || p.height < 200 || p.width > maxSide || p.height > maxSide:
		return p, fmt.Errorf("a screen of %d by %d is not served", p.width, p.height)
	case p.stride < p.width*p.bits/8 || p.stride > maxSide*8 || v(4) > maxSide || v(5) > maxSide:
		return p, fmt.Errorf("lines of %d bytes don't fit %d pixels", p.stride, p.width)
	}
	for _, c := range []channel{p.red, p.green, p.blue} {
		if c.bits < 1 || c.bits > 8 || c.shift+c.bits > uint(p.bits) {
			return p, fmt.Errorf("a colour of %d bits at bit %d is not served", c.bits, c.shift)
		}
	}
	return p, nil
}

// pack turns the lines from y0 to y1 of a picture into the framebuffer's bytes,
// stride by stride; what lies between a line's end and the next one is zero.
func (p pixels) pack(img *image.RGBA, y0, y1 int) []byte {
	var red, green, blue [256]uint32
	for i := range 256 {
		red[i] = uint32(i) >> (8 - p.red.bits) << p.red.shift
		green[i] = uint32(i) >> (8 - p.green.bits) << p.green.shift
		blue[i] = uint32(i) >> (8 - p.blue.bits) << p.blue.shift
	}
	out := make([]byte, (y1-y0)*p.stride)
	for y := y0; y < y1; y++ {
		line := out[(y-y0)*p.stride:]
		src := img.Pix[y*img.Stride : y*img.Stride+4*p.width]
		for x := range p.width {
			v := red[src[4*x]] | green[src[4*x+1]] | blue[src[4*x+2]]
			switch p.bits {
			case 32:
				binary.LittleEndian.PutUint32(line[4*x:], v)
			case 24:
				line[3*x], line[3*x+1], line[3*x+2] = byte(v), byte(v>>8), byte(v>>16)
			case 16:
				binary.LittleEndian.PutUint16(line[2*x:], uint16(v))
			}
		}
	}
	return out
}

// framebuffer paints on /dev/fb0 and keeps the console from writing over it.
type framebuffer struct {
	file    *os.File
	console *os.File // in graphics mode; nil where there is none
	pixels  pixels
	last    *picture
	whole   time.Time // when everything was painted, not only what changed
}

// wholeEvery heals a picture that something else painted over.
const wholeEvery = 30 * time.Second

// openFramebuffer asks the framebuffer for its layout. The console goes into
// graphics mode only after that worked: else it would stay black.
func openFramebuffer(path, console string) (*framebuffer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var variable [160]byte
	var fixed [80]byte
	if err = ioctl(f, fbGetVariable, unsafe.Pointer(&variable)); err == nil {
		err = ioctl(f, fbGetFixed, unsafe.Pointer(&fixed))
	}
	var p pixels
	if err == nil {
		p, err = parsePixels(variable, fixed)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("framebuffer: %w", err)
	}
	fb := &framebuffer{file: f, pixels: p}
	if c, err := os.OpenFile(console, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
		if unix.IoctlSetInt(int(c.Fd()), kdSetMode, kdGraphics) == nil {
			fb.console = c
		} else {
			c.Close()
		}
	}
	return fb, nil
}

func ioctl(f *os.File, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func (f *framebuffer) show(v View) error {
	if f.last != nil && time.Since(f.whole) < wholeEvery {
		if parts, ok := f.last.move(v); ok {
			for _, r := range parts {
				if err := f.write(r.Min.Y, r.Max.Y); err != nil {
					return err
				}
			}
			return nil
		}
	}
	f.last, f.whole = newPicture(v, f.pixels.width, f.pixels.height), time.Now()
	return f.write(0, f.pixels.height)
}

// write brings the lines from y0 to y1 to the screen, in pieces that take little
// memory to pack.
func (f *framebuffer) write(y0, y1 int) error {
	const most = 64
	for ; y0 < y1; y0 += most {
		b := f.pixels.pack(f.last.img, y0, min(y0+most, y1))
		if _, err := f.file.WriteAt(b, int64(f.pixels.start+y0*f.pixels.stride)); err != nil {
			return err
		}
	}
	return nil
}

func (f *framebuffer) close() {
	if f.console != nil {
		unix.IoctlSetInt(int(f.console.Fd()), kdSetMode, kdText)
		f.console.Close()
	}
	f.file.Close()
}
