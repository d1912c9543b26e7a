package screen

import (
	"image"
	"image/color"
	"sort"
	"strings"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// face is one of the two fonts, by its weight. Both hold Latin, Greek and
// Cyrillic; another script shows as boxes.
type face int

const (
	regular face = iota
	bold
)

// faces keeps a font in the sizes that were used. A screen has one size, so the
// map stays small; glyphs are drawn one at a time, as the library's faces must be.
var faces = struct {
	sync.Mutex
	parsed map[face]*opentype.Font
	sized  map[faceSize]font.Face
	widths map[glyph]int // in 1/64 of a pixel
}{parsed: map[face]*opentype.Font{}, sized: map[faceSize]font.Face{}, widths: map[glyph]int{}}

type faceSize struct {
	face
	em int
}

type glyph struct {
	face
	rune
}

const (
	maxSized  = 256
	maxWidths = 4096
)

// sized gives a font at em pixels. The caller holds faces.
func sized(f face, em int) font.Face {
	key := faceSize{f, em}
	if s := faces.sized[key]; s != nil {
		return s
	}
	p := faces.parsed[f]
	if p == nil {
		data := goregular.TTF
		if f == bold {
			data = gobold.TTF
		}
		var err error
		if p, err = opentype.Parse(data); err != nil {
			panic("the font in the program is broken: " + err.Error())
		}
		faces.parsed[f] = p
	}
	s, err := opentype.NewFace(p, &opentype.FaceOptions{Size: float64(em), DPI: 72})
	if err != nil {
		panic("the font in the program is broken: " + err.Error())
	}
	if len(faces.sized) >= maxSized {
		clear(faces.sized)
	}
	faces.sized[key] = s
	return s
}

// line is the distance between two lines of text.
func line(em int) int { return em * 5 / 4 }

// measure is a text's width in pixels, or slightly more: the library rounds each
// letter to 1/64 of a pixel. Fitting a text asks this thousands of times, so it
// adds up widths that are kept: neither font has kerning, and unhinted widths
// grow with the size.
func measure(f face, em int, s string) int {
	const unit = 1024
	faces.Lock()
	defer faces.Unlock()
	sum, letters := 0, 0
	for _, r := range s {
		letters++
		key := glyph{f, r}
		w, ok := faces.widths[key]
		if !ok {
			if len(faces.widths) >= maxWidths {
				clear(faces.widths)
			}
			a, _ := sized(f, unit).GlyphAdvance(r)
			w = int(a)
			faces.widths[key] = w
		}
		sum += w
	}
	if sum == 0 {
		return 0
	}
	return (sum*em/unit+letters)/64 + 1
}

// drawText sets a line of text whose box begins at x, y.
func drawText(img *image.RGBA, f face, em, x, y int, s string, c color.Color) {
	faces.Lock()
	defer faces.Unlock()
	d := font.Drawer{Dst: img, Src: image.NewUniform(c), Face: sized(f, em), Dot: fixed.P(x, y+em)}
	d.DrawString(s)
}

// inkOf is the box of the pixels that a text in bold colours, its dot at 0, 0.
func inkOf(s string, em int) image.Rectangle {
	faces.Lock()
	defer faces.Unlock()
	b, _ := font.BoundString(sized(bold, em), s)
	return image.Rect(b.Min.X.Floor(), b.Min.Y.Floor(), b.Max.X.Ceil(), b.Max.Y.Ceil())
}

// drawInk sets a text in bold so that its ink begins at p.
func drawInk(img *image.RGBA, s string, em int, p image.Point, c color.Color) {
	at := p.Sub(inkOf(s, em).Min)
	drawText(img, bold, em, at.X, at.Y-em, s, c)
}

// fit is the em at which digits are as tall as height and s is no wider than
// width.
func fit(s string, height, width int) int {
	const probe = 1000
	digits, text := inkOf("0", probe), inkOf(s, probe)
	em := probe * height / digits.Dy()
	if wide := text.Dx() * em / probe; wide > width {
		em = em * width / wide
	}
	return max(em, 8)
}

// wrap cuts a text into at most lines lines no wider than width, between words
// where it can, and about equally long; what is too much ends in "…".
func wrap(f face, em int, s string, width, lines int) []string {
	list := greedy(f, em, s, width, lines)
	if len(list) < 2 || strings.HasSuffix(list[len(list)-1], "…") {
		return list
	}
	// The narrowest width that needs no more lines and breaks no more words.
	low, high := width/2, width
	for _, w := range strings.Fields(s) {
		low = max(low, measure(f, em, w)-1)
	}
	for low+1 < high {
		mid := (low + high) / 2
		if even := greedy(f, em, s, mid, lines+1); len(even) <= len(list) {
			list, high = even, mid
		} else {
			low = mid
		}
	}
	return list
}

// greedy fills each line before it begins the next.
func greedy(f face, em int, s string, width, lines int) []string {
	var list []string
	rest := strings.Fields(s)
	for len(rest) > 0 {
		if len(list) == lines {
			list[lines-1] = cut(f, em, list[lines-1]+" "+strings.Join(rest, " "), width)
			break
		}
		l := rest[0]
		rest = rest[1:]
		if measure(f, em, l) > width { // one word, wider than the screen
			head := breakWord(f, em, l, width)
			list = append(list, head)
			rest = append([]string{l[len(head):]}, rest...)
			continue
		}
		for len(rest) > 0 && measure(f, em, l+" "+rest[0]) <= width {
			l += " " + rest[0]
			rest = rest[1:]
		}
		list = append(list, l)
	}
	return list
}

// breakWord is the longest beginning of a word that fits, at least one letter.
func breakWord(f face, em int, word string, width int) string {
	r := []rune(word)
	return string(r[:max(fitting(f, em, r, width), 1)])
}

// cut shortens a text to the width and says so by "…".
func cut(f face, em int, s string, width int) string {
	if measure(f, em, s) <= width {
		return s
	}
	r := []rune(s)
	n := fitting(f, em, r, width-measure(f, em, "…"))
	return strings.TrimRight(string(r[:n]), " ") + "…"
}

// fitting is how many letters fit a width.
func fitting(f face, em int, r []rune, width int) int {
	return sort.Search(len(r), func(i int) bool { return measure(f, em, string(r[:i+1])) > width })
}
