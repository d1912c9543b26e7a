package dashboard

import (
	"net/http"
	"strings"
	"sync"
	"testing"
)

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
	// One's own password is changed with the present one, and nowhere else.
	_, body = a.post("/users/"+admin.ID+"/password", "password", "yet another password")
	wants(t, body, "Present password")
	if _, err := h.dash.cfg.Users.Check(t.Context(), "Amina", testPassword); err != nil {
		t.Errorf("an open session was enough for a new password: %v", err)
	}
}

// Everybody changes their own password, knowing the present one; all their other
// sessions end.
func TestOwnPassword(t *testing.T) {
	h := newHouse(t)
	h.user("Vito", Viewer)
	here, there := h.as("Vito"), h.as("Vito")
	_, body := here.post("/me/password", "old", "not that one at all", "password", "new plain words")
	wants(t, body, "present password.")
	_, body = here.post("/me/password", "old", testPassword, "password", "short")
	wants(t, body, "too short")
	_, body = here.post("/me/password", "old", testPassword, "password", "new plain words")
	wants(t, body, "Old sessions have ended.", "Vito")
	if _, body := here.get("/lots"); strings.Contains(body, `action="/login"`) {
		t.Error("one's own session ended")
	}
	if _, body := there.get("/lots"); !strings.Contains(body, `action="/login"`) {
		t.Error("the other session goes on")
	}
	if status, _ := there.post("/login", "name", "Vito", "password", "new plain words"); status != http.StatusOK {
		t.Errorf("login with the new password: %d", status)
	}
	// Guessing it from a session that was left open is as slow as at the door.
	for range 5 {
		here.post("/me/password", "old", "a guess at random", "password", "evil plain words")
	}
	_, body = here.post("/me/password", "old", "new plain words", "password", "evil plain words")
	wants(t, body, "Too many tries.")
}

// A person who is removed is gone from every page; what they did is not.
func TestRemovePerson(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Admin)
	lead := h.user("Xanthippe", Lead)
	a, b := h.as("Amina"), h.as("Xanthippe")
	b.post("/lots", "donor", "Donor", "image", h.shelf.list[0].Root)
	p := h.start(someReport(1, "HP", "EliteDesk", dataDisk("S4EVNX0R704413")))
	page := "/devices/" + p.device().ID
	b.post(page+"/cancel", "job", p.device().Job.ID)
	_, body := a.get(page)
	wants(t, body, "Xanthippe")
	_, body = a.get("/users")
	wants(t, body, "Remove \u2068Xanthippe\u2069", "/users/"+lead.ID+"/remove")
	_, body = a.post("/users/" + lead.ID + "/remove")
	wants(t, body, "The name is gone.")
	if _, body := b.get("/lots"); !strings.Contains(body, `action="/login"`) {
		t.Error("their session goes on")
	}
	for _, path := range []string{"/users", page, "/lots", "/lots/" + h.reg.View().Lots[0].ID, page + "/history/jsonl", page + "/history/html", page + "/history/csv"} {
		status, body := a.get(path)
		if status != http.StatusOK || strings.Contains(body, "Xanthippe") {
			t.Errorf("%s: %d, and still holds the name: %v", path, status, strings.Contains(body, "Xanthippe"))
		}
	}
	_, body = a.get(page)
	wants(t, body, "someone no longer listed", "Was cancelled")
	_, body = a.get(page + "/history/jsonl")
	wants(t, body, lead.ID)
	if status, _ := a.post("/users/" + lead.ID + "/remove"); status != http.StatusNotFound {
		t.Errorf("removed twice: %d", status)
	}
	_, body = a.post("/users/" + h.me(a) + "/remove")
	wants(t, body, "your own rights")
}

// me is the id of who is logged in, as the page of people shows it.
func (h *house) me(b *browser) string {
	h.t.Helper()
	users, err := h.dash.cfg.Users.List(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	_, body := b.get("/me")
	for _, u := range users {
		if strings.Contains(body, `<h1><bdi>`+u.Name+`</bdi></h1>`) {
			return u.ID
		}
	}
	h.t.Fatal("nobody is logged in")
	return ""
}

// Two admins who switch each other off in the same moment: one stays.
func TestTwoAdminsAtOnce(t *testing.T) {
	h := newHouse(t)
	one, two := h.user("Amina", Admin), h.user("Bela", Admin)
	a, b := h.as("Amina"), h.as("Bela")
	var wg sync.WaitGroup
	wg.Go(func() { a.post("/users/"+two.ID+"/disabled", "disabled", "yes") })
	wg.Go(func() { b.post("/users/"+one.ID+"/role", "role", "viewer") })
	wg.Wait()
	users, err := h.dash.cfg.Users.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, u := range users {
		if u.Role == Admin && !u.Disabled {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d admins are left", n)
	}
	// And it is said in words.
	langs, err := loadLanguages(localeFiles)
	if err != nil {
		t.Fatal(err)
	}
	if got := troubleOf(&refused{http.StatusConflict, "user.last", "user.last.next"}, langs.list[0]); !strings.Contains(got.Title, "last administrator") {
		t.Errorf("%+v", got)
	}
}
