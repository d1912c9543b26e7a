package papers

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"refurb/appliance/workshop"
)

// values walks over everything in a JSON document that could be changed, and
// gives each changed document once.
func values(v any, changed func()) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			values(x, changed)
			delete(v, k)
			changed()
			v[k+"_"] = x
			changed()
			delete(v, k+"_")
			v[k] = other(x)
			changed()
			v[k] = x
		}
	case []any:
		for i, x := range v {
			values(x, changed)
			v[i] = other(x)
			changed()
			v[i] = x
		}
	}
}

func other(v any) any {
	switch v := v.(type) {
	case string:
		return v + "x"
	case float64:
		return v + 1
	case bool:
		return !v
	}
	return nil
}

// Whatever is changed in a file is noticed; so is a thief who signs it anew.
func TestTamperedFiles(t *testing.T) {
	o, _ := office(t)
	for _, k := range theKinds {
		file := write(t, o, k.kind, k.id, JSON)
		var doc any
		if err := json.Unmarshal(file, &doc); err != nil {
			t.Fatal(err)
		}
		n := 0
		values(doc, func() {
			n++
			b, err := canonical(doc)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(b, file) {
				t.Fatal("nothing was changed")
			}
			for _, p := range []ed25519.PublicKey{pub, nil} {
				if _, err := Verify(bytes.NewReader(b), p); err == nil {
					t.Fatalf("%s: passes as %.2000s", k.kind, b)
				}
			}
		})
		if n < 50 {
			t.Errorf("%s: only %d changes were tried", k.kind, n)
		}
		for name, b := range map[string][]byte{
			"a space":         bytes.Replace(file, []byte(`":`), []byte(`": `), 1),
			"a field twice":   bytes.Replace(file, []byte(`{"content":`), []byte(`{"content":{},"content":`), 1),
			"something after": append(bytes.Clone(file), "{}"...),
			"cut off":         file[:len(file)-2],
			"empty":           nil,
		} {
			if _, err := Verify(bytes.NewReader(b), pub); err == nil {
				t.Errorf("%s: %s passes", k.kind, name)
			}
		}
		var p Signed
		if err := json.Unmarshal(file, &p); err != nil {
			t.Fatal(err)
		}
		stolen, err := sign(k.kind, k.id, decode(t, p), thief)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(bytes.NewReader(stolen), pub); err == nil || !strings.Contains(err.Error(), "another key") {
			t.Errorf("%s signed by a thief: %v", k.kind, err)
		}
		if rep, err := Verify(bytes.NewReader(stolen), nil); err != nil || rep.Trusted {
			t.Errorf("%s signed by a thief, without a key to hold it against: %v %v", k.kind, err, rep.Trusted)
		}
		// A signature over the same bytes for another use is none.
		p.Signature = ""
		bare, _ := canonical(p)
		p.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(key, append([]byte("refurb-audit-1\n"), bare...)))
		b, _ := canonical(p)
		if _, err := Verify(bytes.NewReader(b), pub); err == nil {
			t.Errorf("%s: a signature for something else passes", k.kind)
		}
	}
}

func decode(t *testing.T, p Signed) content {
	c := blank(p.Kind)
	if err := json.Unmarshal(p.Content, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// Whoever changes a line that merged or split records, or takes it out, gets no paper
// of either PC.
func TestTamperedTies(t *testing.T) {
	b := newBook(t)
	b.device("ONE", 1, somePC(ssd))
	b.device("TWO", 2, somePC())
	b.merge("TWO", "ONE")
	b.add(workshop.Event{Device: "TWO", Kind: "split_off", Actor: "LEAD7", Params: map[string]string{"device": "ONE", "number": "1"}})
	b.add(workshop.Event{Device: "ONE", Kind: "split_from", From: "merged", To: "received", Actor: "LEAD7", Params: map[string]string{"device": "TWO", "from_number": "2"}})
	b.merge("TWO", "ONE")
	b.report("ONE", somePC(ssd))
	b.report("TWO", somePC())
	o := New(b, key)
	if _, _, err := o.donor(t.Context(), "LOT1"); err != nil {
		t.Fatal(err)
	}
	tried := map[string]int{}
	for device, whole := range b.chains {
		for i, e := range whole {
			var l struct {
				Event string `json:"event"`
			}
			if err := json.Unmarshal(e.Line, &l); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(l.Event, "merged_") && !strings.HasPrefix(l.Event, "split_") {
				continue
			}
			refused := func(what string, line []byte) {
				t.Helper()
				tried[l.Event]++
				harmed := slices.Clone(whole)
				if harmed[i].Line = line; line == nil {
					harmed = slices.Delete(harmed, i, i+1)
				}
				b.chains[device] = harmed
				defer func() { b.chains[device] = whole }()
				for kind, id := range map[Kind]string{Donor: "LOT1", NoStorage: "TWO"} {
					if err := o.Write(t.Context(), io.Discard, kind, id, JSON); err == nil || !strings.Contains(err.Error(), "damaged") {
						t.Errorf("%s of %s %s: a %s: %v", l.Event, device, what, kind, err)
					}
				}
			}
			refused("is gone", nil)
			var doc any
			if err := json.Unmarshal(e.Line, &doc); err != nil {
				t.Fatal(err)
			}
			values(doc, func() {
				line, err := canonical(doc)
				if err != nil {
					t.Fatal(err)
				}
				refused("says "+string(line), line)
			})
		}
	}
	for _, k := range []string{"merged_into", "merged_from", "split_off", "split_from"} {
		if tried[k] < 10 {
			t.Errorf("%s: only %d changes were tried", k, tried[k])
		}
	}
}

// What can be seen on a page is what was signed.
func TestTamperedPages(t *testing.T) {
	o, _ := office(t)
	page := string(write(t, o, Erasure, "JOB2", HTML))
	pre := strings.Index(page, signedStart)
	for _, c := range []struct{ from, to string }{
		{">Erased</span>", ">Not erased</span>"},
		{"S4EVNX0R704413", "S4EVNX0R704414"},
		{"What was done amounts to Purge.", "What was done amounts to Clear."},
		{"<h2>What it doesn’t prove</h2>", "<h2 hidden>What it doesn’t prove</h2>"},
		{"</body>", "<p>NIST approved</p></body>"},
		{"<style>", "<style>.warn{display:none}"},
		{"† <span", " <span"},
	} {
		if strings.Index(page, c.from) > pre && c.from != "</body>" || !strings.Contains(page, c.from) {
			t.Fatalf("the page doesn't show %s", c.from)
		}
		if _, err := Verify(strings.NewReader(strings.Replace(page, c.from, c.to, 1)), pub); err == nil {
			t.Errorf("%s → %s passes", c.from, c.to)
		} else if !strings.Contains(err.Error(), "the page was changed: line ") {
			t.Errorf("%s → %s: %v", c.from, c.to, err)
		}
	}
	for name, p := range map[string]string{
		"no document":    strings.Replace(page, signedStart, "<pre>", 1),
		"no names":       strings.Replace(page, besideStart, "<pre>", 1),
		"two of beside":  strings.Replace(page, besideStart, besideStart+"{}</pre>"+besideStart, 1),
		"another paper":  strings.Replace(page, signedStart, signedStart+"{}</pre>"+signedStart, 1),
		"something else": "<!doctype html><p>good",
	} {
		if _, err := Verify(strings.NewReader(p), pub); err == nil {
			t.Errorf("%s: it passes", name)
		}
	}
	// A page of another version is neither good nor bad, and says so.
	next := strings.Replace(strings.Replace(page, generator+fmt.Sprint(layout), generator+fmt.Sprint(layout+1), 1), ">Erased</span>", ">Whatever</span>", 1)
	rep, err := Verify(strings.NewReader(next), pub)
	if err != nil || rep.Page != OtherPage || rep.Papers[0].Verdict() != "Erased" || rep.Names != nil {
		t.Errorf("a page of another layout: %v %+v", err, rep)
	}
	// Names are beside: who changes them in both places is believed in neither.
	if rep, err := Verify(strings.NewReader(strings.ReplaceAll(page, "Amina", "Mallory")), pub); err != nil || rep.Names["LEAD7"] != "Mallory <Haddad>" {
		t.Errorf("names: %v %+v", err, rep.Names)
	}
}
