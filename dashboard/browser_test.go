package dashboard

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// chrome is one tab of the system's Chromium. What its console says, and every
// script or style that the pages' policy stops, fails the test.
func chrome(t *testing.T, h *house) context.Context {
	t.Helper()
	if _, err := fs.Stat(staticFiles, "static/vendor/htmx.min.js"); err != nil {
		t.Fatalf("the pages' scripts are not built in: run scripts/web-assets.sh first (%v)", err)
	}
	// The program's own folders, so that it doesn't find somebody's profile.
	dir, err := os.MkdirTemp("", "refurb-chromium")
	if err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.UserDataDir(dir),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("lang", "en-US"),
	)
	ctx, stopExec := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, stopTab := chromedp.NewContext(ctx)
	if err := chromedp.Do(ctx, chromedp.Navigate(h.srv.URL+"/healthz")); err != nil {
		t.Fatal(err)
	}
	console := chromedp.Console(ctx)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for m, err := range console {
			if err == nil && (m.IsException() || m.Source == "security") {
				t.Errorf("the browser's console: %s", m)
			}
		}
	}()
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("closing chromium: %v", err)
		}
		stopTab()
		stopExec()
		<-heard
		os.RemoveAll(dir)
	})
	return ctx
}

type step = chromedp.Action[chromedp.Void]

func act(t *testing.T, ctx context.Context, what string, do ...step) {
	t.Helper()
	c, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := chromedp.Do(c, do...); err != nil {
		body, _ := chromedp.Run(ctx, chromedp.Text("body"))
		t.Fatalf("%s: %v; the page says:\n%s", what, err, body)
	}
}

func ask[T any](t *testing.T, ctx context.Context, what string, a chromedp.Action[T]) T {
	t.Helper()
	c, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	v, err := chromedp.Run(c, a)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return v
}

// says waits until the page holds a text, through any page that comes in between.
func says(text string) step {
	return func(ctx context.Context, tab *chromedp.Target) (none chromedp.Void, err error) {
		script := fmt.Sprintf(`document.body.innerText.replaceAll("\u00a0", " ").includes(%q)`, text)
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			var ok bool
			if ok, err = chromedp.Evaluate[bool](script)(ctx, tab); ok || ctx.Err() != nil {
				return none, err
			}
		}
		return none, fmt.Errorf("the page doesn't come to say %q (%v)", text, err)
	}
}

func TestInABrowser(t *testing.T) {
	h := newHouse(t)
	ctx := chrome(t, h)
	act(t, ctx, "setup",
		chromedp.Navigate(h.srv.URL+"/"),
		chromedp.SendKeys(`[name=code]`, testCode), chromedp.SendKeys(`[name=name]`, "Amina"), chromedp.SendKeys(`[name=password]`, testPassword),
		chromedp.Submit(`main form`), says("Open a lot"))
	act(t, ctx, "logout and login",
		chromedp.Click(`.menu.user summary`), chromedp.Click(`.menu.user button`), says("Welcome"),
		chromedp.SendKeys(`[name=name]`, "Amina"), chromedp.SendKeys(`[name=password]`, testPassword), chromedp.Submit(`main form`), says("Nothing here yet"))
	act(t, ctx, "opening a lot", chromedp.Navigate(h.srv.URL+"/lots"),
		chromedp.SendKeys(`[name=donor]`, "Ville d’Esch"), chromedp.Submit(`main form`), says("The lot of"), says("Live"))

	// From here on nothing is loaded again by hand.
	p := h.start(someReport(1, "HP", "EliteDesk 800 G2", dataDisk("S4EVNX0R704413")))
	act(t, ctx, "a PC comes", says("HP EliteDesk 800 G2"), says("There is data on the disk."))
	act(t, ctx, "its page", chromedp.Click(`.tile a`), says("May this disk be overwritten?"), says("Live"))
	act(t, ctx, "typing", chromedp.SendKeys(`[name=serial]`, "7044"))
	// What happens elsewhere takes nothing out of the field.
	other := h.start(someReport(2, "Dell", "OptiPlex 3050", dataDisk("XK77812")))
	h.srv.CloseClientConnections()
	act(t, ctx, "typing on", says("Not live"), says("Live"), chromedp.Sleep(time.Second), chromedp.SendKeys(`[name=serial]`, "13"))
	if typed := ask(t, ctx, "what is typed", chromedp.Value(`[name=serial]`)); typed != "704413" {
		t.Errorf("the field holds %q", typed)
	}
	act(t, ctx, "approving", chromedp.Click(`.ask .btn.stop`), says("Approved."))
	p.image()
	for i := range int64(4) {
		p.progress(wire.PhaseImaging, (i+1)*2*gb, 12*gb, 112_000_000)
	}
	act(t, ctx, "writing", says("Writing"), says("66%"), says("112 MB/s"))
	act(t, ctx, "the bench", chromedp.Click(`.crumb`), says("Needs you"), says("Live"), says("66%"))
	p.verify().progress(wire.PhaseVerifying, 9*gb, 12*gb, 240_000_000)
	act(t, ctx, "checking", says("75%"))
	p.done()
	act(t, ctx, "done", chromedp.WaitVisible(`.tiles.small .tile.done`), chromedp.WaitNotPresent(`.tile.run`))
	if s := other.device().Job.State; s != workshop.Held {
		t.Errorf("the other PC is %s", s)
	}
	act(t, ctx, "erasing the other", chromedp.Click(`.tile.hold a`), says("Everything on the disk will be destroyed."), says("Live"),
		chromedp.SendKeys(`.eraser input.serial`, "k778"), chromedp.Click(`.eraser [value=sample]`))
	h.srv.CloseClientConnections()
	act(t, ctx, "typing on", says("Not live"), says("Live"), chromedp.Sleep(time.Second), chromedp.SendKeys(`.eraser input.serial`, "12"),
		chromedp.Click(`.eraser .btn.stop`), says("The PC begins to erase"))
	other.erase().progress(wire.PhaseErasing, 128*gb, 512*gb, 400_000_000)
	if c := other.plan.Erase.Check; c != wire.CheckSample {
		t.Errorf("what was chosen was lost: %s", c)
	}
	act(t, ctx, "its progress", says("Erasing"), says("25%"))
	other.ended(other.erasure())
	act(t, ctx, "erased", says("what was read back is empty"), says("Purge"))
}

// A server that is restarted under an open page: the browser comes back by itself.
func TestStreamComesBack(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Lena", Lead)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, false); err != nil {
		t.Fatal(err)
	}
	ctx := chrome(t, h)
	act(t, ctx, "login", chromedp.Navigate(h.srv.URL+"/login"), chromedp.SendKeys(`[name=name]`, "Lena"), chromedp.SendKeys(`[name=password]`, testPassword), chromedp.Submit(`main form`), says("Live"))
	h.srv.CloseClientConnections()
	h.start(someReport(7, "Lenovo", "ThinkCentre M710q", blankDisk("50026B7782A11F02")))
	act(t, ctx, "the PC that came meanwhile", says("ThinkCentre"), says("Live"))
}
