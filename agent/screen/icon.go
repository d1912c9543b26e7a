package screen

import (
	"image"
	"image/color"
	"math"
)

// shape is a signed distance in pixels: negative inside, positive outside, and
// never further than the shape's edge really is. The edge comes out smooth because
// a pixel takes the share that lies inside.
type shape func(x, y float64) float64

// fill colours what lies inside a shape, within r. A distance says how many
// pixels of the row need no look, which makes most of them cheap.
func fill(img *image.RGBA, r image.Rectangle, c color.RGBA, s shape) {
	r = r.Intersect(img.Bounds())
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; {
			d := s(float64(x)+0.5, float64(y)+0.5)
			run := x + 1 + int(max(math.Abs(d)-0.5, 0))
			if run > r.Max.X {
				run = r.Max.X
			}
			switch {
			case d >= 0.5:
			case d > -0.5:
				img.SetRGBA(x, y, mix(img.RGBAAt(x, y), c, 0.5-d))
			default:
				row := img.Pix[img.PixOffset(x, y) : img.PixOffset(run-1, y)+4]
				for i := 0; i < len(row); i += 4 {
					row[i], row[i+1], row[i+2], row[i+3] = c.R, c.G, c.B, c.A
				}
			}
			x = run
		}
	}
}

// rounded is a rectangle with round corners.
func rounded(r image.Rectangle, radius float64) shape {
	cx, cy := float64(r.Min.X+r.Max.X)/2, float64(r.Min.Y+r.Max.Y)/2
	hx, hy := float64(r.Dx())/2-radius, float64(r.Dy())/2-radius
	return func(x, y float64) float64 {
		dx, dy := math.Abs(x-cx)-hx, math.Abs(y-cy)-hy
		return math.Hypot(max(dx, 0), max(dy, 0)) + min(max(dx, dy), 0) - radius
	}
}

// pill is a rectangle with half circles for ends.
func pill(r image.Rectangle) shape { return rounded(r, float64(r.Dy())/2) }

// stroke is a line of a width with round ends.
func stroke(x0, y0, x1, y1, width float64) shape {
	dx, dy := x1-x0, y1-y0
	long := dx*dx + dy*dy
	return func(x, y float64) float64 {
		t := 0.0
		if long > 0 {
			t = min(max(((x-x0)*dx+(y-y0)*dy)/long, 0), 1)
		}
		return math.Hypot(x-x0-t*dx, y-y0-t*dy) - width/2
	}
}

func disc(cx, cy, radius float64) shape {
	return func(x, y float64) float64 { return math.Hypot(x-cx, y-cy) - radius }
}

// octagon has eight sides, each radius away from the middle: a stop sign.
func octagon(cx, cy, radius float64) shape {
	return func(x, y float64) float64 {
		x, y = math.Abs(x-cx), math.Abs(y-cy)
		return max(max(x, y), (x+y)*math.Sqrt2/2) - radius
	}
}

func union(shapes ...shape) shape {
	return func(x, y float64) float64 {
		d := math.Inf(1)
		for _, s := range shapes {
			d = min(d, s(x, y))
		}
		return d
	}
}

// ring is a circle's line.
func ring(cx, cy, radius, width float64) shape {
	return func(x, y float64) float64 { return math.Abs(math.Hypot(x-cx, y-cy)-radius) - width/2 }
}

// arc is the part of a ring that a share of a full turn covers, clockwise from
// the top.
func arc(cx, cy, radius, width, share float64) shape {
	whole := ring(cx, cy, radius, width)
	if share >= 1 {
		return whole
	}
	inner := radius - width/2
	return func(x, y float64) float64 {
		d := whole(x, y)
		if d >= 1 {
			return d
		}
		turn := math.Atan2(x-cx, cy-y) / (2 * math.Pi)
		if turn < 0 {
			turn++
		}
		// How far to the nearer end, along the ring's inner edge. A straight way is
		// shorter by up to 2/π; outside, the next pixel has to be looked at anyway.
		if turn > share {
			return max(d, min(min(turn-share, 1-turn)*2*math.Pi*inner, 1))
		}
		return max(d, -min(turn, share-turn)*4*inner)
	}
}

// paintIcon draws the state's sign: a ring that fills, a raised hand, a check
// mark, a cross on a stop sign. Each differs in form, not only in colour.
func paintIcon(img *image.RGBA, r image.Rectangle, v View, p palette) {
	c := float64(r.Min.X+r.Max.X) / 2
	d := float64(r.Min.Y+r.Max.Y) / 2
	u := float64(r.Dx()) / 2 // one unit: the icon's half width
	at := func(x0, y0, x1, y1, width float64) shape {
		return stroke(c+x0*u, d+y0*u, c+x1*u, d+y1*u, width*u)
	}
	switch {
	case v.Kind == Failed:
		fill(img, r, p.ink, octagon(c, d, u))
	case v.Kind == Working && v.Percent >= 0:
		fill(img, r, mix(p.ground, p.ink, 0.25), ring(c, d, 0.8*u, 0.4*u))
		if share := turned(v); share > 0 {
			fill(img, r, p.ink, arc(c, d, 0.8*u, 0.4*u, share))
		}
		return
	default:
		fill(img, r, p.ink, disc(c, d, u))
	}
	switch v.Kind {
	case Waiting:
		fill(img, r, p.ground, union(
			at(-0.32, 0.32, -0.32, -0.34, 0.17), // four fingers
			at(-0.11, 0.32, -0.11, -0.56, 0.17),
			at(0.10, 0.32, 0.10, -0.52, 0.17),
			at(0.31, 0.32, 0.31, -0.32, 0.17),
			rounded(image.Rect(int(c-0.405*u), int(d), int(c+0.395*u), int(d+0.62*u)), 0.28*u), // the palm
			at(-0.24, 0.36, -0.60, 0.02, 0.18),                                                 // the thumb
		))
	case Done:
		fill(img, r, p.ground, union(at(-0.46, 0.06, -0.13, 0.40, 0.22), at(-0.13, 0.40, 0.48, -0.34, 0.22)))
	case Failed:
		fill(img, r, p.ground, union(at(-0.38, -0.38, 0.38, 0.38, 0.24), at(0.38, -0.38, -0.38, 0.38, 0.24)))
	default:
		fill(img, r, p.ground, union(disc(c-0.45*u, d, 0.15*u), disc(c, d, 0.15*u), disc(c+0.45*u, d, 0.15*u)))
	}
}

// turned is the share of the ring that is full, in twentieths: the bar shows the
// rest, and painting the ring is dear.
func turned(v View) float64 { return math.Floor(v.Percent/5) / 20 }
