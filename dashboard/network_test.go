package dashboard

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// isolates keep values apart from text of the other direction.
var isolates = strings.NewReplacer("\u2068", "", "\u2069", "")

// What a person should see to is amber, in the reader's language; all else is a
// quiet line.
func TestWhoGivesTheAddresses(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Lead)
	b := h.as("Amina")
	_, body := b.get("/")
	if strings.Contains(body, `class="net"`) {
		t.Error("it says more than it knows")
	}
	if status, _ := b.get("/api/network"); status != http.StatusNotFound {
		t.Errorf("before anything is known: %d", status)
	}

	for _, tt := range []struct {
		n    Network
		want []string
	}{
		{Network{Why: "alone"}, []string{`class="net"`, "this server gives the PCs their addresses"}},
		{Network{Why: "beside", Givers: []string{"192.168.1.1"}}, []string{`class="net"`, "The router at 192.168.1.1 gives the PCs their addresses"}},
		{Network{Why: "beside", Needs: true, Givers: []string{"192.168.1.1", "192.168.1.2"}, Apart: true, Own: "10.77.0.1"},
			[]string{"note hold", "disturb each other: 192.168.1.1, 192.168.1.2."}},
		{Network{Why: "beside", Needs: true, Givers: []string{"192.168.1.1"}, Apart: true, Moves: true, Own: "10.77.0.1"}, []string{"takes an address from there"}},
		{Network{Why: "kept", Needs: true, Moves: true}, []string{"gives the addresses itself"}},
		{Network{Why: "alone", Needs: true, Twin: true, Own: "10.77.0.1", Boots: []string{"10.77.0.9"}}, []string{"note hold", "address 10.77.0.1", "10.77.0.9 gives out boot files"}},
		{Network{Why: "something new", Text: "said <in> English"}, []string{"said &lt;in&gt; English"}},
	} {
		h.net.Store(&tt.n)
		_, body = b.get("/")
		wants(t, isolates.Replace(body), tt.want...)
		if len(tt.n.Givers) > 1 && strings.Contains(body, "reach this server") {
			t.Error("two things at once are asked for")
		}
		_, body = b.get("/api/network")
		wants(t, body, `"why":"`+tt.n.Why+`"`)
	}
	// Every reason has its words, with nothing left open, in every language.
	for _, w := range h.dash.langs.list {
		for _, why := range []string{"looking", "nolink", "alone", "beside", "silent", "kept", "clash", "nobody"} {
			n := Network{Why: why, Givers: []string{"192.168.1.1", "192.168.1.2"}, Boots: []string{"192.168.1.3"}, Twin: true, Own: "10.77.0.1"}
			one := n
			one.Givers, one.Apart = n.Givers[:1], true
			moves := one
			moves.Moves = true
			for _, s := range slices.Concat(netOf(n, true).Says, netOf(one, true).Says, netOf(moves, true).Says) {
				text := string(w.Say(s))
				if w.Tag == "ar" && strings.Contains(isolates.Replace(text), "192.168.1.1, ") {
					t.Errorf("Latin commas in %s", text)
				}
				if strings.Contains(text, "net.") || strings.Contains(text, "{{") || strings.Contains(text, "no value") {
					t.Errorf("%s, %s: %s", w.Tag, why, text)
				}
			}
		}
	}
}
