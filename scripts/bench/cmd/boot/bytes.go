package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// payload makes the boot files unless they are there.
func payload(ctx context.Context, o options) error {
	cmd := exec.CommandContext(ctx, filepath.Join(o.dir, "refurb"), "payload", "build", "--data", o.data, "--cache", filepath.Join(o.dir, "cache"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("boot files: %w\n%s", err, out)
	}
	return nil
}

func bootFile(o options, name string) string {
	return filepath.Join(o.data, "payload", "boot", name)
}

// chains are the files that each firmware fetches whole, by the path that
// docs/boot.md says. Scripts are small and not counted.
var chains = []struct {
	name  string
	files []string
}{
	{"", []string{"shimx64.efi", "grubx64.efi", "vmlinuz", "initrd"}},
	{"_uefi", []string{"shimx64.efi", "grubx64.efi", "vmlinuz", "initrd"}},
	{"_bios", []string{"undionly.kpxe", "vmlinuz", "initrd"}},
	{"_ia32", []string{"grubia32.efi", "vmlinuz", "initrd"}},
	{"_tftp_uefi", []string{"shimx64.efi", "grubx64.efi"}},
	{"_tftp_bios", []string{"undionly.kpxe"}},
	{"_kernel", []string{"vmlinuz"}},
	{"_initrd", []string{"initrd"}},
	{"_drivers", []string{"drivers.cpio"}},
}

func boots(_ context.Context, o options) error {
	for _, c := range chains {
		var n int64
		for _, f := range c.files {
			st, err := os.Stat(bootFile(o, f))
			if err != nil {
				return err
			}
			n += st.Size()
		}
		fmt.Printf("boot_bytes%s %d bytes\n", c.name, n)
	}
	return nil
}
