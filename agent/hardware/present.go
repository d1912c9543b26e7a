package hardware

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Present names the disks that are there now, each with its size and its
// Sequence: when two answers are equal, no disk has come or gone between them,
// nor a card in a reader.
func Present(root string) []string {
	t := tree(root)
	list := []string{}
	for _, name := range t.names("sys/block") {
		if notDisks.MatchString(name) || len(list) == maxDisks {
			continue
		}
		n, _ := Sequence(root, "/dev/"+name)
		list = append(list, fmt.Sprintf("%s %d %s", name, n, t.text("sys/block", name, "size")))
	}
	return list
}

// Sequence is the number that the kernel gave the disk at path when it came: no
// other disk of this boot has had it, one in the same place included (diskseq,
// Linux 5.15).
func Sequence(root, path string) (uint64, bool) {
	name := strings.ReplaceAll(strings.TrimPrefix(path, "/dev/"), "/", "!")
	n, ok := tree(root).number("sys/block", filepath.Base(name), "diskseq")
	return uint64(n), ok
}
