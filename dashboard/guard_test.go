package dashboard

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
)

// Every route that the router has is in the table with a role, and holds it.
func TestRoles(t *testing.T) {
	h := newHouse(t)
	in := map[Role]*browser{Public: h.browser()}
	for r := Viewer; r <= Admin; r++ {
		h.user(r.String(), r)
		in[r] = h.as(r.String())
	}
	table := map[string]Role{}
	for _, r := range h.dash.routes() {
		table[r.method+" "+r.path] = r.least
	}
	dangerous := []string{"approve", "again", "cancel", "move", "lots", "close", "users", "role", "disabled", "password"}
	routed := 0
	for _, r := range h.dash.echo.Routes() {
		least, ok := table[r.Method+" "+r.Path]
		if !ok {
			t.Errorf("%s %s is routed and not in the table", r.Method, r.Path)
			continue
		}
		routed++
		if r.Method == http.MethodPost {
			last := r.Path[strings.LastIndex(r.Path, "/")+1:]
			for _, d := range dangerous {
				if last == d && least < Lead {
					t.Errorf("%s is open to a %s", r.Path, least)
				}
			}
		}
		if strings.HasSuffix(r.Path, "/stream") || r.Path == "/logout" {
			continue // the one never ends, the other ends the session
		}
		path := strings.NewReplacer(":id", "nobody", ":format", "csv", "*", "app.css").Replace(r.Path)
		for role := Public; role <= Admin; role++ {
			b := in[role]
			b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			var form map[string][]string
			if r.Method == http.MethodPost {
				form = map[string][]string{}
			}
			status, body := b.do(r.Method, path, form)
			b.CheckRedirect = nil
			refused := status == http.StatusForbidden || status == http.StatusUnauthorized || status == http.StatusSeeOther && role == Public
			if path == "/login" || path == "/language" {
				refused = status == http.StatusForbidden
			}
			if want := role < least; refused != want {
				t.Errorf("%s %s as %s: %d, refused: %v, want %v\n%.300s", r.Method, path, role, status, refused, want, text(body))
			}
		}
	}
	if routed != len(table) {
		t.Errorf("%d routes, the table has %d", routed, len(table))
	}
	for _, path := range []string{"/bench/stream", "/devices/x/stream"} {
		if status, _ := in[Public].get(path); status != http.StatusUnauthorized {
			t.Errorf("%s for nobody: %d", path, status)
		}
	}
}

func TestOtherSitesAreRefused(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Admin)
	b := h.as("Amina")
	form := map[string][]string{"donor": {"Eve"}}
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://evil.example"}} {
		status, body := b.do(http.MethodPost, "/lots", form, header...)
		if status != http.StatusForbidden {
			t.Errorf("%v: %d", header, status)
		}
		wants(t, body, "another site")
	}
	if n := len(h.reg.View().Lots); n != 0 {
		t.Errorf("%d lots were opened", n)
	}
	if status, _ := b.do(http.MethodPost, "/lots", form, "Origin", h.srv.URL); status != http.StatusOK || len(h.reg.View().Lots) != 1 {
		t.Errorf("from our own page: %d", status)
	}
}

func TestHeadersAndCookie(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Admin)
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.PostForm(h.srv.URL+"/login", map[string][]string{"name": {"Amina"}, "password": {testPassword}, "next": {"//evil.example"}})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/" {
		t.Errorf("a login leads to %d %s", res.StatusCode, res.Header.Get("Location"))
	}
	for _, want := range []string{"HttpOnly", "SameSite=Lax", "Max-Age=43200"} {
		if cookie := res.Header.Get("Set-Cookie"); !strings.Contains(cookie, want) {
			t.Errorf("the cookie %q lacks %s", cookie, want)
		}
	}
	csp := res.Header.Get("Content-Security-Policy")
	if strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "script-src 'self';") {
		t.Errorf("policy: %s", csp)
	}
	if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Referrer-Policy") == "" {
		t.Error("a header is missing")
	}
}

// The session's token before the login is not the one after it, and a password
// that is changed or a user who is switched off ends what is open.
func TestSessionsEnd(t *testing.T) {
	h := newHouse(t)
	admin := h.user("Amina", Admin)
	u := h.user("Vito", Volunteer)
	a, b := h.as("Amina"), h.as("Vito")
	shut := func(what string) {
		t.Helper()
		if _, body := b.get("/lots"); !strings.Contains(body, `action="/login"`) {
			t.Errorf("%s: the session goes on", what)
		}
	}
	_, body := a.post("/users/"+u.ID+"/password", "password", "another three words")
	wants(t, body, "Old sessions have ended.")
	shut("a new password")
	if status, _ := b.post("/login", "name", "Vito", "password", "another three words"); status != http.StatusOK {
		t.Fatalf("login with the new password: %d", status)
	}
	a.post("/users/"+u.ID+"/disabled", "disabled", "yes")
	shut("a user who is switched off")
	status, body := b.post("/login", "name", "Vito", "password", "another three words")
	if status != http.StatusUnauthorized {
		t.Errorf("login while switched off: %d", status)
	}
	wants(t, body, "Name or password is wrong.")
	_, body = a.post("/users/"+admin.ID+"/role", "role", "viewer")
	wants(t, body, "your own rights")
	_, body = a.post("/users", "name", "vito", "password", testPassword, "role", "lead")
	wants(t, body, "That name is taken.")
	_, body = a.post("/users", "name", "Zoë", "password", testPassword, "role", "king")
	wants(t, body, "no such role")
	_, body = a.post("/users", "name", "Zoë", "password", testPassword, "role", "lead")
	wants(t, body, "can log in now.", "Zoë")
	// One's own new password doesn't throw one out.
	_, body = a.post("/users/"+admin.ID+"/password", "password", "yet another password")
	wants(t, body, "Old sessions have ended.")
}

func TestLoginIsThrottled(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Admin)
	b := h.browser()
	for i := range 5 {
		if status, _ := b.post("/login", "name", "amina", "password", fmt.Sprint("guess number ", i)); status != http.StatusUnauthorized {
			t.Fatalf("guess %d: %d", i, status)
		}
	}
	status, body := b.post("/login", "name", "AMINA ", "password", testPassword)
	if status != http.StatusTooManyRequests {
		t.Fatalf("after five guesses: %d", status)
	}
	wants(t, body, "Too many tries.", "Wait ")
	// The same through the door for scripts.
	r, _ := http.NewRequest(http.MethodGet, h.srv.URL+"/api/devices", nil)
	r.SetBasicAuth("Amina", testPassword)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("Basic after five guesses: %d", res.StatusCode)
	}
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th throttle
		b := budget{burst: 3, back: 30 * time.Second}
		for i := range 3 {
			if w := th.take("a", b); w != 0 {
				t.Fatalf("try %d waits %v", i, w)
			}
		}
		if w := th.take("a", b); w != 30*time.Second {
			t.Errorf("the fourth waits %v", w)
		}
		if w := th.take("b", b); w != 0 {
			t.Errorf("another key waits %v", w)
		}
		time.Sleep(20 * time.Second)
		if w := th.take("a", b); w != 10*time.Second {
			t.Errorf("20 s later: %v", w)
		}
		time.Sleep(10 * time.Second)
		if w := th.take("a", b); w != 0 {
			t.Errorf("30 s later: %v", w)
		}
		th.give("a", b)
		if w := th.take("a", b); w != 0 {
			t.Errorf("a try that was given back: %v", w)
		}
		// Strangers can't fill the memory, nor get room by trying.
		for i := range 2 * maxKeys {
			th.take(fmt.Sprint("key ", i), b)
		}
		if n := len(th.tries); n > maxKeys {
			t.Errorf("%d keys are kept", n)
		}
		if w := th.take("late", b); w == 0 {
			t.Error("a full throttle lets a new key through")
		}
		time.Sleep(6 * time.Minute)
		if w := th.take("late", b); w != 0 || len(th.tries) > 1 {
			t.Errorf("after six minutes: wait %v, %d keys", w, len(th.tries))
		}
	})
}

func TestAPI(t *testing.T) {
	h := newHouse(t)
	h.user("robot", Viewer)
	p := h.start(someReport(1, "HP", "EliteDesk", dataDisk("S4EVNX0R704413")))
	call := func(path, name, password string) (int, string, http.Header) {
		r, _ := http.NewRequest(http.MethodGet, h.srv.URL+path, nil)
		if name != "" {
			r.SetBasicAuth(name, password)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b strings.Builder
		if _, err := fmt.Fprint(&b, readAll(t, res)); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b.String(), res.Header
	}
	status, body, head := call("/api/devices", "", "")
	var e wire.Error
	decode(t, body, &e)
	if status != http.StatusUnauthorized || !strings.HasPrefix(head.Get("WWW-Authenticate"), "Basic") || e.Message == "" || e.Next == "" {
		t.Errorf("nobody: %d %q %+v", status, head.Get("WWW-Authenticate"), e)
	}
	if status, _, _ := call("/api/devices", "robot", "wrong password"); status != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d", status)
	}
	status, body, _ = call("/api/devices", "robot", testPassword)
	var v struct {
		Devices []struct {
			ID     string `json:"id"`
			Number int    `json:"number"`
			Job    struct {
				State string `json:"state"`
				Hold  string `json:"hold"`
			} `json:"newest_job"`
		} `json:"devices"`
	}
	decode(t, body, &v)
	if status != http.StatusOK || len(v.Devices) != 1 || v.Devices[0].Number != 1 || v.Devices[0].Job.State != "held" || v.Devices[0].Job.Hold != "lot" {
		t.Errorf("%d %s", status, body)
	}
	status, body, _ = call("/api/devices/"+p.device().ID, "robot", testPassword)
	if status != http.StatusOK || !strings.Contains(body, `"events":[`) || strings.Contains(body, "checkin_hash") {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ = call("/api/devices/none", "robot", testPassword); status != http.StatusNotFound || !strings.HasPrefix(body, "{") {
		t.Errorf("no such device: %d %s", status, body)
	}
	if status, _, _ = call("/devices/"+p.device().ID+"/history/jsonl", "robot", testPassword); status != http.StatusOK {
		t.Errorf("an export: %d", status)
	}
	// A password in the header opens no page for people.
	if status, body, _ = call("/users", "robot", testPassword); !strings.Contains(body, `action="/login"`) {
		t.Errorf("Basic on a page: %d", status)
	}
	if status, body, _ = call("/healthz", "", ""); status != http.StatusOK || body != "ok\n" {
		t.Errorf("health: %d %q", status, body)
	}
}

// A full disk is nobody's riddle.
func TestFullDiskIsNamed(t *testing.T) {
	langs, err := loadLanguages(localeFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range langs.list {
		got := troubleOf(fmt.Errorf("storing a decision: %w", syscall.ENOSPC), w)
		if got.Status != http.StatusInsufficientStorage || got.Title != w.T("error.full") || got.Title == "error.full" {
			t.Errorf("%s: %+v", w.Tag, got)
		}
	}
}
