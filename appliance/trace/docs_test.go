package trace

import (
	"strings"
	"testing"
)

// Every finding stands in the docs, and nothing that isn't one.
func TestFindingsAreDocumented(t *testing.T) {
	_, text, ok := strings.Cut(readSource(t, "../../docs/boot.md"), "## When a PC doesn't start")
	if !ok {
		t.Fatal("docs/boot.md has no section for it")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for id := range English {
		if strings.Count(text, "\n| `"+id+"` | ") != 1 {
			t.Errorf("docs/boot.md says nothing of %s, or too much", id)
		}
	}
	if n := strings.Count(text, "\n| `"); n != len(English) {
		t.Errorf("docs/boot.md lists %d findings, there are %d", n, len(English))
	}
}
