package netboot

import (
	"os"
	"strings"
	"testing"
)

var agent = Answer{Kind: Agent, Args: []string{"refurb.url=https://10.77.0.1:8443", "refurb.token=abc-DEF_123"}}

var shell = Answer{Kind: Shell, Args: []string{"refurb.rescue=shell"}}

// The scripts as PCs of every firmware have run them (firmware_test.go).
func TestScripts(t *testing.T) {
	text := func(s string, err error) string {
		t.Helper()
		must(t, err)
		return strings.TrimRight(s, "\n") + "\n"
	}
	const host = "10.77.0.1:8080"
	for name, got := range map[string]string{
		"agent.ipxe":   text(ipxeScript("http://"+host, agent)),
		"local.ipxe":   text(ipxeScript("http://"+host, Answer{Kind: Disk})),
		"memory.ipxe":  text(ipxeScript("http://"+host, Answer{Kind: Memory})),
		"memory.grub":  text(grubConfig(host, Answer{Kind: Memory})),
		"shell.ipxe":   text(ipxeScript("http://"+host, shell)),
		"shell.grub":   text(grubConfig(host, shell)),
		"refused.ipxe": ipxeRefusal("the disk is full"),
		"agent.grub":   text(grubConfig(host, agent)),
		"local.grub":   text(grubConfig(host, Answer{Kind: Disk})),
		"refused.grub": text(grubRefusal("the disk is full"), nil),
		"entry.grub":   grubEntry(host),
	} {
		path := "testdata/scripts/" + name
		if *update {
			must(t, os.MkdirAll("testdata/scripts", 0o755))
			must(t, os.WriteFile(path, []byte(got), 0o644))
			continue
		}
		want, err := os.ReadFile(path)
		must(t, err)
		if got != string(want) {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
		}
		if !strings.HasSuffix(got, "reboot\n") {
			t.Errorf("%s can end at a prompt", name)
		}
	}
}

func TestKernelArgs(t *testing.T) {
	for _, bad := range []string{"", "two words", "a;reboot", "${x}", "$x", "a\nb", `"`, "'", `\`, "a&&b", "ü", "a#b", "{", strings.Repeat("x", 513)} {
		for _, write := range []func(string, Answer) (string, error){ipxeScript, grubConfig} {
			if s, err := write("h", Answer{Kind: Agent, Args: []string{bad}}); err == nil {
				t.Errorf("%q went into a script: %s", bad, s)
			}
		}
	}
	many := make([]string, 10)
	for i := range many {
		many[i] = strings.Repeat("x", 500)
	}
	if _, err := grubConfig("h", Answer{Kind: Agent, Args: many}); err == nil {
		t.Error("a command line longer than the kernel takes")
	}
}

// Words that come from elsewhere stay words: they add no line and no command.
func FuzzScripts(f *testing.F) {
	for _, s := range []string{"disk full", "a\nreboot", "${net0/mac}", "$(x)", "`x`", `"; boot; echo "`, "a || shell", "a && b", `\`, "'", "ü\x00\x1b[2J", strings.Repeat("long ", 500)} {
		f.Add(s)
	}
	lines := func(s string) int { return strings.Count(s, "\n") }
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range []struct{ got, plain, bad string }{
			{ipxeRefusal(s), ipxeRefusal("x"), "$\\\"'|&\x1b"},
			{strings.TrimRight(grubRefusal(s), "\n"), strings.TrimRight(grubRefusal("x"), "\n"), "$\\`\x1b"},
		} {
			if lines(r.got) != lines(r.plain) {
				t.Fatalf("%q adds lines:\n%s", s, r.got)
			}
			for l := range strings.Lines(r.got) {
				l = strings.TrimRight(l, "\n")
				if strings.HasPrefix(l, "echo") && (strings.ContainsAny(l, r.bad) || strings.Count(l, `"`) > 2) {
					t.Fatalf("%q: the line %q", s, l)
				}
			}
		}
		for _, write := range []func(string, Answer) (string, error){ipxeScript, grubConfig} {
			got, err := write("h", Answer{Kind: Agent, Args: []string{s}})
			if err != nil {
				continue
			}
			plain, err := write("h", Answer{Kind: Agent, Args: []string{"x"}})
			must(t, err)
			if strings.Count(strings.TrimRight(got, "\n"), "\n") != strings.Count(strings.TrimRight(plain, "\n"), "\n") || strings.ContainsAny(s, " \n$\"'\\;&|`{}#") {
				t.Fatalf("%q went into a script", s)
			}
		}
		if mac := parseMAC(s); mac != "" && (len(mac) != 17 || strings.Trim(mac, "0123456789abcdef:") != "") {
			t.Fatalf("%q is the MAC %q", s, mac)
		}
	})
}
