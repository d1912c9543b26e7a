package main

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance"
	"refurb/appliance/audit"
	"refurb/appliance/workshop"
	"refurb/images"
)

type noImages struct{}

func (noImages) Image(string) (string, *images.Manifest, error) {
	return "", nil, errors.New("there are none")
}

// dataFolder holds one lot: a PC without a disk, and one with a full disk.
func dataFolder(t *testing.T) (data, lot string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	keys, err := appliance.LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	r, err := appliance.OpenRecords(data, keys)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	reg, err := workshop.Open(t.Context(), workshop.Config{
		Store: r.Store, Images: noImages{}, Key: keys.Signing, Payload: map[string]string{"payload": "test"},
		BaseURL: func() (string, string) { return "https://10.77.0.1:8443", "http://10.77.0.1:8080" },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := reg.OpenLot(t.Context(), "LEAD", "Ville d’Esch", "", false)
	if err != nil {
		t.Fatal(err)
	}
	full := wire.Disk{DiskID: wire.DiskID{Path: "/dev/sda", Serial: "S4EVNX0R704413", Model: "Samsung", Bytes: 1e9, LogicalBlock: 512}, Transport: wire.TransportSATA, Class: wire.ClassData}
	for n, disks := range [][]wire.Disk{{}, {full}} {
		mac := fmt.Sprintf("54:e1:ad:00:0a:%02x", n+1)
		rep := wire.Report{
			BootID: fmt.Sprint("boot-", n), Agent: "1", Disks: disks, NICs: []wire.NIC{{Name: "eth0", MAC: mac, Permanent: mac}},
			Identity: wire.Identity{Manufacturer: "HP", Model: "EliteDesk", SystemSerial: fmt.Sprint("5CG418231", n), ChassisType: "Desktop"},
		}
		_, token, err := reg.Boot(t.Context(), workshop.Start{MAC: mac})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := reg.Report(t.Context(), token, rep); err != nil {
			t.Fatal(err)
		}
	}
	return data, l.ID
}

// A folder of papers holds all that a stranger needs, and nothing in it passes
// once it was changed.
func TestPapersFolder(t *testing.T) {
	data, lot := dataFolder(t)
	dir := filepath.Join(t.TempDir(), "for the donor")
	c := papersCmd{dataFlag: dataFlag{data}, What: lot, To: dir}
	if err := c.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"README.txt", "all-papers.html", "donor-report.html", "donor-report.json", "pc-1-audit-log.html", "pc-1-audit-log.jsonl",
		"pc-1-no-storage.html", "pc-1-no-storage.json", "pc-2-audit-log.html", "pc-2-audit-log.jsonl", "public-key.txt"}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.txt"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "public-key.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"Papers of the lot of Ville d’Esch", strings.TrimSpace(string(key)), "PC 2, no-storage: This PC came with a disk that may hold data"} {
		if !strings.Contains(string(readme), s) {
			t.Errorf("the README doesn't say %q", s)
		}
	}
	pub, err := audit.ParseKey(strings.TrimSpace(string(key)))
	if err != nil {
		t.Fatal(err)
	}
	verify := func(names ...string) error {
		c := auditVerifyCmd{Key: []string{filepath.Join(dir, "public-key.txt")}}
		for _, n := range names {
			c.Files = append(c.Files, filepath.Join(dir, n))
		}
		return c.Run()
	}
	for _, name := range want {
		if strings.HasPrefix(name, "pc-1-no") || strings.HasPrefix(name, "donor") || strings.HasPrefix(name, "all") || strings.HasSuffix(name, ".jsonl") {
			if err := verify(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := verify("donor-report.json", "pc-1-audit-log.jsonl", "pc-2-audit-log.jsonl", "all-papers.html"); err != nil {
		t.Errorf("papers and logs at once: %v", err)
	}
	// What can't be verified is named, and keeps the rest from nothing.
	err = verify("pc-1-audit-log.html", "README.txt", "donor-report.json")
	if err == nil || !strings.Contains(err.Error(), "pc-1-audit-log.html can't be verified") || !strings.Contains(err.Error(), "README.txt") || strings.Contains(err.Error(), "donor-report") {
		t.Errorf("with a page that proves nothing: %v", err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	paper := filepath.Join(dir, "pc-1-no-storage.json")
	if err := verifyPapers(paper, []ed25519.PublicKey{other}); err == nil {
		t.Error("a paper passes with another key")
	}
	if err := verifyPapers(paper, []ed25519.PublicKey{other, pub}); err != nil {
		t.Errorf("with a former key and the right one: %v", err)
	}
	for _, name := range []string{"pc-1-no-storage.json", "pc-1-no-storage.html", "all-papers.html"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Replace(string(b), "EliteDesk", "EliteBook", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := verify("donor-report.json", name, "pc-1-audit-log.jsonl"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s passes after it was changed", name)
		}
	}
	if err := c.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("into a folder that is full: %v", err)
	}
	if err := (&papersCmd{dataFlag: dataFlag{data}, What: "1", To: filepath.Join(t.TempDir(), "one")}).Run(context.Background()); err != nil {
		t.Errorf("one device by its number: %v", err)
	}
	none := filepath.Join(t.TempDir(), "none")
	if err := (&papersCmd{dataFlag: dataFlag{data}, What: "99", To: none}).Run(context.Background()); err == nil {
		t.Error("a device that isn't there has papers")
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a folder was made for nothing")
	}
}

// A line of the house's history that can't be read, accepted, takes no device's
// papers away.
func TestPapersBesideADamagedHouse(t *testing.T) {
	data, _ := dataFolder(t)
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(data, "refurb.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(`DROP TRIGGER events_keep; UPDATE events SET line = 'x' WHERE device = '' AND seq = 1`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if got := run(t.Context(), []string{"audit", "accept-damage", "--data", data, "--reason", "a bit fell over"}); got != 0 {
		t.Fatal(got)
	}
	dir := filepath.Join(t.TempDir(), "papers")
	c := papersCmd{dataFlag: dataFlag{data}, What: "1", To: dir}
	if err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pc-1-no-storage.html", "pc-1-audit-log.html"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(b), "EliteDesk") {
			t.Error(name, err)
		}
	}
}
