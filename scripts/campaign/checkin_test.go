package campaign

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"refurb/agent/wire"
)

// checkin is the first start of the installed system: it finds its slot on the
// disk and says so once, as often as that takes.
func (w *world) checkin(token string) {
	d := w.at(target)
	if d == nil {
		return
	}
	s := w.m.Slots[0]
	d.mu.Lock()
	slot := bytes.Clone(d.data[s.Offset:][:s.Length])
	d.mu.Unlock()
	var c wire.Checkin
	if err := json.Unmarshal(slot, &c); err != nil {
		w.say("the slot holds no check-in: %v", err)
		return
	}
	body, _ := json.Marshal(wire.FirstBoot{System: "campaign", MAC: mac})
	p := &process{w: w, token: token}
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, addr string) (net.Conn, error) { return w.net.dial(ctx, p, addr) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the pin is for the agent's tests
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	for range 60 {
		req, err := http.NewRequest(http.MethodPost, c.URL, bytes.NewReader(body))
		if err != nil {
			w.blame("false", "the slot's address: %v", err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+c.Token)
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode/100 == 2 {
				w.say("the installed system has checked in")
				return
			}
			if resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests {
				w.say("the check-in is refused: %s", resp.Status)
				return
			}
		}
		time.Sleep(30 * time.Second)
	}
}
