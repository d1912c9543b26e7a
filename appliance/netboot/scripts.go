package netboot

import (
	"fmt"
	"strings"
)

// What the PC runs: an iPXE script or a GRUB configuration, each a pure
// function of the answer. Nothing that a client sent stands in them but its
// MAC, which parseMAC made. They end in a boot, or in a message and a restart:
// never in a kernel without its initramfs, and never in a prompt that waits
// for somebody who isn't there.

// maxScript bounds a script, and every GRUB configuration is padded to it:
// HEAD must tell the length of what GET will say, without asking the desk.
const maxScript = 8192

// baseArgs go to every kernel. The last console is the one that /dev/console
// is; "quiet" keeps the PC's screen for what the agent has to say; a kernel that
// can't go on starts the PC again instead of waiting for somebody.
const baseArgs = "console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=30"

// Words on the PC's screen, in both boot loaders. They do without quotes and
// apostrophes, which both take for their own.
const tryAgain = "The server of the workshop did not answer, trying again"

var (
	noFiles = []string{
		"This PC could not fetch its files from the server of the workshop.",
		"Look after the network cable and the server.",
		"It starts again by itself in 30 seconds.",
	}
	noMemtest = []string{
		"The memory test did not start on this PC.",
		"Choose it again in the dashboard; without it this PC starts as usual.",
		"It starts again by itself in 30 seconds.",
	}
	lockedMemtest = []string{
		"The memory test can not start while Secure Boot is on: nobody has signed it.",
		"Switch Secure Boot off in the settings of this PC, and choose the test again.",
		"It starts as usual by itself in 60 seconds.",
	}
	noDisk = []string{
		"This PC was told to start from its own disk, but nothing on it starts.",
		"To put a system on it, ask for that on the page of this PC in the dashboard.",
		"It starts again by itself in 60 seconds.",
	}
)

// KernelArgs is the kernel's command line for an answer. It checks the desk's
// arguments: they become part of a script, where a space, a quote or a dollar
// would mean something.
func KernelArgs(a Answer) (string, error) {
	args := baseArgs
	for _, s := range a.Args {
		if s == "" || len(s) > 512 {
			return "", fmt.Errorf("a kernel argument of %d bytes: want 1 to 512", len(s))
		}
		for _, r := range s {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:/=,+@%~-", r)) {
				return "", fmt.Errorf("a kernel argument holds %q, which has a meaning in boot scripts", r)
			}
		}
		args += " " + s
	}
	// x86: the kernel takes 2048 bytes (Documentation/x86/boot.rst, cmdline_size).
	if len(args) > 1800 {
		return "", fmt.Errorf("kernel arguments of %d bytes: at most 1800", len(args))
	}
	return args, nil
}

// ipxeScript is what iPXE runs. base is the URL before "/boot/…".
func ipxeScript(base string, a Answer) (string, error) {
	args, err := KernelArgs(a)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	switch a.Kind {
	case Agent, Shell:
		ipxeKernel(&b, base, args)
	case Memory:
		ipxeMemory(&b, base)
	case Disk:
		// BIOS knows its first disk by number; iPXE under UEFI has to be told a file.
		// That of a network card from 2019 knows no disk at all, so the firmware goes
		// on: with its own network boot, where GRUB finds the disk, or with the disk.
		b.WriteString(`echo
echo Starting from the disk of this PC...
iseq ${platform} efi || goto bios
sanboot --no-describe --drive 0 --filename \EFI\BOOT\BOOTX64.EFI ||
sanboot --no-describe --drive 0 --filename \EFI\debian\shimx64.efi ||
sanboot --no-describe --drive 0 --filename \EFI\Microsoft\Boot\bootmgfw.efi ||
echo
echo The iPXE of this PC can not start its disk. The firmware tries by itself.
sleep 3 ||
exit 1
:bios
sanboot --no-describe --drive 0x80 ||
`)
		ipxeEnd(&b, noDisk, 60)
	default:
		return "", unknownKind(a.Kind)
	}
	return b.String(), nil
}

func unknownKind(k Kind) error { return fmt.Errorf("nothing here boots %q", k) }

// ipxeKernel starts the kernel with its initramfs.
func ipxeKernel(b *strings.Builder, base, args string) {
	// With Secure Boot on, iPXE in a network card fetches the kernel, and the
	// firmware doesn't let it start: that takes the shim, which the firmware's own
	// network boot asks for when iPXE gives up. vga: a BIOS leaves no framebuffer
	// behind unless the kernel asks for one.
	b.WriteString("set vga\niseq ${platform} pcbios && set vga vga=791 ||\n")
	for i := 1; i <= 3; i++ {
		fmt.Fprintf(b, `:try%d
imgfree
imgfetch --name vmlinuz %s/boot/vmlinuz || goto failed%d
imgselect vmlinuz || goto stopped%d
imgargs vmlinuz initrd=initrd %s ${vga}
initrd --name initrd %s/boot/initrd || goto failed%d
boot ||
:stopped%d
iseq ${platform} efi && goto refused ||
:failed%d
echo %s (%d of 3)...
sleep 3
`, i, base, i, i, args, base, i, i, i, tryAgain, i)
	}
	b.WriteString(`goto end
:refused
echo
echo The firmware of this PC does not let iPXE start the kernel: Secure Boot is on.
echo The firmware now tries its own network boot.
sleep 3 ||
exit 1
:end
`)
	ipxeEnd(b, noFiles, 30)
}

// memtestArgs: what the memory test shows goes to the serial port, too, as the
// kernel's words do.
const memtestArgs = "console=ttyS0,115200"

// ipxeMemory starts the memory test. For a BIOS it is an image like a kernel. A
// processor without 64 bits never ran the agent, so nobody chose this for it; a
// UEFI of 32 bits may well sit on one that has them.
func ipxeMemory(b *strings.Builder, base string) {
	fmt.Fprintf(b, `echo
echo Starting the memory test...
imgfree
iseq ${platform} pcbios || goto efi
kernel %[1]s/boot/memtest64.bin %[2]s && boot ||
goto failed
:efi
iseq ${buildarch} x86_64 && chain %[1]s/boot/memtest64.efi %[2]s ||
iseq ${buildarch} i386 && chain %[1]s/boot/memtest32.efi %[2]s ||
:failed
`, base, memtestArgs)
	ipxeEnd(b, noMemtest, 30)
}

func ipxeEnd(b *strings.Builder, lines []string, seconds int) {
	b.WriteString("echo\necho ============================================================\n")
	for _, l := range lines {
		fmt.Fprintf(b, "echo %s\n", ipxeText(l))
	}
	fmt.Fprintf(b, "echo ============================================================\nsleep %d ||\nreboot\n", seconds)
}

// ipxeText keeps words from being read as iPXE's: settings, quotes, operators.
func ipxeText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r > '~':
			return '?'
		case strings.ContainsRune("\"'\\$&|#", r):
			return -1
		}
		return r
	}, s)
}

// ipxeRefusal shows why a PC is not booted.
func ipxeRefusal(why string) string {
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	ipxeEnd(&b, refusal(why), 30)
	return b.String()
}

func refusal(why string) []string {
	why = printable(strings.Join(strings.Fields(why), " "))
	return []string{"The server of the workshop does not boot this PC now:", why, "It starts again by itself in 30 seconds."}
}

// grubEntry is the first configuration, which GRUB finds by its own name: it
// hands over to the one for this PC. GRUB's HTTP fails now and then when a PC
// boots twice within seconds, so it tries again.
func grubEntry(host string) string {
	return fmt.Sprintf(`set pager=0
if [ -z "$net_default_mac" ]; then set net_default_mac=unknown; fi
for i in 1 2 3; do
  source (http,%s)/boot/grub/$net_default_mac
  echo "%s ($i of 3)..."
  sleep 3
done
`, host, tryAgain) + grubEnd(noFiles, 30)
}

// grubConfig is what GRUB runs for one PC.
func grubConfig(host string, a Answer) (string, error) {
	args, err := KernelArgs(a)
	if err != nil {
		return "", err
	}
	text := ""
	switch a.Kind {
	case Memory:
		text = grubMemory(host)
	case Disk:
		text = `echo
echo "Starting from the disk of this PC..."
set first=/EFI/BOOT/BOOTX64.EFI
if [ "$grub_cpu" = i386 ]; then set first=/EFI/BOOT/BOOTIA32.EFI; fi
for f in $first /EFI/debian/shimx64.efi /EFI/Microsoft/Boot/bootmgfw.efi; do
  if search --no-floppy --set=root --file $f; then
    if chainloader $f; then boot; fi
  fi
done
` + grubEnd(noDisk, 60)
	case Agent, Shell:
		// GRUB 2.12 only opens the initramfs here and reads it when the kernel's
		// EFI stub asks for it (LoadFile2). When that fails the stub comes back,
		// so the loop is around "boot" too.
		text = fmt.Sprintf(`echo
echo "Loading the workshop's system from its server..."
for i in 1 2 3; do
  if linux (http,%[1]s)/boot/vmlinuz %[2]s; then
    if initrd (http,%[1]s)/boot/initrd; then boot; fi
  fi
  echo "%[3]s ($i of 3)..."
  sleep 3
done
`, host, args, tryAgain) + grubEnd(noFiles, 30)
	default:
		return "", unknownKind(a.Kind)
	}
	return pad(text)
}

// grubMemory starts the memory test. Under Secure Boot GRUB is locked down and
// would refuse it with words for nobody.
func grubMemory(host string) string {
	return fmt.Sprintf(`if [ "$lockdown" = y ]; then
%[1]sfi
echo
echo "Starting the memory test..."
set file=memtest64.efi
if [ "$grub_cpu" = i386 ]; then set file=memtest32.efi; fi
for i in 1 2 3; do
  if chainloader (http,%[2]s)/boot/$file %[3]s; then boot; fi
  echo "%[4]s ($i of 3)..."
  sleep 3
done
`, grubEnd(lockedMemtest, 60), host, memtestArgs, tryAgain) + grubEnd(noMemtest, 30)
}

func grubEnd(lines []string, seconds int) string {
	var b strings.Builder
	b.WriteString("echo\necho \"============================================================\"\n")
	for _, l := range lines {
		fmt.Fprintf(&b, "echo \"%s\"\n", grubText(l))
	}
	fmt.Fprintf(&b, "echo \"============================================================\"\nsleep %d\nreboot\n", seconds)
	return b.String()
}

// grubText keeps words from ending a string in double quotes or naming a
// variable.
func grubText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r > '~':
			return '?'
		case strings.ContainsRune("\"\\$`", r):
			return -1
		}
		return r
	}, s)
}

// grubRefusal shows why a PC is not booted.
func grubRefusal(why string) string {
	text, err := pad(grubEnd(refusal(why), 30))
	if err != nil {
		panic(err) // refusal is bounded well below
	}
	return text
}

func pad(s string) (string, error) {
	if len(s) > maxScript {
		return "", fmt.Errorf("a boot script of %d bytes: at most %d", len(s), maxScript)
	}
	return s + strings.Repeat("\n", maxScript-len(s)), nil
}
