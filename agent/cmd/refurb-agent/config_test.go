package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"refurb/agent/wire"
)

func TestConfigure(t *testing.T) {
	b64 := func(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) }
	good := fmt.Sprintf(`{"pin": %q, "key": %q, "version": "v1"}`, b64(1), b64(2))
	const line = "initrd=initrd quiet refurb.url=https://10.77.0.1:8443 refurb.token=abc refurb.mac=02:00:00:00:00:01 console=ttyS0\n"
	for _, c := range []struct{ name, line, file, want string }{
		{"good", line, good, ""},
		{"no address", "quiet refurb.token=abc", good, "refurb.url is \"\""},
		{"in the clear", "refurb.url=http://10.77.0.1 refurb.token=abc", good, "refurb.url"},
		{"no address, the last one holds", line + " refurb.url=", good, "refurb.url"},
		{"no token", "refurb.url=https://10.77.0.1:8443", good, "refurb.token"},
		{"empty token", "refurb.url=https://10.77.0.1:8443 refurb.token=", good, "refurb.token"},
		{"no file", line, "", "no configuration"},
		{"no JSON", line, "{", "makes no sense"},
		{"short pin", line, `{"pin": "AAAA", "key": "` + b64(2) + `"}`, "pin"},
		{"no key", line, `{"pin": "` + b64(1) + `"}`, "key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "cmdline"), []byte(c.line), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "agent.json"), []byte(c.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := configure(filepath.Join(dir, "cmdline"), filepath.Join(dir, "agent.json"))
			if c.want == "" {
				if err != nil || cfg.URL != "https://10.77.0.1:8443" || cfg.Token != "abc" || cfg.Version != "v1" ||
					cfg.Pin[31] != 1 || !cfg.Key.Equal(ed25519.PublicKey(bytes.Repeat([]byte{2}, 32))) || cfg.MAC.String() != "02:00:00:00:00:01" {
					t.Fatalf("%+v, %v", cfg, err)
				}
				return
			}
			e, ok := errors.AsType[*wire.Error](err)
			if !ok || !strings.Contains(e.Message, c.want) || e.Next == "" {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
}

// A stick's command line has no token; the address may be there or not.
func TestConfigureFromAStick(t *testing.T) {
	b64 := func(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) }
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"pin": %q, "key": %q}`, b64(1), b64(2)), 0o600); err != nil {
		t.Fatal(err)
	}
	const stick = " refurb.stick=8BB66F21-DD66-81C9-8209-3A24D18EDC40"
	for _, c := range []struct{ line, url, want string }{
		{"quiet refurb.find=1" + stick, "", ""},
		{"refurb.find=1 refurb.url=https://10.77.0.1:8443" + stick, "https://10.77.0.1:8443", ""},
		{"refurb.find=1 refurb.url=http://10.77.0.1:8443" + stick, "", "refurb.url"},
		{"quiet" + stick, "", "refurb.url"},
		{"refurb.url=https://10.77.0.1:8443" + stick, "", "refurb.token"},
	} {
		line := filepath.Join(dir, "cmdline")
		if err := os.WriteFile(line, []byte(c.line), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := configure(line, file)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v, want %q", c.line, err, c.want)
			}
			continue
		}
		if err != nil || cfg.URL != c.url || cfg.Token != "" || cfg.Stick != "8BB66F21-DD66-81C9-8209-3A24D18EDC40" {
			t.Errorf("%q: %+v, %v", c.line, cfg, err)
		}
	}
}
