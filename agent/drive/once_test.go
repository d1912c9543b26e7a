package drive

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The NVMe driver answers EINTR when a command took longer than its limit. Given
// again, it would be another format, and for ever with a drive that is dying. A
// seccomp filter plays the driver.
func TestGivenOnce(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	answer := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with its filter
		program := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_IOCTL, Jf: 3},
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 24}, // the request
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: ioctlNVMeAdmin, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINTR)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		filter := &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(filter)), 0, 0)
		}
		if err != nil {
			answer <- err
			return
		}
		_, err = On(f).NVMe(NVMe{Opcode: 0x80})
		answer <- err
	}()
	if err := <-answer; !errors.Is(err, unix.EINTR) {
		t.Fatal(err)
	}
}
