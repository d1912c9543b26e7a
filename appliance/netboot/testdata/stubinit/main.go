// Stubinit is the initramfs of the firmware tests: it says on the console what
// the kernel was given and switches the PC off.
package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	_ = os.Mkdir("/proc", 0o755)
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("stub:", err)
	}
	args, err := os.ReadFile("/proc/cmdline")
	fmt.Printf("STUB-INIT %s %v\n", args, err)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
