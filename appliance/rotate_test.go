package appliance

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"refurb/appliance/audit"
	"refurb/appliance/workshop"
	"refurb/images"
	"refurb/images/depot"
)

// The signing key is changed: what was signed before stays good, images are
// signed again, and wherever the change is broken off, it goes on.
func TestRotateKey(t *testing.T) {
	imageOf := func(t *testing.T, data string, key ed25519.PrivateKey) string {
		d, err := depot.Open(filepath.Join(data, "images"), key)
		if err != nil {
			t.Fatal(err)
		}
		i, err := d.Begin("x")
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		root, err := i.Commit(&images.Manifest{Name: "Tiny", Bytes: images.FrameSize, Block: 512, Grow: 0, Frames: make([]images.Frame, 1), Created: time.Now().UTC()})
		if err != nil {
			t.Fatal(err)
		}
		return root.String()
	}
	for _, broken := range []string{"", "key made", "handed on", "images signed", "retired"} {
		t.Run("broken off: "+broken, func(t *testing.T) {
			data := kept(t)
			old, err := LoadKeys(data)
			if err != nil {
				t.Fatal(err)
			}
			former := old.Signing.Public().(ed25519.PublicKey)
			root := imageOf(t, data, old.Signing)
			export := filepath.Join(t.TempDir(), "export.jsonl")
			exportTo(t, data, "B", export)
			if err := os.WriteFile(filepath.Join(data, "payload", "payload.json"), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
			if broken != "" {
				next, err := signingKey(filepath.Join(data, "keys", nextKey), "")
				if err != nil {
					t.Fatal(err)
				}
				if broken != "key made" {
					if err := handOn(t.Context(), data, "console", old); err != nil {
						t.Fatal(err)
					}
				}
				if broken == "images signed" || broken == "retired" {
					d, err := depot.Open(filepath.Join(data, "images"), next)
					if err != nil {
						t.Fatal(err)
					}
					if n, err := d.Resign(former); n != 1 || err != nil {
						t.Fatal(n, err)
					}
				}
				if broken == "retired" {
					if err := os.Mkdir(filepath.Join(data, "keys", "retired"), 0o700); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(filepath.Join(data, "keys", "retired", "aa.pub"), []byte(audit.KeyText(former)), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := LoadKeys(data); err == nil || !strings.Contains(err.Error(), "refurb key rotate") {
					t.Fatalf("the appliance works with half a change: %v", err)
				}
			}
			keys, _, err := RotateKey(t.Context(), data, "console")
			if err != nil {
				t.Fatal(err)
			}
			pub := keys.Signing.Public().(ed25519.PublicKey)
			if pub.Equal(former) || !slices.ContainsFunc(keys.Retired, func(k ed25519.PublicKey) bool { return k.Equal(former) }) {
				t.Fatal("the old key is not retired")
			}
			d, err := depot.Open(filepath.Join(data, "images"), keys.Signing)
			if err != nil {
				t.Fatal(err)
			}
			if _, m, err := d.Manifest(root); err != nil || m.Name != "Tiny" {
				t.Errorf("the image: %v", err)
			}
			if _, err := os.Stat(filepath.Join(data, "payload", "payload.json")); err == nil {
				t.Error("boot files with the old key would be served")
			}
			r, err := records(t, data)
			if err != nil {
				t.Fatal(err)
			}
			all, err := r.Checkpoints.All()
			if err != nil || len(all) != 3 || !pub.Equal(all[1].NextKey) {
				t.Fatal(len(all), err)
			}
			// A stranger who has the old key and the checkpoints learns the new one.
			var notes [][]byte
			for _, k := range all {
				notes = append(notes, k.Note)
			}
			if _, err := audit.VerifyCheckpoints(notes, former); err != nil {
				t.Error(err)
			}
			events, err := r.house(t.Context())
			if err != nil || !slices.ContainsFunc(events, func(e workshop.Event) bool {
				return e.Kind == kindRotated && e.Params["new"] == audit.KeyText(pub) && e.Params["old"] == audit.KeyText(former)
			}) {
				t.Error("the history of the house doesn't tell of it", err)
			}
			// Old and new exports hold, each with its key.
			verify := func(file string, keys ...ed25519.PublicKey) error {
				f, err := os.Open(file)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				_, err = audit.Trust{Keys: keys}.VerifyFile(f)
				return err
			}
			if err := verify(export, former); err != nil {
				t.Error(err)
			}
			fresh := filepath.Join(t.TempDir(), "export.jsonl")
			exportTo(t, data, "B", fresh)
			if err := verify(fresh, pub); err != nil {
				t.Error(err)
			}
			if verify(fresh, former) == nil || verify(export, pub) == nil {
				t.Error("a key is good for what it didn't sign")
			}
			if _, n, err := RotateKey(t.Context(), data, "console"); err != nil || n != 1 { // and once more
				t.Error(n, err)
			}
			if _, err := records(t, data); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRotateTLS(t *testing.T) {
	data := kept(t)
	before, err := LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(data, "payload", "payload.json")
	if err := os.WriteFile(built, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RotateTLS(data); err != nil {
		t.Fatal(err)
	}
	after, err := LoadKeys(data)
	if err != nil || after.Pin == before.Pin || !after.Signing.Equal(before.Signing) {
		t.Error("the wrong key was changed", err)
	}
	if _, err := os.Stat(built); err == nil {
		t.Error("boot files with the old key would be served")
	}
}

func exportTo(t *testing.T, data, device, file string) {
	t.Helper()
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := r.Proof(device, 0)
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	lines, err := r.Lines(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	var entries []audit.Entry
	for _, l := range lines {
		entries = append(entries, audit.Entry(l))
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(audit.ExportWith(f, device, entries, audit.JSONLines, r.key, time.Now(), p, audit.Cover{}), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A house that has changed its key and lost all its checkpoints is the same house.
func TestOriginStays(t *testing.T) {
	data := kept(t)
	keys, _, err := RotateKey(t.Context(), data, "console")
	if err != nil {
		t.Fatal(err)
	}
	r, err := records(t, data)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.Checkpoints.All()
	if err := errors.Join(err, r.Close(), os.RemoveAll(r.Checkpoints.Dir)); err != nil {
		t.Fatal(err)
	}
	_, k, err := AcceptDamage(t.Context(), data, "console", "the folder was deleted")
	if err != nil || k.Origin != all[0].Origin || k.Origin == audit.Origin(keys.Public()[0]) || k.Number != int64(len(all))+1 {
		t.Errorf("%+v %v, the house was %s with %d", k.Checkpoint, err, all[0].Origin, len(all))
	}
}
