// Package arch holds the rules of who may know whom, as tests.
package arch

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// rules: a package (and those below it, with a trailing "/...") must not reach
// any package that starts with one of the listed paths, not even through
// others.
var rules = []struct {
	from, reason string
	never        []string
}{
	{"refurb/agent/wire", "both sides hold it: standard library only", []string{"refurb/", "github.com/", "golang.org/"}},
	{"refurb/images", "the format stands alone", []string{"refurb/"}},
	{"refurb/agent/...", "the agent travels to every PC and trusts only what it is sent", []string{
		"refurb/appliance", "refurb/dashboard", "refurb/images/", "refurb/scripts", "github.com/mattn/go-sqlite3", "github.com/labstack"}},
	{"refurb/images/recipes/tinyos", "it runs on the PC as the agent does", []string{"refurb/appliance", "refurb/dashboard", "github.com/mattn/go-sqlite3"}},
	{"refurb/images/...", "images know nothing of the workshop", []string{"refurb/appliance", "refurb/dashboard"}},
	{"refurb/appliance/netboot", "the boot chain is told what to say and knows nobody", []string{"refurb/"}},
	{"refurb/appliance/trace", "a trace is told what was seen and knows neither who saw it nor who shows it", []string{"refurb/", "github.com/"}},
	{"refurb/appliance/workshop", "decisions don't know how they are stored or shown", []string{
		"refurb/appliance/store", "refurb/appliance/audit", "refurb/appliance/netboot", "refurb/appliance/trace", "refurb/appliance/payload", "refurb/dashboard", "refurb/images/depot", "refurb/images/pack"}},
	{"refurb/appliance/store", "the database keeps what it is given", []string{"refurb/dashboard", "refurb/appliance/netboot", "refurb/appliance/payload", "refurb/appliance/audit"}},
	{"refurb/appliance/audit", "the verifier runs on anybody's machine", []string{"refurb/dashboard", "refurb/appliance/store", "refurb/appliance/netboot", "refurb/appliance/payload"}},
	{"refurb/appliance/sheet", "a table knows nothing of what stands in it", []string{"refurb/"}},
	{"refurb/appliance/papers", "papers are made from chains and evidence alone, and checked on anybody's machine", []string{
		"refurb/dashboard", "refurb/appliance/store", "refurb/appliance/netboot", "refurb/appliance/payload", "refurb/appliance/relay", "refurb/images/"}},
	{"refurb/appliance/relay", "who fetches from whom is decided without knowing what for", []string{
		"refurb/appliance/", "refurb/dashboard", "refurb/agent", "github.com/", "golang.org/"}},
	{"refurb/appliance", "the server runs without a dashboard", []string{"refurb/dashboard", "refurb/scripts"}},
	{"refurb/dashboard", "pages look on; they don't boot or store", []string{
		"refurb/appliance/store", "refurb/appliance/netboot", "refurb/appliance/payload", "refurb/images/depot", "refurb/images/pack", "refurb/scripts", "github.com/mattn/go-sqlite3"}},
}

type pkg struct {
	ImportPath string
	Deps       []string
}

func TestWhoMayKnowWhom(t *testing.T) {
	pkgs := list(t)
	for _, r := range rules {
		base, tree := strings.CutSuffix(r.from, "/...")
		seen := false
		for _, p := range pkgs {
			if p.ImportPath != base && !(tree && strings.HasPrefix(p.ImportPath, base+"/")) {
				continue
			}
			seen = true
			for _, dep := range p.Deps {
				for _, bad := range r.never {
					// A rule about a tree doesn't forbid the tree to itself.
					own := dep == base || tree && strings.HasPrefix(dep, base+"/")
					if !own && (dep == strings.TrimSuffix(bad, "/") && !strings.HasSuffix(bad, "/") || strings.HasPrefix(dep, strings.TrimSuffix(bad, "/")+"/")) {
						t.Errorf("%s reaches %s: %s", p.ImportPath, dep, r.reason)
					}
				}
			}
		}
		if !seen {
			t.Errorf("no package %s: has the rule outlived it?", r.from)
		}
	}
}

// A package of these names says nothing of what it holds.
func TestNamesThatSayNothing(t *testing.T) {
	for _, p := range list(t) {
		last := p.ImportPath[strings.LastIndex(p.ImportPath, "/")+1:]
		switch last {
		case "util", "utils", "common", "helpers", "misc", "shared", "base", "internal":
			t.Errorf("%s: name it after what it does", p.ImportPath)
		}
	}
}

// Every module that we import is named, with its reason, in the docs.
func TestDependenciesAreExplained(t *testing.T) {
	doc, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-m", "-f", "{{if not (or .Indirect .Main)}}{{.Path}}{{end}}", "all")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	for _, m := range strings.Fields(string(out)) {
		name := strings.TrimPrefix(strings.TrimPrefix(m, "github.com/"), "golang.org/")
		if !strings.Contains(string(doc), name) {
			t.Errorf("docs/dependencies.md doesn't say why %s is there", m)
		}
	}
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Deps", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}
