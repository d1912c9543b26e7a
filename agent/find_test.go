package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/agent/link"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

// boots makes the appliance answer PathBoot.
func boots(answer wire.BootAnswer, refusal *wire.Error) func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
	return func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			var ask wire.BootAsk
			if r.URL.Path != wire.PathBoot || json.Unmarshal(body, &ask) != nil || ask.MAC == "" {
				return false
			}
			if refusal != nil {
				return refuse(w, http.StatusConflict, *refusal)
			}
			_ = json.NewEncoder(w).Encode(answer)
			return true
		}
	}
}

// wanderer is a PC from a stick that is told these addresses, in every round.
func wanderer(t *testing.T, p *pc, urls ...string) (*agent, func(context.Context) (wire.BootAnswer, error)) {
	p.cfg.URL, p.cfg.Token, p.cfg.Stick = "", "", "8BB66F21-DD66-81C9-8209-3A24D18EDC40"
	a := newAgent(p.cfg)
	return a, func(ctx context.Context) (wire.BootAnswer, error) {
		return a.find(ctx, wire.BootAsk{MAC: "02:00:00:00:00:01"}, func(ctx context.Context, tell func(link.Found)) error {
			for _, u := range urls {
				tell(link.Found{URL: u, By: "DHCP"})
			}
			<-ctx.Done() // as the network does, it says no more until the time is up
			return nil
		})
	}
}

// Among false appliances of every kind the PC finds its own, without waiting for
// those that stall.
func TestFindsItsOwnAppliance(t *testing.T) {
	a := start(t, boots(wire.BootAnswer{Token: "fresh"}, nil))
	other := start(t, boots(wire.BootAnswer{Token: "stolen"}, nil))
	stall, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stall.Close() // it accepts, in the kernel, and never says a word
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
	defer garbage.Close()
	p := newPC(t, a)
	urls := []string{"https://" + stall.Addr().String(), other.url, "https://" + garbage.Listener.Addr().String(), "https://127.0.0.1:1", a.url, a.url}
	ag, find := wanderer(t, p, urls...)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answer, err := find(ctx)
	if err != nil || answer.Token != "fresh" || ag.cfg.URL != a.url || ag.cfg.Token != "fresh" {
		t.Fatalf("%+v, %v, at %s", answer, err, ag.cfg.URL)
	}
	if !p.showed(func(v screen.View) bool { return slices.Contains(v.Lines, "trying "+a.url+", named by DHCP") }) {
		t.Error("the screen never said whom it tries")
	}
	// A restarted agent goes on with the same token.
	if err := ag.note(); err != nil {
		t.Fatal(err)
	}
	again := newAgent(p.cfg)
	if !again.recall() || again.cfg.Token != "fresh" || again.client.url != a.url || again.client.token != "fresh" {
		t.Errorf("after a crash it knows %+v", again.cfg)
	}
	if st, err := os.Stat(ag.joinedPath()); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the token lies open: %v %v", st.Mode(), err)
	}
}

func TestOperatorsAddressIsTried(t *testing.T) {
	a := start(t, boots(wire.BootAnswer{Local: true}, nil))
	p := newPC(t, a)
	ag, find := wanderer(t, p)
	ag.cfg.URL = a.url
	answer, err := find(t.Context())
	if err != nil || !answer.Local {
		t.Fatalf("%+v, %v", answer, err)
	}
}

// What keeps the PC from its appliance stands on the screen, with what to do.
func TestWhyNoAppliance(t *testing.T) {
	mine := start(t, nil)
	other := start(t, boots(wire.BootAnswer{Token: "stolen"}, nil))
	old := start(t, boots(wire.BootAnswer{}, &wire.Error{Message: "This stick is old", Next: "Make a new stick"}))
	for _, c := range []struct {
		name       string
		pin        *appliance
		urls       []string
		kind       screen.Kind
		want, next string
	}{
		{"another appliance's stick", mine, []string{other.url}, screen.Failed, "belongs to another appliance than the one at " + other.url, "refurb payload usb"},
		{"an older stick", old, []string{other.url, old.url}, screen.Failed, "This stick is old", "Make a new stick"},
		{"nobody", mine, nil, screen.Waiting, "nobody on this network", "--url"},
		{"one that is off", mine, []string{"https://127.0.0.1:1"}, screen.Failed, "doesn't answer", "look whether the appliance runs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPC(t, c.pin)
			_, find := wanderer(t, p, c.urls...)
			ctx, cancel := context.WithTimeout(t.Context(), searchTime+20*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { _, err := find(ctx); done <- err }()
			for !p.showed(func(v screen.View) bool {
				return v.Kind == c.kind && strings.Contains(v.Detail, c.want) && strings.Contains(v.Next, c.next)
			}) {
				select {
				case <-time.After(100 * time.Millisecond):
				case err := <-done:
					p.mu.Lock()
					defer p.mu.Unlock()
					t.Fatalf("it ended with %v; shown: %+v", err, p.views)
				}
			}
			cancel()
			if err := <-done; err == nil {
				t.Error("it found somebody")
			}
			if p.showed(func(v screen.View) bool { return strings.Contains(fmt.Sprint(v), "stolen") }) {
				t.Error("another appliance's token was taken")
			}
		})
	}
}

// The question tells what a boot script's address would, and the key.
func TestBootAsk(t *testing.T) {
	var got wire.BootAsk
	var auth string
	a := start(t, func(a *appliance) func(http.ResponseWriter, *http.Request, []byte) bool {
		return func(w http.ResponseWriter, r *http.Request, body []byte) bool {
			auth = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer")
			_ = json.Unmarshal(body, &got)
			_ = json.NewEncoder(w).Encode(wire.BootAnswer{Token: "t"})
			return true
		}
	})
	p := newPC(t, a)
	p.cfg.URL, p.cfg.Token = a.url, ""
	ag := newAgent(p.cfg)
	lease := &link.Lease{Interface: "lo"}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	want := wire.BootAsk{MAC: lo.HardwareAddr.String(), Key: base64.StdEncoding.EncodeToString(a.key)}
	lease.Address = &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}
	local, err := ag.join(t.Context(), lease)
	if err != nil || local {
		t.Fatal(local, err)
	}
	got.UUID = "" // this machine's own
	if got != want || strings.TrimSpace(auth) != "" {
		t.Errorf("asked %+v with %q, want %+v", got, auth, want)
	}
}
