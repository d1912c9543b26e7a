package appliance

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"refurb/appliance/audit"
	"refurb/appliance/workshop"
	"refurb/images/depot"
)

// nextKey is the new signing key while a change is under way. Nothing else of
// the appliance works as long as it is there.
const nextKey = "signing.next"

// RotateKey puts a new signing key in the place of the present one. The old key's
// last act is a checkpoint that names the new one; the images are signed again;
// the boot files, which carry the key, are to be built again. Every step can be
// done twice, so a change that was broken off goes on. It says how many images
// it signed.
func RotateKey(ctx context.Context, data, actor string) (*Keys, int, error) {
	lock, err := lockData(data)
	if err != nil {
		return nil, 0, err
	}
	defer lock.Close()
	dir := filepath.Join(data, "keys")
	if _, err := os.Stat(filepath.Join(dir, "signing.ed25519")); err != nil {
		return nil, 0, fmt.Errorf("no key is here yet: is %s the appliance's data folder? (%w)", data, err)
	}
	old, err := loadKeys(data)
	if err != nil {
		return nil, 0, err
	}
	if err := handOn(ctx, data, actor, old); err != nil {
		return nil, 0, err
	}
	next, err := signingKey(filepath.Join(dir, nextKey), "")
	if err != nil {
		return nil, 0, err
	}
	d, err := depot.Open(filepath.Join(data, "images"), next)
	if err != nil {
		return nil, 0, err
	}
	former := old.Signing.Public().(ed25519.PublicKey)
	n, err := d.Resign(former)
	if err != nil {
		return nil, n, err
	}
	if err := dropPayload(data); err != nil {
		return nil, n, err
	}
	retired := filepath.Join(dir, "retired")
	if err := os.MkdirAll(retired, 0o700); err != nil {
		return nil, n, err
	}
	if err := writeKey(filepath.Join(retired, hex.EncodeToString(former[:8])+".pub"), []byte(audit.KeyText(former)+"\n")); err != nil {
		return nil, n, err
	}
	if err := errors.Join(os.Rename(filepath.Join(dir, nextKey), filepath.Join(dir, "signing.ed25519")), syncDir(dir)); err != nil {
		return nil, n, err
	}
	keys, err := LoadKeys(data)
	if err != nil {
		return nil, n, err
	}
	r, err := OpenRecords(data, keys)
	if err != nil {
		return keys, n, err
	}
	_, _, err = r.Checkpoint(ctx, actor)
	return keys, n, errors.Join(err, r.Close())
}

// dropPayload makes the appliance ask for boot files to be built again: the
// initramfs holds the old keys, and PCs that boot it would refuse everything.
func dropPayload(data string) error {
	if err := os.Remove(filepath.Join(data, "payload", "payload.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RotateTLS puts a new key of the agents' API in the place of the present one.
// It signs nothing, so there is nothing to hand on.
func RotateTLS(data string) (err error) {
	lock, err := lockData(data)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := LoadKeys(data); err != nil {
		return err
	}
	der, err := newTLSKey()
	if err != nil {
		return err
	}
	if err := dropPayload(data); err != nil {
		return err
	}
	return writeKey(filepath.Join(data, "keys", "tls.pem"), pem.EncodeToMemory(&pem.Block{Type: tlsKind, Bytes: der}))
}

// handOn makes the new key and the old key's last checkpoint, which names it.
func handOn(ctx context.Context, data, actor string, old *Keys) (err error) {
	r, err := OpenRecords(data, old)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	end, err := r.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := r.Check(ctx); err != nil {
		return fmt.Errorf("the key was not changed: %w", err)
	}
	next, err := signingKey(filepath.Join(data, "keys", nextKey), "")
	if err != nil {
		return err
	}
	pub := next.Public().(ed25519.PublicKey)
	all, err := r.Checkpoints.All()
	if err != nil {
		return err
	}
	if len(all) > 0 && pub.Equal(all[len(all)-1].NextKey) {
		return nil // it was broken off after this
	}
	if err := r.Commit(ctx, workshop.Change{Events: []workshop.Event{{
		Time: time.Now().UTC(), Kind: kindRotated, Actor: workshop.Text(actor), Result: "ok",
		Params: map[string]string{"old": audit.KeyText(old.Signing.Public().(ed25519.PublicKey)), "new": audit.KeyText(pub)},
	}}}); err != nil {
		return err
	}
	heads, err := r.heads(ctx)
	if err != nil {
		return err
	}
	_, err = r.add(ctx, all, heads, actor, audit.Next{Time: time.Now(), NextKey: pub})
	return err
}
