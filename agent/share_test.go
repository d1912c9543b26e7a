package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"refurb/agent/exchange"
	"refurb/agent/screen"
	"refurb/agent/wire"
)

// A PC that passes the image on is not shown as finished: the workshop may not
// have believed it, and others would lose their source.
func TestLingerIsNotFinished(t *testing.T) {
	a := start(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var views []screen.View
	passing := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(views) > 0
	}
	x := exchange.New(exchange.Config{Manifest: a.manifest, URL: a.plan.Image.FramesURL, Listener: l, Job: "j1",
		Share: func(context.Context, wire.Share) (wire.Order, error) {
			return wire.Order{Serial: 1, Key: "k", Stay: !passing()}, nil
		}})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- x.Run(ctx) }()
	ask, _ := json.Marshal(map[string]any{"root": a.manifest.Root.String(), "stripes": 1, "have": make([]byte, (len(a.manifest.Frames)+7)/8)})
	for deadline := time.Now().Add(20 * time.Second); x.Stats().Takers == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it serves nobody")
		}
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.Addr().String()+wire.PathPeer, strings.NewReader(string(ask)))
		req.Header.Set("Authorization", "Bearer k")
		if resp, err := http.DefaultClient.Do(req); err == nil {
			defer resp.Body.Close()
		}
	}
	cfg := Config{Log: slog.New(slog.DiscardHandler), Show: func(v screen.View) {
		mu.Lock()
		defer mu.Unlock()
		views = append(views, v)
	}}
	j := &job{agent: newAgent(cfg)}
	j.linger(ctx, x)
	for _, v := range views {
		if v.Kind == screen.Done || v.Next == "" {
			t.Errorf("%+v", v)
		}
	}
	stop()
	if err := <-ran; err != nil || !passing() {
		t.Fatal(err, len(views))
	}
}
