package papers

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/boombuler/barcode/qr"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// layout is the version of the page. Whoever changes what a page looks like
// raises it: a page of another layout can't be compared to the letter, only its
// signed document can.
const layout = 2

// face is a paper as it is printed.
type face struct {
	Title         string
	Sub           []string
	Sign, Verdict string // told in black and white too
	Lead          string
	Reasons       []string
	Warnings      []string
	Sections      []section
	Proves, Not   []string
	Chain         []fact
	Wide          bool
}

// section is a list of facts or a table.
type section struct {
	Title string
	Facts []fact
	Head  []string
	Rows  [][]cell
	Notes []string
}

type fact struct {
	Name, Value string
	Code        bool
	Who         string // the id of an actor, in place of a value
}

type cell struct {
	Text, Sub string
	Code      bool
	Who       string
	Lines     []string
}

// title says a paper in one line of plain text, where nothing but these marks
// keeps one direction of writing from running into the next.
func title(f face) string {
	for _, s := range f.Sub {
		f.Title += " · \u2068" + s + "\u2069"
	}
	return f.Title
}

func (f *face) add(s ...section) { f.Sections = append(f.Sections, s...) }

// fact adds a line; one without a value is left out.
func (s *section) fact(name, value string) {
	if value != "" {
		s.Facts = append(s.Facts, fact{Name: name, Value: value})
	}
}

func (s *section) code(name, value string) {
	if value != "" {
		s.Facts = append(s.Facts, fact{Name: name, Value: value, Code: true})
	}
}

// history puts the lines of the chain behind a paper.
func (f *face) history(steps []Step, b Basis) {
	s := section{Title: "From the audit log", Head: []string{"Line", "Time (UTC)", "What", "Who", "Result", "SHA-256"}}
	for _, v := range steps {
		what := v.Event
		switch {
		case v.From != "" && v.To != "":
			what = v.From + " → " + v.To
		case v.To != "":
			what = v.To
		}
		s.Rows = append(s.Rows, []cell{
			{Text: count(v.Seq, "")}, {Text: strings.TrimSuffix(clock(v.Time), " UTC")}, {Text: stateText(what), Sub: v.Reason}, {Who: v.Actor}, {Text: v.Result}, {Text: v.Hash, Code: true},
		})
	}
	f.add(s)
	f.basis(b)
}

func (f *face) basis(b Basis) {
	chain := b.Chain
	if chain == "" {
		chain = "the house"
	}
	f.Chain = []fact{{Name: "History of", Value: chain, Code: true}, {Name: "Newest line this rests on", Value: fmt.Sprintf("%d, of %s", b.Seq, clock(b.Time))}, {Name: "Its hash", Value: b.Hash, Code: true}}
}

func nameOf(d wire.DiskID) string {
	return strings.TrimSpace(or(d.Model, "disk of an unknown model") + " " + d.Serial)
}

func (d Device) filler(field string) bool { return slices.Contains(d.Fillers, field) }

// name is the maker's and the model's; makers repeat themselves.
func (d Device) name() string {
	if strings.HasPrefix(strings.ToLower(d.Model), strings.ToLower(d.Manufacturer)) {
		return or(d.Model, "unknown model")
	}
	return or(strings.TrimSpace(d.Manufacturer+" "+d.Model), "unknown model")
}

func (d Device) title() []string { return []string{fmt.Sprintf("PC %d", d.Number), d.name()} }

// serial is the number on the case, unless nobody filled it in.
func (d Device) serial() string {
	for _, v := range []struct{ field, value string }{{"system_serial", d.Serial}, {"chassis_serial", d.Case}, {"board_serial", d.Board}} {
		if v.value != "" && !d.filler(v.field) {
			return v.value
		}
	}
	return ""
}

func (d Device) section() section {
	s := section{Title: "The PC"}
	s.fact("Number here", fmt.Sprint(d.Number))
	named := func(name, field, value string) {
		if value != "" && d.filler(field) {
			value += " (the maker never filled it in)"
		}
		s.code(name, value)
	}
	s.fact("Maker", d.Manufacturer)
	s.fact("Model", strings.TrimSpace(d.Model+" "+d.Version))
	s.fact("Case", d.Chassis)
	named("Serial number", "system_serial", d.Serial)
	named("Serial number of the case", "chassis_serial", d.Case)
	named("Serial number of the board", "board_serial", d.Board)
	named("SMBIOS UUID", "smbios_uuid", d.UUID)
	for _, m := range d.MACs {
		s.code("Network address", m)
	}
	s.code("Record", d.ID)
	if d.Lot != "" {
		s.Facts = append(s.Facts, fact{Name: "Lot", Who: "lot:" + d.Lot})
	}
	return s
}

// beside is what a page says that is not signed. It travels in the page, so that
// the rest of the page can be made again and compared.
type beside struct {
	Printed time.Time         `json:"printed"`
	Names   map[string]string `json:"names"` // of the actors that the papers name
}

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"clock": clock,
}).Parse(pageHTML))

type sheetView struct {
	face
	Kind                   Kind
	SHA256, Key, Signature string
	Hash                   string
	Signed                 string
	QR                     template.HTML
	Code                   string // what the QR says
}

type pageView struct {
	Title   string
	Layout  int
	Printed time.Time
	Beside  string
	Sheets  []sheetView
	names   map[string]string
}

type actor struct {
	ID, Name string
	Ours     bool // a program, and no person
}

// Of tells who an actor is, as far as it is known.
func (v pageView) Of(id string) actor {
	if n := everyone[id]; n != "" {
		return actor{id, n, true}
	}
	return actor{id, v.names[id], false}
}

// everyone are the actors that are no people.
var everyone = map[string]string{
	"appliance": "Refurb, the appliance", "agent": "Refurb's agent on the PC", "system": "the installed system", "setup": "the appliance's first setup",
}

// render prints papers: a function of their files and of what stands beside.
func render(w io.Writer, files [][]byte, b beside) error {
	v := pageView{Layout: layout, Printed: b.Printed, names: map[string]string{}}
	asked := map[string]bool{}
	for _, file := range files {
		p, err := parse(file, nil)
		if err != nil {
			return fmt.Errorf("a paper that was just signed: %w", err)
		}
		s := sheetView{face: p.content.face(), Kind: p.Kind, SHA256: hashOf(file), Hash: p.Hash, Key: p.PublicKey, Signature: p.Signature, Signed: string(file)}
		s.Code = codeOf(p, s.SHA256)
		if s.QR, err = qrSVG(s.Code); err != nil {
			return err
		}
		s.actors(asked)
		v.Sheets = append(v.Sheets, s)
	}
	for id, n := range b.Names {
		// Only those that are asked for: a page is no list of everybody here.
		if asked[id] && everyone[id] == "" {
			v.names[id] = workshop.Text(n)
		}
	}
	b.Names = v.names
	c, err := canonical(b)
	if err != nil {
		return err
	}
	v.Beside = string(c)
	if v.Title = title(v.Sheets[0].face); len(v.Sheets) > 1 {
		v.Title = "Papers · " + v.Title
	}
	return pageTemplate.Execute(w, v)
}

func (s sheetView) actors(asked map[string]bool) {
	for _, sec := range s.Sections {
		for _, f := range sec.Facts {
			asked[f.Who] = true
		}
		for _, r := range sec.Rows {
			for _, c := range r {
				asked[c.Who] = true
			}
		}
	}
}

// codeOf is what a paper's QR says: which device or lot, and the SHA-256. Capital
// letters make a smaller QR.
func codeOf(p *Opened, sum string) string {
	what := "LOT"
	var d *Device
	switch c := p.content.(type) {
	case *NoStoragePaper:
		d = &c.Device
	case *ErasurePaper:
		d = &c.Device
	case *ImagingPaper:
		d = &c.Device
	}
	if d != nil {
		what = fmt.Sprintf("PC %d", d.Number)
	}
	return "REFURB " + what + " SHA256:" + strings.ToUpper(sum)
}

// qrSVG draws a QR with the quiet zone that readers want.
func qrSVG(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.M, qr.AlphaNumeric)
	if err != nil {
		return "", fmt.Errorf("drawing the QR: %w", err)
	}
	const quiet = 4
	size := code.Bounds().Dx()
	var path strings.Builder
	for y := range size {
		for x := 0; x < size; x++ {
			from := x
			for x < size && dark(code.At(x, y)) {
				x++
			}
			if x > from {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x-from, x-from)
			}
		}
	}
	return template.HTML(fmt.Sprintf(`<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="QR" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%[1]dv%[1]dH0z"/><path d="%[3]s"/></svg>`, size+2*quiet, size+2*quiet, path.String())), nil
}

func dark(c interface{ RGBA() (r, g, b, a uint32) }) bool {
	r, _, _, _ := c.RGBA()
	return r < 0x8000
}
