// Package relay decides who gets an image's frames from whom, so that a batch
// of PCs takes hardly longer than one of them, and the appliance sends each
// frame about once.
//
// It is pure: no I/O, no goroutines and no clock of its own. A PC says twice a
// second how it is (Status) and is told what to do (Order). What was said is
// kept as facts; everything else is computed from them.
//
// # The line
//
// The members of one image stand in a line, and a PC's source stands before it.
// The line is a row of blocks, one per class of link speed, the fast before the
// slow; then those that can't serve; then those that are slow. Inside a block
// who came first stands first (who found much on its disk stands behind: it has
// little to pass on). The first ChainMax of a block make a chain; those beyond
// stand in two trees, in pairs:
//
//	chain   head ─▶ … ─▶ end ─┬─▶ a0   stripe 0: a0 ─▶ a1, a2 …, then the b's as leaves
//	                          └─▶ b0   stripe 1: b0 ─▶ b1, b2 …, then the a's as leaves
//
// Each a has two children in the first tree and is a leaf of the second, each b
// the other way round: nobody sends more than it receives. One more pair changes
// the sources of few. Who leaves a chain lets it close up; who
// leaves a tree is replaced by the tree's last, so the others keep their places.
//
// Whoever is of a slower class than its source, can't serve or is slow gets its
// frames from a source that doesn't wait for it (Source.Patient).
//
// # The depot
//
// Who needs the appliance: a PC that lacks frames and has no source, or whose
// sources have nothing more for it. The first of these in the line gets it, and
// one more if that one is slow (at most MaxDepot), or up to MaxFew if each lacks
// only a few frames. When nobody needs it, whoever missed most fetches that
// already. The rest wait, and Order.Why says so. When it passes on to
// PCs that missed the beginning, these stand in line anew, who lacks most first,
// so that one stream serves them all.
//
// # Facts against a member
//
//   - silence: no Status for Config.Silent, or for 1.5 s and a complaint: out of
//     the line until it is heard of again. Seconds in which nobody at all was
//     heard of are the network's, not the members'.
//   - one PC complains twice in 10 s: never again that PC's source.
//   - two PCs complain in 10 s: behind the others of its lane; again: nobody's source.
//   - damaged frames: nobody's source, named in View. Not when it complained of
//     the same frame itself. Who accuses two different PCs is named in their place.
//   - slowness: to the end of the line, at most once in 10 s (see slow.go).
//
// Only a source of the last 10 s can be complained of.
package relay

import (
	"crypto/rand"
	"slices"
	"time"
)

const (
	MaxMembers = 4096 // of all images together
	MaxTrouble = 16   // of one Status
	MaxDepot   = 2    // PCs of one image that fetch much from the appliance at once
	MaxFew     = 8    // the same, when each lacks at most few frames
	MaxTried   = 3    // heads in a row that are moved because they get little from the appliance

	few      = 4
	maxText  = 128                     // bytes of an ID or an image root
	maxURL   = 256                     // bytes
	doubtful = 1500 * time.Millisecond // not heard of for so long, and somebody complains
	memory   = 10 * time.Second        // how long a complaint counts; nobody moves twice in it
	sweep    = 250 * time.Millisecond
)

// Config may be empty.
type Config struct {
	Silent   time.Duration // a member not heard of for so long is gone; 0: 5 s
	ChainMax int           // members in one chain; those beyond stand in trees; 0: 64
	Linger   time.Duration // how long a PC that is done serves others; 0: 60 s
	Key      func() string // of a new member; nil: random
}

// Status is what one PC says of itself.
type Status struct {
	ID      string // of its job
	Image   string // root; only PCs of one image share
	URL     string // where it serves; empty: it can't
	Serial  int64  // of the Order that it follows; 0: none
	Mbit    int    // of its link; 0: unknown
	Frames  int    // that the image has and that aren't zero
	Have    int    // received and checked, or found on the disk
	Missing int    // neither here nor promised by a source
	Backlog int    // percent of its memory that waits for the disk
	Rate    int64  // compressed bytes per second received
	Done    bool   // wants nothing more
	Trouble []Trouble
}

// Trouble is what a PC had with a source since its last Status.
type Trouble struct {
	Source string // ID; empty: the appliance
	Kind   Kind
	Frame  int // with Corrupt
}

type Kind string

const (
	Silent  Kind = "silent"  // not even a sign of life
	Refused Kind = "refused" // can't be reached, or doesn't serve this PC
	Corrupt Kind = "corrupt" // called a frame good that wasn't
)

// Order says where a PC gets its frames from.
type Order struct {
	Serial  int64    // grows when anything else here changes
	Sources []Source // one per stripe, or none: frame i comes from Sources[i%len(Sources)]
	Depot   bool     // fetch what no source promises from the appliance
	Key     string   // who shows it is served by this PC
	Stay    bool     // others still profit from this PC
	Why     string   // what it waits for, one sentence for a volunteer
}

// Source is a PC that passes frames on.
type Source struct {
	ID, URL, Key string
	Patient      bool // it doesn't wait for this PC
}

// Relay is for one goroutine at a time.
type Relay struct {
	cfg     Config
	images  map[string]*image
	members map[string]*member
	heard   time.Time // the last Update of anybody
}

// image is the members that want the same bytes.
type image struct {
	cfg     *Config
	root    string
	members map[string]*member
	blocks  []*block // the line, in order
	seq     int      // of the last join
	swept   time.Time
	best    int64             // the fastest Rate that anybody reported
	probed  float64           // frames per second of the last one moved without proof
	tried   []*member         // heads that were moved because they got little from the appliance
	tries   int               // how many in a row; MaxTried: that is nobody's doing
	guilty  map[string]string // ID → why it is nobody's source, beyond its membership
	stale   bool              // the line changed: assign again
	due     bool              // somebody needs something else than before
	pending []accusation
}

// member is one PC: what it said last, and the facts about it.
type member struct {
	Status
	key   string
	seq   int
	heard time.Time // of its last Status; moved on by pauses that weren't its fault
	grace time.Duration
	found int // frames it had when it joined
	most  int // frames it ever had: what comes and goes is no progress

	block    *block // nil: out of the line
	lane     lane
	lost     bool      // out of the line until it is heard of
	retired  bool      // done, and nobody profits from it
	struck   bool      // two PCs complained of it before
	thin     time.Time // since when it, the head, gets little from the appliance
	got      float64   // bytes per second that it got when it was moved for that
	hopped   bool      // its source was moved because it got little
	slowed   []*member // who was moved because it got little from this one, the head; at most two
	mute     string
	slow     string
	moved    time.Time
	doneAt   time.Time
	undone   time.Time // when it last was no longer done
	progress time.Time // when it had more than ever, or it got its sources
	samples  [ring]sample
	taken    int       // samples so far
	follows  float64   // frames per second that its disk surely follows
	shown    time.Time // when
	held     time.Time // when one behind it had its memory full
	peak     int64     // bytes per second, the most it ever received

	up      []*member // computed: one per stripe, or none
	was     []*member // up, while it is computed again
	down    []*member // computed: whose source it is
	patient bool
	since   time.Time // when up changed
	told    int64     // the Order.Serial that named up first
	depot   bool
	waiting bool // for a turn at the appliance, its own or that of one before it
	crawls  bool // holds the depot, far slower than others could
	order   Order
	past    map[string]time.Time // former sources → until when
	avoid   map[string]bool      // never its source
	blamed  map[string]time.Time // by whom it was complained of → when first
	accused map[string]bool      // whom it accused of damage
}

// New makes an empty relay.
func New(c Config) *Relay {
	if c.Silent <= 0 {
		c.Silent = 5 * time.Second
	}
	if c.ChainMax <= 0 {
		// By the simulator: of 64 in a chain the last is 2.7 % late, and of 200 PCs
		// that start at once 1.033 times as late as one; with 32 in the chain
		// it is 1.083, as more of them change their sources in the first second.
		c.ChainMax = 64
	}
	if c.Linger <= 0 {
		c.Linger = time.Minute
	}
	if c.Key == nil {
		c.Key = rand.Text
	}
	return &Relay{cfg: c, images: map[string]*image{}, members: map[string]*member{}}
}

// Update takes one PC's status and gives its order. A PC that was unknown joins.
// now never goes back by more than clocks do: an earlier time counts as the last.
func (r *Relay) Update(now time.Time, s Status) Order {
	if s.ID == "" || len(s.ID) > maxText || s.Image == "" || len(s.Image) > maxText {
		return Order{Serial: s.Serial, Why: "The appliance doesn't understand what this PC says of itself. Restart the PC."}
	}
	now = r.pause(now)
	s = bounded(s)
	m := r.members[s.ID]
	if m != nil && m.Image != s.Image {
		r.forget(m)
		m = nil
	}
	if m == nil {
		if len(r.members) >= MaxMembers {
			return Order{Serial: s.Serial, Why: "More PCs are being written than this appliance can lead. This one waits until another is done."}
		}
		m = r.join(now, s)
	}
	im := r.images[m.Image]
	im.hear(now, m, s)
	for _, t := range s.Trouble {
		im.complain(now, m, t)
	}
	if now.Sub(im.swept) >= sweep {
		im.swept, im.due = now, true
		for _, o := range im.all() {
			if o != m && now.Sub(o.heard) >= r.cfg.Silent {
				r.forget(o)
			}
		}
		im.judge(now)
	}
	im.settle(now)
	return im.tell(now, m)
}

// Leave forgets a PC whose job ended.
func (r *Relay) Leave(now time.Time, id string) {
	if m := r.members[id]; m != nil {
		im := r.images[m.Image]
		r.forget(m)
		im.settle(r.pause(now))
	}
}

// pause sees to it that a time in which nobody was heard of counts against
// nobody, and gives the time that counts as now.
func (r *Relay) pause(now time.Time) time.Time {
	if r.heard.IsZero() {
		r.heard = now
	}
	if now.Before(r.heard) {
		return r.heard
	}
	if gap := now.Sub(r.heard); gap > 1500*time.Millisecond {
		for _, m := range r.members {
			d := min(gap, r.cfg.Silent-m.grace) // bounded, or a last survivor's dead would live on
			m.grace += d
			m.heard = m.heard.Add(d)
		}
	}
	r.heard = now
	return now
}

func bounded(s Status) Status {
	if len(s.URL) > maxURL {
		s.URL = ""
	}
	s.Frames = min(max(s.Frames, 0), 1<<24)
	s.Have = min(max(s.Have, 0), s.Frames)
	s.Missing = min(max(s.Missing, 0), s.Frames-s.Have)
	s.Backlog = min(max(s.Backlog, 0), 100)
	s.Rate = max(s.Rate, 0)
	s.Serial = min(max(s.Serial, 0), 1<<60)
	s.Trouble = slices.Clone(s.Trouble[:min(len(s.Trouble), MaxTrouble)])
	return s
}

func (r *Relay) join(now time.Time, s Status) *member {
	im := r.images[s.Image]
	if im == nil {
		im = &image{cfg: &r.cfg, root: s.Image, members: map[string]*member{}, guilty: map[string]string{}}
		r.images[s.Image] = im
	}
	im.seq++
	m := &member{
		Status: s, key: r.cfg.Key(), seq: im.seq, found: s.Have, most: s.Have, progress: now, mute: im.guilty[s.ID],
		past: map[string]time.Time{}, avoid: map[string]bool{}, blamed: map[string]time.Time{}, accused: map[string]bool{},
	}
	m.order.Serial = s.Serial // an appliance that was restarted must not count anew
	r.members[s.ID], im.members[s.ID] = m, m
	return m
}

// hear takes in what m says.
func (im *image) hear(now time.Time, m *member, s Status) {
	if s.Have > m.most {
		m.most, m.progress = s.Have, now
	}
	before := m.want(now)
	if !m.undone.IsZero() && now.Sub(m.undone) < memory {
		s.Done = s.Done || m.Done // or it could leave and come back with every word
	}
	m.Status, m.heard, m.grace = s, now, 0
	im.due = im.due || m.want(now) != before
	m.sample(now)
	if s.Backlog > full {
		m.holds(now)
	}
	im.best = max(im.best, s.Rate)
	if m.URL == "" && m.mute == "" {
		m.mute, im.stale = "it can't serve others", true
	}
	switch {
	case s.Done && m.doneAt.IsZero():
		m.doneAt = now
	case !s.Done && !m.doneAt.IsZero(): // read back, and something was not right
		m.doneAt, m.retired, m.undone, m.progress = time.Time{}, false, now, now
	}
	m.lost = false
	if m.block == nil && !m.retired {
		im.place(m)
	} else if m.block != nil && m.mute != "" && m.lane > laneMute {
		im.place(m)
	}
}

func (r *Relay) forget(m *member) {
	im := r.images[m.Image]
	im.remove(m)
	delete(r.members, m.ID)
	delete(im.members, m.ID)
	if len(im.members) == 0 {
		delete(r.images, im.root)
	}
}

// all members in the order in which they joined: maps have none, and the same
// events must give the same orders.
func (im *image) all() []*member {
	all := make([]*member, 0, len(im.members))
	for _, m := range im.members {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *member) int { return a.seq - b.seq })
	return all
}

// lacks is the number of frames that m doesn't have.
func (m *member) lacks() int {
	if m.Done {
		return 0
	}
	return m.Frames - m.Have
}

func (m *member) serves() bool {
	return m.mute == "" && m.URL != "" && !m.lost && !m.retired
}

// tell is m's order. Its serial grows with its content.
func (im *image) tell(now time.Time, m *member) Order {
	o := Order{Serial: m.order.Serial, Depot: m.depot, Key: m.key, Stay: im.stays(m, now), Why: im.why(m, now)}
	for _, u := range m.up {
		o.Sources = append(o.Sources, Source{ID: u.ID, URL: u.URL, Key: u.key, Patient: m.patient})
	}
	resourced := !slices.Equal(o.Sources, m.order.Sources)
	if resourced || o.Depot != m.order.Depot || o.Key != m.order.Key || o.Stay != m.order.Stay || o.Why != m.order.Why {
		o.Serial++
	}
	if resourced {
		m.told = o.Serial
	}
	m.order = o
	o.Sources = slices.Clone(o.Sources)
	return o
}
