package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"

	"refurb/appliance/netboot"
	"refurb/appliance/payload"
	"refurb/images/recipes"
)

type payloadUSBCmd struct {
	dataFlag
	Out    string `help:"File to write." default:"refurb-stick.img" type:"path"`
	URL    string `name:"url" help:"The appliance's fixed address, such as https://10.77.0.1:8443, for networks where PCs can't find it; they try it as well."`
	Cache  string `help:"Folder for downloads, kept between runs; without it DATA/cache." type:"path"`
	Mirror string `help:"Debian's mirror, ending in /debian; without it the machine's own." env:"DEBIAN_MIRROR"`
}

func (c *payloadUSBCmd) Run(ctx context.Context, log *slog.Logger) error {
	args := []string{"refurb.find=1"}
	if c.URL != "" {
		if err := fixedAddress(c.URL); err != nil {
			return err
		}
		args = append(args, "refurb.url="+c.URL)
	}
	line, err := netboot.KernelArgs(netboot.Answer{Args: args})
	if err != nil {
		return err
	}
	if err := writable(c.Out); err != nil {
		return err
	}
	if st, err := os.Stat(c.Out); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no file: this writes an image only, which you then put on the stick you have looked at", c.Out)
	}
	fmt.Fprintln(os.Stderr, "checking the boot files")
	p, err := payload.Open(filepath.Join(c.Data, "payload"))
	if err != nil {
		return err
	}
	pkgs, err := payload.OpenPackages(or(c.Cache, filepath.Join(c.Data, "cache")), c.Mirror)
	if err != nil {
		return err
	}
	pkgs.Log = log
	fmt.Fprintln(os.Stderr, "writing the stick's image")
	id, err := recipes.BuildStick(ctx, recipes.Stick{
		Out: c.Out, Boot: filepath.Join(p.Dir, "boot"), Args: line, Fetch: pkgs.Fetch, Log: log,
	})
	if err != nil {
		return err
	}
	n, sum, err := digest(c.Out)
	if err != nil {
		return err
	}
	fmt.Printf(stickHelp, c.Out, size(n), id, sum, filepath.Base(c.Out), c.Out)
	return nil
}

// stickHelp says what to do with the image.
const stickHelp = `%s: %s, stick %s
sha256 %s
Starts BIOS, UEFI x64 (Secure Boot on or off) and UEFI IA32 (Secure Boot off).

1. Put a stick of 128 MB or more into this machine. Everything on it will be lost.
2. See its name:  lsblk -d -o NAME,SIZE,TRAN,MODEL   It says usb, and the stick's own size.
3. Copy %s with any program for USB images, or, with that name for sdX:
   sudo dd if=%s of=/dev/sdX bs=1M conv=fsync oflag=direct status=progress
   LOOK TWICE: dd asks nothing, and a wrong name overwrites another disk.
4. On the PC choose the stick in the boot menu (F12, F9, F8 or Esc). As soon as the
   PC shows its number, the stick may go into the next one.
5. Make a new one after "sudo build/refurb payload build" has changed something.
`

// writable tries the folder before the work is done, not after it.
func writable(out string) error {
	dir := filepath.Dir(out)
	f, err := os.CreateTemp(dir, ".refurb-stick-*")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		return fmt.Errorf("can't write to %s: %w (another place: --out FILE)", dir, err)
	}
	return nil
}

// fixedAddress checks an operator's address: the PC has no name service.
func fixedAddress(s string) error {
	u, err := url.Parse(s)
	if err == nil && (u.Scheme != "https" || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Port() == "") {
		err = errors.New("no https://ADDRESS:PORT")
	}
	if err == nil {
		if _, bad := netip.ParseAddr(u.Hostname()); bad != nil {
			return fmt.Errorf("--url %q: say the agents' address by number and port, such as https://10.77.0.1:8443: the PC has no name service", s)
		}
	}
	if err != nil {
		return fmt.Errorf("--url %q: say the agents' address by number and port, such as https://10.77.0.1:8443: %w", s, err)
	}
	return nil
}

func digest(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}
