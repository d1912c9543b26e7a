package main

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"

	"refurb/agent/wire"
)

// desk is where PCs say what they have and hear whom to ask. Stand-in until the relay is there.
type desk struct {
	mu   sync.Mutex
	last map[string]hearsay
}

// hearsay is what a PC last said of itself.
type hearsay struct {
	Share  wire.Share
	Claims []byte // the last that were sent
}

func newDesk() *desk { return &desk{last: map[string]hearsay{}} }

func (d *desk) share(c echo.Context) error {
	var s wire.Share
	if err := json.NewDecoder(http.MaxBytesReader(c.Response(), c.Request().Body, wire.MaxMessage)).Decode(&s); err != nil {
		return c.String(http.StatusBadRequest, err.Error())
	}
	host, _, _ := net.SplitHostPort(c.Request().RemoteAddr)
	d.mu.Lock()
	defer d.mu.Unlock()
	h := hearsay{s, s.Claims}
	if len(s.Claims) == 0 {
		h.Claims = d.last[s.Job].Claims
	}
	d.last[s.Job] = h
	_ = net.JoinHostPort(host, strconv.Itoa(s.Port))
	return c.JSON(http.StatusOK, wire.Order{Serial: 1, Depot: true})
}

func (d *desk) tell(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	h, ok := d.last[strings.TrimPrefix(r.URL.Path, "/")]
	d.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(h)
}
