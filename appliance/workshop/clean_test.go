package workshop

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"refurb/agent/wire"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                     "plain",
		"  two \t words\r\n":        "two words",
		"a\x00b\x1b[31mred":         "a b [31mred",
		"bad \xff\xfe utf8":         "bad utf8",
		"turned \u202Eround":        "turned round",
		"isolated \u2066x\u2069":    "isolated x",
		"line\u2028separator":       "line separator",
		"<script>alert(1)</script>": "<script>alert(1)</script>", // escaping is for who shows it
		strings.Repeat("é", 200):    strings.Repeat("é", 128),
		strings.Repeat("x", 1<<20):  strings.Repeat("x", 256),
	} {
		if got := Text(in); got != want {
			t.Errorf("%.40q: %.40q", in, got)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\u202e\x00\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if len(got) > wire.MaxText || !utf8.ValidString(got) || Text(got) != got {
			t.Fatalf("%q", got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
				t.Fatalf("%q", got)
			}
		}
	})
}

func TestCleanReachesEverything(t *testing.T) {
	long := strings.Repeat("x", 1000)
	yes := true
	rep := wire.Report{BootID: "b\x00", Firmware: wire.Firmware{SecureBoot: &yes}, RAM: wire.RAM{Bytes: -1, Modules: []wire.RAMModule{{Serial: long}}}}
	for i := range 200 {
		rep.Disks = append(rep.Disks, wire.Disk{DiskID: wire.DiskID{Serial: fmt.Sprint("S\n", i), Bytes: -5}, Class: "bláink", Found: slices.Repeat([]string{"ntfs"}, 500)})
		rep.Problems = append(rep.Problems, long)
		rep.Gaps = append(rep.Gaps, wire.Gap{ID: long, What: long, Reason: long})
	}
	if _, err := cleanReport(&rep); err == nil {
		t.Fatal("a report of 100 KiB was kept")
	}
	if len(rep.Disks) != maxList || len(rep.Disks[0].Found) != maxList || rep.Disks[1].Serial != "S 1" || rep.Disks[0].Bytes != 0 ||
		rep.Disks[0].Class != wire.ClassData || len(rep.Problems[0]) != wire.MaxText || rep.RAM.Bytes != 0 || len(rep.RAM.Modules[0].Serial) != wire.MaxText || rep.BootID != "b" {
		t.Fatalf("%+v", rep.Disks[0])
	}
	if _, err := cleanReport(&wire.Report{BootID: "\x00"}); err == nil {
		t.Fatal("a report without a boot id was taken")
	}
	e := wire.Event{Outcome: &wire.Outcome{Cause: long, Mismatches: -1, Finish: make([]string, 100)}, Disk: &wire.DiskID{Serial: "a\x07"}}
	Clean(&e)
	if len(e.Outcome.Cause) != wire.MaxText || len(e.Outcome.Finish) != maxList || e.Disk.Serial != "a" {
		t.Fatalf("%+v", e)
	}
}

// What is clean stays as it is.
func FuzzClean(f *testing.F) {
	f.Add([]byte(`{"boot_id":"b","disks":[{"serial":"\u202eS\u0000","bytes":-1,"found":["ntfs"]}]}`), byte(0))
	f.Add([]byte(`{"job":"x","seq":-1,"outcome":{"mismatches":-1}}`), byte(2))
	f.Fuzz(func(t *testing.T, body []byte, which byte) {
		var v any
		switch which % 4 {
		case 0:
			v = &wire.Report{}
		case 1:
			v = &wire.Progress{}
		case 2:
			v = &wire.Event{}
		default:
			v = &wire.FirstBoot{}
		}
		if json.Unmarshal(body, v) != nil {
			return
		}
		Clean(v)
		once, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		Clean(v)
		if again, err := json.Marshal(v); err != nil || string(again) != string(once) {
			t.Fatalf("cleaned twice it is another: %s", once)
		}
	})
}

// A class that isn't known is data, however it is spelt.
func TestClasses(t *testing.T) {
	for in, want := range map[wire.Class]wire.Class{
		"blank": "blank", "ours": "ours", "structured": "structured", "data": "data", "encrypted": "encrypted", "locked": "locked", "unreadable": "unreadable",
		"": "data", "Blank": "data", "blank\u200b": "data", "empty": "data", "ours; blank": "data",
		" blank ": "blank", // what is cut off identifies nothing
	} {
		rep := wire.Report{BootID: "b", Disks: []wire.Disk{{Class: in}}}
		if _, err := cleanReport(&rep); err != nil || rep.Disks[0].Class != want {
			t.Errorf("%q became %q, %v", in, rep.Disks[0].Class, err)
		}
	}
}
