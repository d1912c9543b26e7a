package payload

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/openpgp"           //lint:ignore SA1019 apt wants OpenPGP; only tests sign
	"golang.org/x/crypto/openpgp/clearsign" //lint:ignore SA1019 likewise
	"golang.org/x/crypto/openpgp/packet"    //lint:ignore SA1019 likewise
)

// archive is a small Debian archive on loopback, signed by a key of its own,
// with a server that can be made to fail.
type archive struct {
	t       *testing.T
	root    string
	keyring string
	key     *openpgp.Entity
	srv     *httptest.Server

	mu    sync.Mutex
	asked map[string]int    // requests by path
	bytes map[string]int64  // sent by path
	cut   map[string]int64  // break the connection after so many bytes, once
	ruin  map[string]string // serve this instead
	down  bool
}

var testKey = sync.OnceValues(func() (*openpgp.Entity, error) {
	return openpgp.NewEntity("Test", "", "test@example.org", &packet.Config{RSABits: 2048})
})

func newArchive(t *testing.T) *archive {
	t.Helper()
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{
		t: t, root: t.TempDir(), key: key,
		asked: map[string]int{}, bytes: map[string]int64{}, cut: map[string]int64{}, ruin: map[string]string{},
	}
	a.keyring = filepath.Join(t.TempDir(), "key.gpg")
	var pub bytes.Buffer
	if err := key.Serialize(&pub); err != nil {
		t.Fatal(err)
	}
	write(t, a.keyring, pub.String())
	a.srv = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.srv.Close)
	return a
}

func (a *archive) url() string { return a.srv.URL + "/debian" }

func (a *archive) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := filepath.Base(r.URL.Path)
	a.asked[name]++
	if a.down {
		panic(http.ErrAbortHandler)
	}
	if text, ok := a.ruin[name]; ok {
		http.ServeContent(w, r, name, time.Unix(1e9, 0), strings.NewReader(text))
		return
	}
	path := filepath.Join(a.root, filepath.FromSlash(strings.TrimPrefix(r.URL.Path, "/debian/")))
	cw := &cutWriter{ResponseWriter: w, left: -1}
	if n, ok := a.cut[name]; ok {
		delete(a.cut, name)
		cw.left = n
	}
	defer func() { a.bytes[name] += cw.sent }()
	http.ServeFile(cw, r, path)
}

// cutWriter breaks the connection after left bytes, if that isn't negative.
type cutWriter struct {
	http.ResponseWriter
	left, sent int64
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if c.left >= 0 && c.sent+int64(len(b)) > c.left {
		n, _ := c.ResponseWriter.Write(b[:c.left-c.sent])
		c.sent += int64(n)
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	n, err := c.ResponseWriter.Write(b)
	c.sent += int64(n)
	return n, err
}

// add builds a package out of a folder that fill lays out.
func (a *archive) add(name, version, extra string, fill func(root string)) {
	a.t.Helper()
	root := filepath.Join(a.t.TempDir(), "pkg")
	write(a.t, filepath.Join(root, "DEBIAN/control"), fmt.Sprintf(
		"Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: Test <test@example.org>\nDescription: test\n%s", name, version, extra))
	if fill != nil {
		fill(root)
	}
	pool := filepath.Join(a.root, "pool")
	if err := os.MkdirAll(pool, 0o755); err != nil {
		a.t.Fatal(err)
	}
	if out, err := exec.Command("dpkg-deb", "-Znone", "--root-owner-group", "-b", root, pool).CombinedOutput(); err != nil {
		a.t.Fatalf("dpkg-deb: %v %s", err, out)
	}
}

// publish lists what was added and signs the list.
func (a *archive) publish() {
	a.t.Helper()
	debs, _ := filepath.Glob(filepath.Join(a.root, "pool/*.deb"))
	var list strings.Builder
	for _, d := range debs {
		control, err := exec.Command("dpkg-deb", "-f", d).Output()
		if err != nil {
			a.t.Fatal(err)
		}
		b, err := os.ReadFile(d)
		if err != nil {
			a.t.Fatal(err)
		}
		fmt.Fprintf(&list, "%sFilename: pool/%s\nSize: %d\nSHA256: %x\n\n", control, filepath.Base(d), len(b), sha256.Sum256(b))
	}
	dist := filepath.Join(a.root, "dists", Suite)
	write(a.t, filepath.Join(dist, "main/binary-amd64/Packages"), list.String())
	release := fmt.Sprintf("Origin: Test\nSuite: %s\nCodename: %[1]s\nDate: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n %x %d main/binary-amd64/Packages\n",
		Suite, time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 MST"), sha256.Sum256([]byte(list.String())), list.Len())
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, a.key.PrivateKey, nil)
	if err == nil {
		_, err = w.Write([]byte(release))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, filepath.Join(dist, "InRelease"), signed.String())
}

// debian fills the archive with stand-ins for all that a payload is made of.
func debian(t *testing.T) *archive {
	t.Helper()
	a := newArchive(t)
	a.add("linux-image-6.12.0-test", "6.12.0-1", "", func(root string) { kernel(t, root) })
	a.add("linux-image-amd64", "6.12.0-1", "Depends: linux-image-6.12.0-test (= 6.12.0-1)\n", nil)
	files := map[string][]string{}
	for _, o := range origins {
		files[o.pkg] = append(files[o.pkg], o.path)
	}
	for pkg, paths := range files {
		a.add(pkg, "1:2.0~1", "", func(root string) {
			for _, p := range paths {
				write(t, filepath.Join(root, p), strings.Repeat(p, 1000))
			}
		})
	}
	a.add("firmware-realtek", "2025-1", "", func(root string) {
		write(t, filepath.Join(root, "usr/lib/firmware/rtl_nic/rtl8168h-2.fw"), "firmware")
	})
	a.publish()
	return a
}

func (a *archive) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *archive) count(name string) (requests int, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[name], a.bytes[name]
}

func (a *archive) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, c := range a.asked {
		n += c
	}
	return n
}
