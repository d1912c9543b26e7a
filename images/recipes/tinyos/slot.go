package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// errUnfilled means that the slot is as it was built: no appliance wrote this
// drive.
var errUnfilled = errors.New("the check-in slot is not filled")

// markStart is how images.SlotMark begins. The whole mark must not occur in
// this program: the program lies on the same disk, and an import of that disk
// looks for the mark.
const markStart = "refurb-slot-"

const appears = 15 * time.Second // a slow drive is there by then

// slotOffset reads refurb.slot=<bytes from the disk's start> off the kernel's
// command line.
func slotOffset(cmdline string) (int64, error) {
	for f := range strings.FieldsSeq(cmdline) {
		if v, ok := strings.CutPrefix(f, "refurb.slot="); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n <= 0 || n%512 != 0 {
				return 0, fmt.Errorf("refurb.slot=%q is not a place on a disk", v)
			}
			return n, nil
		}
	}
	return 0, errors.New("the kernel's command line has no refurb.slot")
}

// parseSlot reads what lies in a slot: a check-in, errUnfilled, or an error
// that says that it is neither.
func parseSlot(b []byte) (wire.Checkin, error) {
	var c wire.Checkin
	if strings.HasPrefix(string(b), markStart) {
		return c, errUnfilled
	}
	if len(b) == 0 || b[0] != '{' {
		return c, errors.New("no check-in slot")
	}
	if err := json.Unmarshal(b, &c); err != nil { // refuses anything but white space behind it
		return c, fmt.Errorf("check-in slot: %w", err)
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return c, fmt.Errorf("check-in slot: %q is no https address", c.URL)
	}
	if pin, err := base64.StdEncoding.DecodeString(c.Pin); err != nil || len(pin) != 32 {
		return c, errors.New("check-in slot: the pin is not the base64 of 32 bytes")
	}
	if c.Token == "" || strings.ContainsAny(c.Token, "\r\n") {
		return c, errors.New("check-in slot: no usable token")
	}
	return c, nil
}

// findSlot looks at offset on every disk until one has a slot. A filled slot on
// any disk wins over an unfilled one.
func findSlot(ctx context.Context, block, dev string, offset int64) (disk string, c wire.Checkin, err error) {
	deadline := time.Now().Add(appears)
	for {
		var found error
		names, _ := os.ReadDir(block)
		for _, n := range names {
			if strings.HasPrefix(n.Name(), "loop") || strings.HasPrefix(n.Name(), "ram") {
				continue
			}
			path := filepath.Join(dev, n.Name())
			b, err := readSlot(path, offset)
			if err != nil {
				continue // too small, or no medium in it
			}
			c, err := parseSlot(b)
			if err == nil {
				return path, c, nil
			}
			if errors.Is(err, errUnfilled) || found == nil && b[0] == '{' {
				found, disk = err, path
			}
		}
		if found != nil {
			return disk, c, found
		}
		if time.Now().After(deadline) {
			return "", c, fmt.Errorf("no drive of this PC has a check-in slot (looked at %d)", len(names))
		}
		select {
		case <-ctx.Done():
			return "", c, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func readSlot(path string, offset int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, images.SlotSize)
	_, err = f.ReadAt(b, offset)
	return b, err
}
