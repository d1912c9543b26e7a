package health

import (
	"runtime"
	"testing"
	"unsafe"
)

//go:noinline
func place(b *[64]byte) uintptr { return uintptr(unsafe.Pointer(b)) }

// The library's commands must not write to where the stack was.
func TestSteady(t *testing.T) {
	moved := make(chan bool)
	go func() {
		steady(0, func() {
			var b [64]byte
			before := place(&b)
			for range 3 {
				runtime.GC()
			}
			moved <- place(&b) != before
		})
	}()
	if <-moved {
		t.Error("the stack moved")
	}
}
