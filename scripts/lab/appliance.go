package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"refurb/appliance/workshop"
)

// Appliance is the real program, running inside the lab and spoken to as a
// person does: through its dashboard.
type Appliance struct {
	lab  *Lab
	bin  string
	data string
	args []string
	cmd  *exec.Cmd
	web  *http.Client
	log  *tail

	Name, Password string // of the admin
}

const dashboardPort = "8000"

// Appliance starts `refurb serve` on a data folder and waits until it is ready.
func (l *Lab) Appliance(ctx context.Context, bin, data string, args ...string) (*Appliance, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(l.path("appliance.log"))
	if err != nil {
		return nil, err
	}
	a := &Appliance{lab: l, bin: bin, data: data, log: &tail{file: log}, Name: "demo",
		args: append([]string{"serve", "--data", data, "--interface", Bridge, "--address", Address}, args...),
		web: &http.Client{
			Jar:     jar,
			Timeout: 20 * time.Second,
			Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return l.Dial(ctx, network, net.JoinHostPort(IP, dashboardPort))
			}},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	return a, a.Start(ctx)
}

// Start starts the appliance, again if it was stopped or killed.
func (a *Appliance) Start(ctx context.Context) (err error) {
	as, err := asService(a.data)
	if err != nil {
		return err
	}
	if a.cmd, err = a.lab.Start(a.log, as[0], slices.Concat(as[1:], []string{a.bin}, a.args)...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		if res, err := a.do(ctx, http.MethodGet, "/healthz", nil); err == nil && res.code == http.StatusOK {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the appliance did not get ready: %w; it said:\n%s", ctx.Err(), a.log.End())
		case <-time.After(200 * time.Millisecond):
		}
		if !alive(a.cmd) {
			return fmt.Errorf("the appliance ended; it said:\n%s", a.log.End())
		}
	}
}

// Kill ends the appliance as a power cut would; Stop asks it to end.
func (a *Appliance) Kill() { a.lab.Kill(a.cmd) }
func (a *Appliance) Stop() { a.lab.Stop(a.cmd) }

// Powers are the user and the effective capabilities that the appliance runs
// with, as in /proc: decimal and hexadecimal.
func (a *Appliance) Powers() (uid, caps string, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		switch f := strings.Fields(line); f[0] {
		case "Uid:":
			uid = f[1]
		case "CapEff:":
			caps = f[1]
		}
	}
	return uid, caps, err
}

// Log is the last part of what the appliance said.
func (a *Appliance) Log() string { return a.log.End() }

var codeLine = regexp.MustCompile(`one-time code: +([A-Z0-9-]+)`)

// SetUp makes the admin with the one-time code from the console, as the first
// visitor of the dashboard does, or logs in when there is one.
func (a *Appliance) SetUp(ctx context.Context, name, password string) error {
	a.Name, a.Password = name, password
	if m := codeLine.FindStringSubmatch(a.log.End()); m != nil {
		if err := a.post(ctx, "/setup", url.Values{"code": {m[1]}, "name": {name}, "password": {password}, "password2": {password}}); err != nil {
			return fmt.Errorf("first visit: %w", err)
		}
	}
	return a.post(ctx, "/login", url.Values{"name": {name}, "password": {password}})
}

// OpenLot opens a lot through the form of the lots page.
func (a *Appliance) OpenLot(ctx context.Context, donor, image string, standing bool) error {
	v := url.Values{"donor": {donor}, "image": {image}}
	if standing {
		v.Set("standing", "yes")
	}
	return a.post(ctx, "/lots", v)
}

// Approve types the end of a disk's serial on the device page.
func (a *Appliance) Approve(ctx context.Context, dev workshop.DeviceView, disk, serialTail string) error {
	return a.post(ctx, "/devices/"+dev.ID+"/approve", url.Values{"job": {dev.Job.ID}, "disk": {disk}, "serial": {serialTail}})
}

// Erase asks on the device page for a disk to be erased, by typing the end of its
// serial; check is "full" or "sample".
func (a *Appliance) Erase(ctx context.Context, dev workshop.DeviceView, disk, serialTail, check string, install bool) error {
	v := url.Values{"job": {dev.Job.ID}, "disk": {disk}, "serial": {serialTail}, "check": {check}}
	if install {
		v.Set("install", "yes")
	}
	return a.post(ctx, "/devices/"+dev.ID+"/erase", v)
}

// ImageAgain asks for another imaging at the device's next start.
func (a *Appliance) ImageAgain(ctx context.Context, device string) error {
	return a.post(ctx, "/devices/"+device+"/again", url.Values{})
}

// Rescue chooses what a device starts once: "shell", "memtest" or "local".
func (a *Appliance) Rescue(ctx context.Context, device, kind string) error {
	if kind == "shell" {
		return a.post(ctx, "/devices/"+device+"/shell", url.Values{})
	}
	return a.post(ctx, "/devices/"+device+"/rescue", url.Values{"start": {kind}})
}

// Get fetches a page.
func (a *Appliance) Get(ctx context.Context, path string) ([]byte, error) {
	res, err := a.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if res.code != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %d %s", path, res.code, res.words())
	}
	return res.body, nil
}

// Devices decodes /api/devices into out.
func (a *Appliance) Devices(ctx context.Context, out any) error {
	b, err := a.Get(ctx, "/api/devices")
	if err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

type response struct {
	code int
	body []byte
	to   string
}

var tags = regexp.MustCompile(`(?s)<(style|script|head).*?</(style|script|head)>|<[^>]*>|\s+`)

// words is the page without its markup, for messages.
func (r response) words() string {
	s := strings.TrimSpace(tags.ReplaceAllString(string(r.body), " "))
	return s[:min(len(s), 400)]
}

var alert = regexp.MustCompile(`(?s)role="alert">(.*?</div>)`)

// post sends a form and reads the page that it leads to. A refusal stands on
// that page as an alert, or there is no such page.
func (a *Appliance) post(ctx context.Context, path string, form url.Values) error {
	res, err := a.do(ctx, http.MethodPost, path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	if res.code < 300 || res.code > 399 {
		return fmt.Errorf("POST %s: %d %s", path, res.code, res.words())
	}
	if res, err = a.do(ctx, http.MethodGet, res.to, nil); err != nil {
		return err
	}
	if m := alert.FindSubmatch(res.body); m != nil {
		return fmt.Errorf("POST %s: %s", path, response{body: m[1]}.words())
	}
	return nil
}

func (a *Appliance) do(ctx context.Context, method, path string, body io.Reader) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+net.JoinHostPort(IP, dashboardPort)+path, body)
	if err != nil {
		return response{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	res, err := a.web.Do(req)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	return response{res.StatusCode, b, res.Header.Get("Location")}, err
}

func alive(cmd *exec.Cmd) bool {
	// A program that ended stays a zombie until Stop or Kill has waited for it.
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return !bytes.HasPrefix(rest, []byte("Z"))
}

// tail writes a log to its file and keeps its end.
type tail struct {
	mu   sync.Mutex
	file *os.File
	end  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, b...)
	if n := len(t.end) - 64<<10; n > 0 {
		t.end = append([]byte(nil), t.end[n:]...)
	}
	return t.file.Write(b)
}

func (t *tail) End() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}
