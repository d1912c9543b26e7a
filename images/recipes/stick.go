package recipes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"refurb/images"
)

// Stick is a USB stick that starts the same kernel and initramfs as the network
// does, on BIOS, on UEFI x64 with Secure Boot on or off, and on UEFI IA32.
type Stick struct {
	Out  string // the raw image's file; it appears whole or not at all
	Boot string // folder of boot files: vmlinuz, initrd, shimx64.efi, grubx64-disk.efi
	Args string // the kernel's command line
	Log  *slog.Logger

	// Fetch unpacks Debian 13 packages and says into which folders.
	Fetch func(ctx context.Context, pkgs ...string) (map[string]string, error)
}

const (
	stickLeast = 48 * mib // of the EFI system partition: FAT32 begins at 33
	stickSpare = 4 * mib  // for the file system itself
	ia32File   = "usr/lib/grub/i386-efi/monolithic/grubia32.efi"
)

// stickMenu starts at once. %[1]s is the stick's GUID, %[2]s the kernel's command
// line. What the stick holds, the PC has in its memory once the kernel runs. A
// BIOS leaves no framebuffer behind unless it is asked for one.
const stickMenu = `set pager=0
search --no-floppy --set=root --hint=$root --file /EFI/refurb/stick-%[1]s
if [ "$grub_platform" = pc ]; then set gfxpayload=1024x768x16,1024x768x32,800x600x16,text; fi
echo "Starting from the stick ..."
if linux /vmlinuz %[2]s refurb.stick=%[1]s; then
  if initrd /initrd; then boot; fi
fi
echo
echo "============================================================"
echo "This PC could not read the stick. Use another socket, or make"
echo "the stick anew: sudo build/refurb payload usb, on the workshops server."
echo "It starts again by itself in 30 seconds."
echo "============================================================"
sleep 30
reboot
`

// stickText is for a person who looks at the stick's files.
const stickText = "This stick starts a PC for Refurb, beside its network: it finds the workshop's\r\n" +
	"server by itself and then does what a start from the network does. It holds no\r\n" +
	"system to install and nothing secret. It works with the server that made it;\r\n" +
	"make a new one after the server was updated: sudo build/refurb payload usb\r\n"

// BuildStick writes the image and says the stick's GUID. The same input gives the
// same bytes.
func BuildStick(ctx context.Context, o Stick) (id string, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := Recipe{Name: "stick", build: func(ctx context.Context, _ Options, out *os.File) error {
		l, ia32, err := stickLoaders(ctx, o)
		if err != nil {
			return err
		}
		kernel, err := bootFile(Options{Boot: o.Boot}, "vmlinuz")
		if err != nil {
			return err
		}
		initrd, err := bootFile(Options{Boot: o.Boot}, "initrd")
		if err != nil {
			return err
		}
		id, err = writeStick(out, l, ia32, kernel, initrd, o.Args)
		return err
	}}
	err = r.into(ctx, Options{Out: o.Out, Log: o.Log})
	return id, err
}

func stickLoaders(ctx context.Context, o Stick) (l loaders, ia32 []byte, err error) {
	if o.Fetch == nil {
		return l, nil, errors.New("no way to fetch Debian packages was given")
	}
	if l.shim, err = bootFile(Options{Boot: o.Boot}, "shimx64.efi"); err != nil {
		return l, nil, err
	}
	if l.grub, err = bootFile(Options{Boot: o.Boot}, "grubx64-disk.efi"); err != nil {
		return l, nil, err
	}
	pkg, err := o.Fetch(ctx, append([]string{"grub-efi-ia32-unsigned"}, grubTool...)...)
	if err != nil {
		return l, nil, err
	}
	if ia32, err = os.ReadFile(filepath.Join(pkg["grub-efi-ia32-unsigned"], ia32File)); err != nil {
		return l, nil, err
	}
	l.boot, l.core, err = grubCore(ctx, pkg)
	return l, ia32, err
}

// writeStick lays out the whole stick. Its GUID comes from what is on it.
func writeStick(out *os.File, l loaders, ia32, kernel, initrd []byte, args string) (string, error) {
	if strings.ContainsAny(args, "\n\"'$\\;{}&|<>") {
		return "", fmt.Errorf("the kernel's command line %q has a meaning to GRUB", args)
	}
	id := stickID(l.boot, l.core, l.shim, l.grub, ia32, kernel, initrd, []byte(args))
	files := []content{
		{"/EFI/BOOT/BOOTX64.EFI", l.shim},
		{"/EFI/BOOT/grubx64.efi", l.grub},
		{"/EFI/BOOT/BOOTIA32.EFI", ia32},
		{"/EFI/debian/grub.cfg", fmt.Appendf(nil, stickMenu, id, args)},
		{"/EFI/refurb/stick-" + id, []byte(id + "\r\n")},
		{"/vmlinuz", kernel},
		{"/initrd", initrd},
		{"/README.txt", []byte(stickText)},
	}
	room := int64(stickSpare)
	for _, f := range files {
		room += int64(len(f.data))
	}
	room = max(stickLeast, (room+mib-1)/mib*mib)
	end := espAt + room
	err := partition(out, end+mib+backup, id, []part{
		{"BIOS boot", gpt.BIOSBoot, partID(id, 1), biosAt, espAt - biosAt},
		{"EFI system", gpt.EFISystemPartition, partID(id, 2), espAt, room},
		{"Refurb stick", gpt.Type(images.StickType), partID(id, 3), end, mib},
	})
	if err != nil {
		return "", err
	}
	if err := embedCore(out, l.boot, l.core, biosAt, espAt-biosAt); err != nil {
		return "", err
	}
	if err := forceBootable(out); err != nil {
		return "", err
	}
	e, err := makeESP(out, espAt, room, "REFURB USB")
	if err != nil {
		return "", err
	}
	if err := e.write(files...); err != nil {
		return "", err
	}
	return id, e.close()
}

// forceBootable puts an entry marked "active" beside the protective one, for
// BIOSes that start no USB disk without. It is of type 0 and covers nothing: on
// the protective entry itself the mark would make the GPT invalid (UEFI 2.10
// §5.2.3). xorriso does the same for installation images (--mbr-force-bootable).
func forceBootable(f *os.File) error {
	const second = 446 + 16
	_, err := f.WriteAt([]byte{0x80, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0}, second)
	return err
}

// stickID is a GUID (RFC 9562, version 8) made of everything on the stick.
func stickID(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		sum := sha256.Sum256(p)
		h.Write(sum[:])
	}
	b := h.Sum(nil)[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	b[15] &= 0xf0 // its partitions count on from here
	s := hex.EncodeToString(b)
	return strings.ToUpper(s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:])
}

func partID(id string, n int) string {
	return strings.TrimSuffix(id, "0") + fmt.Sprint(n)
}
