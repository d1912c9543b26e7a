package payload

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxSources bounds what is read of one file of apt's sources.
const maxSources = 1 << 20

// archives are the two that Debian's packages come from.
type archives struct {
	Main     string // ends in /debian
	Security string // optional
}

// chooseArchives takes the mirror that was asked for, else what the machine's
// own apt uses under etc ("/etc/apt").
func chooseArchives(mirror, etc string) (archives, error) {
	if mirror != "" {
		u, err := url.Parse(mirror)
		if err != nil || u.Scheme == "" || strings.ContainsAny(mirror, " \t\r\n") {
			return archives{}, fmt.Errorf("mirror %q: want the URL of a Debian archive, ending in /debian", mirror)
		}
		a := archives{Main: strings.TrimRight(mirror, "/")}
		a.Security = beside(a.Main)
		return a, nil
	}
	var a archives
	for _, uri := range machineArchives(etc) {
		switch archiveKind(uri) {
		case "debian":
			if a.Main == "" {
				a.Main = strings.TrimRight(uri, "/")
			}
		case "debian-security":
			if a.Security == "" {
				a.Security = strings.TrimRight(uri, "/")
			}
		}
	}
	if a.Main == "" {
		return archives{}, errors.New("this machine's apt knows no Debian archive: name one, as DEBIAN_MIRROR=http://MIRROR/debian")
	}
	if a.Security == "" {
		a.Security = beside(a.Main)
	}
	return a, nil
}

// beside guesses the security archive of a mirror: most that carry it have it
// next to the main one. It may not exist; nothing depends on it.
func beside(main string) string {
	if base, ok := strings.CutSuffix(main, "/debian"); ok {
		return base + "/debian-security"
	}
	return ""
}

// archiveKind is the last part of the URI's path. Cloud images name a list of
// mirrors instead: mirror+file:/etc/apt/mirrors/debian.list.
func archiveKind(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	p := u.Path
	if p == "" {
		p = u.Opaque
	}
	if u.Hostname() == "security.debian.org" {
		return "debian-security"
	}
	return strings.TrimSuffix(path.Base(p), ".list")
}

// machineArchives lists the binary archives of apt's own sources, in apt's
// order. A file that can't be read or makes no sense is passed over: it is the
// machine's, and apt itself will complain of it.
func machineArchives(etc string) []string {
	files := []string{filepath.Join(etc, "sources.list")}
	entries, _ := os.ReadDir(filepath.Join(etc, "sources.list.d"))
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".list" || ext == ".sources" {
			files = append(files, filepath.Join(etc, "sources.list.d", e.Name()))
		}
	}
	var out []string
	for _, f := range files {
		b, err := readBounded(f, maxSources)
		if err != nil {
			continue
		}
		if filepath.Ext(f) == ".sources" {
			out = append(out, deb822Archives(b)...)
		} else {
			out = append(out, listArchives(b)...)
		}
	}
	return out
}

// listArchives reads the one-line format of sources.list(5):
// "deb [ option=value … ] uri suite component…".
func listArchives(b []byte) []string {
	var out []string
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		line, _, _ := strings.Cut(sc.Text(), "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		if kind != "deb" {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, after, ok := strings.Cut(rest, "]")
			if !ok {
				continue
			}
			rest = after
		}
		if f := strings.Fields(rest); len(f) >= 2 {
			out = append(out, strings.Trim(f[0], `"`))
		}
	}
	return out
}

// deb822Archives reads the stanza format of sources.list(5).
func deb822Archives(b []byte) []string {
	var out []string
	for _, s := range parseDeb822(b) {
		switch strings.ToLower(s["enabled"]) {
		case "no", "false", "0", "off", "without", "disable":
			continue
		}
		for _, t := range strings.Fields(s["types"]) {
			if t == "deb" {
				out = append(out, strings.Fields(s["uris"])...)
			}
		}
	}
	return out
}

// parseDeb822 reads stanzas of "Key: value" lines with continuations, keys in
// lower case (RFC 822 style, deb822(5)). A comment may stand inside a value.
func parseDeb822(b []byte) []map[string]string {
	var out []map[string]string
	var cur map[string]string
	key := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			cur, key = nil, ""
		case line[0] == ' ' || line[0] == '\t':
			if cur != nil && key != "" {
				cur[key] = strings.TrimSpace(cur[key] + "\n" + strings.TrimSpace(line))
			}
		default:
			k, v, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			if cur == nil {
				cur = map[string]string{}
				out = append(out, cur)
			}
			key = strings.ToLower(strings.TrimSpace(k))
			cur[key] = strings.TrimSpace(v)
		}
	}
	return out
}
