package recipes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/u-root/u-root/pkg/cpio"
)

const tinyBytes = 64 * mib

// tinyMenu starts at once. The last console is the one that /dev/console
// means; tinyos writes to all of them.
const tinyMenu = `if serial --unit=0 --speed=115200; then
  terminal_output console serial
fi
set gfxpayload=text
search --no-floppy --set=root --hint=$root --file /EFI/refurb/checkin
echo "Starting the Refurb tiny system ..."
linux /vmlinuz refurb.slot=%d console=tty0 console=ttyS0,115200 quiet panic=10
initrd /initrd
boot
`

func buildTiny(ctx context.Context, o Options, out *os.File) error {
	kernel, err := bootFile(o, "vmlinuz")
	if err != nil {
		return err
	}
	initrd, err := tinyInitrd(o)
	if err != nil {
		return err
	}
	if o.Fetch == nil {
		return errors.New("no way to fetch Debian packages was given")
	}
	pkg, err := o.Fetch(ctx, append([]string{"shim-signed", "grub-efi-amd64-signed", grub32Package}, grubTool...)...)
	if err != nil {
		return err
	}
	shim, err := os.ReadFile(filepath.Join(pkg["shim-signed"], shimFile))
	if err != nil {
		return err
	}
	grub, err := os.ReadFile(filepath.Join(pkg["grub-efi-amd64-signed"], grubFile))
	if err != nil {
		return err
	}
	grub32, err := os.ReadFile(filepath.Join(pkg[grub32Package], grub32File))
	if err != nil {
		return err
	}
	boot, core, err := grubCore(ctx, pkg)
	if err != nil {
		return err
	}
	return writeTiny(ctx, out, loaders{boot, core, shim, grub, grub32}, kernel, initrd)
}

// writeTiny lays out the whole disk.
func writeTiny(ctx context.Context, out *os.File, l loaders, kernel, initrd []byte) error {
	err := partition(out, tinyBytes, "7E0C2F60-51B1-4D0B-9A52-7A1B7E5D0000", []part{
		{"BIOS boot", gpt.BIOSBoot, "7E0C2F60-51B1-4D0B-9A52-7A1B7E5D0001", biosAt, espAt - biosAt},
		{"EFI system", gpt.EFISystemPartition, "7E0C2F60-51B1-4D0B-9A52-7A1B7E5D0002", espAt, tinyBytes - espAt - backup},
	})
	if err != nil {
		return err
	}
	if err := embedCore(out, l.boot, l.core, biosAt, espAt-biosAt); err != nil {
		return err
	}
	e, err := makeESP(out, espAt, tinyBytes-espAt-backup, "REFURB TINY")
	if err != nil {
		return err
	}
	slot, err := e.reserve()
	if err != nil {
		return err
	}
	err = e.write(
		content{"/EFI/BOOT/BOOTX64.EFI", l.shim},
		content{"/EFI/BOOT/grubx64.efi", l.grub},
		content{"/EFI/BOOT/BOOTIA32.EFI", l.grub32},
		content{"/EFI/debian/grub.cfg", fmt.Appendf(nil, tinyMenu, slot)},
		content{"/vmlinuz", kernel},
		content{"/initrd", initrd},
	)
	if err != nil {
		return err
	}
	if err := e.close(); err != nil {
		return err
	}
	return checkSlot(ctx, out, tinyBytes, slot)
}

func bootFile(o Options, name string) ([]byte, error) {
	if o.Boot == "" {
		return nil, errors.New("no folder of boot files was given")
	}
	b, err := os.ReadFile(filepath.Join(o.Boot, name))
	if err != nil {
		return nil, fmt.Errorf("boot files: %w (run \"sudo build/refurb payload build\" first)", err)
	}
	return b, nil
}

// tinyInitrd is the drivers' archive followed by one that holds only /init.
func tinyInitrd(o Options) ([]byte, error) {
	drivers, err := bootFile(o, "drivers.cpio")
	if err != nil {
		return nil, err
	}
	if o.TinyInit == "" {
		return nil, errors.New("the tiny system's init was not given")
	}
	init, err := os.ReadFile(o.TinyInit)
	if err != nil {
		return nil, fmt.Errorf("the tiny system's init: %w (run \"make build\" first)", err)
	}
	var b bytes.Buffer
	b.Write(drivers)
	pad(&b)
	w := cpio.Newc.Writer(&b)
	for _, r := range []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.Directory("proc", 0o555), cpio.Directory("sys", 0o555),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("init", string(init), 0o755),
	} {
		if err := w.WriteRecord(cpio.MakeReproducible(r)); err != nil {
			return nil, err
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, err
	}
	pad(&b)
	return b.Bytes(), nil
}

// pad fills up to a sector: the kernel refuses an archive that follows another
// one unaligned.
func pad(b *bytes.Buffer) {
	b.Write(make([]byte, (sector-b.Len()%sector)%sector))
}
