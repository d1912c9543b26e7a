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
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
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
	manifest, frames, share, listen, disk, job, claims, profile, bare string
	mbit, memory, streams                                             int
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
	flag.StringVar(&c.bare, "bare", "", "file with the frames: only decode and hash them, on one core, as often as a PC has to")
	flag.StringVar(&c.profile, "profile", "", "folder for a profile of the processor time")
	flag.IntVar(&c.mbit, "mbit", 0, "speed of the port")
	flag.IntVar(&c.memory, "memory", 64, "MiB of frames")
	flag.IntVar(&c.streams, "streams", 1, "connections to the appliance")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if c.profile != "" {
		stop, err := profile(filepath.Join(c.profile, c.job+".pprof"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer stop()
	}
	var r report
	if err := run(ctx, c, &r); err != nil && r.Verified == 0 {
		r.Cause = err.Error()
		say(&r)
	}
}

// profile writes where the processor's time goes, until stop.
func profile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
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
	if c.bare != "" {
		return bare(c.bare, m)
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

// bare is what no way of doing it can spare a processor: each frame is decoded,
// compared with its hash, and compared once more when it is read back.
func bare(path string, m *images.Manifest) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	dec, err := images.NewDecoder()
	if err != nil {
		return err
	}
	in, buf := make([]byte, 2*images.FrameSize), make([]byte, images.FrameSize)
	for i, r := range m.Frames {
		out := buf[:m.RawLength(i)]
		if r.Length == 0 {
			clear(out)
		} else {
			if r.Length > int64(len(in)) {
				return fmt.Errorf("frame %d has %d bytes", i, r.Length)
			}
			if _, err := f.ReadAt(in[:r.Length], r.Offset); err != nil {
				return err
			}
			if out, err = dec.Decode(m, i, in[:r.Length], buf); err != nil { // which checks it
				return err
			}
		}
		if err := m.Check(i, out); err != nil {
			return err
		}
	}
	return nil
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
