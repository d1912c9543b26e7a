package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each promise of docs/security.md and docs/records.md stands on tests that
// exist: a test that was renamed or removed takes its sentence with it.
func TestPromisesHaveTests(t *testing.T) {
	have := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "node_modules" || e.Name() == ".git" || e.Name() == "build") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(b, -1) {
			have[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	for _, doc := range []string{"security.md", "records.md"} {
		b, err := os.ReadFile(filepath.Join("../../docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllSubmatch(b, -1) {
			if !have[string(m[1])] {
				t.Errorf("docs/%s: there is no test %s", doc, m[1])
			}
		}
		for i, line := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(line, "| ") && strings.Count(line, "|") == 3 && doc == "security.md" &&
				!strings.HasPrefix(line, "| Promise") && !strings.HasPrefix(line, "|---") && !strings.Contains(line, "Test") && !strings.Contains(line, "Fuzz") {
				t.Errorf("docs/%s, line %d: a promise without a test: %s", doc, i+1, line)
			}
		}
	}
}
