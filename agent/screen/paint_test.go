package screen

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/image/font"
)

var samples = []View{
	{Number: 12, Kind: Working, Title: "Writing Debian 13", Detail: "Samsung SSD 870 EVO 500GB, serial ending in K4012R",
		Percent: 42, Rate: 112e6, ETA: 130 * time.Second, Lines: []string{"Dell Inc. OptiPlex 7050 · serial 8XK2LM2", "10.77.0.23 · 54:e1:ad:00:0a:01 · refurb 1.0"}},
	{Number: 7, Kind: Waiting, Title: "There is data on this disk", Detail: "TOSHIBA MQ01ABD100 · 1 TB · NTFS was found. Nothing has been changed.",
		Next: "Ask a lead to look at PC 7 on the dashboard.", Percent: -1, Lines: []string{"LENOVO 20HES2RC00 · PF0XXXXX", "10.77.0.24 · 54:e1:ad:00:0a:02 · refurb 1.0"}},
	{Number: 128, Kind: Done, Title: "Ready", Detail: "Debian 13 is written and every byte was read back.",
		Next: "Take the network cable out and switch the PC on again.", Percent: -1, Lines: []string{"HP EliteDesk 800 G3 · CZC7XXXXXX", "10.77.0.25 · 54:e1:ad:00:0a:03 · refurb 1.0"}},
	{Number: 34, Kind: Failed, Title: "The disk could not be written", Detail: "/dev/sda stopped answering at 63 %: input/output error after 3 attempts. The disk will not start.",
		Next: "Put another disk into this PC and start it again from the network. Keep the broken disk apart and label it.", Percent: -1,
		Lines: []string{"Acer Veriton X4640G · DTVMWEG", "10.77.0.26 · 54:e1:ad:00:0a:04 · refurb 1.0"}},
}

// odd views: nothing known yet, everything too long, hostile texts.
var odd = []View{
	{},
	{Percent: -1, Title: "Looking at this PC"},
	{Number: math.MaxInt, Kind: 77, Percent: math.NaN(), Title: "\x1b[2J\x00\xff\u202e", Next: strings.Repeat("W", 5000), Rate: -5, ETA: -time.Hour},
	{Number: 1234, Kind: Failed, Percent: 300, Title: strings.Repeat("Überlänge ", 40), Detail: strings.Repeat("слово ", 200),
		Next: strings.Repeat("do this then that ", 60), Rate: math.MaxInt64, ETA: math.MaxInt64, Lines: []string{strings.Repeat("x", 900), "2", "3", "4", "5"}},
	{Number: 88888, Kind: Working, Percent: 99.99, Title: "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft", Rate: 1, ETA: time.Second},
	{Number: 3, Kind: Waiting, Percent: 0, Next: "Go"},
}

var sizes = []image.Point{{1024, 768}, {800, 600}, {960, 400}, {400, 600}, {320, 200}}

// inkBox is the box of all pixels in r that are not the ground's colour.
func inkBox(img *image.RGBA, r image.Rectangle, ground color.RGBA) image.Rectangle {
	var box image.Rectangle
	empty := bytes.Repeat([]byte{ground.R, ground.G, ground.B, ground.A}, r.Dx())
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := img.Pix[img.PixOffset(r.Min.X, y):][:len(empty)]
		if bytes.Equal(row, empty) {
			continue
		}
		from, to := 0, r.Dx()
		for bytes.Equal(row[4*from:4*from+4], empty[:4]) {
			from++
		}
		for bytes.Equal(row[4*to-4:4*to], empty[:4]) {
			to--
		}
		box = box.Union(image.Rect(r.Min.X+from, y, r.Min.X+to, y+1))
	}
	return box
}

// Nothing touches the screen's edge, where text would be cut off, and the middle
// never runs into the footer.
func TestNothingIsCut(t *testing.T) {
	for _, size := range sizes {
		for i, v := range append(append([]View{}, samples...), odd...) {
			img := Paint(v, size.X, size.Y)
			v = v.tidy()
			b, ground := img.Bounds(), palettes[v.Kind].ground
			margin, small := b.Dy()/22, max(b.Dy()/44, 11)
			if box := inkBox(img, b, ground); box.Empty() || !box.In(b.Inset(margin/2)) {
				t.Errorf("%v/%d: ink in %v of %v", size, i, box, b)
			}
			foot := footer(v, b.Inset(margin), small)
			top := b.Max.Y - margin - len(foot)*line(small)
			if box := inkBox(img, image.Rect(0, top-margin/3, b.Max.X, top), ground); len(foot) > 0 && !box.Empty() {
				t.Errorf("%v/%d: ink at %v, right above the footer", size, i, box)
			}
		}
	}
}

// The number is huge: a quarter of the height at least, up to three digits.
func TestNumberIsHuge(t *testing.T) {
	for _, s := range sizes {
		if s.X < s.Y {
			continue
		}
		for _, n := range []int{1, 12, 40, 128} {
			v := View{Number: n, Percent: -1}
			with := Paint(v, s.X, s.Y)
			// What is left of the icon is the number.
			box := inkBox(with, with.Bounds(), palettes[Working].ground)
			box = inkBox(with, image.Rect(box.Min.X, box.Min.Y, box.Max.X-s.Y/3-s.Y/24, box.Max.Y), palettes[Working].ground)
			if box.Dy()*4 < s.Y {
				t.Errorf("%d on %v is only %d high", n, s, box.Dy())
			}
		}
	}
}

// Each state has a colour and an icon of its own, and text that can be read on it.
func TestStatesDiffer(t *testing.T) {
	const w, h = 640, 480
	corners := map[color.RGBA]Kind{}
	icons := map[string]Kind{}
	for k := Working; k <= Failed; k++ {
		img := Paint(View{Kind: k, Percent: -1}, w, h)
		c := img.RGBAAt(2, 2)
		if other, ok := corners[c]; ok {
			t.Errorf("%v and %v have one colour", k, other)
		}
		corners[c] = k
		if r := contrast(palettes[k].ground, palettes[k].ink); r < 5 {
			t.Errorf("%v: contrast %.1f", k, r)
		}
		var form strings.Builder
		for y := 0; y < h/2; y += 4 {
			for x := 0; x < w; x += 4 {
				form.WriteByte(map[bool]byte{true: '#', false: ' '}[img.RGBAAt(x, y) == palettes[k].ink])
			}
		}
		if other, ok := icons[form.String()]; ok {
			t.Errorf("%v and %v have one icon", k, other)
		}
		icons[form.String()] = k
	}
}

// contrast by WCAG 2.2.
func contrast(a, b color.RGBA) float64 {
	light := func(c color.RGBA) float64 {
		f := func(v uint8) float64 {
			s := float64(v) / 255
			if s <= 0.04045 {
				return s / 12.92
			}
			return math.Pow((s+0.055)/1.055, 2.4)
		}
		return 0.2126*f(c.R) + 0.7152*f(c.G) + 0.0722*f(c.B)
	}
	x, y := light(a), light(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// The bar's filled part is as long as the percent says.
func TestBar(t *testing.T) {
	const w, h = 500, 375
	p := palettes[Working]
	track := mix(p.ground, p.ink, 0.25)
	for _, percent := range []float64{0, 1, 10, 42, 50, 99, 100} {
		img := Paint(View{Number: 1, Percent: percent}, w, h)
		best, whole := 0, 0
		for y := h / 2; y < h; y++ {
			ink, all := 0, 0
			for x := range w {
				switch img.RGBAAt(x, y) {
				case p.ink:
					ink++
					all++
				case track:
					all++
				}
			}
			if all > whole {
				best, whole = ink, all
			}
		}
		if got := 100 * float64(best) / float64(whole); math.Abs(got-percent) > 1 || whole < w*8/10 {
			t.Errorf("%v %%: the bar shows %.1f %% over %d pixels", percent, got, whole)
		}
	}
	none := Paint(View{Number: 1, Percent: -1}, w, h)
	if box := inkBox(none, image.Rect(0, h/2, w, h), p.ground); !box.Empty() {
		t.Errorf("a bar without progress: %v", box)
	}
}

// Each piece of the middle stays inside its own stretch.
func TestNoOverlap(t *testing.T) {
	for _, v := range append(append([]View{}, samples...), odd...) {
		for _, scale := range []float64{1, 0.7, 0.45} {
			for i, bl := range layout(v.tidy(), 900, 768, scale) {
				img := image.NewRGBA(image.Rect(0, 0, 900, bl.height+200))
				bl.paint(img, image.Rect(0, 100, 900, 100+bl.height), palettes[Working])
				if box := inkBox(img, img.Bounds(), color.RGBA{}); !box.In(image.Rect(0, 100, 900, 100+bl.height)) {
					t.Errorf("block %d at %v paints %v, has %v", i, scale, box, image.Rect(0, 100, 900, 100+bl.height))
				}
			}
		}
	}
}

// The widths that are added up are those that the library draws.
func TestMeasure(t *testing.T) {
	for _, f := range []face{regular, bold} {
		for _, em := range []int{11, 24, 59, 300} {
			for _, s := range []string{"", "W", "AVAToy. 12,7 → Слово", samples[3].Next} {
				faces.Lock()
				want := font.MeasureString(sized(f, em), s).Ceil()
				faces.Unlock()
				if got := measure(f, em, s); got < want || got > want+2+len(s)/32 {
					t.Errorf("%q at %d: %d, the library says %d", s, em, got, want)
				}
			}
		}
	}
}

func TestWrap(t *testing.T) {
	for _, s := range []string{"", "one", "a b c d e f g h i j", strings.Repeat("wide ", 50), strings.Repeat("W", 300), "ok " + strings.Repeat("Ж", 300) + " ok"} {
		for _, lines := range []int{1, 2, 5, 1000} {
			got := wrap(regular, 20, s, 200, lines)
			if len(got) > lines {
				t.Errorf("%q: %d lines of %d", s, len(got), lines)
			}
			for _, l := range got {
				if measure(regular, 20, l) > 200 {
					t.Errorf("%q is too wide", l)
				}
			}
			if lines == 1000 && strings.Join(strings.Fields(strings.Join(got, "")), "") != strings.Join(strings.Fields(s), "") {
				t.Errorf("%q came out as %q", s, got)
			}
			if lines == 1 && len(s) > 100 && !strings.HasSuffix(got[0], "…") {
				t.Errorf("%q was cut without a word", got)
			}
		}
	}
}

func TestFigures(t *testing.T) {
	for want, v := range map[string]View{
		"":                             {},
		"112 MB/s   3 min left":        {Rate: 112e6, ETA: 130 * time.Second},
		"1.2 MB/s":                     {Rate: 1250000},
		"999 B/s   a few seconds left": {Rate: 999, ETA: time.Second},
		"2.5 GB/s   50 s left":         {Rate: 2.5e9, ETA: 59 * time.Second},
		"5 h 07 min left":              {ETA: 5*time.Hour + 7*time.Minute},
	} {
		if got := figures(v); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// shown is what the agent says, word for word.
var shown = []View{
	{Number: 12, Kind: Working, Title: "Writing", Detail: "debian-desktop", Percent: 42, Rate: 112e6, ETA: 130 * time.Second},
	{Number: 7, Kind: Waiting, Title: "Waiting", Detail: "This disk holds something", Next: "Approve it on the device page", Percent: -1},
	{Number: 128, Kind: Done, Title: "Finished", Detail: "restarting", Percent: 100},
	{Number: 34, Kind: Failed, Title: "Failed", Detail: "No disk was found in this PC", Next: "Put a disk in, or check its cable, and ask for imaging again", Percent: -1},
}

// With SCREEN_SHEET set to a file, these are put together there for a look: this
// is how docs/images/pc-screen.png is made.
func TestSheet(t *testing.T) {
	const w, h, gap = 640, 480, 8
	sheet := image.NewRGBA(image.Rect(0, 0, 2*w+3*gap, 2*h+3*gap))
	draw.Draw(sheet, sheet.Bounds(), image.White, image.Point{}, draw.Src)
	for i, v := range shown {
		at := image.Pt(gap+i%2*(w+gap), gap+i/2*(h+gap))
		draw.Draw(sheet, image.Rectangle{at, at.Add(image.Pt(w, h))}, Paint(v, w, h), image.Point{}, draw.Src)
	}
	file := os.Getenv("SCREEN_SHEET")
	if file == "" {
		file = filepath.Join(t.TempDir(), "sheet.png")
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(f, sheet); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Size() > 200_000 {
		t.Errorf("the sheet has %d bytes, %v", st.Size(), err)
	}
}

func BenchmarkPaint(b *testing.B) {
	for b.Loop() {
		Paint(samples[0], 1920, 1080)
	}
}

func BenchmarkMove(b *testing.B) {
	v := samples[0].tidy()
	pic := newPicture(v, 1920, 1080)
	for b.Loop() {
		v.Percent = math.Mod(v.Percent+0.7, 100)
		pic.move(v)
	}
}

// A shape never claims to be further away than it is: filling by leaps and pixel
// by pixel give the same picture.
func TestFillLeaps(t *testing.T) {
	r := image.Rect(0, 0, 80, 60)
	shapes := map[string]shape{
		"disc": disc(40, 30, 20), "octagon": octagon(40, 30, 20), "pill": pill(image.Rect(5, 20, 75, 35)),
		"rounded": rounded(image.Rect(10, 10, 50, 45), 6), "stroke": stroke(10, 50, 65, 15, 7), "ring": ring(40, 30, 20, 9),
		"union": union(disc(15, 15, 10), disc(60, 40, 15)),
	}
	for i := range 21 {
		shapes[fmt.Sprintf("arc %d", i)] = arc(40, 30, 20, 10, float64(i)/20)
	}
	for name, s := range shapes {
		leaps, steps := image.NewRGBA(r), image.NewRGBA(r)
		fill(leaps, r, color.RGBA{255, 255, 255, 255}, s)
		for y := range r.Dy() {
			for x := range r.Dx() {
				fill(steps, image.Rect(x, y, x+1, y+1), color.RGBA{255, 255, 255, 255}, s)
			}
		}
		if !bytes.Equal(leaps.Pix, steps.Pix) {
			t.Errorf("%s: leaps miss something", name)
		}
		if inkBox(leaps, r, color.RGBA{}).Empty() && name != "arc 0" {
			t.Errorf("%s: nothing was filled", name)
		}
	}
}

func FuzzPaint(f *testing.F) {
	f.Add("title", "detail", "next", 50.0, 12, 1, 640, 480)
	f.Fuzz(func(t *testing.T, title, detail, next string, percent float64, number, kind, w, h int) {
		w, h = w&1023, h&1023
		v := View{Number: number, Kind: Kind(kind), Title: title, Detail: detail, Next: next, Percent: percent, Lines: []string{title, next}}
		if img := Paint(v, w, h); img.Bounds() != image.Rect(0, 0, w, h) {
			t.Errorf("painted %v", img.Bounds())
		}
		Text(v, w%200, h%100)
		if s := sentence(v.tidy()); strings.ContainsAny(s, "\n\r\x1b") {
			t.Errorf("%q", s)
		}
	})
}
