package appliance

import (
	"reflect"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/netboot"
	"refurb/appliance/trace"
)

// What both sides of the boot trace call the same is the same.
func TestEveryFieldIsTraced(t *testing.T) {
	var s netboot.Sighting
	from := reflect.ValueOf(&s).Elem()
	for i := range from.NumField() {
		switch f := from.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Uint16:
			f.SetUint(7)
		case reflect.Bool:
			f.SetBool(true)
		}
	}
	to := reflect.ValueOf(traced(s))
	for i := range from.NumField() {
		name := from.Type().Field(i).Name
		f := to.FieldByName(name)
		if !f.IsValid() || f.Kind() != reflect.Struct && f.IsZero() {
			t.Errorf("Sighting.%s doesn't reach the trace", name)
		}
	}
	if got := traced(netboot.Sighting{Arch: netboot.NoArch}); got.Arch != -1 {
		t.Errorf("no architecture is traced as %d", got.Arch)
	}
}

// A start ends with the agent's hello, in the start that its token was made for.
func TestAgentsAreTraced(t *testing.T) {
	h := newHouse(t)
	const mac = "00:21:cc:00:00:01"
	token := h.token(mac)
	rep := report(1)
	rep.NICs[0].Driver = "r8169"
	rep.Network = &wire.Network{Card: "eth0", CarrierMS: 2500, AddressMS: 31000}
	rep.Gaps = []wire.Gap{
		{ID: "pci 10ec:8125", What: "wired network adapter", Reason: "no driver in our boot files"},
		{ID: "pci 10ec:8168", What: "driver r8169", Reason: "firmware file rtl_nic/x.fw is not in our boot files"},
		{ID: "pci 8086:a282", What: "RAID storage controller", Reason: "no driver in our boot files"},
		{ID: "pci 10de:1234", What: "driver nouveau", Reason: "firmware file nvidia/x is not in our boot files"},
	}
	if code, e := h.call("POST", wire.PathReport, token, text(rep), nil); code != 200 {
		t.Fatalf("%d %v", code, e)
	}
	got := h.told[0]
	if got.What != trace.Hello || got.MAC != mac || got.Number != 1 || got.Device != h.reg.View().Devices[0].ID || got.IP != "127.0.0.1" ||
		got.Link.Card != "eth0" || got.Link.Address.Seconds() != 31 || got.Link.Carrier.Seconds() != 2.5 {
		t.Errorf("hello: %+v", got)
	}
	if len(got.Gaps) != 2 || got.Gaps[0].ID != "pci 10ec:8125" || got.Gaps[1].ID != "pci 10ec:8168" {
		t.Errorf("network cards that don't work: %+v", got.Gaps)
	}
	rep.BootID = "another"
	if code, _ := h.call("POST", wire.PathReport, token, text(rep), nil); code != 401 {
		t.Fatal(code)
	}
	if got := h.told[1]; got.What != trace.Refused || got.MAC != mac || !strings.Contains(got.Err, "another start") {
		t.Errorf("refusal: %+v", got)
	}
	if code, _ := h.call("POST", wire.PathReport, token, text(rep), nil, wireHeader, "99"); code != 426 {
		t.Fatal(code)
	}
	if got := h.told[2]; got.What != trace.Refused || !strings.Contains(got.Err, "99") {
		t.Errorf("another version: %+v", got)
	}
	if code, _ := h.call("POST", wire.PathReport, "nonsense", text(rep), nil); code != 401 {
		t.Fatal(code)
	}
	if got := h.told[3]; got.MAC != "" || got.Number != 0 {
		t.Errorf("a stranger got %+v", got)
	}
}
