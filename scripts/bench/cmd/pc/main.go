// Command pc is one PC of the bench: the agent's data plane on a real disk, and
// nothing else of the agent.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"refurb/agent/disk"
	"refurb/agent/exchange"
	"refurb/agent/hardware"
	"refurb/agent/wire"
	"refurb/images"
)

// report is the line that the bench reads: times in Unix ns, sizes in bytes.
type report struct {
	Written  int64  `json:"written"`
	Verified int64  `json:"verified"`
	Cause    string `json:"cause,omitempty"`
	Fetched  int64  `json:"fetched"`
	Peers    int64  `json:"from_peers"`
	Sent     int64  `json:"sent"`
	Resumed  int    `json:"resumed"`
	RSS      int64  `json:"rss"`
}

type config struct {
	manifest, frames, share, listen, disk, job, claims string
	mbit, memory, streams                              int
}

// As the agent has them on a PC.
const (
	besides = 80 << 20        // bytes of memory beside the frames
	lingers = 3 * time.Minute // at most, serving others
)

func main() {
	var c config
	flag.StringVar(&c.manifest, "manifest", "", "file with the signed manifest")
	flag.StringVar(&c.frames, "frames", "", "URL of the frames on the appliance")
	flag.StringVar(&c.share, "share", "", "URL where the appliance hears what this PC has; empty: no other PCs")
	flag.StringVar(&c.listen, "listen", "", "where to serve other PCs")
	flag.StringVar(&c.disk, "disk", "", "the disk: everything on it will be gone")
	flag.StringVar(&c.job, "job", "", "name of this PC")
	flag.StringVar(&c.claims, "claims", "", "file with the claims of an earlier attempt")
	flag.IntVar(&c.mbit, "mbit", 0, "speed of the port")
	flag.IntVar(&c.memory, "memory", 64, "MiB of frames")
	flag.IntVar(&c.streams, "streams", 1, "connections to the appliance")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var r report
	if err := run(ctx, c, &r); err != nil && r.Verified == 0 {
		r.Cause = err.Error()
		say(&r)
	}
}

func say(r *report) {
	r.RSS = peak()
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

func run(ctx context.Context, c config, r *report) error {
	debug.SetMemoryLimit(int64(c.memory)<<20 + besides)
	b, err := os.ReadFile(c.manifest)
	if err != nil {
		return err
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // as the bench signs
	m, err := images.Parse(b, key.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	dev, err := open(c.disk)
	if err != nil {
		return err
	}
	defer dev.Close()
	cfg := exchange.Config{Manifest: m, URL: c.frames, Memory: int64(c.memory) << 20, Job: c.job, Mbit: c.mbit, Streams: c.streams}
	if c.share != "" {
		cfg.Share = func(ctx context.Context, s wire.Share) (wire.Order, error) { return share(ctx, c.share, s) }
		if cfg.Listener, err = exchange.Listen(ctx, c.listen); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("nobody said go: %w", err)
	}
	return image(ctx, dev, m, c.claims, cfg, r)
}

// share sends one word to the appliance.
func share(ctx context.Context, url string, s wire.Share) (o wire.Order, err error) {
	b, err := json.Marshal(s)
	if err != nil {
		return o, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return o, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return o, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return o, fmt.Errorf("the appliance answered %s", resp.Status)
	}
	return o, json.NewDecoder(resp.Body).Decode(&o)
}

// open takes the disk as it is: the bench owns it.
func open(path string) (*disk.Disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	id, err := hardware.OpenedIdentity("/", f)
	f.Close()
	if err != nil {
		return nil, err
	}
	id.Path = path
	return disk.Open(id, nil, wire.ClassBlank, wire.ClassStructured, wire.ClassData, wire.ClassUnreadable)
}

// peak is the most memory that this process had at once.
func peak() int64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
