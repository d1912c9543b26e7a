package screen

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"
	"strconv"
	"strings"
	"time"
)

// palette is one state's look: the whole screen in one colour, so that it reads
// from across the room, and text on it at a contrast of at least 5 to 1.
type palette struct{ ground, ink color.RGBA }

var palettes = map[Kind]palette{
	Working: {color.RGBA{0x14, 0x4f, 0x9e, 0xff}, color.RGBA{0xff, 0xff, 0xff, 0xff}},
	Waiting: {color.RGBA{0xf7, 0xb5, 0x19, 0xff}, color.RGBA{0x1d, 0x16, 0x00, 0xff}},
	Done:    {color.RGBA{0x16, 0x6b, 0x34, 0xff}, color.RGBA{0xff, 0xff, 0xff, 0xff}},
	Failed:  {color.RGBA{0xa8, 0x1c, 0x1c, 0xff}, color.RGBA{0xff, 0xff, 0xff, 0xff}},
}

// mix is a with a share of b, 0 to 1.
func mix(a, b color.RGBA, share float64) color.RGBA {
	m := func(x, y uint8) uint8 { return uint8(math.Round(float64(x) + share*(float64(y)-float64(x)))) }
	return color.RGBA{m(a.R, b.R), m(a.G, b.G), m(a.B, b.B), 0xff}
}

// Paint draws a view on a screen of w by h pixels. It is a pure function. Below
// 160 by 120 the result is the bare colour.
//
// From top to bottom: the number, a third of the height, with the state's icon
// beside it; title and detail; the bar with percent, rate and time left; what to
// do next, in a box; small lines at the bottom.
func Paint(v View, w, h int) *image.RGBA { return newPicture(v.tidy(), w, h).img }

// picture is a painted view. It knows where the parts are that move, so that
// progress repaints no more than those.
type picture struct {
	view View
	img  *image.RGBA
	icon image.Rectangle
	bar  image.Rectangle // empty without progress
	size int             // of the bar's figures
}

func newPicture(v View, w, h int) *picture {
	p := palettes[v.Kind]
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	pic := &picture{view: v, img: img}
	draw.Draw(img, img.Bounds(), image.NewUniform(p.ground), image.Point{}, draw.Src)
	if w < 160 || h < 120 {
		return pic
	}
	margin := h / 22
	inner := image.Rect(margin, margin, w-margin, h-margin)

	head := inner
	head.Max.Y = head.Min.Y + min(h/3, w*3/10)
	pic.icon = paintHead(img, head, v, p)

	small := max(h/44, 11)
	foot := footer(v, inner, small)
	below := image.Rect(inner.Min.X, head.Max.Y+margin*3/4, inner.Max.X, inner.Max.Y)
	if n := len(foot); n > 0 {
		below.Max.Y -= n*line(small) + margin/2
	}

	// Texts of any length have to fit: all of them shrink together, and at the
	// smallest size the lines that are too many are cut.
	const smallest = 0.45
	scale := 1.0
	blocks := layout(v, below.Dx(), h, scale)
	for height(blocks) > below.Dy() && scale > smallest {
		scale = max(scale*0.93, smallest)
		blocks = layout(v, below.Dx(), h, scale)
	}
	y := below.Min.Y + max(below.Dy()-height(blocks), 0)/4
	for _, b := range blocks {
		if y+b.height > below.Max.Y {
			break
		}
		r := image.Rect(below.Min.X, y, below.Max.X, y+b.height)
		b.paint(img, r, p)
		if b.figures > 0 {
			pic.bar, pic.size = r, b.figures
		}
		y += b.height + b.gap
	}

	y = inner.Max.Y - len(foot)*line(small)
	for _, s := range foot {
		drawText(img, regular, small, inner.Min.X, y, s, mix(p.ground, p.ink, 0.8))
		y += line(small)
	}
	return pic
}

// move brings the picture to a view that differs in nothing but its progress, and
// tells which parts it repainted; ok is false for any other view. The outcome is
// the same as painting the view anew.
func (pic *picture) move(v View) (parts []image.Rectangle, ok bool) {
	if !pic.view.same(v) {
		return nil, false
	}
	p := palettes[v.Kind]
	clear := func(r image.Rectangle) {
		draw.Draw(pic.img, r, image.NewUniform(p.ground), image.Point{}, draw.Src)
		parts = append(parts, r)
	}
	if !pic.icon.Empty() && v.Kind == Working && turned(v) != turned(pic.view) {
		clear(pic.icon)
		paintIcon(pic.img, pic.icon, v, p)
	}
	if !pic.bar.Empty() {
		// A letter may lean over the block's side; nothing else is in these lines.
		clear(image.Rect(0, pic.bar.Min.Y, pic.img.Bounds().Dx(), pic.bar.Max.Y))
		paintBar(pic.img, pic.bar, v, pic.size, p)
	}
	pic.view = v
	return parts, true
}

// paintHead sets the number and the icon side by side, as one group in the
// middle. The icon is smaller than the digits: a disc or a ring of their height
// makes ten of one. A number of many digits gets smaller, never cut; a PC
// without a number yet shows the icon alone. It returns where the icon is.
func paintHead(img *image.RGBA, r image.Rectangle, v View, p palette) image.Rectangle {
	icon := r.Dy()
	if v.Number <= 0 {
		left := r.Min.X + (r.Dx()-icon)/2
		at := image.Rect(left, r.Min.Y, left+icon, r.Max.Y)
		paintIcon(img, at, v, p)
		return at
	}
	number := strconv.Itoa(v.Number)
	icon = r.Dy() * 5 / 8
	gap := r.Dy() / 3
	room := r.Dx() - icon - gap
	em := fit(number, r.Dy(), room)
	ink := inkOf(number, em)
	left := r.Min.X + (r.Dx()-ink.Dx()-gap-icon)/2
	drawInk(img, number, em, image.Pt(left, r.Min.Y+(r.Dy()-ink.Dy())/2), p.ink)
	at := image.Rect(0, 0, icon, icon).Add(image.Pt(left+ink.Dx()+gap, r.Min.Y+(r.Dy()-icon)/2))
	paintIcon(img, at, v, p)
	return at
}

// block is one piece of the middle part.
type block struct {
	height, gap int
	figures     int // the size of the figures, in the bar's block
	paint       func(*image.RGBA, image.Rectangle, palette)
}

func height(blocks []block) int {
	sum := 0
	for i, b := range blocks {
		sum += b.height
		if i < len(blocks)-1 {
			sum += b.gap
		}
	}
	return sum
}

// layout cuts the texts into lines for a width and a scale of the sizes.
func layout(v View, width, h int, scale float64) []block {
	unit := float64(min(h, width*3/4)) * scale // an upright screen is short of width
	size := func(part float64) int { return max(int(unit*part), 11) }
	var blocks []block
	text := func(f face, s string, em, lines, gap int, shade float64) {
		for i, l := range wrap(f, em, s, width, lines) {
			b := block{height: line(em), paint: func(img *image.RGBA, r image.Rectangle, p palette) {
				drawText(img, f, em, r.Min.X+(r.Dx()-measure(f, em, l))/2, r.Min.Y, l, mix(p.ground, p.ink, shade))
			}}
			if i == 0 && len(blocks) > 0 {
				blocks[len(blocks)-1].gap = gap
			}
			blocks = append(blocks, b)
		}
	}
	text(bold, v.Title, size(1./13), 2, 0, 1)
	text(regular, v.Detail, size(1./24), 3, size(1./80), 0.92)
	if v.Percent >= 0 {
		if len(blocks) > 0 {
			blocks[len(blocks)-1].gap = size(1. / 34)
		}
		blocks = append(blocks, bar(v, size(1./15), size(1./20)))
	}
	if v.Next != "" {
		if len(blocks) > 0 {
			blocks[len(blocks)-1].gap = size(1. / 28)
		}
		blocks = append(blocks, next(v.Next, width, size(1./20)))
	}
	return blocks
}

// bar is the progress bar with a line of figures below it.
func bar(v View, thick, em int) block {
	return block{height: thick + em/3 + line(em), figures: em, paint: func(img *image.RGBA, r image.Rectangle, p palette) {
		paintBar(img, r, v, em, p)
	}}
}

func paintBar(img *image.RGBA, r image.Rectangle, v View, em int, p palette) {
	track := r
	track.Max.Y -= em/3 + line(em)
	whole := pill(track)
	end := float64(track.Min.X) + math.Round(v.Percent/100*float64(track.Dx()))
	fill(img, track, mix(p.ground, p.ink, 0.25), whole)
	fill(img, track, p.ink, func(x, y float64) float64 { return max(whole(x, y), x-end) }) // a round beginning, a straight end

	percent, speed := fmt.Sprintf("%.0f %%", math.Floor(v.Percent)), figures(v)
	for em > 8 && measure(bold, em, percent+"  ")+measure(regular, em, speed) > r.Dx() {
		em--
	}
	y := r.Max.Y - line(em)
	drawText(img, bold, em, r.Min.X, y, percent, p.ink)
	drawText(img, regular, em, r.Max.X-measure(regular, em, speed), y, speed, p.ink)
}

// figures words the speed and the time left.
func figures(v View) string {
	var s []string
	if v.Rate > 0 {
		s = append(s, fmt.Sprintf("%s/s", bytesText(v.Rate)))
	}
	if v.ETA > 0 {
		s = append(s, leftText(v.ETA))
	}
	return strings.Join(s, "   ")
}

// bytesText is a size in decimal units, as disks are sold.
func bytesText(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1000, u
	}
	if f < 10 && unit != "B" {
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

// leftText words a time left no finer than it can be known.
func leftText(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return "a few seconds left"
	case d < time.Minute:
		return fmt.Sprintf("%d s left", int(d.Seconds())/10*10)
	case d < time.Hour:
		return fmt.Sprintf("%d min left", int(math.Ceil(d.Minutes())))
	case d < 100*time.Hour:
		return fmt.Sprintf("%d h %02d min left", int(d.Hours()), int(d.Minutes())%60)
	}
	return ""
}

// next is what a person does now, set off in a box of the text's colour.
func next(s string, width, em int) block {
	pad := em * 2 / 3
	const arrow = "→ "
	indent := measure(bold, em, arrow)
	lines := wrap(bold, em, s, width-2*pad-indent, 3)
	return block{height: len(lines)*line(em) + 2*pad, paint: func(img *image.RGBA, r image.Rectangle, p palette) {
		longest := 0
		for _, l := range lines {
			longest = max(longest, measure(bold, em, l))
		}
		box := r
		spare := r.Dx() - longest - indent - 2*pad
		box.Min.X += spare / 2
		box.Max.X -= spare - spare/2
		fill(img, box, p.ink, rounded(box, float64(em)/2))
		x, y := box.Min.X+pad, box.Min.Y+pad
		drawText(img, bold, em, x, y, arrow, p.ground)
		for _, l := range lines {
			drawText(img, bold, em, x+indent, y, l, p.ground)
			y += line(em)
		}
	}}
}

// footer is at most three small lines, each cut to the width.
func footer(v View, r image.Rectangle, em int) []string {
	var list []string
	for _, s := range v.Lines {
		if l := wrap(regular, em, s, r.Dx(), 1); len(l) > 0 && len(list) < 3 {
			list = append(list, l[0])
		}
	}
	return list
}
