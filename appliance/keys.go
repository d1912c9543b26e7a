package appliance

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"refurb/appliance/audit"
)

// Keys are the appliance's two secrets. Signing proves image manifests and the
// audit log's head; TLS carries the agents' API. Agents know both by heart from
// the initramfs.
type Keys struct {
	Signing ed25519.PrivateKey
	Retired []ed25519.PublicKey // former signing keys: what they signed stays good
	TLS     tls.Certificate
	Pin     string // base64 of SHA-256 of the TLS key's SubjectPublicKeyInfo, as in RFC 7469 §2.4
}

// LoadKeys reads the keys of a data folder and makes those that aren't there
// yet, readable by their owner alone. A damaged, too openly readable or lost key
// is an error: a new one made in silence would orphan every image and record.
func LoadKeys(data string) (*Keys, error) {
	switch _, err := os.Lstat(filepath.Join(data, "keys", nextKey)); {
	case err == nil:
		return nil, fmt.Errorf("a change of the signing key was broken off: run `refurb key rotate` again, it goes on where it was")
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("key: %w", err)
	}
	return loadKeys(data)
}

// loadKeys is LoadKeys in the middle of a change of keys.
func loadKeys(data string) (*Keys, error) {
	if err := makeData(data); err != nil {
		return nil, err
	}
	orphan, err := orphaned(data)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(data, "keys")
	k := &Keys{}
	if k.Signing, err = signingKey(filepath.Join(dir, "signing.ed25519"), orphan); err != nil {
		return nil, err
	}
	if k.Retired, err = retiredKeys(dir); err != nil {
		return nil, err
	}

	der, err := keyFile(filepath.Join(dir, "tls.pem"), tlsKind, orphan, newTLSKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("keys/tls.pem is damaged: restore it from your backup")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(spki)
	k.Pin = base64.StdEncoding.EncodeToString(sum[:])
	// The certificate only carries the key. Its dates mean nothing to agents,
	// whose clocks are often wrong.
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "Refurb appliance"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	crt, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, err
	}
	k.TLS = tls.Certificate{Certificate: [][]byte{crt}, PrivateKey: key}
	return k, nil
}

const tlsKind = "PRIVATE KEY"

func newTLSKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// Public lists the public signing keys, the present one first.
func (k *Keys) Public() []ed25519.PublicKey {
	return append([]ed25519.PublicKey{k.Signing.Public().(ed25519.PublicKey)}, k.Retired...)
}

func signingKey(path, orphan string) (ed25519.PrivateKey, error) {
	seed, err := keyFile(path, "REFURB ED25519 SEED", orphan, func() ([]byte, error) {
		seed := make([]byte, ed25519.SeedSize)
		_, err := rand.Read(seed)
		return seed, err
	})
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("keys/%s is damaged: restore it from your backup", filepath.Base(path))
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// retiredKeys reads the public halves of former signing keys.
func retiredKeys(dir string) ([]ed25519.PublicKey, error) {
	names, err := filepath.Glob(filepath.Join(dir, "retired", "*.pub"))
	if err != nil {
		return nil, err
	}
	var all []ed25519.PublicKey
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		pub, err := audit.ParseKey(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w: restore it from your backup", name, err)
		}
		all = append(all, pub)
	}
	return all, nil
}

// orphaned names something in the data folder that only its present keys fit:
// an image is signed by one, the agent knows both by heart. Empty: nothing yet.
func orphaned(data string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(data, "images"))
	if err != nil {
		return "", fmt.Errorf("data folder: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			return filepath.Join(data, "images", e.Name()), nil
		}
	}
	built := filepath.Join(data, "payload", "payload.json")
	switch _, err := os.Stat(built); {
	case err == nil:
		return built, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("data folder: %w", err)
	}
	return "", nil
}

// keyFile reads one PEM block, or makes the file by fresh unless that would leave
// an orphan.
func keyFile(path, kind, orphan string, fresh func() ([]byte, error)) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if orphan != "" {
			return nil, fmt.Errorf("%s is missing, and %s was made with the keys of this folder: restore it from your backup; to start over with new keys, remove all images and payload.json first", path, orphan)
		}
		secret, err := fresh()
		if err != nil {
			return nil, err
		}
		return secret, writeKey(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: secret}))
	}
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by other users (%v): run `chmod 600 %s`, and make a new key if somebody may have copied it", path, st.Mode().Perm(), path)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s is damaged: restore it from your backup", path)
	}
	return block.Bytes, nil
}

// writeKey makes the file whole or not at all, so that a power cut leaves no
// half key.
func writeKey(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes what was renamed in a folder survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
