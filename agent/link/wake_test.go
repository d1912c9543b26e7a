package link

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel fills its own structs, whatever ours are.
func TestStructsAreTheKernels(t *testing.T) {
	if n := unsafe.Sizeof(wolinfo{}); n != 20 {
		t.Errorf("struct ethtool_wolinfo has 20 bytes, ours %d", n)
	}
	if n := unsafe.Sizeof(ifreq{}); n != unsafe.Sizeof(unix.Ifreq{}) {
		t.Errorf("struct ifreq has %d bytes, ours %d", unsafe.Sizeof(unix.Ifreq{}), n)
	}
	if at := unsafe.Offsetof(ifreq{}.data); at != unix.IFNAMSIZ {
		t.Errorf("its pointer lies at %d", at)
	}
}

// What a card listens for already stays, and a card that can't is left alone.
func TestArmed(t *testing.T) {
	const arp, unicast = 1 << 4, 1 << 1
	for _, c := range []struct {
		supported, options, want uint32
		change                   bool
	}{
		{0, 0, 0, false},
		{arp, 0, 0, false},
		{arp | wakeMagic, 0, wakeMagic, true},
		{arp | unicast | wakeMagic, arp, arp | wakeMagic, true},
		{wakeMagic, wakeMagic, wakeMagic, false},
	} {
		w := wolinfo{supported: c.supported, options: c.options, password: [6]byte{1, 2, 3, 4, 5, 6}}
		got, change := w.armed()
		if w.options = c.want; got != w || change != c.change {
			t.Errorf("%+v becomes %+v, %v", c, got, change)
		}
	}
}

// Cards whose drivers know nothing of it are asked, switched on, and not complained
// about: the kernel's own answers.
func TestArmWithoutSuchCards(t *testing.T) {
	w := enter(t)
	w.cable("eth0", "02:00:00:00:00:01", true)
	w.cable("eth1", "02:00:00:00:00:02", false)
	var log bytes.Buffer
	Arm(slog.New(slog.NewTextHandler(&log, nil)))
	if log.Len() > 0 {
		t.Errorf("it says %s", log.String())
	}
	for _, name := range []string{"eth0", "eth1"} {
		if can, err := Wakes(name); can || !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %v, %v", name, can, err)
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().RawFlags&unix.IFF_UP == 0 {
			t.Errorf("%s is off", name)
		}
	}
	for _, name := range []string{"eth9", strings.Repeat("x", 100), ""} {
		if can, err := Wakes(name); can || !errors.Is(err, unix.ENODEV) {
			t.Errorf("%q: %v, %v", name, can, err)
		}
	}
}
