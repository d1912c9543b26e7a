package recipes

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDesktopScripts(t *testing.T) {
	dir := t.TempDir()
	if err := layOut(dir); err != nil {
		t.Fatal(err)
	}
	scripts := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		script := strings.HasPrefix(string(b), "#!/bin/sh\n")
		info, err := d.Info()
		if err != nil {
			return err
		}
		if executable := info.Mode()&0o111 != 0; executable != script {
			t.Errorf("%s: executable %v, a script %v", p, executable, script)
		}
		if !script {
			return nil
		}
		scripts++
		if out, err := exec.CommandContext(t.Context(), "sh", "-n", p).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", p, err, out)
		}
		return nil
	})
	if err != nil || scripts < 7 {
		t.Errorf("%d scripts, %v", scripts, err)
	}
}

// Units and scripts name each other by path: none of them may be missing.
func TestDesktopPaths(t *testing.T) {
	here := regexp.MustCompile(`/usr/lib/refurb-desktop/([a-z.-]+)`)
	err := fs.WalkDir(desktopFiles, "desktop", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := desktopFiles.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range here.FindAllStringSubmatch(string(b), -1) {
			if _, err := fs.Stat(desktopFiles, "desktop/root/usr/lib/refurb-desktop/"+m[1]); err != nil {
				t.Errorf("%s names %s: %v", p, m[0], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPackageLists(t *testing.T) {
	all := slices.Concat(names("packages"), names("firmware"))
	if !slices.ContainsFunc(all, func(s string) bool { return s == "linux-image-amd64" }) || !slices.Contains(all, "libreoffice-l10n-uk") {
		t.Errorf("packages: %v", all)
	}
	plain := regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]+$`)
	for i, p := range all {
		if !plain.MatchString(p) || slices.Contains(all[:i], p) {
			t.Errorf("package %q: no name, or named twice", p)
		}
	}
	for _, p := range grubTool {
		// Those that no other package brings along.
		if !strings.HasPrefix(p, "lib") && p != "grub-common" && !slices.Contains(all, p) {
			t.Errorf("GRUB's core cannot be made without %s", p)
		}
	}
}

func TestOffer(t *testing.T) {
	release := []byte("Origin: Debian\nComponents: main contrib non-free-firmware non-free\nMD5Sum:\n")
	if !serves(release, "non-free-firmware") || serves(release, "non-free-soft") || serves([]byte("Origin: x\n"), "main") {
		t.Error("components misread")
	}
	f := offer{mirror: "http://mirror.example/debian", firmware: true, security: "http://mirror.example/debian-security"}
	want := []string{
		"deb http://other.example/debian trixie main non-free-firmware",
		"deb http://other.example/debian trixie-updates main non-free-firmware",
		"deb http://other.example/debian-security trixie-security main non-free-firmware",
	}
	if got := f.sources("http://other.example/debian"); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := (offer{}).sources("http://other.example/debian"); len(got) != 2 || strings.Contains(got[0], "firmware") {
		t.Errorf("%q", got)
	}
}

func TestRun(t *testing.T) {
	o := Options{Log: slog.New(slog.DiscardHandler)}
	err := run(t.Context(), o, os.Environ(), "/bin/sh", "-c", "for i in $(seq 40); do echo line $i; done; printf %3000s x; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "line 40") || strings.Contains(err.Error(), "line 20\n") {
		t.Errorf("error %v", err)
	}
	// A program that will not stop, with a child that holds its output open.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	mark := filepath.Join(t.TempDir(), "mark")
	start := time.Now()
	err = run(ctx, o, append(os.Environ(), "MARK="+mark), "/bin/sh", "-c", `trap "" TERM; (trap "" TERM; sleep 12; echo >"$MARK") & wait; wait; sleep 60`)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 20*time.Second {
		t.Errorf("error %v after %s", err, time.Since(start))
	}
	time.Sleep(time.Until(start.Add(13 * time.Second)))
	if _, err := os.Stat(mark); err == nil {
		t.Error("a child outlived it")
	}
}
