package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"refurb/appliance"
	"refurb/appliance/audit"
)

type auditCmd struct {
	Export auditExportCmd `cmd:"" help:"Write one device's audit log."`
	Verify auditVerifyCmd `cmd:"" help:"Check an exported log, on any machine; names the first bad line."`
	Key    auditKeyCmd    `cmd:"" help:"Print the public key that proves this appliance's exports."`
}

type auditExportCmd struct {
	dataFlag
	Device string `arg:"" help:"The device's id, from the address of its page; its number works too."`
	Format string `enum:"jsonl,csv,html" default:"jsonl" help:"jsonl (can be verified), csv or html (prints well)."`
	Out    string `help:"File to write; standard output without it." type:"path"`
}

func (c *auditExportCmd) Run(ctx context.Context) (err error) {
	keys, err := appliance.LoadKeys(c.Data)
	if err != nil {
		return err
	}
	s, err := appliance.OpenStore(c.Data)
	if err != nil {
		return err
	}
	defer s.Close()
	state, err := s.Load(ctx)
	if err != nil {
		return err
	}
	device := c.Device
	for _, d := range state.Devices {
		if fmt.Sprint(d.Number) == c.Device {
			device = d.ID
		}
	}
	w := io.Writer(os.Stdout)
	if c.Out != "" {
		f, err := os.CreateTemp(filepath.Dir(c.Out), ".audit-*")
		if err != nil {
			return err
		}
		defer func() {
			// The file appears whole or not at all.
			err = errors.Join(err, f.Sync(), f.Close())
			if err == nil {
				err = os.Rename(f.Name(), c.Out)
			}
			if err != nil {
				os.Remove(f.Name())
			}
		}()
		w = f
	}
	return exportHistory(ctx, s, keys, w, device, audit.Format(c.Format))
}

type auditVerifyCmd struct {
	File string `arg:"" help:"An export in JSON Lines." type:"existingfile"`
	Key  string `help:"Public key that must have signed it, as 'refurb audit key' prints it."`
}

func (c *auditVerifyCmd) Run() error {
	var pub ed25519.PublicKey
	if c.Key != "" {
		b, err := base64.StdEncoding.DecodeString(c.Key)
		if err != nil || len(b) != ed25519.PublicKeySize {
			return errors.New("--key: want the line that `refurb audit key` prints on the appliance")
		}
		pub = b
	}
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	// The CSV or the printed page is a mistake, no forgery.
	first := make([]byte, 1)
	if n, _ := f.ReadAt(first, 0); n == 1 && first[0] != '{' {
		return fmt.Errorf("%s is no JSONL export: verify the file that the button JSONL gives", c.File)
	}
	r, err := audit.VerifyFile(f, pub)
	if err != nil {
		return fmt.Errorf("%s does not hold: %w", c.File, err)
	}
	fmt.Printf("good: %d lines of device %s, exported %s\n", r.Count, r.Device, r.Exported.Format(time.RFC3339))
	fmt.Printf("signed by key %s\n", audit.KeyText(r.Key))
	if !r.Trusted {
		fmt.Println("That key came with the file. Compare it with the one the appliance's people published, or give theirs with --key.")
	}
	return nil
}

type auditKeyCmd struct{ dataFlag }

func (c *auditKeyCmd) Run() error {
	// A key that was made just now has signed nothing, and must not be published.
	if _, err := os.Stat(filepath.Join(c.Data, "keys", "signing.ed25519")); err != nil {
		return fmt.Errorf("no key is here yet: is %s the appliance's data folder? (%w)", c.Data, err)
	}
	keys, err := appliance.LoadKeys(c.Data)
	if err != nil {
		return err
	}
	fmt.Println(audit.KeyText(keys.Signing.Public().(ed25519.PublicKey)))
	return nil
}
