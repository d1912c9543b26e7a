package wire

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every message and each of its fields stands in the protocol's document, and
// nothing that isn't one: whoever writes another agent has only that.
func TestMessagesAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	if want := fmt.Sprintf("this is version %d", Version); !strings.Contains(doc, want) {
		t.Errorf("docs/protocol.md doesn't say %q", want)
	}
	_, doc, _ = strings.Cut(doc, "\n## The messages\n")
	doc, _, _ = strings.Cut(doc, "\n## ")
	rows := map[string]map[string]bool{}
	row, word := regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.*) \\|$"), regexp.MustCompile("`([^`]+)`")
	for _, m := range row.FindAllStringSubmatch(doc, -1) {
		rows[m[1]] = map[string]bool{}
		for _, w := range word.FindAllStringSubmatch(m[2], -1) {
			rows[m[1]][w[1]] = true
		}
	}

	fields, values := vocabulary(t)
	for message, names := range fields {
		if rows[message] == nil {
			t.Errorf("docs/protocol.md says nothing of %s", message)
			continue
		}
		for _, n := range names {
			if !rows[message][n] {
				t.Errorf("docs/protocol.md: %s has a field %q, too", message, n)
			}
			delete(rows[message], n)
		}
		for w := range rows[message] {
			if !values[w] {
				t.Errorf("docs/protocol.md: %s has no field %q", message, w)
			}
		}
		delete(rows, message)
	}
	for message := range rows {
		t.Errorf("docs/protocol.md: there is no message %s", message)
	}
}

// vocabulary lists what this package's messages hold, by message, and the values
// that it has names for. An embedded message counts under its name.
func vocabulary(t *testing.T) (fields map[string][]string, values map[string]bool) {
	t.Helper()
	fields, values = map[string][]string{}, map[string]bool{}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				if s, ok := n.Type.(*ast.StructType); ok {
					fields[n.Name.Name] = names(s)
				}
			case *ast.ValueSpec:
				for _, v := range n.Values {
					if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
						s, _ := strconv.Unquote(lit.Value)
						values[s] = true
					}
				}
			}
			return true
		})
	}
	return fields, values
}

func names(s *ast.StructType) (all []string) {
	for _, f := range s.Fields.List {
		if f.Tag != nil {
			tag, _ := strconv.Unquote(f.Tag.Value)
			name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
			all = append(all, name)
		} else if embedded, ok := f.Type.(*ast.Ident); ok && len(f.Names) == 0 {
			all = append(all, embedded.Name)
		}
	}
	return all
}
