package hardware

import "testing"

// The same drive through both doors: the raw IDENTIFY data swap each word's
// characters, HDIO_GET_IDENTITY doesn't.
func TestATAStrings(t *testing.T) {
	straight := make([]byte, 512)
	copy(straight[20:40], "DEMO000001          ")
	copy(straight[46:54], "2.5+    ")
	copy(straight[54:94], "QEMU HARDDISK                           ")
	raw := make([]byte, 512)
	for i := 0; i < 512; i += 2 {
		raw[i], raw[i+1] = straight[i+1], straight[i]
	}
	want := answer{serial: "DEMO000001", firmware: "2.5+", model: "QEMU HARDDISK"}
	if got, err := parseHDIO(straight); err != nil || got != want {
		t.Errorf("HDIO_GET_IDENTITY: %+v, %v", got, err)
	}
	if got, err := parseATA(raw); err != nil || got != want {
		t.Errorf("IDENTIFY DEVICE: %+v, %v", got, err)
	}
}
