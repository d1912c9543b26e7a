package workshop

import (
	"errors"
	"testing"

	"refurb/agent/wire"
)

// All combinations of what judge looks at: nothing is ever approved but one
// blank disk with a serial number, on somebody's word, with nothing cut off
// before.
func TestJudgeApprovesNothingElse(t *testing.T) {
	yes := []bool{false, true}
	approved := 0
	for _, class := range []wire.Class{wire.ClassBlank, wire.ClassStructured, wire.ClassData, wire.ClassUnreadable, "", "ours"} {
		for _, disks := range []int{0, 1, 2} {
			for _, serial := range yes {
				for _, lot := range yes {
					for _, standing := range yes {
						for _, again := range yes {
							for _, cut := range yes {
								for _, image := range yes {
									for _, gone := range yes {
										f := facts{lotOpen: lot, cutOff: cut, image: image, bytes: 8e9, block: 512}
										if lot && standing {
											f.standing = "L"
										}
										if again {
											f.again = "U"
										}
										if gone {
											f.gone = errors.New("no such image")
										}
										for i := range disks {
											d := disk([]string{"/dev/sda", "/dev/sdb"}[i], 100)
											d.Class = class
											if !serial {
												d.Serial = ""
											}
											f.report.Disks = append(f.report.Disks, d)
										}
										v := judge(f)
										may := class == wire.ClassBlank && disks == 1 && serial && !cut && image && !gone && (again || lot && standing)
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
						}
					}
				}
			}
		}
	}
	if approved == 0 {
		t.Fatal("nothing was ever approved")
	}
}

func TestUnproven(t *testing.T) {
	id := wire.DiskID{Path: "/dev/sda", Serial: "S1", Bytes: 9e9, LogicalBlock: 512}
	job := Job{State: Verifying, Bytes: 8e9, Image: "root", Approval: &Approval{Disk: id}}
	good := wire.Outcome{Result: wire.Done, ReadBack: 8e9, Root: "root", Disk: &id}
	if why := unproven(&job, &good); why != "" {
		t.Fatal(why)
	}
	for name, f := range map[string]func(*Job, *wire.Outcome){
		"not reading back":  func(j *Job, o *wire.Outcome) { j.State = Imaging },
		"approved only":     func(j *Job, o *wire.Outcome) { j.State = Approved },
		"a byte less":       func(j *Job, o *wire.Outcome) { o.ReadBack-- },
		"a byte more":       func(j *Job, o *wire.Outcome) { o.ReadBack++ },
		"nothing":           func(j *Job, o *wire.Outcome) { o.ReadBack = 0 },
		"a mismatch":        func(j *Job, o *wire.Outcome) { o.Mismatches = 1 },
		"fewer than none":   func(j *Job, o *wire.Outcome) { o.Mismatches = -1 },
		"another image":     func(j *Job, o *wire.Outcome) { o.Root = "other" },
		"no image":          func(j *Job, o *wire.Outcome) { o.Root = "" },
		"no image anywhere": func(j *Job, o *wire.Outcome) { o.Root, j.Image = "", "" },
		"no size anywhere":  func(j *Job, o *wire.Outcome) { o.ReadBack, j.Bytes = 0, 0 },
		"another disk": func(j *Job, o *wire.Outcome) {
			o.Disk = &wire.DiskID{Path: "/dev/sda", Serial: "S2", Bytes: 9e9, LogicalBlock: 512}
		},
		"no approval": func(j *Job, o *wire.Outcome) { j.Approval = nil },
	} {
		j, o := job, good
		f(&j, &o)
		if unproven(&j, &o) == "" {
			t.Errorf("%s: taken for a proof", name)
		}
	}
}
