package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boombuler/barcode/qr"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// rolls are checkpoints that nobody signed: pages only show them.
type rolls struct {
	list []Checkpoint
	err  error
}

func (r *rolls) List(context.Context) ([]Checkpoint, error) { return r.list, nil }

func (r *rolls) Make(_ context.Context, actor string) (Checkpoint, bool, error) {
	if r.err != nil {
		return Checkpoint{}, false, r.err
	}
	if len(r.list) == 2 {
		return r.list[0], false, nil
	}
	r.list = append([]Checkpoint{someCheckpoint(int64(len(r.list) + 1))}, r.list...)
	return r.list[0], true, nil
}

func someCheckpoint(n int64) Checkpoint {
	k := Checkpoint{
		Name: fmt.Sprintf("%06d", n), Number: n, Chains: 1235 + n, Lines: 48213 + n, Broken: n - 1, Time: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
		SHA256: strings.Repeat("5f3e09c1", 8), Root: "Y7xzQ5OMS64zpc1nKnsBoEhjyZa0vhOs7wBeSmtf69A=", Origin: "refurb/fe812c12f3ab4ce6", Key: "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=",
	}
	k.Note = fmt.Sprintf("%s\n%d\n%s\ncheckpoint %d\nlines %d\ntime 2026-11-22T00:00:00Z\nprevious %s\n\n— %s %s\n", k.Origin, k.Chains, k.Root, n, k.Lines, k.SHA256, k.Origin, strings.Repeat("ABCD", 23))
	return k
}

func TestCheckpoints(t *testing.T) {
	h := newHouse(t)
	h.user("Lea", Lead)
	h.user("Vera", Viewer)
	lea, vera := h.as("Lea"), h.as("Vera")
	if status, _ := lea.get("/checkpoints"); status != http.StatusNotFound {
		t.Errorf("without checkpoints: %d", status)
	}
	r := &rolls{}
	h.dash.cfg.Checkpoints = r
	_, body := vera.get("/checkpoints")
	wants(t, body, "No checkpoint yet")
	if strings.Contains(body, "Make one now") {
		t.Error("a viewer is asked to sign")
	}
	r.err = fmt.Errorf("%w: line 7", ErrDamaged)
	_, body = lea.post("/checkpoints")
	wants(t, body, "The records are damaged", "refurb audit doctor")
	r.err = nil
	_, body = lea.post("/checkpoints")
	wants(t, body, "Signed.", "Checkpoint 1", "refurb/fe812c12f3ab4ce6", strings.Repeat("5f3e09c1", 8), `class="qr"`)
	lea.post("/checkpoints")
	_, body = lea.post("/checkpoints")
	wants(t, body, "Nothing has changed since this one.", "Damaged histories before it")
	_, body = vera.get("/checkpoints")
	wants(t, body, `href="/checkpoints/000001"`, `href="/checkpoints/000002"`)
	status, note := vera.get("/checkpoints/000002/note")
	if status != http.StatusOK || note != r.list[0].Note {
		t.Errorf("%d %q", status, note)
	}
	for _, path := range []string{"/checkpoints/000003", "/checkpoints/..%2f..%2frefurb.db", "/checkpoints/000003/note"} {
		if status, _ := vera.get(path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// What is drawn are the squares of the code, no more and no fewer.
func TestQRIsDrawn(t *testing.T) {
	code, err := qr.Encode(someCheckpoint(2).Note, qr.L, qr.Unicode)
	if err != nil {
		t.Fatal(err)
	}
	svg, err := drawQR(someCheckpoint(2).Note)
	if err != nil {
		t.Fatal(err)
	}
	n, dark, drawn := code.Bounds().Dx(), 0, 0
	light := func(x, y int) bool { r, _, _, _ := code.At(x, y).RGBA(); return r != 0 }
	for i := range n * n {
		if !light(i%n, i/n) {
			dark++
		}
	}
	for _, p := range strings.Split(string(svg), "M")[2:] {
		var x, y, w int
		if _, err := fmt.Sscanf(p, "%d %dh%dv1", &x, &y, &w); err != nil {
			t.Fatal(p, err)
		}
		for i := range w {
			if light(x+i-4, y-4) {
				t.Fatalf("a light square at %d, %d is drawn dark", x+i, y)
			}
		}
		drawn += w
	}
	if dark == 0 || drawn != dark {
		t.Errorf("%d squares are dark, %d were drawn", dark, drawn)
	}
	if _, err := drawQR(strings.Repeat("x", 4000)); err == nil {
		t.Error("more than a code can hold")
	}
}

func TestCheckpointsInABrowser(t *testing.T) {
	h := newHouse(t)
	h.user("Lea", Lead)
	h.dash.cfg.Checkpoints = &rolls{}
	ctx := chrome(t, h)
	act(t, ctx, "login", chromedp.Navigate(h.srv.URL+"/login"), chromedp.SendKeys(`[name=name]`, "Lea"), chromedp.SendKeys(`[name=password]`, testPassword),
		chromedp.Submit(`main form`), says("Open a lot"))
	act(t, ctx, "make one", chromedp.Navigate(h.srv.URL+"/checkpoints"), says("No checkpoint yet"), chromedp.Click(`main .head button`), says("Checkpoint 1"))
	dir := os.Getenv("SCREENSHOTS")
	for _, lang := range []string{"en", "fr", "de", "ar"} {
		for _, wide := range []int64{390, 1280} {
			for _, path := range []string{"/checkpoints", "/checkpoints/000001"} {
				name := fmt.Sprint("checkpoint-", lang, "-", wide, "-", len(path))
				act(t, ctx, name, chromedp.EmulateViewport(wide, 900), setLanguage(h, lang), chromedp.Navigate(h.srv.URL+path), says("5f3e09c1"))
				bad := append(ask(t, ctx, name, chromedp.Evaluate[[]string](jsOverflow)), ask(t, ctx, name, chromedp.Evaluate[[]string](jsContrast))...)
				if len(bad) > 0 {
					t.Errorf("%s in %s, %d wide: %q", path, lang, wide, bad)
				}
				if dir != "" {
					if err := os.WriteFile(filepath.Join(dir, name+".png"), ask(t, ctx, name, chromedp.FullScreenshot(100)), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	act(t, ctx, "English", setLanguage(h, "en"))
	if dir != "" {
		for name, path := range map[string]string{"checkpoint": "/checkpoints/000001", "checkpoints": "/checkpoints"} {
			act(t, ctx, name, chromedp.Navigate(h.srv.URL+path), says("heckpoint"))
			b := ask(t, ctx, name, chromedp.FullScreenshot(100))
			if err := os.WriteFile(filepath.Join(dir, name+".png"), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		act(t, ctx, "on paper", chromedp.EmulateViewport(794, 1123), func(ctx context.Context, tab *chromedp.Target) (none chromedp.Void, err error) {
			_, err = cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
			return none, err
		})
		act(t, ctx, "paper", chromedp.Navigate(h.srv.URL+"/checkpoints/000001"), says("Checkpoint 1"))
		if err := os.WriteFile(filepath.Join(dir, "print.png"), ask(t, ctx, "paper", chromedp.FullScreenshot(100)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
