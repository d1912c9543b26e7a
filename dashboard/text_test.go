package dashboard

import (
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/html"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

func readAll(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// plurals are the forms that CLDR knows for whole numbers in each language.
var plurals = map[string][]string{
	"en": {"one", "other"}, "de": {"one", "other"}, "fr": {"one", "many", "other"},
	"ar": {"zero", "one", "two", "few", "many", "other"},
}

// Every language says everything that English says, with all its plurals and
// the same values in it.
func TestLocalesAreComplete(t *testing.T) {
	read := func(tag string) map[string]any {
		b, err := localeFiles.ReadFile("locales/" + tag + ".json")
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]any{}
		decode(t, string(b), &m)
		return m
	}
	value := regexp.MustCompile(`\{\{\.\w+\}\}`)
	values := func(v any) []string {
		if forms, ok := v.(map[string]any); ok {
			v = forms["other"]
		}
		s, _ := v.(string)
		all := value.FindAllString(s, -1)
		slices.Sort(all)
		return all
	}
	english := read("en")
	for tag, forms := range plurals {
		m := read(tag)
		for k, v := range english {
			other, ok := m[k]
			if !ok {
				t.Errorf("%s lacks %s", tag, k)
				continue
			}
			if !slices.Equal(values(v), values(other)) {
				t.Errorf("%s: %s holds %v, in English %v", tag, k, values(other), values(v))
			}
			_, plural := v.(map[string]any)
			theirs, ok := other.(map[string]any)
			if plural != ok {
				t.Errorf("%s: %s has a plural in one language only", tag, k)
			} else if ok && !slices.Equal(slices.Sorted(maps.Keys(theirs)), slices.Sorted(slices.Values(forms))) {
				t.Errorf("%s: %s has the forms %v, want %v", tag, k, slices.Sorted(maps.Keys(theirs)), forms)
			}
		}
		for k := range m {
			if _, ok := english[k]; !ok {
				t.Errorf("%s says %s, which nobody asks for", tag, k)
			}
		}
	}
	french, err := localeFiles.ReadFile("locales/fr.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, torn := range regexp.MustCompile(`.* [?!:;»].*|.*« .*`).FindAllString(string(french), -1) {
		t.Errorf("a line may end before a mark that belongs to its word: %s", torn)
	}
	// What the code and the templates ask for is there. An id that is put
	// together ends in a dot or starts with one.
	asked := regexp.MustCompile(`"((?:[a-z_]+)(?:\.[a-z_A-Z0-9]+)+)"`)
	families := map[string]bool{}
	for k := range english {
		families[k[:strings.Index(k+".", ".")]] = true
	}
	var sources []string
	for _, pattern := range []string{"*.go", "templates/*.html"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, found...)
	}
	used := map[string]bool{}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range asked.FindAllStringSubmatch(string(b), -1) {
			id := m[1]
			used[id] = true
			if family := id[:strings.Index(id, ".")]; families[family] && english[id] == nil && !strings.HasSuffix(id, ".html") && !strings.HasSuffix(id, ".svg") {
				t.Errorf("%s asks for %q, which no locale says", name, id)
			}
		}
	}
	built := []string{"role.", "place.", "class.", "erase.level.", "erase.read.", "health.test.", "story.job.", "story.moved.", "unit.", "error.role.", "login.", "setup.", "trace.cause.", "trace.next."}
	for k := range english {
		if !used[k] && !slices.ContainsFunc(built, func(p string) bool { return strings.HasPrefix(k, p) }) {
			t.Errorf("nobody says %s", k)
		}
	}
	for _, s := range []workshop.DeviceState{workshop.Expected, workshop.Received, workshop.Ready, workshop.Reserved, workshop.HandedOut, workshop.Returned, workshop.Rejected, workshop.Parts, workshop.Recycled, workshop.ReturnedDonor, workshop.DeviceLost} {
		if english["place."+string(s)] == nil || english["story.moved."+string(s)] == nil {
			t.Errorf("no word for a device that is %s", s)
		}
	}
	for s := range looks {
		if english["story.job."+string(s)] == nil {
			t.Errorf("no word for a job that becomes %s", s)
		}
	}
}

// The sentences that are translated are those that the appliance and the agent
// write.
func TestFixedSentencesExist(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{"../appliance/workshop", "../agent"} {
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go") {
				b, err := os.ReadFile(p)
				source.Write(b)
				return err
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Two sentences of the agent share their second half.
	const destroy = "if it happens again, take the disk out and destroy it\""
	if !strings.Contains(source.String(), `destroy = "`+destroy) {
		t.Error("what to do with a disk that can't be erased is worded anew")
	}
	const reimport = "check the image on the dashboard, or import it again\""
	written := strings.NewReplacer(`"+destroy`, destroy, `"+reimport`, reimport).Replace(source.String())
	for s := range fixed {
		q, _ := json.Marshal(s)
		// Some have a detail behind them.
		if !strings.Contains(written, string(q)) && !strings.Contains(written, strings.TrimSuffix(string(q), `"`)+": ") {
			t.Errorf("nobody writes %s", q)
		}
	}
}

// What makes a job fail day by day, as an agent or the workshop words it, is said
// in every language; the next step leads to another installation.
func TestFailuresAreTranslated(t *testing.T) {
	for _, c := range []struct {
		cause, next string
		why         Say
		do          string
	}{
		{"the disk failed: write /dev/sda: input/output error", "put another disk in",
			Say{ID: "why.diskfailed", Text: "write /dev/sda: input/output error"}, "next.otherdisk.again"},
		{"what was read back from the disk is not what was written to it", "put another disk in: this one can't be trusted",
			Say{ID: "why.lies"}, "next.untrusted"},
		{"the disk's own self-test failed: reading failed", "put another disk in",
			Say{ID: "why.selftest", Text: "reading failed"}, "next.otherdisk.again"},
		{"no byte of the image came for 10m0s: the connection fell silent", "look at the network cable, the switch and the appliance, then start this PC again",
			Say{ID: "why.nobytes", Text: "the connection fell silent"}, "next.cable"},
		{"the image on the appliance is damaged: its frames end too early", "check the image on the dashboard, or import it again",
			Say{ID: "why.imagebad", Text: "its frames end too early"}, "next.reimport"},
		{"The disk /dev/sda is too small: it has 8.0 GB, the image needs 12.0 GB", "Put another disk in, or choose another image, and ask for imaging again",
			Say{ID: "why.small", Pairs: []any{"Disk", "/dev/sda", "Has", "8.0 GB", "Needs", "12.0 GB"}}, "next.largerdisk"},
		{"context deadline exceeded", "start this PC again from the network",
			Say{Text: "Context deadline exceeded"}, "next.retry"},
	} {
		j := &workshop.Job{State: workshop.JobFailed, Reason: c.cause, Next: c.next}
		if why, next := whyOf(j), nextOf(j); !reflect.DeepEqual(why, c.why) || next.ID != c.do {
			t.Errorf("%q, %q: %+v, %+v", c.cause, c.next, why, next)
		}
	}
}

// Why a PC that is done may not be given away is said in every language.
func TestUnfitIsTranslated(t *testing.T) {
	for s, want := range map[string]Say{
		"The disk /dev/sdb was erased or written in another PC after it was imaged":                                 {ID: "why.disk.otherpc"},
		"The disk /dev/sdb was erased after it was imaged":                                                          {ID: "why.disk.erased"},
		"The disk /dev/sdb holds something and was neither erased nor imaged":                                       {ID: "why.disk.holds"},
		"Nobody knows what is on the disk /dev/sdb: its last job did not end well":                                  {ID: "why.disk.unknown"},
		"A disk with the numbers of /dev/sdb was seen in PC 14 since: whether it is still in this one is not known": {ID: "why.disk.twin"},
		"Under which of its numbers this PC was seen last is not known, nor what is in it now":                      {ID: "why.unsure"},
	} {
		if got := english(s); got.ID != want.ID {
			t.Errorf("%q: %+v", s, got)
		}
	}
	said := english("A disk with the numbers of /dev/nvme0n1 was seen in PC 14 since: whether it is still in this one is not known")
	if want := (Say{ID: "why.disk.twin", Pairs: []any{"N", 14, "Disk", "/dev/nvme0n1"}}); !reflect.DeepEqual(said, want) {
		t.Errorf("%+v", said)
	}
}

func TestWords(t *testing.T) {
	l, err := loadLanguages(localeFiles)
	if err != nil {
		t.Fatal(err)
	}
	w := map[string]*words{}
	for _, v := range l.list {
		w[v.Tag] = v
	}
	if l.list[0].Tag != "en" || w["ar"].Dir != "rtl" {
		t.Errorf("languages: %+v", l.list)
	}
	for _, c := range []struct{ got, want string }{
		{w["en"].Size(512_110_190_592), "512\u00a0GB"},
		{w["fr"].Size(3_870_000_000), "3,9\u00a0Go"},
		{w["en"].Size(999_999_999), "1\u00a0GB"},
		{w["en"].Size(0), "0\u00a0B"},
		{w["ar"].Rate(112_300_000), "\u2066112\u00a0MB/s\u2069"},
		{w["de"].Memory(8 << 30), "8\u00a0GB"},
		{w["en"].Left(3 * time.Second), "a few seconds"},
		{w["en"].Left(42 * time.Second), "40 s"},
		{w["en"].Left(61 * time.Minute), "1 h 1 min"},
		{w["ar"].Left(2 * time.Minute), "دقيقتان"},
		{w["ar"].Left(3 * time.Minute), "3 دقائق"},
		{w["ar"].Left(11 * time.Minute), "11 دقيقة"},
		{w["ar"].N("lot.count", 0), "لا حواسيب"},
		{w["fr"].N("lot.count", 1), "1 PC"},
		{w["en"].T("lot.opened", "Donor", "A&B"), "The lot of \u2068A&B\u2069 is open."},
		{w["en"].T("no.such.message"), "no.such.message"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	for accept, want := range map[string]string{"": "en", "fr-LU,fr;q=0.9": "fr", "ar-SY": "ar", "tlh": "en", "de-AT, en;q=0.5": "de", strings.Repeat("x,", 5000): "en"} {
		r, _ := http.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Language", accept)
		if got := l.of(r).Tag; got != want {
			t.Errorf("%.20q gets %s, want %s", accept, got, want)
		}
		r.AddCookie(&http.Cookie{Name: langCookie, Value: "ar"})
		if got := l.of(r).Tag; got != "ar" {
			t.Errorf("what was chosen doesn't hold against %.20q: %s", accept, got)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"  HP\tElite\nDesk ":       "HP Elite Desk",
		"a\x00b\x1b[31mc":          "a\uFFFDb\uFFFD[31mc",
		"S4\u202e314407\u202cX":    "S4\uFFFD314407\uFFFDX",
		"\xff\xfe":                 "\uFFFD",
		"می\u200cخواهم":            "می\u200cخواهم",
		strings.Repeat("é", 10):    "éééééééé…",
		strings.Repeat("x", 1<<20): "xxxxxxxx…",
		"\u200b\u2066\ufeff":       "\uFFFD\uFFFD\uFFFD",
	} {
		max := 20
		if utf8.RuneCountInString(in) >= 10 && (in[0] == 'x' || strings.HasPrefix(in, "é")) {
			max = 8
		}
		if got := clean(in, max); got != want {
			t.Errorf("%.20q: %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("S4\u202e314407\u202cX", 6)
	f.Fuzz(func(t *testing.T, s string, max int) {
		max = min(max&0x3ff, 500)
		got := clean(s, max)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > max+1 || strings.ContainsAny(got, "\n\r\t\x00\u202e\u2066\u2067") {
			t.Errorf("%q cut to %d: %q", s, max, got)
		}
	})
}

func TestLocal(t *testing.T) {
	for in, want := range map[string]string{
		"/lots": "/lots", "/devices?q=a&b=c": "/devices?q=a&b=c", "": "/", "//evil.example": "/", "/\\evil.example": "/",
		"https://evil.example/": "/", "javascript:alert(1)": "/", "/a\nb": "/", "lots": "/", "/" + strings.Repeat("x", 600): "/", "/%zz": "/",
	} {
		if got := local(in); got != want {
			t.Errorf("%q leads to %q, want %q", in, got, want)
		}
	}
}

// A PC that says the worst of itself makes no page do anything, nor any page
// long or wide without end.
func TestHostilePC(t *testing.T) {
	h := newHouse(t)
	h.user("Amina", Admin)
	b := h.as("Amina")
	evil := `"><script>alert(1)</script><img src=x onerror=alert(2)>{{.}}' onmouseover='x` + "\r\nevent: change\r\ndata: x\r\n\r\n\u202e" + strings.Repeat("A", 4000)
	rep := someReport(1, evil, evil)
	rep.Identity = wire.Identity{UUID: evil, Manufacturer: evil, Model: evil, ModelVersion: evil, SKU: evil, Family: evil, SystemSerial: evil, BoardSerial: evil, ChassisSerial: evil, ChassisType: evil, Placeholders: []string{evil}}
	rep.Firmware.Vendor, rep.Firmware.Mode, rep.CPU.Model = evil, evil, evil
	rep.RAM.Modules = []wire.RAMModule{{Slot: evil, Type: evil, Manufacturer: evil, Part: evil}}
	d := dataDisk(evil)
	d.Model, d.InUse, d.Found, d.WWN = evil, "", []string{evil, evil}, evil
	d.Health = &wire.Health{Source: evil, Error: evil, SelfTest: &wire.SelfTest{State: evil, Text: evil}}
	d.Abilities = &wire.Abilities{Error: evil}
	rep.Disks = []wire.Disk{d}
	rep.NICs[0].Driver = evil
	rep.Gaps = []wire.Gap{{ID: evil, What: evil, Reason: evil}}
	rep.Problems, rep.HiddenStorage = []string{evil}, []string{evil}
	if _, err := h.reg.OpenLot(t.Context(), "x", evil, h.shelf.list[0].Root, true); err != nil {
		t.Fatal(err)
	}
	p := h.start(rep)
	lot := h.reg.View().Lots[0].ID
	id := p.device().ID
	// And of how it erased its disk.
	b.post("/devices/"+id+"/erase", "job", p.device().Job.ID, "disk", p.device().Report.Disks[0].Path, "serial", askOf("", p.device().Report.Disks[0]).Tail, "check", "full")
	o := p.erase().erasure()
	o.Result, o.Cause, o.Next, o.Warnings, o.Finish = wire.Result(evil), evil, evil, []string{evil}, []string{evil}
	o.Erasure.Result, o.Erasure.Level, o.Erasure.Medium, o.Erasure.Tool, o.Erasure.Exceptions = wire.ErasureResult(evil), wire.Level(evil), evil, evil, []string{evil}
	o.Erasure.Steps = []wire.EraseStep{{Method: evil, Level: wire.Level(evil), Bits: evil, Command: evil, Code: evil, Result: wire.Result(evil), Why: evil}}
	o.Erasure.Check.Kind, o.Erasure.Hidden = wire.CheckKind(evil), &wire.HiddenArea{Visible: 1, Native: 2, Note: evil}
	p.ended(o)
	for _, path := range []string{"/", "/devices", "/devices?q=" + "%3Cscript%3Ealert(1)%3C/script%3E", "/devices/" + id, "/lots", "/lots/" + lot, "/devices/" + id + "/history/html", "/?lot=%22%3E%3Cscript%3E"} {
		status, body := b.get(path)
		if status != http.StatusOK || len(body) > 200_000 {
			t.Errorf("%s: %d, %d bytes", path, status, len(body))
		}
		harmless(t, path, body)
	}
	// The same through a stream: a line of its own would be a field of its own.
	first := openStream(t, b, "/devices/"+id+"/stream").next(t)
	harmless(t, "stream", first)
	harmless(t, "bench stream", openStream(t, b, "/bench/stream").next(t))
}

// harmless walks a page as a browser reads it.
func harmless(t *testing.T, where, body string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if n.Data == "img" || n.Data == "iframe" {
			t.Errorf("%s: <%s>", where, n.Data)
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || strings.HasPrefix(strings.ToLower(a.Val), "javascript:") {
				t.Errorf("%s: %s=%q", where, a.Key, a.Val)
			}
			if n.Data == "script" && a.Key == "src" && !strings.HasPrefix(a.Val, "/static/") {
				t.Errorf("%s: script from %q", where, a.Val)
			}
		}
		if n.Data == "script" && n.FirstChild != nil {
			t.Errorf("%s: a script in the page: %.60q", where, n.FirstChild.Data)
		}
	}
	if strings.ContainsRune(body, '\u202e') {
		t.Errorf("%s turns text around", where)
	}
	if strings.Contains(body, strings.Repeat("A", maxNote+1)) {
		t.Errorf("%s holds a string without end", where)
	}
}
