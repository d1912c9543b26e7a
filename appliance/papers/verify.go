package papers

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"strings"
	"time"

	"github.com/gowebpki/jcs"
)

// MaxFile bounds a paper's file and what Verify reads, in bytes.
const MaxFile = 64 << 20

// Opened is a paper whose signature holds.
type Opened struct {
	Signed
	SHA256  string // of the file
	content content
}

// Page is what became of comparing a page with what was signed.
type Page string

const (
	NoPage    Page = ""        // the file was JSON
	SamePage  Page = "same"    // to the letter, but for names and the day it was printed
	OtherPage Page = "unknown" // it was made by another version of the program: only the signed documents in it are proved
)

// Report is what Verify found in a good file.
type Report struct {
	Papers  []Opened // in their order on the page
	Page    Page
	Printed time.Time         // of a page; not signed
	Names   map[string]string // on a page, by id; not signed
	Key     ed25519.PublicKey // that signed all of it
	Trusted bool              // it is the key that the caller gave
}

// Title is what a paper is, in one line.
func (o Opened) Title() string { return title(o.content.face()) }

// Verdict is what it says at its head.
func (o Opened) Verdict() string { return o.content.face().Verdict }

// Time of the newest line of the audit log that it rests on.
func (o Opened) Time() time.Time {
	switch c := o.content.(type) {
	case *NoStoragePaper:
		return c.Basis.Time
	case *ErasurePaper:
		return c.Basis.Time
	case *ImagingPaper:
		return c.Basis.Time
	case *DonorPaper:
		return c.Until
	}
	return time.Time{}
}

const (
	htmlStart   = "<!doctype html>"
	generator   = `<meta name="generator" content="refurb-paper `
	jsonStart   = `{"content":{`
	signedStart = `<pre class="refurb-paper">`
	besideStart = `<pre class="refurb-beside">`
	preEnd      = "</pre>"
)

// Is reports whether a file is meant to be a paper, and not an audit log.
func Is(file []byte) bool {
	file = bytes.TrimLeft(file, " \t\r\n")
	head := file[:min(len(file), 1024)]
	return bytes.HasPrefix(file, []byte(jsonStart)) || bytes.HasPrefix(head, []byte(htmlStart)) && bytes.Contains(head, []byte(generator))
}

// Verify checks a paper's JSON, or a page of papers. With pub they must be signed
// by that key; without, by the one they name themselves, which shows damage and
// amateurs but not a forger with a key of his own.
//
// Of a page, all that can be seen must be what this program prints for the signed
// documents in it, but for names and the day of printing.
func Verify(r io.Reader, pub ed25519.PublicKey) (Report, error) {
	b, err := io.ReadAll(io.LimitReader(r, 4*MaxFile+1))
	if err != nil {
		return Report{}, fmt.Errorf("reading the paper: %w", err)
	}
	if len(b) > 4*MaxFile {
		return Report{}, errors.New("the file is too large for a paper")
	}
	if !bytes.HasPrefix(b, []byte(htmlStart)) {
		o, err := parse(bytes.TrimRight(b, "\r\n"), pub)
		if err != nil {
			return Report{}, err
		}
		return report([]Opened{*o}, pub), nil
	}
	return verifyPage(b, pub)
}

func report(papers []Opened, pub ed25519.PublicKey) Report {
	key, _ := base64.StdEncoding.DecodeString(papers[0].PublicKey) // parse has read it
	return Report{Papers: papers, Key: key, Trusted: pub != nil}
}

func verifyPage(b []byte, pub ed25519.PublicKey) (Report, error) {
	text := string(b)
	var papers []Opened
	var files [][]byte
	for i, raw := range cut(text, signedStart) {
		o, err := parse([]byte(raw), pub)
		if err != nil {
			return Report{}, fmt.Errorf("paper %d on this page: %w", i+1, err)
		}
		if o.PublicKey != or(first(papers).PublicKey, o.PublicKey) {
			return Report{}, fmt.Errorf("paper %d on this page: it was signed by another key than the first", i+1)
		}
		papers, files = append(papers, *o), append(files, []byte(raw))
	}
	if len(papers) == 0 {
		return Report{}, errors.New("this page carries no signed document: it proves nothing")
	}
	rep := report(papers, pub)
	rep.Page = OtherPage
	if !strings.Contains(text[:min(len(text), 1024)], fmt.Sprintf("%s%d\"", generator, layout)) {
		return rep, nil
	}
	notes := cut(text, besideStart)
	var side beside
	if len(notes) != 1 || json.Unmarshal([]byte(notes[0]), &side) != nil {
		return Report{}, errors.New("the page was changed: what stands beside its signed documents can't be read")
	}
	var again bytes.Buffer
	if err := render(&again, files, side); err != nil {
		return Report{}, err
	}
	if i := differ(b, again.Bytes()); i >= 0 {
		return Report{}, fmt.Errorf("the page was changed: line %d is not what its signed documents say: %.80q", 1+strings.Count(text[:min(i, len(text))], "\n"), lineAt(text, i))
	}
	rep.Page, rep.Printed, rep.Names = SamePage, side.Printed, side.Names
	return rep, nil
}

func first(papers []Opened) Opened {
	if len(papers) == 0 {
		return Opened{}
	}
	return papers[0]
}

// cut returns what stands between each start and the end behind it, as text.
func cut(page, start string) (all []string) {
	for {
		_, rest, ok := strings.Cut(page, start)
		if !ok {
			return all
		}
		inside, after, ok := strings.Cut(rest, preEnd)
		if !ok {
			return all
		}
		all = append(all, html.UnescapeString(inside))
		page = after
	}
}

// differ is where two texts begin to; -1 if they don't.
func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

func lineAt(text string, i int) string {
	i = min(i, len(text))
	line, _, _ := strings.Cut(text[strings.LastIndexByte(text[:i], '\n')+1:], "\n")
	return line
}

// parse checks a file to the byte.
func parse(file []byte, pub ed25519.PublicKey) (*Opened, error) {
	if len(file) > MaxFile {
		return nil, errors.New("it is too long for a paper")
	}
	var s Signed
	if err := json.Unmarshal(file, &s); err != nil || s.Version != 1 {
		return nil, errors.New("it is no paper that this program knows")
	}
	if c, err := canonical(s); err != nil || !bytes.Equal(c, file) {
		return nil, errors.New("it was changed: it is not in the form it was signed in")
	}
	raw, err := jcs.Transform(s.Content)
	if err != nil || !bytes.Equal(raw, s.Content) || hashOf(raw) != s.Hash {
		return nil, errors.New("it was changed: its content doesn't fit its hash")
	}
	key, err := base64.StdEncoding.DecodeString(s.PublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, errors.New("it names no key")
	}
	if pub != nil && !pub.Equal(ed25519.PublicKey(key)) {
		return nil, errors.New("it was signed by another key")
	}
	sig, err := base64.StdEncoding.DecodeString(s.Signature)
	if err != nil {
		return nil, errors.New("its signature can't be read")
	}
	p, err := s.payload()
	if err != nil || !ed25519.Verify(key, p, sig) {
		return nil, errors.New("it was changed: its signature is wrong")
	}
	c := blank(s.Kind)
	if c == nil {
		return nil, fmt.Errorf("its signature is good, but this program doesn't know papers of the kind %.40q: use a newer one", s.Kind)
	}
	if err := json.Unmarshal(s.Content, c); err != nil {
		return nil, errors.New("its signature is good, but its fields are not those of a paper that this program knows: use a newer one")
	}
	return &Opened{Signed: s, SHA256: hashOf(file), content: c}, nil
}
