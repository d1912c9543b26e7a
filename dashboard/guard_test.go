package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
)

// meant is who may call what, said once more: a route that isn't here is one that
// nobody has thought about, and a role that changes is changed twice.
var meant = map[Role][]string{
	Public: {"GET /healthz", "GET /static/*", "GET /setup", "POST /setup", "GET /login", "POST /login", "POST /language"},
	Viewer: {
		"GET /checkpoints", "GET /checkpoints/:name", "GET /checkpoints/:name/note",
		"GET /papers/lot/:id", "GET /papers/:kind/:id", "GET /papers/:kind/:id/json",
		"POST /logout", "GET /me", "POST /me/password", "GET /", "GET /bench/stream", "GET /starts", "GET /starts/stream", "GET /devices", "GET /devices.csv",
		"GET /devices/:id", "GET /devices/:id/stream", "GET /devices/:id/history/:format", "GET /lots", "GET /lots/:id", "GET /disks", "GET /disks/:key",
		"GET /images", "GET /api/devices", "GET /api/devices/:id", "GET /api/network",
	},
	Volunteer: {"POST /devices/:id/wake", "POST /devices/:id/rescue", "POST /devices/:id/rescue/forget"},
	Lead: {
		"POST /devices/:id/shell", "POST /lots/:id/wake",
		"POST /devices/:id/approve", "POST /devices/:id/erase", "POST /devices/:id/again", "POST /devices/:id/again/forget",
		"POST /devices/:id/wait", "POST /devices/:id/cancel", "POST /devices/:id/move",
		"GET /devices/:id/merge", "POST /devices/:id/merge", "GET /devices/:id/split", "POST /devices/:id/split", "POST /devices/:id/doubt",
		"POST /lots", "POST /lots/:id/close", "POST /lots/:id/intake", "POST /checkpoints",
	},
	Admin: {"GET /users", "POST /users", "POST /users/:id/role", "POST /users/:id/disabled", "POST /users/:id/password", "POST /users/:id/remove"},
}

var pathWord = regexp.MustCompile(`:\w+`)

// somePath is an address of a route that leads to nothing that exists.
func somePath(route string) string {
	route = strings.NewReplacer(":format", "csv", "*", "app.css").Replace(route)
	return pathWord.ReplaceAllString(route, "nobody")
}

// try sends one request and tells how it was answered, without following it or
// reading a stream to its end.
func (b *browser) try(t *testing.T, method, path, body string, header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, b.h.srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Jar: b.Jar, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	cancel()
	res.Body.Close()
	return res
}

// keptOut reports whether an answer says: not you.
func keptOut(res *http.Response) bool {
	switch res.StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized:
		return true
	case http.StatusSeeOther:
		return strings.HasPrefix(res.Header.Get("Location"), "/login")
	}
	return false
}

// staffed is a house with somebody of every role, and with nobody.
func staffed(t *testing.T) (*house, map[Role]*browser) {
	h := newHouse(t)
	in := map[Role]*browser{Public: h.browser()}
	for r := Viewer; r <= Admin; r++ {
		h.user(r.String(), r)
		in[r] = h.as(r.String())
	}
	return h, in
}

// lines counts all that the house has written down.
func (h *house) lines() (n int) {
	h.t.Helper()
	ids := []string{""}
	for _, v := range h.reg.View().Devices {
		ids = append(ids, v.ID)
	}
	for _, id := range ids {
		events, err := h.store.Events(h.t.Context(), id)
		if err != nil {
			h.t.Fatal(err)
		}
		n += len(events)
	}
	return n
}

// The table of routes is the one that was meant, the router has nothing else, and
// each route is tried by every role, by somebody who has logged out and by
// somebody who was switched off.
func TestRoles(t *testing.T) {
	h, in := staffed(t)
	want := map[string]Role{}
	for role, routes := range meant {
		for _, r := range routes {
			want[r] = role
		}
	}
	table := map[string]Role{}
	for _, r := range h.dash.routes() {
		table[r.method+" "+r.path] = r.least
		if r.method != http.MethodGet && r.method != http.MethodPost {
			t.Errorf("%s %s: forms know only GET and POST", r.method, r.path)
		}
	}
	for r, role := range table {
		if least, ok := want[r]; !ok {
			t.Errorf("%s is open to every %s, and the list of this test doesn't know it", r, role)
		} else if least != role {
			t.Errorf("%s is open to every %s, it was meant for a %s", r, role, least)
		}
	}
	for r := range want {
		if _, ok := table[r]; !ok {
			t.Errorf("%s is gone", r)
		}
	}
	routed := map[string]bool{}
	for _, r := range h.dash.echo.Routes() {
		routed[r.Method+" "+r.Path] = true
		if _, ok := table[r.Method+" "+r.Path]; !ok {
			t.Errorf("%s %s is routed and not in the table", r.Method, r.Path)
		}
	}
	if len(routed) != len(table) {
		t.Errorf("%d routes, the table has %d", len(routed), len(table))
	}

	off := h.user("off", Admin)
	gone := h.as("off")
	if err := h.dash.cfg.Users.SetDisabled(t.Context(), "setup", off.ID, true); err != nil {
		t.Fatal(err)
	}
	h.user("out", Admin)
	out := h.as("out")
	cookies := out.Jar.Cookies(mustURL(t, h.srv.URL))
	if res := out.try(t, http.MethodPost, "/logout", ""); res.StatusCode != http.StatusSeeOther {
		t.Fatalf("logout: %d", res.StatusCode)
	}
	out.Jar.SetCookies(mustURL(t, h.srv.URL), cookies) // as who has kept the cookie would

	before := h.lines()
	for r, least := range table {
		method, path, _ := strings.Cut(r, " ")
		for role := Public; role <= Admin; role++ {
			if r == "POST /logout" && role > Public || r == "POST /login" {
				continue // it ends the session; it may answer that the password is wrong
			}
			res := in[role].try(t, method, somePath(path), "")
			if refused := keptOut(res); refused != (role < least) && path != "/me/password" || path == "/me/password" && role == Public && !refused {
				t.Errorf("%s as %s: %d %s", r, role, res.StatusCode, res.Header.Get("Location"))
			}
		}
		for who, b := range map[string]*browser{"switched off": gone, "logged out": out} {
			if res := b.try(t, method, somePath(path), ""); keptOut(res) != (least > Public) && r != "POST /login" {
				t.Errorf("%s, %s: %d %s", r, who, res.StatusCode, res.Header.Get("Location"))
			}
		}
		// No other method leads anywhere.
		for _, other := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "QUERY"} {
			if _, ok := table[other+" "+path]; ok {
				continue
			}
			for _, role := range []Role{Public, Viewer, Admin} {
				res := in[role].try(t, other, somePath(path), "")
				listed := other == http.MethodOptions && res.StatusCode == http.StatusNoContent // which methods there are, and nothing else
				if !listed && res.StatusCode != http.StatusMethodNotAllowed && res.StatusCode != http.StatusNotFound {
					t.Errorf("%s %s as %s: %d", other, path, role, res.StatusCode)
				}
			}
		}
	}
	for _, path := range []string{"/bench/stream", "/starts/stream", "/devices/x/stream"} {
		if res := in[Public].try(t, http.MethodGet, path, ""); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s for nobody: %d", path, res.StatusCode)
		}
	}
	if after := h.lines(); after != before {
		t.Errorf("%d lines were written by requests that name nothing that exists", after-before)
	}
	// A role that is taken away is gone with the next request.
	users, err := h.dash.cfg.Users.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users {
		if u.Role == Lead {
			if err := h.dash.cfg.Users.SetRole(t.Context(), "setup", u.ID, Viewer); err != nil {
				t.Fatal(err)
			}
		}
	}
	if res := in[Lead].try(t, http.MethodPost, "/lots", "donor=x"); res.StatusCode != http.StatusForbidden || len(h.reg.View().Lots) != 0 {
		t.Errorf("a lead of yesterday opens a lot: %d", res.StatusCode)
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Looking changes nothing: links, prefetching and crawlers are harmless.
func TestReadingChangesNothing(t *testing.T) {
	h := newHouse(t)
	lead := h.user("Amina", Admin)
	if _, err := h.reg.OpenLot(t.Context(), lead.ID, "Donor", h.shelf.list[0].Root, false); err != nil {
		t.Fatal(err)
	}
	p := h.start(someReport(1, "HP", "EliteDesk", dataDisk("S4EVNX0R704413")))
	b := h.as("Amina")
	before := h.lines()
	for _, r := range h.dash.routes() {
		if r.method != http.MethodGet {
			continue
		}
		path := strings.NewReplacer(":id", p.device().ID, ":format", "csv", "*", "app.css").Replace(r.path)
		if strings.HasPrefix(path, "/lots/") {
			path = "/lots/" + h.reg.View().Lots[0].ID
		}
		if res := b.try(t, http.MethodGet, pathWord.ReplaceAllString(path, "x"), ""); res.StatusCode >= http.StatusInternalServerError {
			t.Errorf("GET %s: %d", path, res.StatusCode)
		}
	}
	if after := h.lines(); after != before {
		t.Errorf("reading wrote %d lines", after-before)
	}
}

// No other site can act in the name of somebody who is logged in, by any form.
func TestOtherSitesAreRefused(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Admin)
	b := h.as("Amina")
	before := h.lines()
	for _, r := range h.dash.routes() {
		if r.method != http.MethodPost {
			continue
		}
		for _, header := range [][]string{
			{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"}, {"Origin", "null"},
			{"Sec-Fetch-Site", "cross-site", "Origin", h.srv.URL}, {"Origin", "http://evil.example", "X-HTTP-Method-Override", "GET"},
		} {
			res := b.try(t, http.MethodPost, somePath(r.path), "donor=Eve&name=Eve&password=three+evil+words&role=admin&sure=yes", header...)
			if res.StatusCode != http.StatusForbidden {
				t.Errorf("%s with %v: %d", r.path, header, res.StatusCode)
			}
		}
	}
	if n := len(h.reg.View().Lots); n != 0 || h.lines() != before {
		t.Errorf("%d lots were opened, %d lines written", n, h.lines()-before)
	}
	form := map[string][]string{"donor": {"Eve"}}
	status, body := b.do(http.MethodPost, "/lots", form, "Sec-Fetch-Site", "cross-site")
	if status != http.StatusForbidden {
		t.Errorf("%d", status)
	}
	wants(t, body, "another site")
	for i, header := range [][]string{{"Origin", h.srv.URL}, {"Sec-Fetch-Site", "same-origin"}} {
		if i > 0 {
			b.post("/lots/"+h.reg.View().Lots[0].ID+"/close", "sure", "yes")
		}
		if status, _ := b.do(http.MethodPost, "/lots", form, header...); status != http.StatusOK || len(h.reg.View().Lots) != i+1 {
			t.Errorf("from our own page, %v: %d", header, status)
		}
	}
}

// No request can be so large that it costs anything, and one that is too large or
// no form at all is not taken for an empty one.
func TestEveryRequestIsBounded(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Admin)
	b := h.as("Amina")
	before := h.lines()
	for _, r := range h.dash.routes() {
		if r.method != http.MethodPost {
			continue
		}
		for body, want := range map[string]int{
			"a=" + strings.Repeat("x", maxForm): http.StatusRequestEntityTooLarge,
			"donor=x&b=%zz":                     http.StatusBadRequest,
		} {
			if res := b.try(t, http.MethodPost, somePath(r.path), body); res.StatusCode != want {
				t.Errorf("%s with %d bytes: %d, want %d", r.path, len(body), res.StatusCode, want)
			}
		}
		for _, kind := range []string{"multipart/form-data; boundary=x", "application/json", ""} {
			if res := b.try(t, http.MethodPost, somePath(r.path), "--x\r\n\r\n--x--", "Content-Type", kind); res.StatusCode != http.StatusUnsupportedMediaType {
				t.Errorf("%s with %q: %d", r.path, kind, res.StatusCode)
			}
		}
	}
	if after := h.lines(); after != before {
		t.Errorf("%d lines were written", after-before)
	}
}

// Every answer has the headers that shut foreign scripts, frames and windows out:
// pages, files, streams, refusals and mistakes.
func TestEveryAnswerHasItsHeaders(t *testing.T) {
	h, in := staffed(t)
	if _, err := h.reg.OpenLot(t.Context(), "x", "Donor", h.shelf.list[0].Root, false); err != nil {
		t.Fatal(err)
	}
	id := h.start(someReport(1, "HP", "EliteDesk", dataDisk("S4EVNX0R704413"))).device().ID
	seen := map[int]bool{}
	look := func(res *http.Response) {
		t.Helper()
		seen[res.StatusCode] = true
		what := res.Request.Method + " " + res.Request.URL.Path
		csp := map[string]string{}
		for _, d := range strings.Split(res.Header.Get("Content-Security-Policy"), ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(d), " ")
			csp[name] = value
		}
		scripts, ok := csp["script-src"]
		if !ok {
			scripts = csp["default-src"]
		}
		if scripts != "'self'" && scripts != "'none'" {
			t.Errorf("%s: scripts may come from %q", what, scripts)
		}
		if csp["default-src"] != "'none'" || csp["frame-ancestors"] != "'none'" || csp["base-uri"] != "'none'" {
			t.Errorf("%s: %v", what, csp)
		}
		for name, value := range csp {
			if strings.Contains(value, "unsafe") && name != "style-src" {
				t.Errorf("%s: %s %s", what, name, value)
			}
		}
		for name, value := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := res.Header.Get(name); got != value {
				t.Errorf("%s: %s is %q", what, name, got)
			}
		}
		if res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s lets other sites read", what)
		}
		if cache := res.Header.Get("Cache-Control"); cache != "no-store" && !strings.HasPrefix(res.Request.URL.Path, "/static/") {
			t.Errorf("%s: may be kept: %q", what, cache)
		}
	}
	for _, r := range h.dash.routes() {
		for _, role := range []Role{Public, Viewer, Admin} {
			if r.path == "/logout" {
				continue
			}
			look(in[role].try(t, r.method, somePath(r.path), ""))
			look(in[role].try(t, r.method, strings.NewReplacer(":id", id, ":format", "html", "*", "nothing").Replace(r.path), "", "Origin", "http://evil.example"))
		}
	}
	look(in[Admin].try(t, http.MethodGet, "/nothing/here", ""))
	look(in[Admin].try(t, http.MethodGet, "/devices/"+id+"/history/html", ""))
	look(in[Admin].try(t, http.MethodDelete, "/lots", ""))
	look(in[Admin].try(t, http.MethodPost, "/lots", strings.Repeat("x", maxForm+1)))
	look(in[Admin].try(t, http.MethodGet, "/%2e%2e/%2e%2e/etc/passwd", ""))
	for _, status := range []int{200, 303, 401, 403, 404, 405, 413} {
		if !seen[status] {
			t.Errorf("no answer was a %d: this test has lost sight of it", status)
		}
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
	for _, word := range []string{"Domain=", "SameSite=None"} {
		if cookie := res.Header.Get("Set-Cookie"); strings.Contains(cookie, word) {
			t.Errorf("the cookie %q says %s", cookie, word)
		}
	}
	if csp := res.Header.Get("Content-Security-Policy"); strings.Contains(csp, "unsafe") || !strings.Contains(csp, "script-src 'self';") {
		t.Errorf("policy: %s", csp)
	}
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
