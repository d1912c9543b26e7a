package main

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/agent/wire"
	"refurb/appliance/relay"
)

// desk is where PCs say what they have and hear whom to ask: the product's
// relay, without the workshop's records of who may.
type desk struct {
	mu    sync.Mutex
	relay *relay.Relay
	last  map[string]hearsay
}

// hearsay is what a PC last said of itself.
type hearsay struct {
	Share  wire.Share
	Claims []byte // the last that were sent
}

func newDesk() *desk {
	return &desk{relay: relay.New(relay.Config{}), last: map[string]hearsay{}}
}

func (d *desk) share(c echo.Context) error {
	var s wire.Share
	if err := json.NewDecoder(http.MaxBytesReader(c.Response(), c.Request().Body, wire.MaxMessage)).Decode(&s); err != nil {
		return c.String(http.StatusBadRequest, err.Error())
	}
	host, _, err := net.SplitHostPort(c.Request().RemoteAddr)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	h := hearsay{s, s.Claims}
	if len(s.Claims) == 0 {
		h.Claims = d.last[s.Job].Claims
	}
	d.last[s.Job] = h
	return c.JSON(http.StatusOK, order(d.relay.Update(time.Now(), status(s, host))))
}

func status(s wire.Share, host string) relay.Status {
	r := relay.Status{ID: s.Job, Image: "the lab's", Serial: s.Serial, Mbit: s.Mbit, Frames: s.Frames, Have: s.Have,
		Missing: s.Missing, Backlog: s.Backlog, Rate: s.Rate, Done: s.Done}
	if s.Port > 0 {
		r.URL = "http://" + net.JoinHostPort(host, strconv.Itoa(s.Port))
	}
	for _, t := range s.Trouble {
		r.Trouble = append(r.Trouble, relay.Trouble{Source: t.Source, Kind: relay.Kind(t.Kind), Frame: t.Frame})
	}
	return r
}

func order(o relay.Order) wire.Order {
	w := wire.Order{Serial: o.Serial, Depot: o.Depot, Key: o.Key, Stay: o.Stay, Why: o.Why}
	for _, s := range o.Sources {
		w.Sources = append(w.Sources, wire.Source{ID: s.ID, URL: s.URL, Key: s.Key, Patient: s.Patient})
	}
	return w
}

// tell answers the bench: what the PC that the path names last said.
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
