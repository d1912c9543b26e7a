package dashboard

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
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

// busy fills the house as on an ordinary afternoon.
func busy(t *testing.T, h *house) (held, working *pc) {
	t.Helper()
	lead, err := h.dash.cfg.Users.Check(t.Context(), "Amina", testPassword)
	if err != nil {
		t.Fatal(err)
	}
	h.user("Lena Weber", Lead)
	h.user("Tesfaye", Volunteer)
	h.user("Ville d’Esch", Viewer)
	if u := h.user("Marc", Volunteer); h.dash.cfg.Users.SetDisabled(t.Context(), lead.ID, u.ID, true) != nil {
		t.Fatal("disable")
	}
	root := h.shelf.list[0].Root
	old, err := h.reg.OpenLot(t.Context(), lead.ID, "Lycée Guillaume Kroll", root, true)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	serial := func() string { return fmt.Sprintf("50026B7782A1%04X", 0x1f00+n*7) }
	next := func(maker, model string, d ...wire.Disk) *pc {
		n++
		return h.start(someReport(n, maker, model, d...))
	}
	for range 3 {
		next("Lenovo", "ThinkCentre M710q", blankDisk(serial())).image().verify().done().firstBoot()
	}
	next("Lenovo", "ThinkCentre M710q")
	if err := h.reg.CloseLot(t.Context(), lead.ID, old.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Ville d’Esch-sur-Alzette", root, true); err != nil {
		t.Fatal(err)
	}
	held = next("HP", "EliteDesk 800 G2 DM 35W", dataDisk("S4EVNX0R704413"))
	next("Dell Inc.", "OptiPlex 3050", blankDisk(serial())).image().fail("The disk gave an error while writing at 3.1 GB", "Put another disk in and ask for imaging again")
	working = next("HP", "ProDesk 400 G3 SFF", blankDisk(serial())).image().progress(wire.PhaseImaging, 4_620_000_000, 12*gb, 112_300_000)
	next("Dell Inc.", "OptiPlex 7040", blankDisk(serial())).image().progress(wire.PhaseImaging, 9_960_000_000, 12*gb, 108_900_000)
	next("FUJITSU", "ESPRIMO Q556", blankDisk(serial())).image().verify().progress(wire.PhaseVerifying, 7_400_000_000, 12*gb, 241_000_000)
	next("Acer", "Veriton X2640G", blankDisk(serial())).image().progress(wire.PhaseImaging, 310_000_000, 12*gb, 96_500_000)
	two := blankDisk(serial())
	two.Path, two.Rotational, two.Model, two.Class, two.Bytes = "/dev/sdb", true, "WDC WD10EZEX-08WN4A0", wire.ClassStructured, 1000*gb
	next("LENOVO", "10MQS00500", blankDisk("50026B7782A1AA01"), two)
	for range 4 {
		next("HP", "EliteDesk 800 G2 DM 35W", blankDisk(serial())).image().verify().done().firstBoot()
	}
	next("HP", "ProDesk 400 G3 SFF", blankDisk(serial())).image().verify().done()
	next("Apple Inc.", "Macmini7,1", blankDisk(serial()))
	// Donors' disks: one to be erased, three that are or were, one that fails.
	erasing := func(disk wire.Disk) *pc {
		p := next("HP", "EliteDesk 800 G3", disk)
		tail := disk.Serial[len(disk.Serial)-6:]
		if err := h.reg.Erase(t.Context(), lead.ID, p.device().ID, disk.Path, tail, workshop.EraseWish{Check: wire.CheckFull}); err != nil {
			t.Fatal(err)
		}
		return p.erase()
	}
	hours, used, bad, good := int64(31_204), int64(88), false, true
	locked := dataDisk("WD-WCC3F1LA7K2P")
	locked.Path, locked.Model, locked.Bytes, locked.Transport, locked.Rotational = "/dev/sda", "WDC WD5000AZLX-60K2TA0", 500*gb, wire.TransportSATA, true
	locked.Class, locked.Found = wire.ClassLocked, nil
	locked.Health = &wire.Health{Passed: &good, Hours: &hours}
	secret := dataDisk("S4EVNX0R704988")
	secret.Class, secret.Found = wire.ClassEncrypted, []string{"gpt", "luks"}
	secret.Health = &wire.Health{Passed: &good, Hours: &hours, PercentUsed: &used, SelfTest: &wire.SelfTest{State: wire.TestPassed}}
	next("Lenovo", "ThinkPad T480", secret, locked)
	erasing(locked)
	erasing(dataDisk("S4EVNX0R704111")).progress(wire.PhaseErasing, 130*gb, 512*gb, 402_000_000)
	erasing(dataDisk("S4EVNX0R704222")).progress(wire.PhaseChecking, 400*gb, 512*gb, 1_210_000_000)
	some := erasing(dataDisk("S4EVNX0R704333"))
	o := some.erasure()
	o.Result, o.Erasure.Result, o.Erasure.Check.Errors = wire.Failed, wire.ErasedExceptions, 14
	o.Erasure.Exceptions = []string{"14 blocks could not be read"}
	some.ended(o)
	whole := erasing(dataDisk("S4EVNX0R704444"))
	whole.ended(whole.erasure())
	failing := blankDisk("50026B7782A1FFFF")
	failing.Health = &wire.Health{Passed: &bad, Hours: &hours}
	next("Dell Inc.", "OptiPlex 3060", failing)
	// They pass their data on to each other: 7 is served first, 10 came late, and
	// 13 stays on for one of them. 8 is not to be trusted.
	job := func(n int) string { return h.reg.View().Devices[n-1].Job.ID }
	h.reg.Arranged(map[string]workshop.Flow{
		job(7):  {Appliance: true, To: []int{8, 9}, Place: 1, Of: 4},
		job(8):  {From: []int{7}, To: []int{10}, Place: 2, Of: 4},
		job(9):  {From: []int{7, 13}, Place: 3, Of: 4, Slow: "its disk can't follow"},
		job(10): {From: []int{8}, After: 7, Place: 4, Of: 4},
		job(13): {To: []int{9}},
	})
	for _, n := range []int{8, 15} {
		if err := h.reg.Suspect(t.Context(), job(n), "It passes damaged data on: test its memory"); err != nil {
			t.Fatal(err)
		}
	}
	return held, working
}

// Every page as people see it, kept with -artifacts. What can be measured is
// measured: nothing runs out of the window, and text stands out from its ground.
func TestLooks(t *testing.T) {
	h := newHouse(t)
	ctx := chrome(t, h)
	dir := t.ArtifactDir()
	look := func(name, path, lang string, wide int64, dark bool) {
		t.Helper()
		scheme := "light"
		if dark {
			scheme = "dark"
		}
		height, scale := int64(1000), 1.0
		if wide < 500 {
			height, scale = 844, 2
		}
		media := func(ctx context.Context, tab *chromedp.Target) (chromedp.Void, error) {
			_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			return chromedp.Void{}, err
		}
		act(t, ctx, name, chromedp.EmulateViewport(wide, height, chromedp.EmulateScale(scale)), media, setLanguage(h, lang),
			chromedp.Navigate(h.srv.URL+path), chromedp.WaitReady("main"), chromedp.Sleep(600*time.Millisecond))
		if strings.HasSuffix(path, "?start") {
			act(t, ctx, name, chromedp.Click(`#device-power summary`), chromedp.Sleep(200*time.Millisecond))
		}
		if status := ask(t, ctx, name, chromedp.Evaluate[int](`performance.getEntriesByType("navigation")[0].responseStatus`)); status >= 500 {
			t.Errorf("%s: %d", name, status)
		}
		off := ask(t, ctx, name, chromedp.Evaluate[[]string](jsOverflow))
		pale := ask(t, ctx, name, chromedp.Evaluate[[]string](jsContrast))
		if wide > 500 || strings.HasSuffix(name, "-whole") {
			// On a phone the menu stands at the window's foot; here the whole page is wanted.
			height = max(height, ask(t, ctx, name, chromedp.Evaluate[int64](`document.documentElement.scrollHeight`)))
			act(t, ctx, name, chromedp.EmulateViewport(wide, height, chromedp.EmulateScale(scale)), chromedp.Sleep(200*time.Millisecond))
		}
		png := ask(t, ctx, name, chromedp.CaptureScreenshot())
		for _, s := range off {
			t.Errorf("%s: runs out of the window: %s", name, s)
		}
		for _, s := range pale {
			t.Errorf("%s: too little contrast: %s", name, s)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all := func(name, path string) {
		t.Helper()
		look(name, path, "en", 1440, false)
		look(name+"-phone", path, "en", 390, false)
		look(name+"-dark", path, "en", 1440, true)
		look(name+"-arabic", path, "ar", 1440, false)
	}
	all("setup", "/setup")
	h.user("Amina", Admin)
	login := func() {
		act(t, ctx, "login", setLanguage(h, "en"), chromedp.Navigate(h.srv.URL+"/login"), chromedp.SendKeys(`[name=name]`, "Amina"), chromedp.SendKeys(`[name=password]`, testPassword), chromedp.Submit(`main form`), says("On the bench"))
	}
	login()
	all("fresh", "/")
	act(t, ctx, "logout", setLanguage(h, "en"), chromedp.Navigate(h.srv.URL+"/"), chromedp.Click(`.menu.user summary`), chromedp.Click(`.menu.user button`), says("Welcome"))
	held, working := busy(t, h)
	all("login", "/login")
	login()
	who := Network{Why: "beside", Givers: []string{"192.168.1.1"}}
	h.dash.cfg.Network = func() (Network, bool) { return who, true }
	all("bench", "/")
	who = Network{Why: "beside", Needs: true, Apart: true, Own: "10.77.0.1", Givers: []string{"192.168.1.1", "192.168.1.2"}}
	all("bench-network", "/")
	all("held", "/devices/"+held.device().ID)
	if err := h.reg.ChooseRescue(t.Context(), "lead", held.device().ID, workshop.RescueMemory); err != nil {
		t.Fatal(err)
	}
	all("start", "/devices/"+held.device().ID+"?start")
	all("device", "/devices/"+working.device().ID)
	for _, v := range h.reg.View().Devices {
		switch v.Number {
		case 6:
			all("failed", "/devices/"+v.ID)
		case 8:
			all("suspected", "/devices/"+v.ID)
		case 9, 10:
			look(fmt.Sprint("sharing-", v.Number), "/devices/"+v.ID, "de", 1440, false)
		case 11:
			look("several", "/devices/"+v.ID, "en", 1440, false)
		case 18:
			all("erase", "/devices/"+v.ID)
			look("erase-phone-whole", "/devices/"+v.ID, "de", 390, true)
		case 19, 20, 22:
			all(fmt.Sprint("erasing-", v.Number), "/devices/"+v.ID)
		case 23:
			look("erased", "/devices/"+v.ID, "fr", 1440, false)
		case 24:
			all("health", "/devices/"+v.ID)
		case 12:
			look("finished", "/devices/"+v.ID, "fr", 1440, false)
		}
	}
	look("starts-none", "/starts", "ar", 1440, false)
	startedPCs(h, working)
	all("starts", "/starts")
	look("starts-phone-whole", "/starts", "de", 390, true)
	look("bench-stopped", "/", "fr", 390, false)
	look("device-starts", "/devices/"+working.device().ID, "en", 1440, false)
	lots := h.reg.View().Lots
	all("lots", "/lots")
	all("lot", "/lots/"+lots[0].ID)
	all("devices", "/devices")
	all("images", "/images")
	all("users", "/users")
	all("me", "/me")
	all("missing", "/nothing/here")
	look("bench-german", "/", "de", 1440, false)
	look("bench-phone-arabic", "/", "ar", 390, true)
	if err := h.reg.CloseLot(t.Context(), lots[0].OpenedBy, lots[0].ID); err != nil {
		t.Fatal(err)
	}
	all("newlot", "/lots")
}

func setLanguage(h *house, lang string) step {
	return func(ctx context.Context, tab *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, tab, network.SetCookie, network.SetCookieParams{Name: langCookie, Value: lang, URL: h.srv.URL + "/"})
		return none, err
	}
}

// Elements that stick out of the window sideways.
const jsOverflow = `(() => {
  const w = document.documentElement.clientWidth, bad = [];
  if (document.documentElement.scrollWidth > w + 1) bad.push("page is " + document.documentElement.scrollWidth + " wide in " + w);
  for (const el of document.querySelectorAll("main *, header *")) {
    const r = el.getBoundingClientRect();
    if (r.width && r.height && (r.right > w + 1 || r.left < -1) && !el.closest(".sprite, .hidden, .skip, details:not([open]) .menu-box, pre")) bad.push(el.tagName + "." + el.className + " " + el.textContent.trim().slice(0, 40));
  }
  return bad.slice(0, 5);
})()`

// Texts whose contrast with their ground is below WCAG 2.2 AA: 4.5, or 3 for
// large ones.
var jsContrast = strings.TrimSpace(`(() => {
  const c = document.createElement("canvas"); c.width = c.height = 1;
  const g = c.getContext("2d", {willReadFrequently: true});
  const rgba = (s) => { g.clearRect(0, 0, 1, 1); g.fillStyle = s; g.fillRect(0, 0, 1, 1); return [...g.getImageData(0, 0, 1, 1).data]; };
  const lum = (p) => { const [r, gr, b] = p.slice(0, 3).map((v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * gr + .0722 * b; };
  const bad = [];
  for (const el of document.querySelectorAll("body *")) {
    if (![...el.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || el.closest(".sprite, .hidden, script, noscript, option, .skip")) continue;
    const st = getComputedStyle(el), box = el.getBoundingClientRect();
    if (!box.width || st.visibility === "hidden") continue;
    let ground = null;
    for (let e = el; e && !ground; e = e.parentElement) { const p = rgba(getComputedStyle(e).backgroundColor); if (p[3] === 255) ground = p; }
    ground ||= [255, 255, 255];
    const [a, b] = [lum(rgba(st.color)), lum(ground)].sort((x, y) => y - x);
    const size = parseFloat(st.fontSize), large = size >= 24 || size >= 18.66 && +st.fontWeight >= 700;
    const ratio = (a + .05) / (b + .05);
    if (ratio < (large ? 3 : 4.5)) bad.push(ratio.toFixed(2) + " " + el.tagName + "." + el.className + " " + el.textContent.trim().slice(0, 30));
  }
  return bad.slice(0, 6);
})()`)
