// Command pc is one PC of the bench: the agent's data plane on a real disk, and
// nothing else of the agent.
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"refurb/agent/disk"
	"refurb/agent/hardware"
	"refurb/agent/imaging"
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
	mbit, memory                                       int
}

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
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	r, err := run(ctx, c)
	if err != nil {
		r.Cause = err.Error()
	}
	say(r)
	if err == nil && c.share != "" {
		linger(ctx)
		say(r)
	}
}

func say(r report) {
	r.RSS = peak()
	_ = json.NewEncoder(os.Stdout).Encode(r)
}

func run(ctx context.Context, c config) (r report, err error) {
	b, err := os.ReadFile(c.manifest)
	if err != nil {
		return r, err
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // as the bench signs
	m, err := images.Parse(b, key.Public().(ed25519.PublicKey))
	if err != nil {
		return r, err
	}
	dev, err := open(c.disk)
	if err != nil {
		return r, err
	}
	defer dev.Close()
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return r, fmt.Errorf("nobody said go: %w", err)
	}
	job := imaging.Job{Manifest: m, FramesURL: c.frames,
		Started:   func(context.Context) error { return nil },
		Verifying: func(context.Context) error { r.Written = time.Now().UnixNano(); return nil }}
	o, _ := imaging.Write(ctx, dev, job, new(imaging.Meter))
	r.Verified = time.Now().UnixNano()
	r.Fetched, r.Peers, r.Sent, r.Resumed = o.Fetched, o.FromPeers, o.Sent, o.Resumed
	if o.Result != wire.Done {
		return r, errors.New(o.Cause)
	}
	return r, nil
}

func linger(context.Context) {}

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
	return disk.Open(id, wire.ClassBlank, wire.ClassStructured, wire.ClassData, wire.ClassUnreadable)
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
