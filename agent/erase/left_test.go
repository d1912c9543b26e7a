package erase

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"refurb/agent/wire"
	"refurb/images"
)

// Newer disks hide by another feature set.
func TestHiddenAnew(t *testing.T) {
	for extra, want := range map[int64]wire.ErasureResult{0: wire.Erased, 100: wire.ErasedExceptions} {
		s := drives["hdd, nothing"]()
		s.words[82] &^= hasHPA
		s.words[119] = 0x4100
		s.native += extra
		if e, _ := erasure(t, "hdd", s, nil); e.Result != want || e.Hidden == nil || e.Hidden.Native != s.native*512 {
			t.Errorf("%d sectors hidden: %+v", extra, e)
		}
	}
	s := drives["hdd, nothing"]() // it says that it has a native size, and doesn't tell it
	s.native = 0
	if e, _ := erasure(t, "hdd", s, nil); e.Result != wire.ErasedExceptions {
		t.Errorf("%+v", e)
	}
}

// What a deleted namespace left is out of reach of a format, and not of a
// sanitize.
func TestHiddenNVMe(t *testing.T) {
	for name, want := range map[string]wire.ErasureResult{"nvme, format only": wire.ErasedExceptions, "nvme, block": wire.Erased} {
		s := drives[name]()
		s.oacs |= 8
		s.spared = 1 << 30
		e, err := erasure(t, name, s, nil)
		if err != nil || e.Result != want || e.Hidden == nil || e.Hidden.Real != s.Size()+1<<30 {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

// What a drive refuses is refused in whatever form the kernel tells it: the next
// way is tried.
func TestRefusedInFixedForm(t *testing.T) {
	s := drives["ssd, sanitize"]()
	s.words[128] = secSupported | secEnhanced
	s.sulky, s.brief = true, true
	e, err := erasure(t, "ssd", s, nil)
	if err != nil || e.Result != wire.Erased || !slices.Equal(done(e), []string{ataEnhanced, zeroFill}) {
		t.Fatalf("%+v, %v", e, err)
	}
	s = drives["ssd, sanitize"]() // and so is a sanitize that fails
	s.words[128] = secSupported | secEnhanced
	s.willFail, s.brief = true, true
	e, err = erasure(t, "ssd", s, nil)
	if err != nil || e.Steps[0].Result != wire.Failed || !strings.Contains(e.Steps[0].Why, "says that it failed") {
		t.Fatalf("%+v, %v", e, err)
	}
}

// Our password is taken away by the next job, also while the disk isn't locked
// yet and is erased by something else.
func TestPasswordLeft(t *testing.T) {
	for _, locked := range []bool{false, true} {
		s := drives["ssd, sanitize"]()
		s.words[128] = secSupported
		s.password, s.enabled, s.locked = Password, true, locked
		if e, err := erasure(t, "ssd", s, nil); err != nil || e.Result != wire.Erased || s.enabled {
			t.Errorf("locked %v: %+v, %v", locked, e, err)
		}
	}
}

// What couldn't be written is still known when the agent comes back.
func TestUnwrittenAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := drives["virtual"](), t.TempDir()
		bad := &spotted{s}
		ctx, crash := context.WithCancel(t.Context())
		defer crash()
		job := func(j *Job) { j.Disk = bad; j.Want.Check = wire.CheckFull }
		e, err := inBubble(ctx, dir, "virtual", s, func(j *Job) {
			job(j)
			j.Health = func(context.Context) *wire.Health { crash(); return nil }
		})
		if err != nil || e.Result != wire.ErasedExceptions {
			t.Fatalf("%+v, %v", e, err)
		}
		if e, err = inBubble(t.Context(), dir, "virtual", s, job); err != nil || e.Result != wire.ErasedExceptions {
			t.Fatalf("%+v, %v", e, err)
		}
	})
}

// spotted takes no write to its third block, and tells zeroes of it, as a place
// does that a sampled check doesn't come to.
type spotted struct{ *sim }

func (s spotted) WriteAt(b []byte, at int64) (int, error) {
	if at < 3*block && at+int64(len(b)) > 2*block {
		return 0, unix.EIO
	}
	return s.sim.WriteAt(b, at)
}

func (s spotted) ReadAt(b []byte, at int64) (int, error) {
	n, err := s.sim.ReadAt(b, at)
	if at < 3*block && at+int64(n) > 2*block && images.Zero(s.media[:block]) {
		clear(b[:n])
	}
	return n, err
}
