package appliance

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Nobody keeps a connection by sending less than was announced, whether the
// handler reads it or not; a request without a body may last.
func TestBodiesArriveInTime(t *testing.T) {
	const timeout = 200 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	mux.HandleFunc("/leave", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/poll", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			t.Error("a long poll was ended")
		case <-time.After(3 * timeout):
		}
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- serveHTTP(ctx, ln, bodies(timeout, mux)) }()
	defer func() { stop(); <-ended }()
	for _, head := range []string{"POST /read HTTP/1.1\r\nContent-Length: 100", "GET /leave HTTP/1.1\r\nContent-Length: 100", "POST /read HTTP/1.1\r\nTransfer-Encoding: chunked"} {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, head+"\r\nHost: a\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: the connection was kept: %v", head, err)
		}
		c.Close()
	}
	resp, err := http.Get("http://" + ln.Addr().String() + "/poll")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestOneApplianceOnADataFolder(t *testing.T) {
	dir := t.TempDir()
	first, err := lockData(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockData(dir); err == nil || !strings.Contains(err.Error(), "another appliance") {
		t.Fatal(err)
	}
	first.Close()
	again, err := lockData(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestKeys(t *testing.T) {
	write := func(t *testing.T, name, text string, mode os.FileMode) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	signing, tls := filepath.Join("keys", "signing.ed25519"), filepath.Join("keys", "tls.pem")
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, dir string)
		says   string // empty: new keys are right
		differ bool
	}{
		{"kept", func(*testing.T, string) {}, "", false},
		{"none yet, nothing made with them", func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "keys")) }, "", true},
		{"an import under way is no image", func(t *testing.T, dir string) {
			os.RemoveAll(filepath.Join(dir, "keys"))
			write(t, filepath.Join(dir, "images", ".import-1", "frames"), "", 0o600)
		}, "", true},
		{"lost, an image is there", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, signing))
			write(t, filepath.Join(dir, "images", "aa11", "manifest"), "", 0o600)
		}, "signing.ed25519 is missing", false},
		{"lost, boot files are there", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, tls))
			write(t, filepath.Join(dir, "payload", "payload.json"), "{}", 0o600)
		}, "tls.pem is missing", false},
		{"cut short", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, signing), 20) }, "signing.ed25519 is damaged", false},
		{"empty", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, tls), 0) }, "tls.pem is damaged", false},
		{"another's", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, tls), "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", 0o600)
		}, "tls.pem is damaged", false},
		{"a short seed", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, signing), "-----BEGIN REFURB ED25519 SEED-----\nMAA=\n-----END REFURB ED25519 SEED-----\n", 0o600)
		}, "signing.ed25519 is damaged", false},
		{"open to all", func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, signing), 0o644) }, "can be read by other users", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			before, err := LoadKeys(dir)
			if err != nil {
				t.Fatal(err)
			}
			c.spoil(t, dir)
			after, err := LoadKeys(dir)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("%v, want %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if differ := after.Pin != before.Pin && !after.Signing.Equal(before.Signing); differ != c.differ {
				t.Fatalf("new keys: %v", differ)
			}
		})
	}
}

func TestPeersAreTheDefault(t *testing.T) {
	for text, want := range map[string]bool{"": true, "peers = false": false, "peers = true": true} {
		name := filepath.Join(t.TempDir(), "refurb.toml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := DefaultConfig()
		if err := ReadConfig(&cfg, name); err != nil || cfg.Peers != want {
			t.Errorf("%q: %v, %v", text, cfg.Peers, err)
		}
	}
}
