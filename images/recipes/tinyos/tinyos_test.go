package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

var (
	pin     = base64.StdEncoding.EncodeToString(make([]byte, 32))
	filled  = `{"url":"https://10.77.0.1:8443/v1/checkin","pin":"` + pin + `","token":"abc"}`
	wantURL = "https://10.77.0.1:8443/v1/checkin"
)

func slot(content string) []byte {
	b := bytes.Repeat([]byte{' '}, images.SlotSize)
	copy(b, content)
	b[len(b)-1] = '\n'
	return b
}

func TestSlotOffset(t *testing.T) {
	for line, want := range map[string]int64{
		"BOOT_IMAGE=/vmlinuz refurb.slot=3146240 quiet\n": 3146240,
		"refurb.slot=512":                    512,
		"quiet":                              -1,
		"refurb.slot=":                       -1,
		"refurb.slot=513":                    -1,
		"refurb.slot=-512":                   -1,
		"refurb.slot=99999999999999999999":   -1,
		"norefurb.slot=512 refurb.slots=512": -1,
	} {
		got, err := slotOffset(line)
		if want < 0 && err == nil || want >= 0 && got != want {
			t.Errorf("%q: %d, %v; want %d", line, got, err, want)
		}
	}
}

func TestParseSlot(t *testing.T) {
	other := func(old, new string) string { return strings.Replace(filled, old, new, 1) }
	for name, c := range map[string]struct {
		content string
		want    string // "" good, "unfilled", else part of the error
	}{
		"filled":             {filled, ""},
		"as built":           {images.SlotMark + "checkin\n", "unfilled"},
		"another disk":       {"\x00\x00", "no check-in slot"},
		"cut off":            {filled[:40], "check-in slot"},
		"something behind":   {filled + "}", "check-in slot"},
		"plain http":         {other("https", "http"), "https"},
		"no host":            {other("10.77.0.1:8443", ""), "https"},
		"pin too short":      {other(pin, "AAAA"), "pin"},
		"pin in hex":         {other(pin, strings.Repeat("0", 64)), "pin"},
		"no token":           {other("abc", ""), "token"},
		"token with a break": {other("abc", `a\r\nX: y`), "token"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseSlot(slot(c.content))
			switch {
			case c.want == "" && (err != nil || got.URL != wantURL || got.Token != "abc"):
				t.Errorf("%+v, %v", got, err)
			case c.want == "unfilled" && !errors.Is(err, errUnfilled):
				t.Errorf("error %v", err)
			case c.want != "" && c.want != "unfilled" && (err == nil || errors.Is(err, errUnfilled) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if _, err := parseSlot(nil); err == nil {
		t.Error("nothing is no slot")
	}
}

func FuzzParseSlot(f *testing.F) {
	f.Add(slot(filled))
	f.Add(slot(images.SlotMark))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseSlot(b); err == nil && (!strings.HasPrefix(c.URL, "https://") || c.Token == "") {
			t.Errorf("accepted %+v", c)
		}
	})
}

func TestFindSlot(t *testing.T) {
	const offset = 4096
	disk := func(content []byte) []byte { return append(make([]byte, offset), content...) }
	for name, c := range map[string]struct {
		disks map[string][]byte
		want  string // the disk
		err   error
	}{
		"one filled":                   {map[string][]byte{"vda": disk(slot(filled))}, "vda", nil},
		"beside an unfilled one":       {map[string][]byte{"sda": disk(slot(images.SlotMark)), "sdb": disk(slot(filled))}, "sdb", nil},
		"only an unfilled one":         {map[string][]byte{"sda": disk(make([]byte, 8192)), "sdb": disk(slot(images.SlotMark))}, "sdb", errUnfilled},
		"a small one and a loop first": {map[string][]byte{"fd0": make([]byte, 10), "loop0": disk(slot(filled)), "vda": disk(slot(images.SlotMark))}, "vda", errUnfilled},
	} {
		t.Run(name, func(t *testing.T) {
			block, dev := t.TempDir(), t.TempDir()
			for n, b := range c.disks {
				if err := errors.Join(os.Mkdir(filepath.Join(block, n), 0o755), os.WriteFile(filepath.Join(dev, n), b, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			got, _, err := findSlot(t.Context(), block, dev, offset)
			if filepath.Base(got) != c.want || !errors.Is(err, c.err) {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
	t.Run("none ever", func(t *testing.T) {
		block, dev := t.TempDir(), t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			if _, _, err := findSlot(t.Context(), block, dev, offset); err == nil {
				t.Error("found one")
			}
			if d := time.Since(start); d < appears || d > appears+time.Second {
				t.Errorf("looked for %s", d)
			}
		})
	})
}

// longPast is a certificate that ended years ago, as it looks to a PC whose
// clock is wrong.
func longPast(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "refurb"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(3600, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, base64.StdEncoding.EncodeToString(sum[:])
}

func TestPost(t *testing.T) {
	cert, goodPin := longPast(t)
	for name, c := range map[string]struct {
		pin     string
		answers []int // the last one repeats
		calls   int
		ok      bool
	}{
		"stored":              {goodPin, []int{204}, 1, true},
		"stored at the third": {goodPin, []int{503, 500, 204}, 3, true},
		"stored a bit later":  {goodPin, []int{429, 408, 204}, 3, true},
		"refused":             {goodPin, []int{401}, 1, false},
		"sent elsewhere":      {goodPin, []int{302}, attempts, false},
		"another server":      {pin, []int{204}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var got wire.FirstBoot
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil || got.Mode != wire.ModeBIOS {
					t.Errorf("body %+v: %v", got, err)
				}
				if r.Method != "POST" || r.URL.Path != wire.PathCheckin || r.Header.Get("Authorization") != "Bearer abc" {
					t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
				}
				status := c.answers[min(calls, len(c.answers)-1)]
				calls++
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(status)
			}))
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			srv.StartTLS()
			defer srv.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			err := post(ctx, wire.Checkin{URL: srv.URL + wire.PathCheckin, Pin: c.pin, Token: "abc"}, wire.FirstBoot{Mode: wire.ModeBIOS}, time.Millisecond)
			if (err == nil) != c.ok || calls != c.calls {
				t.Errorf("error %v after %d calls, want %d", err, calls, c.calls)
			}
		})
	}
}
