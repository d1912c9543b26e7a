package trace

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Severity of a Finding.
type Severity int

const (
	Note    Severity = iota // good to know
	Warning                 // it went on, but something is wrong
	Failure                 // it stopped here
)

func (s Severity) String() string { return [...]string{"note", "warning", "failure"}[s] }

// Finding is what a start's trace says of its trouble.
type Finding struct {
	ID       string
	Severity Severity
	With     map[string]string // what stands in its sentences
	Evidence []string          // the lines that it rests on
}

// How long a healthy PC takes at most. What is slower than that has stopped:
// better a word too early that goes away by itself than none.
const (
	offerWait     = 9 * time.Second  // firmware collects offers for 4 s, some for 8
	fileWait      = 15 * time.Second // from an address to the first file
	loaderWait    = 20 * time.Second // from a file to what it does first; checking signatures takes seconds
	ipxeWait      = 40 * time.Second // iPXE waits for the link first, up to 15 s, and for a switch
	kernelWait    = 25 * time.Second
	transferWait  = time.Minute
	helloWait     = 100 * time.Second // an old PC unpacks and looks for its drivers for a minute
	agentWait     = time.Minute       // from the agent's address to its hello
	loopTime      = 4 * time.Minute   // a PC that comes back so soon has not worked from its disk
	backTime      = 30 * time.Second  // from iPXE giving up to the firmware's own network boot
	slowSecs      = 8                 // seconds that DISCOVERs were lost for
	slowCarrier   = 8 * time.Second
	slowAddress   = 15 * time.Second
	flapGap       = 45 * time.Second // no firmware waits longer between two tries
	manyTries     = 4
	manyDiscovers = 2
)

// rules, each from one kind of evidence. The first finding that stops a start
// wins over those below it.
var rules = []func(f *facts) *Finding{
	(*facts).refusedAgent,
	(*facts).refusedScript,
	(*facts).sendFailed,
	(*facts).noFileForArch,
	(*facts).noBootFile,
	(*facts).poolFull,
	(*facts).brokenOff,
	(*facts).slowTransfer,
	(*facts).handedBack,
	(*facts).noHello,
	(*facts).noInitramfs,
	(*facts).noKernel,
	(*facts).diskLoop,
	(*facts).grubStopped,
	(*facts).loaderStopped,
	(*facts).noScript,
	(*facts).foreignFile,
	(*facts).nakLoop,
	(*facts).otherServer,
	(*facts).neverAsked,
	(*facts).addressUnused,
	(*facts).offerIgnored,
	(*facts).unanswered,
	(*facts).addressTaken,
	(*facts).noDriver,
	(*facts).slowPort,
	(*facts).flapping,
	(*facts).manyRetries,
	(*facts).notNetbooting,
}

// Diagnose says what is wrong with a start as it looks at a moment, the worst
// first. At most one finding says why it stopped.
func Diagnose(s *Start, now time.Time) []Finding {
	f := read(s, now)
	var out []Finding
	stopped := false
	for _, rule := range rules {
		g := rule(f)
		if g == nil || g.Severity == Failure && stopped {
			continue
		}
		stopped = stopped || g.Severity == Failure
		out = append(out, *g)
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return out
}

// arrived: the PC is where it was sent.
func (f *facts) arrived() bool {
	return f.hello != nil || f.firstBoot != nil || f.boots == bootsDisk && f.plain.After(f.script)
}

func (f *facts) finding(id string, v Severity, with ...string) *Finding {
	g := &Finding{ID: id, Severity: v, With: map[string]string{}}
	for i := 0; i+1 < len(with); i += 2 {
		g.With[with[i]] = with[i+1]
	}
	return g
}

// because adds the lines that a finding rests on.
func (g *Finding) because(f *facts, pick func(l *Line) bool) *Finding {
	const most = 6
	for i := range f.s.Lines {
		if l := &f.s.Lines[i]; pick(l) && len(g.Evidence) < most {
			g.Evidence = append(g.Evidence, l.Text())
		}
	}
	return g
}

func dhcpLine(l *Line) bool {
	return slices.Contains([]string{"discover", "offer", "request", "ack", "nak", "decline"}, l.What)
}

func fileLine(l *Line) bool { return l.What == "tftp" || l.What == "http" || l.What == "begin" }

func (f *facts) refusedAgent() *Finding {
	if f.refused == nil || f.hello != nil && f.hello.End().After(f.refused.End()) {
		return nil
	}
	return f.finding("agent-refused", Failure, "Why", f.refused.Err).because(f, func(l *Line) bool { return l.What == Refused })
}

func (f *facts) refusedScript() *Finding {
	if f.script.IsZero() || f.scriptErr == "" {
		return nil
	}
	return f.finding("script-refused", Failure, "Why", f.scriptErr).because(f, func(l *Line) bool { return l.What == "script" })
}

func (f *facts) sendFailed() *Finding {
	l := f.problems["send"]
	if l == nil || f.reached() > Firmware {
		return nil
	}
	return f.finding("send-failed", Failure).because(f, func(l *Line) bool { return l.Problem == "send" })
}

func (f *facts) noFileForArch() *Finding {
	l := f.problems["arch"]
	if l == nil || f.reached() > Firmware {
		return nil
	}
	return f.finding("architecture", Failure, "Arch", f.archName()).because(f, func(l *Line) bool { return l.Problem == "arch" })
}

func (f *facts) noBootFile() *Finding {
	l := f.problems["file"]
	if l == nil || f.reached() > Firmware {
		return nil
	}
	why, _, _ := strings.Cut(l.Err, "; run ") // what to do is the finding's to say
	return f.finding("no-boot-file", Failure, "Why", why).because(f, func(l *Line) bool { return l.Problem == "file" })
}

func (f *facts) archName() string {
	if n := f.s.Firmware(); n != "" {
		return n
	}
	return strconv.Itoa(f.s.Arch)
}

func (f *facts) poolFull() *Finding {
	if f.problems["pool"] == nil || f.offers > 0 || f.plainOnly {
		return nil
	}
	return f.finding("pool-full", Failure).because(f, func(l *Line) bool { return l.Problem == "pool" })
}

// files in the order in which they are fetched.
func (f *facts) files() []*transfer {
	return []*transfer{&f.loader, &f.grub, &f.config, &f.kernel, &f.initramfs}
}

// brokenOff: the last file was not fetched whole, and nothing came after it.
func (f *facts) brokenOff() *Finding {
	for _, t := range slices.Backward(f.files()) {
		if t.begun.IsZero() {
			continue
		}
		l := t.broken
		if l == nil || t.ended.After(l.Time) || t.open != nil || !f.over(l.End(), loaderWait) && l.N() < 2 || f.arrived() {
			return nil
		}
		id := "http-broken"
		if l.What == "tftp" {
			id = "tftp-broken"
		}
		return f.finding(id, Failure, "File", t.file, "Part", part(l)).because(f, fileLine)
	}
	return nil
}

func part(l *Line) string {
	if l.Size <= 0 {
		return "?"
	}
	return strconv.FormatInt(100*l.Bytes/l.Size, 10) + " %"
}

func (f *facts) slowTransfer() *Finding {
	for _, t := range f.files() {
		if t.open == nil || f.arrived() || !f.over(t.open.Time, transferWait) {
			continue
		}
		return f.finding("transfer-slow", Failure, "File", t.file).because(f, fileLine)
	}
	return nil
}

// handsBack: iPXE in a UEFI network card can't start what its script says, and
// the firmware goes on with its own network boot at once.
func (f *facts) handsBack() bool {
	last := first(f.initramfs.ended, f.kernel.ended, f.script)
	for _, t := range []time.Time{f.kernel.ended, f.initramfs.ended} {
		if t.After(last) {
			last = t
		}
	}
	return f.s.Arch > 0 && !f.ipxe.IsZero() && f.loader.begun.IsZero() && !f.script.IsZero() && f.scriptErr == "" && !f.arrived() &&
		!f.s.Again.IsZero() && f.s.Again.Sub(last) < backTime
}

func (f *facts) handedBack() *Finding {
	if !f.handsBack() {
		return nil
	}
	return f.finding("ipxe-handed-back", Note).because(f, func(l *Line) bool { return l.What == "script" || fileLine(l) })
}

// noHello: kernel and initramfs are there, the agent isn't.
func (f *facts) noHello() *Finding {
	if !f.initramfs.whole() || !f.kernel.whole() || f.hello != nil || f.refused != nil || f.handsBack() {
		return nil
	}
	if f.boots == bootsShell {
		return nil // a person works there, and no agent
	}
	after := func(l *Line) bool { return l.Time.After(f.initramfs.begun) || fileLine(l) && kindOf(l.File) != "" }
	if f.plain.After(f.initramfs.ended) {
		if f.plainAck.IsZero() || f.plainAck.Before(f.initramfs.ended) {
			if !f.over(f.plain, agentWait) {
				return nil
			}
			return f.finding("agent-no-address", Failure).because(f, after)
		}
		if !f.over(f.plainAck, agentWait) {
			return nil
		}
		return f.finding("agent-silent", Failure).because(f, after)
	}
	if !f.over(f.initramfs.ended, helloWait) {
		return nil
	}
	if f.s.Card != "" {
		return f.finding("no-hello-card", Failure, "Card", f.s.Card).because(f, after)
	}
	return f.finding("no-hello", Failure).because(f, after)
}

func (f *facts) noInitramfs() *Finding {
	if !f.kernel.whole() || !f.initramfs.begun.IsZero() || f.arrived() || f.handsBack() || !f.over(f.kernel.ended, kernelWait) {
		return nil
	}
	return f.finding("no-initramfs", Failure).because(f, fileLine)
}

func (f *facts) noKernel() *Finding {
	if f.boots != bootsAgent || !f.kernel.begun.IsZero() || f.arrived() || f.handsBack() || !f.over(f.script, kernelWait) {
		return nil
	}
	return f.finding("no-kernel", Failure).because(f, func(l *Line) bool { return l.What == "script" || fileLine(l) })
}

// diskLoop: it was told to start from its own disk and was back at once.
func (f *facts) diskLoop() *Finding {
	if f.boots != bootsDisk || f.plain.After(f.script) || f.firstBoot != nil || f.handsBack() || f.s.Again.IsZero() || f.s.Again.Sub(f.script) > loopTime {
		return nil
	}
	return f.finding("disk-loop", Failure, "Seconds", strconv.Itoa(int(f.s.Again.Sub(f.script)/time.Second))).
		because(f, func(l *Line) bool { return l.What == "script" })
}

// grubStopped: GRUB is there and its configuration was never asked for.
func (f *facts) grubStopped() *Finding {
	t := f.grub
	if f.whichLoader == "grub" {
		return nil // without a shim it is the first file
	}
	if !f.script.IsZero() || !f.config.begun.IsZero() || f.arrived() {
		return nil
	}
	if f.mok && f.over(f.discover, fileWait) {
		return f.finding("grub-refused", Failure).because(f, fileLine)
	}
	if !t.whole() || !f.over(t.ended, loaderWait) {
		return nil
	}
	return f.finding("grub-refused", Failure).because(f, fileLine)
}

// loaderStopped: the first file was fetched whole and has done nothing.
func (f *facts) loaderStopped() *Finding {
	if !f.loader.whole() || !f.script.IsZero() || !f.grub.begun.IsZero() || !f.config.begun.IsZero() || f.arrived() {
		return nil
	}
	switch f.whichLoader {
	case "shim":
		if !f.over(f.loader.ended, loaderWait) {
			return nil
		}
		if f.afterShim() {
			return f.finding("grub-unasked", Failure).because(f, fileLine)
		}
		return f.finding("shim-refused", Failure, "File", f.loader.file).because(f, fileLine)
	case "grub":
		if !f.over(f.loader.ended, loaderWait) {
			return nil
		}
		return f.finding("grub32-refused", Failure, "File", f.loader.file).because(f, fileLine)
	}
	if f.ipxe.After(f.loader.ended) || !f.over(f.loader.ended, ipxeWait) {
		return nil
	}
	return f.finding("ipxe-silent", Failure, "File", f.loader.file).because(f, fileLine)
}

// afterShim: shim runs, for it asked for something of its own.
func (f *facts) afterShim() bool {
	return slices.ContainsFunc(f.s.Lines, func(l Line) bool {
		return fileLine(&l) && l.Missing && (strings.HasPrefix(l.File, "revocations") || strings.HasPrefix(l.File, "shim_certificate"))
	})
}

// noScript: GRUB has its configuration, or iPXE runs, and the script of this PC
// was never asked for by HTTP.
func (f *facts) noScript() *Finding {
	if !f.script.IsZero() || f.arrived() {
		return nil
	}
	switch {
	case f.config.whole() && f.over(f.config.ended, loaderWait):
		return f.finding("no-script", Failure, "Loader", "GRUB").because(f, fileLine)
	case !f.ipxe.IsZero() && f.over(f.ipxeAck, ipxeWait):
		return f.finding("no-script", Failure, "Loader", "iPXE").because(f, dhcpLine)
	}
	return nil
}

func (f *facts) foreignFile() *Finding {
	if f.foreign == "" || f.reached() > Firmware {
		return nil
	}
	id := "foreign-file"
	if f.s.Mode != "proxy" && f.server == "" {
		id = "foreign-file-full"
	}
	return f.finding(id, Failure, "File", f.foreign).because(f, fileLine)
}

func (f *facts) nakLoop() *Finding {
	if f.naks < 2 || f.reached() > Firmware || f.ack.After(f.discover) {
		return nil
	}
	return f.finding("nak-loop", Failure, "Count", strconv.Itoa(f.naks)).because(f, dhcpLine)
}

// otherServer: on a network that is ours, the PC took another's offer.
func (f *facts) otherServer() *Finding {
	if f.server == "" || f.s.Mode == "proxy" || f.request.After(f.chose) || f.reached() > Firmware || !f.over(f.chose, offerWait) {
		return nil
	}
	return f.finding("other-server", Failure, "Server", f.server).because(f, dhcpLine)
}

// neverAsked: beside another server, the PC took its address and came to nobody
// for a file.
func (f *facts) neverAsked() *Finding {
	if f.server == "" || f.s.Mode != "proxy" || f.reached() > Firmware || !f.over(f.chose, fileWait) {
		return nil
	}
	return f.finding("proxy-not-asked", Failure, "Server", f.server).because(f, dhcpLine)
}

// addressUnused: it has our address and never fetches the file.
func (f *facts) addressUnused() *Finding {
	if f.ack.IsZero() || f.ack.Before(f.offer) || f.server != "" || f.reached() > Firmware || f.foreign != "" || f.plainOnly || f.discovers == 0 || !f.over(f.ack, fileWait) {
		return nil
	}
	return f.finding("file-not-asked", Failure).because(f, dhcpLine)
}

// offerIgnored: it asks again and again, is answered, and takes nothing.
func (f *facts) offerIgnored() *Finding {
	if f.offers < manyDiscovers || f.request.After(f.firstDiscover) || f.chose.After(f.firstDiscover) || f.reached() > Firmware || f.foreign != "" ||
		f.now.Sub(f.firstOffer) < offerWait {
		return nil
	}
	id := "offer-ignored"
	if f.s.Mode == "proxy" {
		id = "proxy-ignored"
	}
	return f.finding(id, Failure, "Count", strconv.Itoa(f.discovers)).because(f, dhcpLine)
}

// unanswered: we said nothing, and no rule above knows why.
func (f *facts) unanswered() *Finding {
	if f.discovers < manyDiscovers || f.offers > 0 || f.requests > 0 || f.reached() > Firmware {
		return nil
	}
	why := ""
	for i := range f.s.Lines {
		if l := &f.s.Lines[i]; l.What == "discover" && l.Via != "" {
			why = cmp.Or(l.Err, why, l.Detail)
		}
	}
	return f.finding("unanswered", Failure, "Why", why).because(f, dhcpLine)
}

func (f *facts) addressTaken() *Finding {
	l := f.problems["taken"]
	if l == nil {
		return nil
	}
	v := Warning
	if f.reached() == Firmware && f.ack.IsZero() && !f.plainOnly && f.over(l.End(), offerWait) {
		v = Failure
	}
	return f.finding("address-taken", v, "IP", l.IP).because(f, func(l *Line) bool { return l.Problem == "taken" })
}

// noDriver comes from the agent, which reached us over another card.
func (f *facts) noDriver() *Finding {
	for i := range f.s.Lines {
		for _, g := range f.s.Lines[i].Gaps {
			return f.finding("card-driver", Warning, "Card", g.ID, "Why", g.Reason).
				because(f, func(l *Line) bool { return len(l.Gaps) > 0 })
		}
	}
	return nil
}

// slowPort: packets were lost before the first one that came, or the agent had
// to wait for its network.
func (f *facts) slowPort() *Finding {
	secs, carrier := f.secs, false
	if f.hello != nil {
		if d := f.hello.Link.Address; d >= slowAddress {
			secs = max(secs, int(d/time.Second))
		}
		if d := f.hello.Link.Carrier; d >= slowCarrier {
			secs, carrier = max(secs, int(d/time.Second)), true
		}
	}
	if secs < slowSecs || f.plainOnly {
		return nil
	}
	id := "slow-port"
	if carrier && f.hello.Link.Address < slowAddress {
		id = "slow-link"
	}
	return f.finding(id, Warning, "Seconds", strconv.Itoa(secs)).
		because(f, func(l *Line) bool { return l.Secs >= slowSecs || l.What == Hello })
}

func (f *facts) flapping() *Finding {
	if f.gap < flapGap || f.reached() > Firmware {
		return nil
	}
	return f.finding("flapping", Warning, "Seconds", strconv.Itoa(int(f.gap/time.Second))).because(f, dhcpLine)
}

func (f *facts) manyRetries() *Finding {
	for _, t := range f.files() {
		if t.tries < manyTries || t.broken == nil {
			continue
		}
		return f.finding("retries", Warning, "File", t.file, "Count", strconv.Itoa(t.tries)).because(f, fileLine)
	}
	return nil
}

func (f *facts) notNetbooting() *Finding {
	if !f.plainOnly {
		return nil
	}
	return f.finding("not-netboot", Note).because(f, dhcpLine)
}

// Text is a line as people read it who know these things.
func (l *Line) Text() string {
	var b strings.Builder
	b.WriteString(l.Time.Local().Format("15:04:05 "))
	add := func(s string) {
		if s != "" {
			b.WriteString(s + " ")
		}
	}
	switch l.What {
	case "begin":
		add("fetches " + l.File)
	case "tftp":
		add("TFTP " + cmp.Or(l.Detail, l.File))
	case "http":
		add("HTTP " + cmp.Or(l.Detail, l.File))
	case Stick:
		add("started from a stick")
		if l.Boots == bootsDisk {
			add("and sent to its own disk")
		}
	case Hello:
		add("hello")
		if l.Number > 0 {
			add(fmt.Sprintf("PC %d", l.Number))
		}
	case Refused:
		add("the agent was turned away")
	case FirstBoot:
		add("the installed system has started")
	case "script":
		add("script " + l.Detail)
	default:
		add(strings.ToUpper(l.What))
		add(l.Detail)
	}
	if l.IP != "" && l.IP != "0.0.0.0" {
		add(l.IP)
	}
	if l.Server != "" {
		add("server " + l.Server)
	}
	if l.Bytes > 0 && fileLine(l) {
		add(strconv.FormatInt(l.Bytes, 10) + " bytes")
	}
	if l.Secs > 0 {
		add("asking for " + strconv.Itoa(l.Secs) + " s")
	}
	for _, g := range l.Gaps {
		add(g.ID + ": " + g.Reason)
	}
	if l.Link.Card != "" {
		add(fmt.Sprintf("%s: cable after %v, address after %v", l.Link.Card, l.Link.Carrier.Round(time.Millisecond), l.Link.Address.Round(time.Millisecond)))
	}
	if l.N() > 1 {
		add(fmt.Sprintf("×%d until %s", l.N(), l.End().Local().Format("15:04:05")))
	}
	if l.Err != "" {
		b.WriteString("— " + l.Err)
	}
	return strings.TrimSpace(b.String())
}
