package appliance

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// A PC from a stick gets what a boot script would give it, by the same rules, and
// its history says that it came from one.
func TestBootFromAStick(t *testing.T) {
	h := newHouse(t)
	var a wire.BootAnswer
	if code, e := h.call(http.MethodPost, wire.PathBoot, "", `{"mac":"00:21:CC:00:00:01","smbios_uuid":""}`, &a); code != 200 || a.Local || len(a.Token) < 40 {
		t.Fatalf("%d %+v: %+v", code, e, a)
	}
	rep := report(1)
	rep.Stick = "8BB66F21-DD66-81C9-8209-3A24D18EDC40"
	var plan wire.Plan
	if code, e := h.call(http.MethodPost, wire.PathReport, a.Token, text(rep), &plan); code != 200 || plan.Number == 0 {
		t.Fatalf("its token is worth nothing: %d %+v", code, e)
	}
	dev := h.reg.View().Devices[0]
	if dev.Report.Stick != rep.Stick {
		t.Errorf("the device's report says %q", dev.Report.Stick)
	}
	events, err := h.db.Events(context.Background(), dev.ID)
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for _, e := range events {
		told = told || e.Kind == "report" && e.Params["stick"] == rep.Stick
	}
	if !told {
		t.Error("its history doesn't say that it was started from a stick")
	}

	for _, c := range []struct {
		name, body string
		header     []string
		code       int
		next       string
	}{
		{"no address of a card", `{"mac":"nonsense"}`, nil, 400, ""},
		{"no JSON", `mac`, nil, 400, ""},
		{"too long", `{"mac":"` + strings.Repeat("x", wire.MaxMessage) + `"}`, nil, 413, ""},
		{"an agent of another version", `{"mac":"00:21:cc:00:00:01"}`, []string{"Refurb-Wire", "1"}, 426, "new stick"},
	} {
		if code, e := h.call(http.MethodPost, wire.PathBoot, "", c.body, nil, c.header...); code != c.code || !strings.Contains(e.Next, c.next) {
			t.Errorf("%s: %d %+v", c.name, code, e)
		}
	}
}

// A stick that was made before the key for images was changed is told so at once.
func TestBootFromAnOldStick(t *testing.T) {
	h := newHouse(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := workshop.Open(t.Context(), workshop.Config{Store: h.db, Images: oneImage{}, Key: key, BaseURL: func() (string, string) { return "https://a", "http://b" }})
	if err != nil {
		t.Fatal(err)
	}
	ask := wire.BootAsk{MAC: "00:21:cc:00:00:01", Key: base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))}
	if a, err := reg.StickBoot(t.Context(), ask); err != nil || a.Token == "" {
		t.Errorf("with the right key: %+v, %v", a, err)
	}
	for _, other := range []string{"", "AAAA"} {
		ask.Key = other
		a, err := reg.StickBoot(t.Context(), ask)
		if ref, ok := err.(*workshop.Refusal); !ok || ref.Kind != workshop.Conflict || !strings.Contains(ref.Next, "new stick") || a.Token != "" {
			t.Errorf("with the key %q: %+v, %v", other, a, err)
		}
	}
}

// A PC that has nothing to do here may ask as often as it likes: that fills no log.
func TestLocalAnswersFillNoLog(t *testing.T) {
	said := &logged{}
	for _, local := range []bool{false, true} {
		toldOfStick(slog.New(slog.NewTextHandler(said, nil)), "00:21:cc:00:00:01", "10.77.0.100:1", local)
		if got := said.has("started from a stick"); !got || said.has("local=true") {
			t.Errorf("local %v: said %v", local, got)
		}
	}
}

// Tokens are asked for by strangers as well: they run out, as those of boot
// scripts do, and from one and the same limit.
func TestStickTokensAreLimited(t *testing.T) {
	h := newHouse(t)
	for range 1000 {
		code, e := h.call(http.MethodPost, wire.PathBoot, "", `{"mac":"00:21:cc:00:00:01"}`, nil)
		if code == http.StatusTooManyRequests {
			if _, _, err := h.reg.Boot(context.Background(), workshop.Start{MAC: "00:21:cc:00:00:02"}); err == nil {
				t.Error("scripts have a limit of their own")
			}
			return
		}
		if code != 200 {
			t.Fatalf("%d %+v", code, e)
		}
	}
	t.Error("a thousand tokens, and no end")
}
