package wake

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netns"
)

func TestPacket(t *testing.T) {
	mac, _ := net.ParseMAC("00:21:cc:01:02:03")
	b, err := Packet(mac)
	want := "ffffffffffff" + strings.Repeat("0021cc010203", 16)
	if got := hex.EncodeToString(b); err != nil || got != want || len(b) != 102 {
		t.Fatalf("%s, %v", got, err)
	}
	for _, bad := range []net.HardwareAddr{nil, {1, 2, 3}, make(net.HardwareAddr, 8)} {
		if b, err := Packet(bad); err == nil {
			t.Errorf("%v: %x", bad, b)
		}
	}
	if err := Send(t.Context(), "lo", netip.MustParseAddr("127.0.0.1"), []string{"00:21:cc:01:02:03", "nonsense"}); err == nil {
		t.Error("nonsense was sent")
	}
}

// What a card on the same switch hears: the packet of its own address, three
// times in each way, and nobody else's. The two live in a namespace of their own.
func TestSend(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("a network namespace: %v (run as root)", err)
	}
	defer func() {
		ns.Close()
		if err := netns.Set(before); err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []string{
		"link add here type veth peer name there",
		"addr add 10.77.0.1/24 dev here", "link set here up", "link set there up", "link set lo up",
	} {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", c, err, out)
		}
	}
	there, err := net.InterfaceByName("there")
	if err != nil {
		t.Fatal(err)
	}
	ear, err := packet.Listen(there, packet.Raw, 3, nil) // 3: ETH_P_ALL
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()

	macs := []string{"00:21:cc:00:00:01", "00:21:cc:00:00:02"}
	if err := Send(t.Context(), "here", netip.MustParseAddr("10.77.0.1"), macs); err != nil {
		t.Fatal(err)
	}
	heard := map[string]int{}
	buf := make([]byte, 2048)
	_ = ear.SetReadDeadline(time.Now().Add(2 * time.Second))
	for {
		n, _, err := ear.ReadFrom(buf)
		if err != nil {
			break
		}
		f := buf[:n]
		at := bytes.Index(f, bytes.Repeat([]byte{0xff}, 6))
		for at >= 0 && at+102 <= len(f) { // as a card looks for it
			body := f[at+6 : at+102]
			if mac := body[:6]; bytes.Equal(body, bytes.Repeat(mac, 16)) && f[0] == 0xff {
				way := "udp"
				if f[12] == 0x08 && f[13] == 0x42 {
					way = "raw"
				} else if f[12] != 0x08 || f[13] != 0x00 || f[14+20+2] != 0 || f[14+20+3] != 9 {
					t.Errorf("an odd frame: %x", f)
				}
				heard[net.HardwareAddr(mac).String()+" "+way]++
			}
			at++
			for at+6 <= len(f) && !bytes.Equal(f[at:at+6], bytes.Repeat([]byte{0xff}, 6)) {
				at++
			}
			if at+6 > len(f) {
				break
			}
		}
	}
	for _, m := range macs {
		for _, way := range []string{" udp", " raw"} {
			if heard[m+way] != 3 {
				t.Errorf("%s%s was heard %d times", m, way, heard[m+way])
			}
		}
	}
	if len(heard) != 4 {
		t.Errorf("heard: %v", heard)
	}
}
