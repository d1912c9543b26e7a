package dashboard

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nicksnyder/go-i18n/v2/i18n"

	"refurb/appliance/trace"
)

// saw tells the trace what a PC did: "ago kind" and changes to it.
func (h *house) saw(mac string, ago time.Duration, what string, change ...func(*trace.Sighting)) {
	g := trace.Sighting{Time: time.Now().Add(-ago), MAC: mac, What: what, Arch: -1}
	for _, f := range change {
		f(&g)
	}
	h.trace.Add(g)
}

func pxe(g *trace.Sighting) { g.Via, g.Arch = "pxe", 7 }

func file(name string) func(*trace.Sighting) {
	return func(g *trace.Sighting) { g.File, g.Bytes, g.Size, g.Detail = name, 1000, 1000, name }
}

// sawTo lets a PC come as far as its initramfs, the number of steps that is given.
func (h *house) sawTo(mac string, ago time.Duration, steps int) {
	for i, step := range []func(time.Duration){
		func(d time.Duration) { h.saw(mac, d, "discover", pxe); h.saw(mac, d, "offer", pxe) },
		func(d time.Duration) { h.saw(mac, d, "request", pxe); h.saw(mac, d, "ack", pxe) },
		func(d time.Duration) { h.saw(mac, d, "tftp", file("shimx64.efi")) },
		func(d time.Duration) { h.saw(mac, d, "tftp", file("grubx64.efi")) },
		func(d time.Duration) { h.saw(mac, d, "script", func(g *trace.Sighting) { g.Boots = "agent" }) },
		func(d time.Duration) { h.saw(mac, d, "http", file("vmlinuz")) },
		func(d time.Duration) { h.saw(mac, d, "http", file("initrd")) },
	} {
		if i < steps {
			step(ago - time.Duration(i)*time.Second)
		}
	}
}

// startedPCs are some at every stage. p is one that the records know.
func startedPCs(h *house, p *pc) {
	h.sawTo("52:54:00:00:00:01", 10*time.Minute, 3) // Secure Boot
	h.sawTo("52:54:00:00:00:02", 20*time.Second, 6) // under way
	h.sawTo("52:54:00:00:00:03", 30*time.Minute, 7) // no hello
	h.sawTo("52:54:00:00:00:04", 20*time.Minute, 3) // Secure Boot, and again
	h.sawTo("52:54:00:00:00:04", 5*time.Second, 2)
	for i := range 4 {
		h.saw("52:54:00:00:00:05", time.Duration(60-10*i)*time.Second, "discover", pxe)
		h.saw("52:54:00:00:00:05", time.Duration(60-10*i)*time.Second, "offer", pxe)
	}
	mac := p.rep.NICs[0].MAC
	h.sawTo(mac, 3*time.Minute, 7)
	h.saw(mac, 2*time.Minute, trace.Hello, func(g *trace.Sighting) {
		g.Number, g.Device = p.plan.Number, p.device().ID
		g.Link = trace.LinkTimes{Card: "eth0", Carrier: 2 * time.Second, Address: 31 * time.Second}
	})
	h.saw("02:11:22:33:44:55", time.Minute, "discover")
	h.saw("", time.Minute, "offer", func(g *trace.Sighting) { g.Problem, g.Server, g.IP = "other", "10.77.0.9", "10.77.0.9" })
}

func TestStartsPage(t *testing.T) {
	h := newHouse(t)
	h.user("Vera", Viewer)
	b := h.as("Vera")
	status, body := b.get("/starts")
	if status != http.StatusOK {
		t.Fatal(status)
	}
	wants(t, body, "No PC has started from the network lately", "IPv4 PXE", "sudo build/refurb payload usb", "<details class=\"card help\" open>")
	p := h.start(someReport(1, "Dell", "OptiPlex", blankDisk("AA000001")))
	startedPCs(h, p)
	_, body = b.get("/starts")
	wants(t, body, "Allow Microsoft 3rd Party UEFI CA", "52:54:00:00:00:01", "Dell OptiPlex", "Last time:", "DHCP snooping", "A PC without a number is named by", `set <bdi class="code" dir="ltr"><span class="nowrap">dhcp = &#34;auto&#34;</span></bdi>`, "Another DHCP server, \u206810.77.0.9\u2069",
		"Other devices", "The network was silent for \u206831\u2069 s", `<li class="stuck" aria-current="step">`, `href="/devices/`+p.device().ID)
	order := []string{"Don’t start", "Starting now", "Started"}
	for i := 1; i < len(order); i++ {
		if strings.Index(body, "<h2>"+order[i-1]) > strings.Index(body, "<h2>"+order[i]) {
			t.Errorf("%s comes after %s", order[i-1], order[i])
		}
	}
	_, body = b.get("/")
	wants(t, body, `class="startlink fail"`, "3</b>")
	_, body = b.get("/devices/" + p.device().ID)
	wants(t, body, "Last starts", "PortFast")
	_, body = b.get("/starts", "Accept-Language", "ar")
	wants(t, body, `dir="rtl"`, "رفضه Secure Boot", "لا تقلع")
}

// The page follows, and a browser gets no more than the PC that has moved on.
func TestStartsStream(t *testing.T) {
	h := newHouse(t)
	h.user("Vera", Viewer)
	b := h.as("Vera")
	bench := openStream(t, b, "/bench/stream")
	wants(t, bench.next(t), `id="starts-link"`)
	s := openStream(t, b, "/starts/stream")
	wants(t, s.next(t), `id="starts"`, "No PC has started")
	h.sawTo("52:54:00:00:00:01", time.Second, 1)
	wants(t, s.next(t), `id="starts"`, "52:54:00:00:00:01", "Is starting")
	h.sawTo("52:54:00:00:00:02", time.Second, 1)
	wants(t, s.next(t), "52:54:00:00:00:02")
	h.saw("52:54:00:00:00:02", 0, "tftp", file("shimx64.efi"))
	change := s.next(t)
	wants(t, change, "52:54:00:00:00:02")
	if strings.Contains(change, "52:54:00:00:00:01") || strings.Contains(change, `id="starts"`) {
		t.Errorf("more than what has changed: %s", change)
	}
	h.sawTo("52:54:00:00:00:03", time.Minute, 3)
	wants(t, bench.next(t), `id="starts-link"`, "fail", "1</b>")
}

// A finding comes when its time has come, without anything new being seen.
func TestFindingComesWithTime(t *testing.T) {
	h := newHouse(t)
	h.user("Vera", Viewer)
	h.sawTo("52:54:00:00:00:01", 21*time.Second, 3) // its shim came 19 s ago; at 20 it has stopped
	s := openStream(t, h.as("Vera"), "/starts/stream")
	for body := s.next(t); !strings.Contains(body, "3rd Party"); body = s.next(t) {
		wants(t, body, "Is starting")
	}
}

// The pages say in English what the command line says, and in every language
// all of it.
func TestFindingsAreSaid(t *testing.T) {
	l, err := loadLanguages(localeFiles)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range trace.English {
		f := trace.Finding{ID: id, With: map[string]string{}}
		for _, name := range []string{"Why", "Arch", "File", "Part", "Card", "Seconds", "Count", "Server", "IP", "Loader"} {
			f.With[name] = "<" + name + ">"
		}
		for _, w := range l.list {
			said := findingOf(f)
			for say, english := range map[string]string{said.Cause.ID: f.Cause(), said.Next.ID: f.Next()} {
				text, err := w.loc.Localize(&i18n.LocalizeConfig{MessageID: say, TemplateData: f.With})
				if err != nil || text == "" {
					t.Errorf("%s doesn't say %s: %v", w.Tag, say, err)
				}
				if w.Tag == "en" && text != english {
					t.Errorf("the page says %q, the command line %q", text, english)
				}
			}
		}
		if want.Cause == "" {
			t.Errorf("%s has no cause", id)
		}
	}
}

func TestHostileStart(t *testing.T) {
	h := newHouse(t)
	h.user("Vera", Viewer)
	b := h.as("Vera")
	evil := `"><script>alert(1)</script><img src=x onerror=alert(2)>{{.}}` + "\r\nevent: change\r\n\r\n\u202e" + strings.Repeat("A", 4000)
	for i := range 200 {
		h.saw(fmt.Sprintf("52:54:00:00:01:%02x", i), time.Minute, "discover", func(g *trace.Sighting) {
			g.Via, g.Detail, g.Err, g.File, g.Server, g.IP, g.Card, g.Problem = "pxe", evil, evil, evil, evil, evil, evil, "arch"
		})
	}
	h.saw("52:54:00:00:01:00", time.Second, trace.Hello, func(g *trace.Sighting) {
		g.Detail, g.Number, g.Device, g.Gaps = evil, 7, evil, []trace.Gap{{ID: evil, Reason: evil}}
	})
	_, body := b.get("/starts")
	harmless(t, "/starts", body)
	if n := strings.Count(body, `class="card start`); n != maxStarts || len(body) > 400_000 {
		t.Errorf("%d starts, %d bytes", n, len(body))
	}
	harmless(t, "stream", openStream(t, b, "/starts/stream").next(t))
}
