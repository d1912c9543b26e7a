package erase

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func TestSamples(t *testing.T) {
	seed, _ := hex.DecodeString(testSeed)
	for _, size := range []int64{1 << 30, 1<<30 + 512, 256<<30 + 3*512, 2e12 / 512 * 512} {
		got := samples(seed, size)
		if !slices.Equal(got, samples(seed, size)) || len(got) != 2002 {
			t.Fatalf("%d samples of %d", len(got), size)
		}
		var sum int64
		for i, s := range got {
			if s.at < 0 || s.n <= 0 || s.at+s.n > size || s.at%512 != 0 || i > 0 && s.at < got[i-1].at+got[i-1].n {
				t.Fatalf("sample %d of %d: %+v after %+v", i, size, s, got[max(i-1, 0)])
			}
			sum += s.n
		}
		// Nothing lies between the last section and the end.
		if last := got[2001]; last.at+last.n != size || last.at != edge+1000*((size-2*edge)/1000/block*block) {
			t.Errorf("the end of %d: %+v", size, last)
		}
		if sum < (size-2*edge)/10 || sum > size*12/100+2*edge {
			t.Errorf("%d of %d bytes", sum, size)
		}
	}
	// Computed from the description by another program.
	got := samples(seed, 1<<30)
	for i, at := range map[int]int64{0: 0, 1: 1183744, 2: 1732608, 3: 2146304, 2000: 1069633536, 2001: 1070104576} {
		if want := (span{at, 57344}); got[i].at != at || i > 0 && i < 2001 && got[i] != want {
			t.Errorf("sample %d: %+v", i, got[i])
		}
	}
	other, _ := hex.DecodeString(strings.Repeat("5f", 32))
	if slices.Equal(samples(other, 1<<30), samples(seed, 1<<30)) {
		t.Error("another seed has the same places")
	}
	if samples(seed, 1<<30-1) != nil {
		t.Error("a small disk is read whole")
	}
}
