package payload

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// maxOutput bounds what is kept of a command's output.
const maxOutput = 4 << 20

// configure writes apt's private configuration: nothing of /etc/apt is read but
// what passes aptSettings, and nothing of /var is touched.
func (p *Packages) configure(ctx context.Context) error {
	settings, err := machineSettings(ctx, p.etc)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(p.dir, "apt/status"), nil, 0o644); err != nil {
		return err
	}
	conf := aptConf(filepath.Join(p.dir, "apt"), p.etc, settings)
	// Proxies may carry a password.
	if err := writeFile(p.aptConfig(), []byte(conf), 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(p.dir, "apt/sources.list.d/refurb.sources"), []byte(aptSources(p.from, p.keyring)), 0o644)
}

func (p *Packages) aptConfig() string { return filepath.Join(p.dir, "apt/apt.conf") }

// aptConf is the text of the private configuration. Names with a relative part
// would be taken from the machine's root, so all are absolute.
func aptConf(dir, etc, settings string) string {
	return fmt.Sprintf(`Dir::Etc %[2]q;
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "%[1]s/sources.list.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State %[1]q;
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::State::extended_states "%[1]s/extended_states";
Dir::Cache %[1]q;
Dir::Cache::archives "%[1]s/archives";
Dir::Log "%[1]s";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "1";
%[3]s`, dir, etc, settings)
}

func aptSources(a archives, keyring string) string {
	stanza := func(uri, suites string) string {
		return fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main non-free-firmware\nArchitectures: amd64\nSigned-By: %s\n\n", uri, suites, keyring)
	}
	s := stanza(a.Main, Suite+" "+Suite+"-updates")
	if a.Security != "" {
		s += stanza(a.Security, Suite+"-security")
	}
	return s
}

// aptSettings are the machine's settings that are taken over: how to reach the
// network, and whether its mirror is one frozen in time. All others stay out,
// above all those that clean caches (images for containers do) and those that
// would allow what is not signed.
var aptSettings = regexp.MustCompile(`(?m)^Acquire::(?:` +
	`(?:http|https|ftp|tor|tor\+http|tor\+https|socks5h?)::[^ ]*|` +
	`Check-Valid-Until|Check-Date|ForceIPv4|ForceIPv6) "[^"\n]*";$`)

// machineSettings reads them with apt's own parser.
func machineSettings(ctx context.Context, etc string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-config", "dump")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if etc != "/etc/apt" {
		cmd.Args = append(cmd.Args, "-o", "Dir::Etc="+etc)
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("apt-config: %w (the boot files are made with Debian's apt; run this on Debian or a relative)", err)
	}
	return keepSettings(string(out)), nil
}

func keepSettings(dump string) string {
	lines := aptSettings.FindAllString(dump, -1)
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// run starts a command under the private configuration and returns what it
// printed. Its error says what the command complained of. When ctx ends the
// command is interrupted, so that apt can leave a part that it is able to
// continue.
func (p *Packages) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = filepath.Join(p.dir, "debs")
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "APT_CONFIG="+p.aptConfig())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	var out, errs limited
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		what := complaint(errs.String() + out.String())
		if what == "" {
			what = err.Error()
		}
		return out.String(), fmt.Errorf("%s: %s", filepath.Base(name), what)
	}
	return out.String(), nil
}

// limited keeps the first maxOutput bytes and drops the rest.
type limited struct{ b bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	l.b.Write(b[:min(len(b), max(0, maxOutput-l.b.Len()))])
	return len(b), nil
}

func (l *limited) String() string { return l.b.String() }

var credentials = regexp.MustCompile(`//[^/@\s]*@`)

// complaint picks apt's errors out of its chatter, without passwords.
func complaint(out string) string {
	var keep []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "E:") || strings.HasPrefix(line, "Err:") || strings.HasPrefix(line, "dpkg-deb:") {
			keep = append(keep, line)
		}
	}
	s := strings.Join(keep, " ")
	if s == "" {
		s = strings.TrimSpace(out)
	}
	return bounded(credentials.ReplaceAllString(s, "//"))
}

func bounded(s string) string {
	if len(s) > 600 {
		return s[:600] + "…"
	}
	return s
}
