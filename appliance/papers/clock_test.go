package papers

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"refurb/appliance/workshop"
)

// merge lets one record flow into another one.
func (b *book) merge(kept, gone string) {
	b.add(workshop.Event{Device: gone, Kind: "merged_into", From: "received", To: "merged", Actor: "LEAD7", Params: map[string]string{"device": kept, "number": "1"}})
	b.add(workshop.Event{Device: kept, Kind: "merged_from", Actor: "LEAD7", Params: map[string]string{"device": gone, "number": "2"}})
}

// A clock that was ahead at the first start and is right at the second doesn't make
// the second the first.
func TestClockWasAhead(t *testing.T) {
	b := newBook(t)
	b.device("ONE", 1, somePC(ssd))
	b.at = b.at.Add(-48 * time.Hour)
	again := somePC()
	again.BootID = "boot-2"
	b.report("ONE", again)
	o := New(b, key)
	if err := o.Write(t.Context(), io.Discard, NoStorage, "ONE", JSON); err == nil || !strings.Contains(err.Error(), "came with a disk") {
		t.Errorf("it is said to have come without a disk: %v", err)
	}
	if p, _, err := o.donor(t.Context(), "LOT1"); err != nil || p.Counts.NoStorage != 0 || p.Counts.Media != 1 || p.Lines[0].Storage != "held data" {
		t.Errorf("%+v %v", p, err)
	}
}

// The first report holds within each of several records, too; which record was
// first is not known then.
func TestClockWasAheadInAPair(t *testing.T) {
	b := newBook(t)
	b.device("TWO", 2, somePC(ssd))
	b.at = b.at.Add(-48 * time.Hour)
	b.device("ONE", 1, somePC())
	b.merge("ONE", "TWO")
	if err := New(b, key).Write(t.Context(), io.Discard, NoStorage, "ONE", JSON); err == nil || !strings.Contains(err.Error(), "clock was set back") {
		t.Errorf("it is said to have come without a disk: %v", err)
	}
}

// The last attempt to erase is the later line of the chain, though the clock was
// ahead at the one before it.
func TestLastAttemptByChain(t *testing.T) {
	b := newBook(t)
	b.device("ONE", 1, somePC(ssd))
	b.erase("ONE", "JOB1", ssd.DiskID, erased(), "erased", "ok", "")
	b.image("ONE", "JOB2", ssd.DiskID, "LEAD7")
	b.at = b.at.Add(-48 * time.Hour)
	b.erase("ONE", "JOB3", ssd.DiskID, nil, "failed", "failed", "broke")
	b.step("ONE", "JOB4", "reported", "approved", "LEAD7", workshop.Event{Params: diskParams(ssd.DiskID, "boot", "boot-1", "class", "data")})
	b.step("ONE", "JOB4", "approved", "imaging", "agent", workshop.Event{Params: diskParams(ssd.DiskID)})
	b.step("ONE", "JOB4", "imaging", "failed", "agent", workshop.Event{Result: "failed", Reason: "broke"})
	p, _, err := New(b, key).donor(t.Context(), "LOT1")
	if err != nil || p.Counts.Erased != 0 || p.Counts.NotErased != 1 || p.Counts.Refurbished != 0 {
		t.Fatalf("%+v %v", p.Counts, err)
	}
}

// What has held two PCs makes none of the records it lies in tell what came.
func TestMixedWithin(t *testing.T) {
	b := newBook(t)
	b.device("ONE", 1, somePC())
	b.add(workshop.Event{Device: "ONE", Kind: "split_off", Actor: "LEAD7", Params: map[string]string{"device": "NEW", "number": "3"}})
	b.device("TWO", 2, somePC())
	b.merge("TWO", "ONE")
	if err := New(b, key).Write(t.Context(), io.Discard, NoStorage, "TWO", JSON); err == nil || !strings.Contains(err.Error(), "Two PCs") {
		t.Fatal(err)
	}
}

// A paper that would leave merged records out is none.
func TestTooManyMerged(t *testing.T) {
	b := newBook(t)
	b.device("KEPT", 1, somePC())
	for i := range maxMerged + 1 {
		id := fmt.Sprintf("GONE%d", i)
		if i == maxMerged {
			b.device(id, i+2, somePC(ssd))
		} else {
			b.device(id, i+2, somePC())
		}
		b.merge("KEPT", id)
		err := New(b, key).Write(t.Context(), io.Discard, NoStorage, "KEPT", JSON)
		if i < maxMerged && err != nil || i == maxMerged && (err == nil || !strings.Contains(err.Error(), "More than 16")) {
			t.Fatal(i, err)
		}
	}
}
