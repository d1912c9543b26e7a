package dashboard

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"refurb/appliance/workshop"
)

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
			act(t, ctx, name, chromedp.Click(`#start-else summary`), chromedp.Sleep(200*time.Millisecond))
		}
		if status := ask(t, ctx, name, chromedp.Evaluate[int](`performance.getEntriesByType("navigation")[0].responseStatus`)); status >= 500 {
			t.Errorf("%s: %d", name, status)
		}
		wrong := map[string][]string{}
		for what, js := range map[string]string{"runs out of the window": jsOverflow, "too little contrast": jsContrast, "sticks out": jsSpill, "a stage's word": jsChain} {
			wrong[what] = ask(t, ctx, name, chromedp.Evaluate[[]string](js))
		}
		if wide > 500 || strings.HasSuffix(name, "-whole") {
			// On a phone the menu stands at the window's foot; here the whole page is wanted.
			height = max(height, ask(t, ctx, name, chromedp.Evaluate[int64](`document.documentElement.scrollHeight`)))
			act(t, ctx, name, chromedp.EmulateViewport(wide, height, chromedp.EmulateScale(scale)), chromedp.Sleep(200*time.Millisecond))
		}
		png := ask(t, ctx, name, chromedp.CaptureScreenshot())
		for what, list := range wrong {
			for _, s := range list {
				t.Errorf("%s: %s: %s", name, what, s)
			}
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
	login := func(name string) {
		act(t, ctx, "login", setLanguage(h, "en"), chromedp.Navigate(h.srv.URL+"/login"), chromedp.SendKeys(`[name=name]`, name), chromedp.SendKeys(`[name=password]`, testPassword), chromedp.Submit(`main form`), says("On the bench"))
	}
	login("Amina")
	all("fresh", "/")
	logout := func() {
		act(t, ctx, "logout", setLanguage(h, "en"), chromedp.Navigate(h.srv.URL+"/"), chromedp.Click(`.menu.user summary`), chromedp.Click(`.menu.user button`), says("Welcome"))
	}
	logout()
	held, working := busy(t, h)
	all("login", "/login")
	login("Amina")
	h.net.Store(&Network{Why: "beside", Givers: []string{"192.168.1.1"}})
	all("bench", "/")
	h.net.Store(&Network{Why: "beside", Needs: true, Apart: true, Own: "10.77.0.1", Givers: []string{"192.168.1.1", "192.168.1.2"}})
	all("bench-network", "/")
	all("held", "/devices/"+held.device().ID)
	if err := h.reg.ChooseRescue(t.Context(), h.reg.View().Lots[0].OpenedBy, held.device().ID, workshop.RescueMemory); err != nil {
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
	for _, lang := range []string{"en", "de", "fr", "ar"} {
		look("starts-"+lang+"-phone-whole", "/starts", lang, 360, lang == "de")
	}
	look("bench-stopped", "/", "fr", 390, false)
	all("device-starts", "/devices/"+working.device().ID)
	look("device-starts-phone-whole", "/devices/"+working.device().ID, "ar", 390, false)
	doubted, twins, moved := tangled(t, h)
	of := func(p *pc) string { return "/devices/" + p.device().ID }
	all("doubt", of(doubted))
	all("merge", of(doubted)+"/merge?with="+fmt.Sprint(doubted.plan.Number-1))
	look("merge-refused", of(doubted)+"/merge?with="+fmt.Sprint(working.plan.Number), "de", 390, true)
	all("twins", of(twins))
	all("split", of(twins)+"/split")
	look("merge-phone-whole", of(doubted)+"/merge?with="+fmt.Sprint(doubted.plan.Number-1), "fr", 390, false)
	look("split-phone-whole", of(twins)+"/split", "ar", 390, true)
	all("moved", "/devices/"+h.reg.View().Devices[doubted.plan.Number-2].ID)
	all("disks", "/disks")
	look("disks-phone-whole", "/disks?q=Kingston", "de", 390, false)
	all("disk", "/disks/"+workshop.DiskKey(moved.DiskID))
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

	// The server was started anew: its PCs are off, and may be switched on.
	var off []string
	for _, v := range h.reg.View().Devices[12:14] {
		if err := h.reg.ImageAgain(t.Context(), lots[0].OpenedBy, v.ID, ""); err != nil {
			t.Fatal(err)
		}
		off = append(off, v.ID)
	}
	if err := h.reg.ChooseRescue(t.Context(), lots[0].OpenedBy, off[0], workshop.RescueShell); err != nil {
		t.Fatal(err)
	}
	h.open()
	logout()
	login("Tesfaye")
	all("volunteer-wake", "/devices/"+off[0]+"?start")
	look("volunteer-held", "/devices/"+held.device().ID, "en", 1440, false)
	look("volunteer-held-phone-whole", "/devices/"+held.device().ID, "fr", 390, false)
	look("volunteer-lots", "/lots", "en", 390, false)
	logout()
	login("Amina")
	all("wake", "/devices/"+off[0])
	look("wake-phone-whole", "/devices/"+off[1], "de", 390, true)
	all("wake-lot", "/lots/"+lots[0].ID)
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

// Texts that stick out of the box that they belong to.
const jsSpill = `(() => {
  const bad = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; (n = walk.nextNode());) {
    const el = n.parentElement, box = el.closest(".card, .note, .pill, .btn, .tick, .target, .chip, .sticker, .start, td, dd");
    if (!n.textContent.trim() || !box || el.closest(".sprite, .hidden, .skip, script, option, pre, .rawlines") || el.getBoundingClientRect().width < 2) continue;
    if (!el.checkVisibility() || getComputedStyle(el).textOverflow === "ellipsis") continue;
    const range = document.createRange();
    range.selectNodeContents(n);
    const r = range.getBoundingClientRect(), b = box.getBoundingClientRect();
    if (r.width && (r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 3 || r.bottom > b.bottom + 3)) bad.push(box.tagName + "." + box.className + " " + n.textContent.trim().slice(0, 40));
  }
  return bad.slice(0, 6);
})()`

// Each stage of a start is made the one whose word is shown: it has to stand under
// its sign, inside its card, and clear of its neighbours' words.
const jsChain = `(() => {
  const bad = [], mid = (r) => (r.left + r.right) / 2;
  const text = (li) => { const g = document.createRange(); g.selectNodeContents(li.querySelector(".word")); return g.getBoundingClientRect(); };
  for (const chain of document.querySelectorAll(".chain")) {
    const card = (chain.closest(".sec") || chain.closest(".start")).getBoundingClientRect(), all = [...chain.children], was = all.map((li) => li.className);
    for (const li of all) {
      for (const other of all) other.className = other === li ? "stuck" : "past";
      const w = text(li), say = li.textContent.trim();
      if (Math.abs(mid(w) - mid(li.querySelector(".dot").getBoundingClientRect())) > 1.5) bad.push(say + " isn't under its sign");
      if (w.left < card.left + 2 || w.right > card.right - 2) bad.push(say + " leaves its card");
      for (const other of all) {
        if (other === li || other.querySelector(".word").getBoundingClientRect().width < 2) continue;
        const o = text(other);
        if (w.left < o.right + 2 && o.left < w.right + 2) bad.push(say + " touches " + other.textContent.trim());
      }
    }
    all.forEach((li, i) => { li.className = was[i]; });
  }
  return [...new Set(bad)].slice(0, 8);
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
