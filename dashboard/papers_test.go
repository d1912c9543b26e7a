package dashboard

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/papers"
	"refurb/appliance/store"
	"refurb/appliance/workshop"
)

// filed is the store as papers are made from it; desk is the office over it.
type filed struct{ *store.Store }

func (f filed) Chain(ctx context.Context, device string) ([]audit.Entry, error) {
	lines, err := f.Lines(ctx, device)
	entries := make([]audit.Entry, len(lines))
	for i, l := range lines {
		entries[i] = audit.Entry(l)
	}
	return entries, err
}

func (f filed) Names(ctx context.Context) (map[string]string, error) {
	all, err := f.Users().List(ctx)
	names := map[string]string{}
	for _, u := range all {
		names[u.ID] = u.Name
	}
	return names, err
}

type desk struct{ *papers.Office }

func (d desk) List(ctx context.Context, device string) (all []Paper, err error) {
	list, err := d.Office.List(ctx, device)
	for _, p := range list {
		all = append(all, Paper{string(p.Kind), p.ID, p.Time, p.Result, p.Refused})
	}
	return all, err
}

func (d desk) Write(ctx context.Context, w io.Writer, kind, id, format string) error {
	return d.Office.Write(ctx, w, papers.Kind(kind), id, papers.Format(format))
}

// From a real registry through a real store to papers that a stranger can check.
func TestPapers(t *testing.T) {
	h := newHouse(t)
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32))
	pub := key.Public().(ed25519.PublicKey)
	h.dash.cfg.Papers = desk{papers.New(filed{h.store}, key)}
	lead := h.user("Lena", Lead)
	h.user("Donor", Viewer)
	b := h.as("Donor")
	// One comes without a disk before anybody has opened a lot, and gets a new one.
	q := h.start(someReport(2, "Lenovo", "ThinkPad"))
	bare := q.device().ID
	q.looksAgain(blankDisk("NEW1"))
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Ville d’Esch", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	lot := h.reg.View().Lots[0].ID
	old := dataDisk("S4EVNX0R704413")
	p := h.start(someReport(1, "HP", "EliteDesk", old))
	at := "/devices/" + p.device().ID
	check := func(address string) papers.Report {
		t.Helper()
		status, body := b.get(address)
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", address, status, text(body))
		}
		rep, err := papers.Verify(strings.NewReader(body), pub)
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		return rep
	}
	if _, body := b.get(at); strings.Contains(body, `href="/papers/`) {
		t.Error("a PC that nothing was done with has papers")
	}
	status, body := b.get("/papers/no-storage/" + p.device().ID)
	if status != http.StatusConflict {
		t.Errorf("no storage, with a full disk in it: %d", status)
	}
	wants(t, body, "came with a disk that may hold data")

	if err := h.reg.Erase(t.Context(), lead.ID, p.device().ID, old.Path, "704413", workshop.EraseWish{Check: wire.CheckFull}); err != nil {
		t.Fatal(err)
	}
	job := p.device().Job.ID
	p.erase()
	if status, _ := b.get("/papers/erasure/" + job); status != http.StatusConflict {
		t.Errorf("a certificate while it is erased: %d", status)
	}
	p.ended(p.erasure())
	_, body = b.get(at)
	wants(t, body, "Erasure certificate: erased", `href="/papers/erasure/`+job+`"`, `href="/papers/erasure/`+job+`/json"`)
	rep := check("/papers/erasure/" + job)
	if rep.Page != papers.SamePage || len(rep.Papers) != 1 || rep.Papers[0].Verdict() != "Erased" || rep.Names[lead.ID] != "Lena" {
		t.Errorf("%+v", rep)
	}
	if twin := check("/papers/erasure/" + job + "/json"); twin.Page != papers.NoPage || twin.Papers[0].SHA256 != rep.Papers[0].SHA256 {
		t.Errorf("the twin is another paper: %+v", twin)
	}

	check("/papers/no-storage/" + bare)
	q.image().verify().done()
	rep = check("/papers/imaging/" + q.device().Job.ID)
	if rep.Papers[0].Verdict() != "Written and read back" {
		t.Errorf("%+v", rep.Papers[0])
	}
	_, body = b.get("/devices/" + bare)
	wants(t, body, "no storage with data on arrival", "Installation record: written and read back")

	_, body = b.get("/lots/" + lot)
	wants(t, body, `href="/papers/donor-report/`+lot+`"`, `href="/papers/lot/`+lot+`"`)
	rep = check("/papers/donor-report/" + lot)
	if !strings.Contains(rep.Papers[0].Verdict(), "2 devices") {
		t.Errorf("%+v", rep.Papers[0])
	}
	if rep = check("/papers/lot/" + lot); len(rep.Papers) != 4 {
		t.Errorf("%d papers of the lot", len(rep.Papers))
	}
	for address, want := range map[string]int{
		"/papers/erasure/none": 404, "/papers/deed/" + bare: 404, "/papers/donor-report/none": 404, "/papers/lot/none": 404, "/papers/erasure/" + job + "/xml": 404, "/papers/imaging/" + job: 404,
		"/papers/no-storage/": 404,
	} {
		if status, _ := b.get(address); status != want {
			t.Errorf("%s: %d, want %d", address, status, want)
		}
	}
	// A script may fetch the document, and nothing on a page may run.
	r, _ := http.NewRequest(http.MethodGet, h.srv.URL+"/papers/erasure/"+job+"/json", nil)
	r.SetBasicAuth("Donor", testPassword)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if d := res.Header.Get("Content-Disposition"); res.StatusCode != http.StatusOK || d != `attachment; filename="erasure-`+job+`.json"` {
		t.Errorf("%d %s", res.StatusCode, d)
	}
	res, err = b.Get(h.srv.URL + "/papers/erasure/" + job)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "script-src") || !strings.Contains(res.Header.Get("Content-Disposition"), "inline") {
		t.Errorf("policy: %s", csp)
	}
}

// The browser shows a paper under its own policy, nothing runs over the edge of
// A4, and each paper of a lot begins on a sheet of its own. Kept with -artifacts.
func TestPaperInABrowser(t *testing.T) {
	h := newHouse(t)
	h.dash.cfg.Papers = desk{papers.New(filed{h.store}, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32)))}
	lead := h.user("Lena", Lead)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "مدينة إيش", h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	old := dataDisk("S4EVNX0R704413")
	p := h.start(someReport(1, "حاسوب", strings.Repeat("مكتبي ٨٠٠ G2 ", 12)+strings.Repeat("W", 80), old))
	if err := h.reg.Erase(t.Context(), lead.ID, p.device().ID, old.Path, "704413", workshop.EraseWish{Check: wire.CheckSample}); err != nil {
		t.Fatal(err)
	}
	p.erase().ended(p.erasure())
	q := h.start(someReport(2, "Lenovo", "ThinkPad"))
	ctx := chrome(t, h)
	act(t, ctx, "login", chromedp.Navigate(h.srv.URL+"/login"), chromedp.SendKeys(`[name=name]`, "Lena"), chromedp.SendKeys(`[name=password]`, testPassword), chromedp.Submit(`main form`), says("On the bench"))
	media := func(ctx context.Context, tab *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
		return chromedp.Void{}, err
	}
	pdf := func(ctx context.Context, tab *chromedp.Target) ([]byte, error) {
		res, err := cdp.Call(ctx, tab, cdppage.PrintToPDF, cdppage.PrintToPDFParams{PreferCSSPageSize: new(true)})
		return res.Data, err
	}
	lot := h.reg.View().Lots[0].ID
	for name, c := range map[string]struct {
		path     string
		articles int
	}{
		"erasure": {"/papers/erasure/" + p.device().Job.ID, 1}, "no-storage": {"/papers/no-storage/" + q.device().ID, 1},
		"donor-report": {"/papers/donor-report/" + lot, 1}, "lot": {"/papers/lot/" + lot, 3},
	} {
		act(t, ctx, name, chromedp.EmulateViewport(688, 1000), media, chromedp.Navigate(h.srv.URL+c.path), chromedp.WaitReady("article"))
		for _, s := range ask(t, ctx, name, chromedp.Evaluate[[]string](jsOverflow)) {
			t.Errorf("%s: runs over the edge: %s", name, s)
		}
		if n := ask(t, ctx, name, chromedp.Evaluate[int](`document.querySelectorAll("article").length`)); n != c.articles {
			t.Errorf("%s: %d papers, want %d", name, n, c.articles)
		}
		if shown := ask(t, ctx, name, chromedp.Evaluate[string](`getComputedStyle(document.querySelector("details")).display`)); shown != "none" {
			t.Errorf("%s: the signed document is printed", name)
		}
		b := ask(t, ctx, name, pdf)
		sheets := bytes.Count(b, []byte("/Type /Page\n"))
		if sheets < c.articles || sheets > 4*c.articles {
			t.Errorf("%s: %d sheets of paper", name, sheets)
		}
		height := ask(t, ctx, name, chromedp.Evaluate[int64](`document.documentElement.scrollHeight`))
		act(t, ctx, name, chromedp.EmulateViewport(688, height))
		for file, content := range map[string][]byte{"paper-" + name + ".pdf": b, "paper-" + name + ".png": ask(t, ctx, name, chromedp.CaptureScreenshot())} {
			if err := os.WriteFile(filepath.Join(t.ArtifactDir(), file), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	screen := func(ctx context.Context, tab *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{})
		return chromedp.Void{}, err
	}
	for name, path := range map[string]string{"device": "/devices/" + p.device().ID, "lot": "/lots/" + lot} {
		for _, wide := range []int64{390, 1200} {
			act(t, ctx, name, chromedp.EmulateViewport(wide, 1400), screen, chromedp.Navigate(h.srv.URL+path), chromedp.WaitReady(`a[href^="/papers/"]`), chromedp.Sleep(300*time.Millisecond))
			for _, s := range ask(t, ctx, name, chromedp.Evaluate[[]string](jsOverflow)) {
				t.Errorf("%s: runs over the edge: %s", name, s)
			}
			if err := os.WriteFile(filepath.Join(t.ArtifactDir(), fmt.Sprintf("page-%s-%d.png", name, wide)), ask(t, ctx, name, chromedp.CaptureScreenshot()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A damaged history costs the papers, not the page.
func TestPapersOfADamagedHistory(t *testing.T) {
	h := newHouse(t)
	h.user("Vito", Volunteer)
	h.dash.cfg.Papers = broken{}
	p := h.start(someReport(1, "HP", "EliteDesk", blankDisk("B1")))
	status, body := h.as("Vito").get("/devices/" + p.device().ID)
	if status != http.StatusOK {
		t.Fatalf("%d", status)
	}
	wants(t, body, "No papers: this PC’s history is damaged")
	for _, path := range []string{"/papers/erasure/x", "/papers/lot/x", "/papers/erasure/x/json"} {
		if status, body := h.as("Vito").get(path); status != http.StatusInternalServerError || strings.Contains(body, "line 7") {
			t.Errorf("%s: %d", path, status)
		}
	}
	h.dash.cfg.Papers = nil
	for _, path := range []string{"/papers/erasure/x", "/papers/lot/x", "/papers/erasure/x/json"} {
		if status, _ := h.as("Vito").get(path); status != http.StatusNotFound {
			t.Errorf("%s without papers: %d", path, status)
		}
	}
}

type broken struct{}

var errBroken = &audit.Trouble{Seq: 7, Kind: audit.Changed, Text: "line 7"}

func (broken) List(context.Context, string) ([]Paper, error)                  { return nil, errBroken }
func (broken) Write(context.Context, io.Writer, string, string, string) error { return errBroken }
func (broken) WriteLot(context.Context, io.Writer, string) error              { return errBroken }

// Everything that papers say has a word here.
func TestPaperLooks(t *testing.T) {
	for _, k := range []string{"no-storage none", "erasure erased", "erasure erased_with_exceptions", "erasure not_erased", "erasure unknown", "imaging verified", "imaging not_finished", "imaging unknown"} {
		if paperLooks[k].title == "" {
			t.Errorf("no word for %s", k)
		}
	}
	for _, r := range []wire.ErasureResult{wire.Erased, wire.ErasedExceptions, wire.NotErased, wire.ErasureUnknown} {
		if tone := paperLooks["erasure "+string(r)].tone; (tone == toneDone) != (r == wire.Erased) {
			t.Errorf("%s looks like %s", r, tone)
		}
	}
	if got := plainName("erasure-../..\\\"x\r\n" + strings.Repeat("a", 200)); strings.ContainsAny(got, "./\\\"\r\n") || len(got) > 80 {
		t.Errorf("%q", got)
	}
}
