package hardware

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWakes(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		name string
		can  bool
		err  error
		want *bool
	}{
		{"its driver can", true, nil, &yes},
		{"its driver can't", false, nil, &no},
		{"its driver has no such call", false, unix.EOPNOTSUPP, &no},
		{"the card is gone", false, unix.ENODEV, nil},
		{"the driver hangs", true, errors.New("no answer in time"), nil},
	} {
		got := wakeAnswer(c.can, c.err)
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if got := wakes("/", "lo"); got == nil || *got {
		t.Errorf("the loopback wakes a PC: %v", got)
	}
	if got := wakes(tree(t.TempDir()), "lo"); got != nil {
		t.Errorf("another machine's card was asked: %v", *got)
	}
}
