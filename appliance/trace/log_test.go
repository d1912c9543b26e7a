package trace

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func readSource(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func opened(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStartsAreTold(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string // the MACs of each start, oldest first
	}{
		{"one start, all the way", arrived, []string{mac1}},
		{"restarted after its shim", shim + "60 discover via=pxe", []string{mac1, mac1}},
		{"restarted at its own disk", config + "13 script boots=disk\n100 discover via=pxe", []string{mac1, mac1}},
		{"asks again and again", "0 discover via=pxe\n4 discover via=pxe\n12 discover via=pxe\n28 discover via=pxe\n60 discover via=pxe", []string{mac1}},
		{"asks again after a pause", "0 discover via=pxe\n300 discover via=pxe", []string{mac1, mac1}},
		{"ROM, then iPXE", "0 discover via=pxe\n2 begin file=undionly.kpxe\n3 tftp file=undionly.kpxe bytes=9 size=9 began=2\n5 discover via=ipxe\n6 script boots=agent", []string{mac1}},
		{"an iPXE ROM starts anew", ipxeInitramfs + "60 discover via=ipxe", []string{mac1, mac1}},
		{"the agent renews", arrived + "3600 request\n3600 ack ip=10.77.0.100\n7200 request", []string{mac1}},
		{"the installed system asks a day later", arrived + "90000 discover\n90000 request", []string{mac1, mac1}},
		{"an installed system, then firmware", "0 discover\n60 discover via=pxe", []string{mac1, mac1}},
		{"two cards of one PC", "0 discover via=pxe uuid=" + id1 + "\n60 discover via=pxe mac=" + mac2 + "\n61 request via=pxe\n62 begin file=shimx64.efi", []string{mac1 + " " + mac2}},
		{"a card that got somewhere is left alone", shim + "20 discover via=pxe mac=" + mac2, []string{mac1, mac2}},
		{"two PCs that say they are one", `
			0 discover via=pxe uuid=` + id1 + `
			6 discover via=pxe mac=` + mac2 + `
			7 discover via=pxe mac=` + mac1 + `
			8 discover via=pxe mac=` + mac2 + `
			9 discover via=pxe mac=` + mac1 + `
			10 discover via=pxe mac=` + mac2, []string{mac1 + " " + mac2, mac1, mac2}},
		{"UUIDs that are none", "0 discover via=pxe uuid=03000200-0400-0500-0006-000700080009\n60 discover via=pxe mac=" + mac2, []string{mac1, mac2}},
		{"a file from an address", uefi + "5 begin nobody ip=10.77.0.100 file=shimx64.efi", []string{mac1}},
		{"a file from nowhere", uefi + "5 begin nobody ip=10.77.0.200 file=shimx64.efi", []string{mac1}},
		{"a broken packet is nobody's", "0 malformed nobody err=no_packet", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBook()
			play(t, b, tt.text)
			var got []string
			for _, e := range b.starts {
				got = append(got, strings.Join(e.MACs, " "))
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("starts %v, want %v", got, tt.want)
			}
			for i, e := range b.starts {
				last := i == len(b.starts)-1 || len(tt.want) > i && !b.starts[i+1].Has(e.MACs[0])
				if last != e.Again.IsZero() && tt.name != "two PCs that say they are one" {
					t.Errorf("start %d began anew at %v", i, e.Again)
				}
			}
		})
	}
}

// The end of a transfer belongs to the start that began it, however late.
func TestLateEnd(t *testing.T) {
	b := newBook()
	play(t, b, kernel+"16 begin file=initrd\n30 discover via=pxe\n31 http file=initrd bytes=5 size=20 began=16 err=broken_off")
	if len(b.starts) != 2 || len(b.starts[1].Lines) != 1 {
		t.Fatalf("%d starts, the new one has %+v", len(b.starts), b.starts[1].Lines)
	}
	found := Diagnose(b.starts[0].given(), noon.Add(time.Minute))
	if len(found) != 1 || found[0].ID != "http-broken" {
		t.Errorf("found %v", found)
	}
}

func TestEqualSightingsMerge(t *testing.T) {
	b := newBook()
	for i := range 5 {
		play(t, b, fmt.Sprintf("%d discover via=pxe secs=%d\n%d offer via=pxe file=x", i*4, i*4, i*4))
	}
	s := b.starts[0].given()
	if len(s.Lines) != 2 || s.Lines[0].N() != 5 || s.Lines[1].N() != 5 || s.Lines[0].Gap != 4*time.Second || s.Lines[0].Secs != 0 {
		t.Fatalf("lines %+v", s.Lines)
	}
	if text := s.Lines[0].Text(); !strings.Contains(text, "×5") {
		t.Errorf("%q doesn't say how often", text)
	}
}

// One that sends without end costs no more than its own place.
func TestFloodOfOne(t *testing.T) {
	b := newBook()
	for i := range 5000 {
		b.add(Sighting{Time: noon.Add(time.Duration(i) * time.Millisecond), MAC: mac1, What: "tftp", File: fmt.Sprint("file", i), Missing: true, Arch: -1})
	}
	if s := b.starts[0]; len(b.starts) != 1 || len(s.Lines) != maxLines || s.Dropped != 5000-maxLines || s.Lines[0].File != "file0" || s.Lines[maxLines-1].File != "file4999" {
		t.Errorf("%d starts, %d lines, %d dropped", len(b.starts), len(s.Lines), s.Dropped)
	}
	b = newBook()
	for i := range 100 {
		play(t, b, fmt.Sprintf("%d discover via=pxe\n%d begin file=shimx64.efi", i*10, i*10+1))
	}
	if len(b.starts) != maxPerPC {
		t.Errorf("%d starts of one PC", len(b.starts))
	}
}

// Made-up packets push out neither a PC that has fetched files nor one that has
// said hello, and the whole stays in bounds.
func TestFloodOfStrangers(t *testing.T) {
	b := newBook()
	play(t, b, arrived)
	play(t, b, strings.ReplaceAll(shim, "arch=7", "arch=7 mac="+mac2))
	for i := range 5000 {
		g := Sighting{Time: noon.Add(time.Hour + time.Duration(i)*time.Millisecond), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), What: "discover", Via: "pxe", Arch: 7,
			Err: strings.Repeat("\x1b[2J<script>", 100), UUID: fmt.Sprintf("%08x-0042-3510-8052-b4c04f564331", i)}
		b.add(g.cleaned())
	}
	if len(b.starts) != 2+room[heard] || b.newest[mac1] == nil || b.newest[mac2] == nil {
		t.Errorf("%d starts; the PCs that were here: %v, %v", len(b.starts), b.newest[mac1] != nil, b.newest[mac2] != nil)
	}
	if len(b.newest) > len(b.starts) {
		t.Errorf("%d MACs of %d starts are remembered", len(b.newest), len(b.starts))
	}
	if len(b.gone) > 0 {
		t.Errorf("%d files are to be removed that were never there", len(b.gone))
	}
	last := b.starts[len(b.starts)-1].Lines[0]
	if len(last.Err) > maxText || strings.ContainsAny(last.Err, "\x1b\n") {
		t.Errorf("a hostile text is kept: %q", last.Err)
	}
	// Nor does one that pretends to be the PC that arrived.
	for i := range 50 {
		play(t, b, fmt.Sprintf("%d discover via=pxe\n%d begin file=shimx64.efi", 4000+i*10, 4001+i*10))
	}
	if got := b.starts[0]; got.class != known || got.Number != 7 {
		t.Errorf("the start that said hello was pushed out: %+v", got.Start)
	}
}

// What was seen survives a restart, in files that others may not read.
func TestFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "trace")
		l := opened(t, dir)
		l.SetMode("full")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		l.mu.Lock() // Run writes beside us
		play(t, l.book, kernel+"16 begin file=initrd")
		l.mu.Unlock()
		l.Add(Sighting{What: "malformed", Err: "no DHCP packet", IP: "10.77.0.66", Arch: -1})
		time.Sleep(2 * time.Second)
		beside, err := Read(dir)
		if err != nil || len(beside.Starts) != 1 || len(beside.House) != 1 {
			t.Fatalf("beside the running one: %+v, %v", beside, err)
		}
		l.mu.Lock()
		play(t, l.book, "100 discover via=pxe\n100 offer via=pxe")
		l.mu.Unlock()
		cancel()
		<-done

		names, err := os.ReadDir(dir)
		if err != nil || len(names) != 3 {
			t.Fatalf("%v, %v", names, err)
		}
		for _, n := range names {
			if i, err := n.Info(); err != nil || i.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", n.Name(), i.Mode(), err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "torn.json"), []byte(`{"id":"to`), 0o600); err != nil {
			t.Fatal(err)
		}
		l = opened(t, dir)
		starts := l.Starts()
		if len(starts) != 2 || !starts[1].Again.Equal(starts[0].Began) || len(l.House()) != 1 {
			t.Fatalf("after a restart: %+v", starts)
		}
		if last := starts[1].Lines[len(starts[1].Lines)-1]; last.File != "initrd" || last.Err == "" {
			t.Errorf("a transfer that nobody saw the end of: %+v", last)
		}
		// The PC goes on where it was.
		play(t, l.book, "104 request via=pxe")
		if got := l.Starts(); len(got) != 2 || len(got[0].Lines) != 3 {
			t.Errorf("the PC that was starting has a new start: %+v", got[0])
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_ = l.Run(ctx)
		if _, err := os.Stat(filepath.Join(dir, "torn.json")); err == nil {
			t.Error("what can't be read is kept for ever")
		}
	})
}

// Files go as their starts go.
func TestFolderIsBounded(t *testing.T) {
	l := opened(t, t.TempDir())
	for i := range 400 {
		l.Add(Sighting{Time: noon.Add(time.Duration(i) * time.Second), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), What: "discover", Via: "pxe", Arch: 7})
		if i%50 == 0 {
			if err := l.write(writeMost); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 5 {
		if err := l.write(writeMost); err != nil {
			t.Fatal(err)
		}
	}
	names, err := os.ReadDir(l.dir)
	if err != nil || len(names) != room[heard] {
		t.Errorf("%d files, %v", len(names), err)
	}
}

// What could not be written or removed is tried again.
func TestWritingGoesOnAfterAFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "trace")
	l := opened(t, dir)
	add := func(n int) {
		l.Add(Sighting{Time: time.Now(), MAC: fmt.Sprintf("02:00:00:00:00:%02x", n), What: "discover", Via: "pxe", Arch: 7})
	}
	add(0)
	if err := l.write(writeMost); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 6; i++ {
		add(i)
	}
	l.Add(Sighting{What: "malformed", Err: "no DHCP packet", IP: "10.77.0.66", Arch: -1})
	first := l.book.starts[0].ID
	l.book.drop(0)
	// The folder is gone, and a file stands in its place.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.write(writeMost); err == nil {
		t.Fatal("no error")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if err := l.write(writeMost); err != nil {
		t.Fatal(err)
	}
	k, err := Read(dir)
	if err != nil || len(k.Starts) != 5 || len(k.House) != 1 {
		t.Errorf("%d starts, %d lines of the house, %v", len(k.Starts), len(k.House), err)
	}
	for _, s := range k.Starts {
		if s.ID == first {
			t.Error("a start that was dropped is still there")
		}
	}
}

// A clock that was set back since: what comes now has room all the same.
func TestStartsFromAClockThatWasAhead(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	for i := range room[heard] {
		l.Add(Sighting{Time: time.Now().Add(24*time.Hour + time.Duration(i)*time.Second), MAC: fmt.Sprintf("02:00:00:00:01:%02x", i), What: "discover", Via: "pxe", Arch: 7})
	}
	if err := l.write(maxFiles); err != nil {
		t.Fatal(err)
	}
	l = opened(t, dir)
	l.Add(Sighting{MAC: mac1, What: "discover", Via: "pxe", Arch: 7})
	if l.book.newest[mac1] == nil {
		t.Error("a PC that starts now is dropped at once")
	}
}

func TestChanges(t *testing.T) {
	l := opened(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	c := l.Changes(ctx)
	for range 3 { // nobody listens: it must not block
		l.Add(Sighting{MAC: mac1, What: "discover", Via: "pxe", Arch: 0})
	}
	<-c
	select {
	case <-c:
		t.Error("told twice")
	default:
	}
	before := l.Starts()[0]
	l.Add(Sighting{MAC: mac1, What: "request", Via: "pxe", Arch: 0})
	if len(before.Lines) != 1 || len(l.Starts()[0].Lines) != 2 {
		t.Error("what was given out has changed")
	}
	cancel()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		n := len(l.watched)
		l.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("who has gone is still told")
		}
	}
}

// A folder that can't be read is said so, to whoever has no business in it.
func TestUnreadableFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, nil); err == nil {
		t.Error("a file was taken for a folder")
	}
	if k, err := Read(filepath.Join(t.TempDir(), "none")); err != nil || len(k.Starts) != 0 {
		t.Errorf("no folder at all: %v, %v", k, err)
	}
}
