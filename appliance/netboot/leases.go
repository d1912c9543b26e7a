package netboot

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	maxPool       = 1 << 16          // addresses; a larger pool is cut
	maxLeaseFile  = 64 << 20         // bytes
	offerTime     = time.Minute      // how long an offered address waits for its REQUEST
	quarantine    = 10 * time.Minute // how long an address in use by a stranger is left alone
	leaseFileForm = 1
)

// State of a lease.
const (
	offered  = "offered"
	bound    = "bound"
	released = "released"
	declined = "declined" // in use by somebody who didn't get it from us; no MAC
)

// entry is what is known of one address. Entries outlive their end, so that a
// PC gets its old address again, until another PC needs it.
//
// The MAC is the key, not the client identifier: the firmware, iPXE and the
// installed system of one PC send three different identifiers, and it shall
// keep one address all the way.
type entry struct {
	Addr  netip.Addr `json:"addr"`
	MAC   string     `json:"mac,omitempty"`
	ID    []byte     `json:"client_id,omitempty"` // option 61 of the last packet
	State string     `json:"state"`
	Until time.Time  `json:"until"`
}

func (e *entry) live(now time.Time) bool {
	return e != nil && e.State != released && now.Before(e.Until)
}

// pcAt is a PC on one network: on another one it has another address.
type pcAt struct {
	mac string
	net netip.Prefix
}

// leases is the table of addresses, kept in a file.
type leases struct {
	path     string
	networks []Network    // each with a pool; home is the first
	never    []netip.Addr // inside a pool, but not for PCs
	lease    time.Duration
	log      *slog.Logger

	mu     sync.Mutex
	byPC   map[pcAt]*entry
	byAddr map[netip.Addr]*entry
	relays map[netip.Prefix]netip.Addr // the newest of each network behind one
	virgin map[netip.Prefix]netip.Addr // every address of the network's pool below it is in byAddr
	change uint64                      // counts what the file has to know of

	writing sync.Mutex // one at a time; taken before mu
	written uint64     // the change that the last attempt covered
	failed  error      // and what came of it
}

type leaseFile struct {
	Version int     `json:"version"`
	Leases  []entry `json:"leases"`
}

func openLeases(cfg Config) (*leases, error) {
	l := &leases{
		path:     cfg.LeaseFile,
		networks: append([]Network{cfg.home()}, cfg.Networks...),
		never:    []netip.Addr{cfg.IP},
		lease:    cfg.Lease,
		log:      cfg.Log,
		byPC:     map[pcAt]*entry{},
		byAddr:   map[netip.Addr]*entry{},
		relays:   map[netip.Prefix]netip.Addr{},
		virgin:   map[netip.Prefix]netip.Addr{},
	}
	for i := range l.networks {
		n := &l.networks[i]
		l.never = append(l.never, n.Router, n.Net.Masked().Addr(), last(n.Net))
		l.never = append(l.never, n.DNS...)
		if end := add(n.PoolFrom, maxPool-1); end.IsValid() && end.Less(n.PoolTo) {
			n.PoolTo = end
		}
	}
	for _, n := range l.networks {
		if !slices.ContainsFunc([]netip.Addr{n.PoolFrom, add(n.PoolFrom, 1), add(n.PoolFrom, 2), add(n.PoolFrom, 3), add(n.PoolFrom, 4), n.PoolTo}, func(a netip.Addr) bool { return l.pooledIn(n.Net, a) }) {
			return nil, fmt.Errorf("the pool %v to %v has no address to give: the appliance, the router and the network's own addresses fill it", n.PoolFrom, n.PoolTo)
		}
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return nil, fmt.Errorf("folder of the leases: %w", err)
	}
	err := l.load(time.Now())
	var bad *corrupt
	if errors.As(err, &bad) {
		aside := l.path + ".broken"
		if err := os.Rename(l.path, aside); err != nil {
			return nil, fmt.Errorf("the lease file can't be read (%v) nor moved aside: %w", bad, err)
		}
		l.log.Warn("the lease file can't be read and was moved aside; PCs keep the addresses they have and may get others at their next start",
			"file", l.path, "moved to", aside, "err", bad)
		clear(l.byPC)
		clear(l.byAddr)
		clear(l.virgin)
		return l, nil
	}
	return l, err
}

type corrupt struct{ error }

func (l *leases) load(now time.Time) error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLeaseFile+1))
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	var file leaseFile
	switch err := json.Unmarshal(b, &file); {
	case len(b) > maxLeaseFile:
		return &corrupt{fmt.Errorf("more than %d bytes", maxLeaseFile)}
	case err != nil:
		return &corrupt{err}
	case file.Version != leaseFileForm:
		return &corrupt{fmt.Errorf("version %d, want %d", file.Version, leaseFileForm)}
	}
	for i := range file.Leases {
		e := &file.Leases[i]
		mac := parseMAC(e.MAC)
		if !l.pooled(e.Addr) || l.byAddr[e.Addr] != nil || l.byPC[l.key(mac, e.Addr)] != nil || (mac == "") != (e.State == declined) {
			continue // the pool was changed, or the file was edited
		}
		// A clock that was ahead must not lock an address up for years.
		if most := now.Add(max(l.lease, quarantine)); e.Until.After(most) {
			e.Until = most
		}
		e.MAC = mac
		l.put(e)
	}
	return nil
}

// commit returns when a change, or a later state of the table, is in the file.
// Who comes while the file is written waits for the next writing, which is one
// for all of them: a room full of PCs that are switched on at once costs two or
// three, not one each.
func (l *leases) commit(change uint64) error {
	if change == 0 {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if change > l.written {
		l.mu.Lock()
		l.written = l.change
		kept := make([]entry, 0, len(l.byAddr))
		for _, e := range l.byAddr {
			if e.State != offered { // not worth it
				kept = append(kept, *e)
			}
		}
		l.mu.Unlock()
		l.failed = l.save(kept)
	}
	if l.failed != nil {
		return fmt.Errorf("the lease file was not written, addresses will be lost with a restart: %w (is the disk full?)", l.failed)
	}
	return nil
}

// save writes the file anew.
func (l *leases) save(kept []entry) error {
	file := leaseFile{Version: leaseFileForm, Leases: kept}
	slices.SortFunc(file.Leases, func(a, b entry) int { return a.Addr.Compare(b.Addr) })
	b, err := json.MarshalIndent(file, "", " ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(l.path)
	f, err := os.CreateTemp(dir, ".leases-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), l.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// view is what Decide may know. wanted is the address that the client names,
// if any; on is the network that it is on, not valid where none is set up.
func (l *leases) view(mac string, wanted netip.Addr, on netip.Prefix, now time.Time) View {
	var v View
	e := l.byPC[pcAt{mac, on}]
	if e.live(now) {
		v.Held = e.Addr
	}
	v.Grant = l.pooledIn(on, wanted) && l.free(wanted, mac, now)
	switch {
	case e != nil && l.pooledIn(on, e.Addr):
		v.Next = e.Addr
	case l.pooledIn(on, wanted) && l.byAddr[wanted] == nil:
		v.Next = wanted
	default:
		v.Next = l.next(on, now)
	}
	return v
}

func (l *leases) free(a netip.Addr, mac string, now time.Time) bool {
	e := l.byAddr[a]
	return e == nil || !e.live(now) || mac != "" && e.MAC == mac
}

// next is an address for a newcomer: one that nobody ever had, else the one
// that has been unused for longest.
func (l *leases) next(on netip.Prefix, now time.Time) netip.Addr {
	n := l.network(on)
	a, ok := l.virgin[on]
	if !ok {
		a = n.PoolFrom
	}
	for ; a.IsValid() && a.Compare(n.PoolTo) <= 0; a = a.Next() {
		if l.byAddr[a] == nil && l.pooled(a) {
			l.virgin[on] = a
			return a
		}
	}
	if a.IsValid() {
		l.virgin[on] = a
	}
	var oldest *entry
	for _, e := range l.byAddr {
		if l.pooledIn(on, e.Addr) && !e.live(now) && (oldest == nil || e.Until.Before(oldest.Until) || e.Until.Equal(oldest.Until) && e.Addr.Less(oldest.Addr)) {
			oldest = e
		}
	}
	if oldest == nil {
		return netip.Addr{}
	}
	return oldest.Addr
}

// pooled: an address that PCs may get.
func (l *leases) pooled(a netip.Addr) bool {
	return slices.ContainsFunc(l.networks, func(n Network) bool { return l.pooledIn(n.Net, a) })
}

// pooledIn: on one network.
func (l *leases) pooledIn(on netip.Prefix, a netip.Addr) bool {
	n := l.network(on)
	return a.IsValid() && n.PoolFrom.IsValid() && a.Compare(n.PoolFrom) >= 0 && a.Compare(n.PoolTo) <= 0 && a != l.relays[on] && !slices.Contains(l.never, a)
}

// relay keeps the relay of a network behind one, and gives it again: renewals
// come without. It has one of the network's addresses itself. Anybody can write
// one into a packet: it counts when the packet came from there, or from the router
// that leads there, and when no PC has that address.
func (l *leases) relay(on netip.Prefix, relay, from netip.Addr, now time.Time) netip.Addr {
	if on == l.networks[0].Net || !relay.IsValid() || !on.IsValid() || !on.Contains(relay) || relay == l.relays[on] {
		return l.relays[on]
	}
	e := l.byAddr[relay]
	if from.IsValid() && (from == relay || from == l.network(on).Via) && !(e.live(now) && e.MAC != "") {
		l.relays[on] = relay
	}
	return l.relays[on]
}

func (l *leases) network(on netip.Prefix) Network {
	for _, n := range l.networks {
		if n.Net == on {
			return n
		}
	}
	return Network{}
}

// key is a PC where an address belongs.
func (l *leases) key(mac string, a netip.Addr) pcAt {
	for _, n := range l.networks {
		if n.Net.Contains(a) {
			return pcAt{mac, n.Net}
		}
	}
	return pcAt{mac: mac}
}

// apply does to the table what a decision says. What it returns has to be
// committed, without mu, before a PC is told of it; 0 has not.
func (l *leases) apply(d Decision, id []byte, now time.Time) (change uint64) {
	mac := d.Client.MAC
	switch d.Act {
	case Offer:
		if e := l.byPC[l.key(mac, d.Addr)]; e.live(now) && e.Addr == d.Addr {
			return 0 // an offer takes nothing away
		}
		l.put(&entry{Addr: d.Addr, MAC: mac, ID: id, State: offered, Until: now.Add(offerTime)})
		return 0
	case Bind:
		l.put(&entry{Addr: d.Addr, MAC: mac, ID: id, State: bound, Until: now.Add(l.lease)})
	case Release:
		e := l.byPC[l.key(mac, d.Addr)]
		if e == nil || e.Addr != d.Addr {
			return 0
		}
		if e.State == offered {
			l.drop(e)
			return 0
		}
		e.State, e.Until = released, now
	case Quarantine:
		l.put(&entry{Addr: d.Addr, State: declined, Until: now.Add(quarantine)})
	default:
		return 0
	}
	l.change++
	return l.change
}

func (l *leases) put(e *entry) {
	on := l.key("", e.Addr).net
	virgin, ok := l.virgin[on]
	l.drop(l.byAddr[e.Addr])
	if ok {
		l.virgin[on] = virgin // the address is taken again at once
	}
	if e.MAC != "" {
		k := l.key(e.MAC, e.Addr)
		l.drop(l.byPC[k])
		l.byPC[k] = e
	}
	l.byAddr[e.Addr] = e
}

func (l *leases) drop(e *entry) {
	if e == nil {
		return
	}
	delete(l.byAddr, e.Addr)
	if on := l.key("", e.Addr).net; e.Addr.Less(l.virgin[on]) {
		l.virgin[on] = e.Addr
	}
	if e.MAC != "" {
		delete(l.byPC, l.key(e.MAC, e.Addr))
	}
}

// holder is the MAC that an address was last given to, or "".
func (l *leases) holder(a netip.Addr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byAddr[a.Unmap()]; e != nil {
		return e.MAC
	}
	return ""
}

// add is a+n, or invalid past the end.
func add(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	v := uint64(binary.BigEndian.Uint32(b[:])) + uint64(n)
	if v > 0xffffffff {
		return netip.Addr{}
	}
	binary.BigEndian.PutUint32(b[:], uint32(v))
	return netip.AddrFrom4(b)
}

// last is the broadcast address of a network.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | uint32(1<<(32-p.Bits())-1)
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}
