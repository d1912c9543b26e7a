package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"refurb/appliance/workshop"
)

// Demo is a virtual batch on the real appliance.
type Demo struct {
	Dir       string // everything the demo makes; its records start afresh each time
	Cache     string // downloads, kept
	Refurb    string // the program
	PCs       int
	Image     string        // recipe: "tiny", "debian-desktop"
	Once      bool          // end when every PC has started from its drive
	Dashboard string        // address outside the lab, such as "127.0.0.1:8000"
	Patience  time.Duration // for the whole batch, with Once
	Out       io.Writer
}

// bench is what the demo's PCs are made of, in turn.
var bench = []struct {
	firmware Firmware
	bus, nic string
}{
	{BIOS, "ahci", "e1000"}, // e1000e of QEMU 7.2 dies of an assertion after iPXE has used it
	{UEFI, "nvme", "virtio-net-pci"},
	{SecureBoot, "virtio", "virtio-net-pci"},
}

// Run sets up whatever is missing, starts the appliance and the PCs, and shows
// what happens. With Once it ends with an error unless every PC was imaged, read
// back, and started from its own drive.
func (d Demo) Run(ctx context.Context) error {
	data, err := filepath.Abs(filepath.Join(d.Dir, "data"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	// Two demos on one folder would share disks.
	lock, err := os.Create(filepath.Join(d.Dir, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return fmt.Errorf("another demo is running in %s: end it first, or choose another folder with --dir", d.Dir)
	}
	old, _ := filepath.Glob(filepath.Join(data, "refurb.db*"))
	for _, f := range append(old, filepath.Join(data, "leases.json")) {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := d.refurb(ctx, "payload", "build", "--data", data, "--cache", d.Cache); err != nil {
		return err
	}
	root, bytes, err := d.image(ctx, data)
	if err != nil {
		return err
	}

	lab, err := New(filepath.Join(d.Dir, "lab"))
	if err != nil {
		return err
	}
	defer lab.Close()
	app, err := lab.Appliance(ctx, d.Refurb, data, "--test-plain-rom")
	if err != nil {
		return err
	}
	addr, err := lab.Forward(d.Dashboard, IP+":"+dashboardPort)
	if err != nil {
		return err
	}
	password := rand.Text()[:16]
	if err := app.SetUp(ctx, "demo", password); err != nil {
		return err
	}
	if err := app.OpenLot(ctx, "Demo donor", root, true); err != nil {
		return err
	}
	fmt.Fprintf(d.Out, "\n  Dashboard  http://%s\n  Name       demo\n  Password   %s\n\n", addr, password)

	var pcs []*PC
	began := time.Now()
	for i := range d.PCs {
		b := bench[i%len(bench)]
		disk := fmt.Sprintf("disk%d.raw", i+1)
		if err := os.Remove(lab.path(disk)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		mib := 1024
		if d.Image != "tiny" {
			mib = 2048
		}
		pc, err := lab.PC(Config{Name: fmt.Sprintf("pc%d", i+1), Firmware: b.firmware, NIC: b.nic, MiB: mib,
			Disks: []Disk{{Bus: b.bus, Path: lab.path(disk), Bytes: bytes + bytes/4&^(1<<20-1), Serial: fmt.Sprintf("DEMO%06d", i+1)}}})
		if err != nil {
			return err
		}
		if err := pc.PowerOn(); err != nil {
			return err
		}
		pcs = append(pcs, pc)
	}
	if d.Once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Patience)
		defer cancel()
	}
	ended, err := d.follow(ctx, app, pcs, began)
	if d.Once {
		return d.verdict(pcs, ended, err)
	}
	if err == nil {
		fmt.Fprintf(d.Out, "\nThe batch is through. The dashboard stays at http://%s until you press Ctrl-C.\n", addr)
		<-ctx.Done()
	}
	return nil
}

// image builds and imports the recipe unless the data folder has it.
func (d Demo) image(ctx context.Context, data string) (root string, bytes int64, err error) {
	type entry struct {
		Root, Name, Problem string
		Bytes               int64
	}
	find := func() (entry, error) {
		out, err := exec.CommandContext(ctx, d.Refurb, "image", "list", "--json", "--data", data).Output()
		if err != nil {
			return entry{}, fmt.Errorf("image list: %w", err)
		}
		var all []entry
		if err := json.Unmarshal(out, &all); err != nil {
			return entry{}, err
		}
		i := slices.IndexFunc(all, func(e entry) bool { return e.Name == d.Image && e.Problem == "" })
		if i < 0 {
			return entry{}, nil
		}
		return all[i], nil
	}
	e, err := find()
	if err == nil && e.Root == "" {
		if err = d.refurb(ctx, "image", "build", d.Image, "--data", data, "--cache", d.Cache); err == nil {
			e, err = find()
		}
	}
	if err == nil && e.Root == "" {
		err = fmt.Errorf("image %q was built and is not in the list", d.Image)
	}
	return e.Root, e.Bytes, err
}

func (d Demo) refurb(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.Refurb, args...)
	cmd.Stdout, cmd.Stderr = d.Out, d.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("refurb %s %s: %w", args[0], args[1], err)
	}
	return nil
}

// follow prints each PC's steps until all have ended; it gives their last
// states by MAC.
func (d Demo) follow(ctx context.Context, app *Appliance, pcs []*PC, began time.Time) (map[string]workshop.DeviceView, error) {
	last := map[string]workshop.DeviceView{}
	said := map[string]string{}
	for {
		var view workshop.View
		if err := app.Devices(ctx, &view); err != nil && ctx.Err() == nil {
			return last, err
		}
		for _, dev := range view.Devices {
			for i, pc := range pcs {
				if !slices.Contains(dev.MACs, pc.MAC) {
					continue
				}
				last[pc.MAC] = dev
				if line := step(dev); line != said[pc.MAC] {
					said[pc.MAC] = line
					fmt.Fprintf(d.Out, "%5.0fs  pc %d  %s\n", time.Since(began).Seconds(), i+1, line)
				}
			}
		}
		open := 0
		for _, pc := range pcs {
			if j := last[pc.MAC].Job; j == nil || !over(j.State) {
				open++
			}
		}
		if open == 0 {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func step(dev workshop.DeviceView) string {
	if dev.Job == nil {
		return "seen"
	}
	s := string(dev.Job.State)
	if p := dev.Progress; p != nil && p.Total > 0 {
		s += fmt.Sprintf(" %d%%", p.Done*100/p.Total/20*20)
	}
	if dev.Job.Reason != "" {
		s += ": " + dev.Job.Reason
	}
	return s
}

func over(s workshop.JobState) bool {
	return s == workshop.FirstBoot || s == workshop.JobFailed || s == workshop.Cancelled
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)

// verdict prints one line a PC and fails unless all are well.
func (d Demo) verdict(pcs []*PC, ended map[string]workshop.DeviceView, err error) error {
	yes := map[bool]string{true: "yes", false: "no"}
	bad := 0
	fmt.Fprintln(d.Out)
	for i, pc := range pcs {
		dev := ended[pc.MAC]
		verified, booted, state := false, false, "never_seen"
		if j := dev.Job; j != nil {
			state = string(j.State)
			booted = j.State == workshop.FirstBoot
			verified = booted || j.State == workshop.Verified
		}
		fmt.Fprintf(d.Out, "pc=%d firmware=%s disk=%s state=%s verified=%s booted_from_disk=%s\n",
			i+1, pc.Firmware, pc.Disks[0].Bus, state, yes[verified], yes[booted])
		if !booted {
			bad++
			if crash := pc.Crash(); crash != "" {
				fmt.Fprintf(d.Out, "QEMU crashed: %s\n", crash)
			}
			fmt.Fprintf(d.Out, "--- the end of its serial port:\n%s\n---\n", escapes.ReplaceAllString(pc.Tail(1500), ""))
		}
	}
	if bad > 0 {
		return errors.Join(fmt.Errorf("%d of %d PCs did not get through (logs in %s)", bad, len(pcs), filepath.Join(d.Dir, "lab")), err)
	}
	return nil
}
