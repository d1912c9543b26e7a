package hardware

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
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

// What the kernel of this machine knows of its own cards.
func TestPermanentIsTheCards(t *testing.T) {
	looked := 0
	for _, name := range tree("/").names("sys/class/net") {
		dir := filepath.Join("sys/class/net", name)
		kind, _ := tree("/").number(dir, "type")
		if assigned, ok := tree("/").number(dir, "addr_assign_type"); !ok || assigned != addrPermanent || kind != arphrdEther {
			continue
		}
		looked++
		card, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		want := mac(tree("/").text(dir, "address"))
		if got := mac(card.Attrs().PermHWAddr.String()); got != want || permanent("/", dir, name) != want {
			t.Errorf("%s: the kernel says %q, we %q, it is %q", name, got, permanent("/", dir, name), want)
		}
	}
	if looked == 0 {
		t.Skip("no card here has an address of its own")
	}
}
