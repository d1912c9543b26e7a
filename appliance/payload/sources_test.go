package payload

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestChooseArchives(t *testing.T) {
	for _, tc := range []struct {
		name   string
		mirror string
		files  map[string]string
		want   archives
	}{
		{
			name:  "Debian 12 and 13, as containers have it",
			files: map[string]string{"sources.list.d/debian.sources": "Types: deb\n# http://snapshot.example.org/archive/debian/20250520T000000Z\nURIs: http://one.example.org/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb\nURIs: http://one.example.org/debian-security\nSuites: bookworm-security\nComponents: main\n"},
			want:  archives{"http://one.example.org/debian", "http://one.example.org/debian-security"},
		},
		{
			name:  "as the installer writes it",
			files: map[string]string{"sources.list": "#deb cdrom:[Debian GNU/Linux 12.0.0 _Bookworm_ - Official amd64 NETINST]/ bookworm main\n\ndeb http://ftp.example.org/debian/ bookworm main non-free-firmware\ndeb-src http://src.example.org/debian/ bookworm main\n\ndeb http://security.debian.org/debian-security bookworm-security main # comment\n"},
			want:  archives{"http://ftp.example.org/debian", "http://security.debian.org/debian-security"},
		},
		{
			name:  "options, tabs and a port",
			files: map[string]string{"sources.list": "deb\t[ arch=amd64 signed-by=/usr/share/keyrings/x.gpg ]\thttps://mirror.example.org:8443/pub/debian\ttrixie main\n"},
			want:  archives{"https://mirror.example.org:8443/pub/debian", "https://mirror.example.org:8443/pub/debian-security"},
		},
		{
			name: "others come first, and one is switched off",
			files: map[string]string{
				"sources.list.d/a.list":      "deb https://apt.example.com/product stable main\n",
				"sources.list.d/b.sources":   "Enabled: no\nTypes: deb\nURIs: http://old.example.org/debian\nSuites: bookworm\nComponents: main\n",
				"sources.list.d/c.sources":   "Types: deb-src\nURIs: http://src.example.org/debian\nSuites: bookworm\nComponents: main\n",
				"sources.list.d/d.sources":   "types: deb deb-src\nuris:\n http://x.example.org/ubuntu\n http://two.example.org/debian/\nsuites: trixie\ncomponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n",
				"sources.list.d/e.sources~":  "Types: deb\nURIs: http://backup.example.org/debian\n",
				"sources.list.d/f.list.save": "deb http://backup.example.org/debian bookworm main\n",
			},
			want: archives{"http://two.example.org/debian", "http://two.example.org/debian-security"},
		},
		{
			name:  "a cloud image's list of mirrors",
			files: map[string]string{"sources.list.d/debian.sources": "Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\nComponents: main\n\nTypes: deb\nURIs: mirror+file:///etc/apt/mirrors/debian-security.list\nSuites: trixie-security\nComponents: main\n"},
			want:  archives{"mirror+file:///etc/apt/mirrors/debian.list", "mirror+file:///etc/apt/mirrors/debian-security.list"},
		},
		{name: "none"},
		{
			name:  "another distribution's",
			files: map[string]string{"sources.list": "deb http://archive.example.com/ubuntu noble main\n"},
		},
		{
			name:   "asked for",
			mirror: "http://near.example.org/debian/",
			files:  map[string]string{"sources.list": "deb http://ftp.example.org/debian bookworm main\n"},
			want:   archives{"http://near.example.org/debian", "http://near.example.org/debian-security"},
		},
		{
			name:   "asked for, under a name of its own",
			mirror: "https://near.example.org/trixie-mirror",
			want:   archives{"https://near.example.org/trixie-mirror", ""},
		},
		{
			name:  "nonsense",
			files: map[string]string{"sources.list": "deb\ndeb [ broken\ndeb http://only-a-uri.example.org/debian\n\x00\xff\n", "sources.list.d/x.sources": ": :\n leading\nTypes deb\n"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			etc := t.TempDir()
			for name, text := range tc.files {
				write(t, filepath.Join(etc, name), text)
			}
			got, err := chooseArchives(tc.mirror, etc)
			if (err == nil) != (tc.want.Main != "") || got != tc.want {
				t.Errorf("%+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

func TestMirrorIsChecked(t *testing.T) {
	for _, m := range []string{"near.example.org/debian", "http://a/debian\nTrusted: yes", "http://a/debian b", "://"} {
		if a, err := chooseArchives(m, t.TempDir()); err == nil {
			t.Errorf("%q was taken as %+v", m, a)
		}
	}
}

// Only what is needed to reach the network comes over from the machine.
func TestKeepSettings(t *testing.T) {
	dump := `APT "";
APT::Architecture "amd64";
APT::Update::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb || true";
DPkg::Post-Invoke:: "rm -f /var/cache/apt/*.bin || true";
Dir::Cache::pkgcache "";
Dir::Etc::trusted "elsewhere.gpg";
Acquire "";
Acquire::AllowInsecureRepositories "true";
Acquire::AllowWeakRepositories "1";
Acquire::AllowDowngradeToInsecureRepositories "1";
Acquire::Check-Valid-Until "false";
Acquire::ForceIPv4 "true";
Acquire::http "";
Acquire::http::Proxy "http://user:word@proxy.example.org:3142";
Acquire::http::Proxy::local.example.org "DIRECT";
Acquire::https::Verify-Peer "true";
Acquire::https::CAInfo "/etc/ssl/own.pem";
Acquire::GzipIndexes "true";
Acquire::Languages:: "de";
`
	want := `Acquire::Check-Valid-Until "false";
Acquire::ForceIPv4 "true";
Acquire::http::Proxy "http://user:word@proxy.example.org:3142";
Acquire::http::Proxy::local.example.org "DIRECT";
Acquire::https::Verify-Peer "true";
Acquire::https::CAInfo "/etc/ssl/own.pem";
`
	if got := keepSettings(dump); got != want {
		t.Errorf("kept\n%s\nwant\n%s", got, want)
	}
}

func TestComplaint(t *testing.T) {
	got := complaint("Get:1 http://x InRelease\nErr:2 http://me:secret@x.example.org/debian trixie InRelease\nE: Failed to fetch http://me:secret@x.example.org/debian/dists  404\n")
	if strings.Contains(got, "secret") || !strings.Contains(got, "Failed to fetch") || strings.Contains(got, "Get:1") {
		t.Errorf("%q", got)
	}
}

func TestKernelBehind(t *testing.T) {
	for depends, want := range map[string]string{
		"linux-image-6.12.117+deb13-amd64 (= 6.12.117-1)":                     "linux-image-6.12.117+deb13-amd64",
		"kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | xyz": "",
		"linux-image-amd64": "",
		"":                  "",
	} {
		if got := kernelBehind(map[string]string{"depends": depends}); got != want {
			t.Errorf("%q: %q, want %q", depends, got, want)
		}
	}
}

// FuzzSources: no file of apt's makes the reader fail or invent an archive.
func FuzzSources(f *testing.F) {
	f.Add("Types: deb\nURIs: http://a.example.org/debian\nSuites: x\n", "deb [a=b] http://a.example.org/debian x main\n")
	f.Add("Enabled: no\n\n Types: deb\n", "deb [")
	f.Fuzz(func(t *testing.T, stanzas, list string) {
		for _, uri := range slices.Concat(deb822Archives([]byte(stanzas)), listArchives([]byte(list))) {
			if uri == "" && !strings.Contains(list, `"`) || strings.ContainsAny(uri, " \n") {
				t.Errorf("archive %q", uri)
			}
			archiveKind(uri)
		}
	})
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
