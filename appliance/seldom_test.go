package appliance

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"refurb/agent/wire"
	"refurb/appliance/netboot"
	"refurb/appliance/trace"
)

// What anybody can cause a thousand times fills no log, and a whole roomful of it
// stands there.
func TestStrangersFillNoLog(t *testing.T) {
	check := func(name, log, level string) {
		t.Helper()
		if n := strings.Count(log, "level="+level); n < 64 || n > 300 {
			t.Errorf("%s: %d lines", name, n)
		}
	}
	h := newHouse(t)
	for range 1000 {
		if code, _ := h.call(http.MethodPost, wire.PathBoot, "", `{"mac":"nonsense"}`, nil); code != http.StatusBadRequest {
			t.Fatal(code)
		}
	}
	check("a start that is refused", h.log.String(), "INFO")

	var said bytes.Buffer
	a := &Appliance{log: slog.New(slog.NewTextHandler(&said, nil))}
	var err error
	if a.Trace, err = trace.Open(t.TempDir(), nil); err != nil {
		t.Fatal(err)
	}
	d := a.desk()
	for i := range 1000 {
		d.Sighting(netboot.Sighting{What: "malformed", Err: fmt.Sprint("no DHCP packet ", i)})
	}
	check("a packet that is none", said.String(), "WARN")
}
