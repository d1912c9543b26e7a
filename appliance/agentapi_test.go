package appliance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/audit"
	"refurb/appliance/store"
	"refurb/appliance/trace"
	"refurb/appliance/workshop"
	"refurb/images"
)

type oneImage struct{}

func (oneImage) Image(root string) (string, *images.Manifest, error) {
	if root != "aa11" {
		return "", nil, errors.New("no such image")
	}
	return "tiny", &images.Manifest{Name: "tiny", Bytes: 1e9, Block: 512}, nil
}

// house is a served agent API over real records.
type house struct {
	*testing.T
	reg *workshop.Registry
	db  *store.Store
	url string
	log *bytes.Buffer

	dir     string
	sharing *Sharing

	mu   sync.Mutex
	told []trace.Sighting
}

func (h *house) tell(s trace.Sighting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, s)
}

func newHouse(t *testing.T) *house {
	dir := t.TempDir()
	db, err := store.Open(filepath.Join(dir, "refurb.db"), audit.Seal)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := workshop.Open(context.Background(), workshop.Config{Store: db, Images: oneImage{}, BaseURL: func() (string, string) { return "https://a", "http://b" }})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{T: t, dir: dir, reg: reg, db: db, log: &bytes.Buffer{}}
	e := newEcho()
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.sharing = NewSharing(reg, func() netip.Prefix { return netip.MustParsePrefix("127.0.0.0/24") }, true, log)
	RegisterAgentAPI(e, reg, h.sharing, h.tell, log)
	srv := httptest.NewServer(e)
	h.url = srv.URL
	t.Cleanup(func() { srv.Close(); db.Close() })
	return h
}

// call returns the status and the body's message; into takes a good answer.
func (h *house) call(method, path, token, body string, into any, header ...string) (int, wire.Error) {
	h.Helper()
	req, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.Fatal(err)
	}
	req.Header.Set("Refurb-Wire", strconv.Itoa(wire.Version))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Del(header[i])
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.Fatal(err)
	}
	var e wire.Error
	if resp.StatusCode/100 != 2 {
		if json.Unmarshal(b, &e) != nil || e.Message == "" {
			h.Fatalf("%s %s: %d without a message: %s", method, path, resp.StatusCode, b)
		}
	} else if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			h.Fatal(err)
		}
	}
	return resp.StatusCode, e
}

func (h *house) token(mac string) string {
	h.Helper()
	_, token, err := h.reg.Boot(context.Background(), workshop.Start{MAC: mac})
	if err != nil {
		h.Fatal(err)
	}
	return token
}

func report(n int) wire.Report {
	return wire.Report{
		BootID:   fmt.Sprint("boot ", n),
		Identity: wire.Identity{SystemSerial: fmt.Sprintf("PF0X%04d", n), Model: "evil\u202e\x00<b>" + strings.Repeat("x", 999)},
		NICs:     []wire.NIC{{Permanent: fmt.Sprintf("00:21:cc:00:00:%02x", n), Bus: "pci"}},
		Disks:    []wire.Disk{{DiskID: wire.DiskID{Path: "/dev/sda", Serial: "DISK123456", Bytes: 2e9, LogicalBlock: 512}, Class: wire.ClassBlank}},
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestOneWayThrough(t *testing.T) {
	h := newHouse(t)
	if _, err := h.reg.OpenLot(context.Background(), "u", "ACME", "aa11", true); err != nil {
		t.Fatal(err)
	}
	token := h.token("00:21:cc:00:00:01")
	var plan wire.Plan
	// A field that this program doesn't know is no reason to refuse a PC.
	body := strings.Replace(text(report(1)), `{"boot_id"`, `{"from_the_future":{"a":[1]},"boot_id"`, 1)
	if code, e := h.call("POST", wire.PathReport, token, body, &plan); code != 200 || plan.Action != wire.ActionImage {
		t.Fatalf("%d %v %+v", code, e, plan)
	}
	if m := h.reg.View().Devices[0].Report.Identity.Model; len(m) > wire.MaxText || strings.ContainsAny(m, "\x00\u202e") || !strings.HasPrefix(m, "evil <b>xxx") {
		t.Fatalf("%q", m)
	}
	if code, _ := h.call("GET", wire.PathPlan+"?have=0&wait=0", token, "", &plan); code != 200 || plan.Job == "" {
		t.Fatalf("%d %+v", code, plan)
	}
	start := time.Now()
	if code, _ := h.call("GET", fmt.Sprintf("%s?have=%d&wait=1", wire.PathPlan, plan.Serial), token, "", &plan); code != 200 || time.Since(start) < time.Second {
		t.Fatalf("%d after %v", code, time.Since(start))
	}
	for i, e := range []wire.Event{
		{Kind: wire.EventImaging, Disk: plan.Disk}, {Kind: wire.EventVerifying},
		{Kind: wire.EventOutcome, Outcome: &wire.Outcome{Result: wire.Done, ReadBack: 1e9, Root: "aa11"}},
	} {
		e.Job, e.Seq = plan.Job, i+1
		var reply wire.ProgressReply
		if code, _ := h.call("POST", wire.PathProgress, token, text(wire.Progress{Job: plan.Job}), &reply); code != 200 || reply.Stop {
			t.Fatalf("%d %+v", code, reply)
		}
		if code, msg := h.call("POST", wire.PathEvent, token, text(e), nil); code != 204 {
			t.Fatalf("%d %v", code, msg)
		}
	}
	// curl names no version.
	if code, msg := h.call("POST", wire.PathCheckin, plan.Image.Checkin.Token, text(wire.FirstBoot{System: "tiny"}), nil, "Refurb-Wire", "1"); code != 204 {
		t.Fatalf("%d %v", code, msg)
	}
	if s := h.reg.View().Devices[0].Job.State; s != workshop.FirstBoot {
		t.Fatal(s)
	}
}

// An erasing over the wire: the order, the leave, the evidence, and the report
// after it.
func TestErasing(t *testing.T) {
	h := newHouse(t)
	if _, err := h.reg.OpenLot(context.Background(), "lead1", "ACME", "aa11", false); err != nil {
		t.Fatal(err)
	}
	token := h.token("00:21:cc:00:00:01")
	rep := report(1)
	rep.Disks[0].Class = wire.ClassEncrypted
	var plan wire.Plan
	if code, e := h.call("POST", wire.PathReport, token, text(rep), &plan); code != 200 || plan.Action != wire.ActionHold {
		t.Fatalf("%d %v %+v", code, e, plan)
	}
	serial := rep.Disks[0].Serial
	if err := h.reg.Erase(context.Background(), "lead1", h.reg.View().Devices[0].ID, rep.Disks[0].Path, serial[max(0, len(serial)-6):], workshop.EraseWish{Check: wire.CheckFull, Install: true}); err != nil {
		t.Fatal(err)
	}
	if code, e := h.call("GET", wire.PathPlan+"?have=0&wait=0", token, "", &plan); code != 200 || plan.Action != wire.ActionErase || plan.Content != wire.ClassEncrypted || plan.Erase == nil || plan.Image != nil {
		t.Fatalf("%d %v %+v", code, e, plan)
	}
	begin := text(wire.Event{Job: plan.Job, Seq: 1, Kind: wire.EventErasing, Disk: plan.Disk})
	if code, _ := h.call("POST", wire.PathEvent, token, text(wire.Event{Job: plan.Job, Seq: 1, Kind: wire.EventImaging, Disk: plan.Disk}), nil); code != 409 {
		t.Fatalf("leave to image: %d", code)
	}
	for range 2 {
		if code, e := h.call("POST", wire.PathEvent, token, begin, nil); code != 204 {
			t.Fatalf("%d %v", code, e)
		}
	}
	end := wire.Event{Job: plan.Job, Seq: 2, Kind: wire.EventOutcome, Outcome: &wire.Outcome{Result: wire.Done, Disk: plan.Disk, Erasure: &wire.Erasure{
		Result: wire.Erased, Level: wire.LevelClear,
		Steps: []wire.EraseStep{{Method: "overwrite", Level: wire.LevelClear, Command: "write", Result: wire.Done}},
		Check: wire.ReadCheck{Kind: wire.CheckFull, Expect: "zero", Bytes: plan.Disk.Bytes},
	}}}
	if code, e := h.call("POST", wire.PathEvent, token, text(end), nil); code != 204 {
		t.Fatalf("%d %v", code, e)
	}
	if s := h.reg.View().Devices[0].Job.State; s != workshop.Erased {
		t.Fatal(s)
	}
	rep.Disks[0].Class, plan = wire.ClassBlank, wire.Plan{}
	if code, e := h.call("POST", wire.PathReport, token, text(rep), &plan); code != 200 || plan.Action != wire.ActionImage {
		t.Fatalf("%d %v %+v", code, e, plan)
	}
}

func TestRefusals(t *testing.T) {
	h := newHouse(t)
	token := h.token("00:21:cc:00:00:01")
	if code, e := h.call("POST", wire.PathReport, token, text(report(1)), nil); code != 200 {
		t.Fatal(code, e)
	}
	job := h.reg.View().Devices[0].Job.ID
	for _, c := range []struct {
		name, method, path, token, body string
		header                          []string
		code                            int
	}{
		{"no version", "POST", wire.PathReport, token, "{}", []string{"Refurb-Wire", ""}, 426},
		{"another version", "GET", wire.PathPlan, token, "", []string{"Refurb-Wire", "99"}, 426},
		{"the version before", "POST", wire.PathEvent, token, "{}", []string{"Refurb-Wire", "2"}, 426},
		{"no token", "GET", wire.PathPlan, "", "", nil, 401},
		{"another scheme", "GET", wire.PathPlan, "", "", []string{"Authorization", "Basic " + token}, 401},
		{"an endless token", "GET", wire.PathPlan, strings.Repeat("x", 5000), "", nil, 401},
		{"a wrong token", "GET", wire.PathPlan, "nonsense", "", nil, 401},
		{"a boot token for a check-in", "POST", wire.PathCheckin, token, "{}", nil, 401},
		{"no JSON", "POST", wire.PathReport, token, "<xml/>", nil, 400},
		{"half JSON", "POST", wire.PathReport, token, `{"boot_id":"x"`, nil, 400},
		{"two values", "POST", wire.PathReport, token, "{} {}", nil, 400},
		{"another shape", "POST", wire.PathReport, token, `{"disks":"none"}`, nil, 400},
		{"nothing", "POST", wire.PathEvent, token, "", nil, 400},
		{"no boot id", "POST", wire.PathReport, token, "{}", nil, 400},
		{"another boot id", "POST", wire.PathReport, token, text(report(2)), nil, 401},
		{"a serial that is no number", "GET", wire.PathPlan + "?have=x", token, "", nil, 400},
		{"a negative wait", "GET", wire.PathPlan + "?wait=-1", token, "", nil, 400},
		{"out of order", "POST", wire.PathEvent, token, text(wire.Event{Job: job, Seq: 2, Kind: wire.EventVerifying}), nil, 409},
		{"nothing approved", "POST", wire.PathEvent, token, text(wire.Event{Job: job, Seq: 1, Kind: wire.EventImaging, Disk: &wire.DiskID{}}), nil, 409},
		{"too long", "POST", wire.PathReport, token, `{"kernel":"` + strings.Repeat("x", wire.MaxReport) + `"}`, nil, 413},
		{"too long a progress", "POST", wire.PathProgress, token, `{"job":"` + strings.Repeat("x", wire.MaxMessage) + `"}`, nil, 413},
		{"deep", "POST", wire.PathReport, token, strings.Repeat("[", 100_000), nil, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, e := h.call(c.method, c.path, c.token, c.body, nil, c.header...); code != c.code {
				t.Fatalf("%d %v", code, e)
			}
		})
	}
	if strings.Contains(h.log.String(), token) {
		t.Error("a token is in the log")
	}
}

func TestGuessingTokens(t *testing.T) {
	h := newHouse(t)
	token := h.token("00:21:cc:00:00:01")
	for i := range maxGuesses {
		if code, _ := h.call("GET", wire.PathPlan, fmt.Sprint("guess ", i), "", nil); code != 401 {
			t.Fatalf("guess %d: %d", i, code)
		}
	}
	if code, _ := h.call("GET", wire.PathPlan, token, "", nil); code != 429 {
		t.Fatal(code)
	}
	a := &agentAPI{guesses: map[string]*guesses{}}
	for i := range 3 * maxGuessers {
		a.barred(fmt.Sprint(i), true)
	}
	if len(a.guesses) > maxGuessers {
		t.Fatal(len(a.guesses))
	}
}

// What the appliance can't do is told as such, and logged once.
func TestOwnTrouble(t *testing.T) {
	h := newHouse(t)
	token := h.token("00:21:cc:00:00:01")
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	code, e := h.call("POST", wire.PathReport, token, text(report(1)), nil)
	if code != 500 || strings.Contains(e.Message+e.Next, "sql") {
		t.Fatalf("%d %v", code, e)
	}
	if n := strings.Count(h.log.String(), "level=ERROR"); n != 1 {
		t.Fatalf("%d errors in the log:\n%s", n, h.log)
	}
	if len(h.reg.View().Devices) != 0 {
		t.Fatal("a device is shown that was never stored")
	}
}

// A message that the network holds up is asked for again, not refused.
func TestSlowMessage(t *testing.T) {
	h := newHouse(t)
	token := h.token("00:21:cc:00:00:01")
	e := newEcho()
	RegisterAgentAPI(e, h.reg, h.sharing, h.tell, slog.New(slog.DiscardHandler))
	srv := httptest.NewServer(bodies(200*time.Millisecond, e))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /v1/event HTTP/1.1\r\nHost: a\r\nRefurb-Wire: %d\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{", wire.Version, token)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Fatal(resp.Status)
	}
}
