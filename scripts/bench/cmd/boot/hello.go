package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"time"

	"refurb/appliance"
	"refurb/appliance/trace"
	"refurb/scripts/lab"
)

// most that one start may take, on a machine that is busy.
const patience = 4 * time.Minute

// hellos starts virtual PCs with real firmware, one at a time, and reads from the
// appliance's boot trace how long it took from their first packet to the agent's
// hello. A kernel that QEMU starts by itself, without firmware or network, is the
// floor: emulation without an accelerator is most of these seconds.
func hellos(ctx context.Context, o options) error {
	dir := filepath.Join(o.dir, "bench", "lab")
	l, err := lab.New(dir)
	if err != nil {
		return err
	}
	defer l.Close()
	refurb, err := filepath.Abs(filepath.Join(o.dir, "refurb"))
	if err != nil {
		return err
	}
	data, err := filepath.Abs(o.data)
	if err != nil {
		return err
	}
	app, err := l.Appliance(ctx, refurb, data, "--test-plain-rom")
	if err != nil {
		return err
	}
	defer app.Stop()
	type kind struct {
		name     string
		firmware lab.Firmware
		pc       *lab.PC
		s        []float64
		stages   map[string][]float64
	}
	kinds := []*kind{{name: "bios", firmware: lab.BIOS}, {name: "uefi", firmware: lab.UEFI}, {name: "secureboot", firmware: lab.SecureBoot}}
	for _, k := range kinds {
		if k.pc, err = l.PC(lab.Config{Name: "bench-" + k.name, Firmware: k.firmware, Disks: []lab.Disk{{Bytes: 64 << 20}}}); err != nil {
			return err
		}
		k.stages = map[string][]float64{}
	}
	floor, err := l.PC(lab.Config{Name: "bench-floor", Firmware: lab.BIOS, Disks: []lab.Disk{{Bytes: 64 << 20}}})
	if err != nil {
		return err
	}
	var direct []float64
	for range o.runs {
		if err := kernelArgs(ctx, l, o, floor); err != nil {
			return err
		}
		on := time.Now()
		s, err := hello(ctx, data, floor, on)
		if err != nil {
			return err
		}
		direct = append(direct, at(s, trace.Agent).Sub(on).Seconds())
		for _, k := range kinds {
			s, err := hello(ctx, data, k.pc, time.Now())
			if err != nil {
				return err
			}
			k.s = append(k.s, at(s, trace.Agent).Sub(s.Began).Seconds())
			for stage := trace.Loader; stage < trace.Agent; stage++ {
				if t := at(s, stage); !t.IsZero() {
					k.stages[stage.String()] = append(k.stages[stage.String()], t.Sub(s.Began).Seconds())
				}
			}
		}
	}
	figure("hello_s_direct", direct, "s")
	for _, k := range kinds {
		figure("hello_s_"+k.name, k.s, "s")
		var ratio []float64
		for i := range k.s {
			ratio = append(ratio, k.s[i]/median(direct))
		}
		figure("hello_x_direct_"+k.name, ratio, "x")
		line := ""
		for stage := trace.Loader; stage < trace.Agent; stage++ {
			if v := k.stages[stage.String()]; len(v) > 0 {
				line += fmt.Sprintf(" %s %.1f,", stage, median(v))
			}
		}
		fmt.Printf("# %s, seconds after the first packet:%s hello %.1f\n", k.name, line, median(k.s))
	}
	return nil
}

// hello powers the PC on and off again, and gives the start that ended in a hello.
func hello(ctx context.Context, data string, pc *lab.PC, since time.Time) (*trace.Start, error) {
	if err := pc.PowerOn(); err != nil {
		return nil, err
	}
	defer pc.PowerOff()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		kept, err := trace.Read(appliance.TraceFolder(data))
		if err != nil {
			continue // being written
		}
		for _, s := range kept.Starts {
			if s.Has(pc.MAC) && at(s, trace.Agent).After(since) {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("%s did not say hello in %v; the end of its serial port:\n%s", pc.Name, patience, pc.Tail(1000))
}

func at(s *trace.Start, stage trace.Stage) time.Time {
	for _, step := range trace.Chain(s, nil) {
		if step.Stage == stage {
			return step.At
		}
	}
	return time.Time{}
}

var kernelLine = regexp.MustCompile(`(?m)^imgargs vmlinuz initrd=initrd (.*) \$\{vga\}`)

// kernelArgs lets QEMU start the kernel with the arguments that the appliance
// gives this PC now.
func kernelArgs(ctx context.Context, l *lab.Lab, o options, pc *lab.PC) error {
	web := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) { return l.Dial(ctx, network, addr) }}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+lab.IP+":8080/boot/ipxe/"+pc.MAC, nil)
	if err != nil {
		return err
	}
	resp, err := web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	m := kernelLine.FindSubmatch(b)
	if m == nil {
		return fmt.Errorf("no kernel in the script for %s: %.300s", pc.MAC, b)
	}
	pc.Args = []string{"-kernel", bootFile(o, "vmlinuz"), "-initrd", bootFile(o, "initrd"), "-append", string(m[1])}
	return nil
}
