package workshop

import (
	"errors"
	"testing"

	"refurb/agent/wire"
)

// All combinations of what judge looks at: nothing is ever approved but one
// disk with a serial number that is blank or ours and doesn't fail, on somebody's
// word, with nothing hidden, nothing cut off before, and nobody who wants the PC
// to wait.
func TestJudgeApprovesNothingElse(t *testing.T) {
	approved := 0
	classes := []wire.Class{wire.ClassBlank, wire.ClassOurs, wire.ClassStructured, wire.ClassData, wire.ClassEncrypted, wire.ClassLocked, wire.ClassUnreadable, "", "future"}
	for _, class := range classes {
		for _, disks := range []int{0, 1, 2} {
			for mask := range 1 << 12 {
				yes := func(i int) bool { return mask&(1<<i) != 0 }
				serial, lot, standing, again, cut, image, gone := yes(0), yes(1), yes(2), yes(3), yes(4), yes(5), yes(6)
				erased, wait, ill, hidden, twins := yes(7), yes(8), yes(9), yes(10), yes(11)
				f := facts{lotOpen: lot, cutOff: cut, erased: erased, wait: wait, image: image, bytes: 8e9, block: 512}
				if lot && standing {
					f.standing = "L"
				}
				if again {
					f.again = "U"
				}
				if gone {
					f.gone = errors.New("no such image")
				}
				if hidden {
					f.report.HiddenStorage = []string{"pci 8086:282a"}
				}
				for i := range disks {
					d := disk([]string{"/dev/sda", "/dev/sdb"}[i], 100)
					d.Class = class
					if twins {
						d.Serial = "SAME"
					}
					if !serial {
						d.Serial = ""
					}
					if ill {
						d.Health = &wire.Health{Passed: new(false)}
					}
					f.report.Disks = append(f.report.Disks, d)
				}
				v := judge(f)
				may := (class == wire.ClassBlank || class == wire.ClassOurs) && disks == 1 && serial && !cut && image && !gone && !ill && !hidden &&
					(again || lot && standing && !erased && !wait)
				if (v.state == Approved) != may {
					t.Fatalf("%+v: %+v", f, v)
				}
				switch v.state {
				case Approved:
					approved++
					if want := map[bool]string{true: "U", false: "lot:L"}[again]; v.by != want || v.disk == nil {
						t.Fatalf("%+v: %+v", f, v)
					}
				case Held:
					if v.hold == "" || v.reason == "" || v.next == "" {
						t.Fatalf("%+v: %+v", f, v)
					}
					if v.hold.Approvable() && ill && v.disk != nil {
						t.Fatalf("a failing disk may be approved: %+v", v)
					}
				case JobFailed:
					if disks != 0 || v.reason == "" {
						t.Fatalf("%+v: %+v", f, v)
					}
				default:
					t.Fatalf("%+v: %+v", f, v)
				}
			}
		}
	}
	if approved == 0 {
		t.Fatal("nothing was ever approved")
	}
}
