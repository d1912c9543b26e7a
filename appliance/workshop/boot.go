package workshop

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"time"

	"refurb/agent/wire"
)

func hashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// checkinToken comes from the boot token and the job, so that every plan of a
// job carries the same one and yet nothing secret is kept here.
func checkinToken(token, job string) string {
	m := hmac.New(sha256.New, []byte(token))
	m.Write([]byte("refurb check-in " + job))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// Start is what is known of a PC that asks for its boot script.
type Start struct {
	MAC   string    // the interface it starts from
	UUID  string    // may be empty
	Since time.Time // when it last asked the network for an address; zero: not seen
	IPXE  bool      // iPXE asks, and not GRUB
	Stick bool      // it came from a stick, which carries no memory test
}

// StartKind is what a PC starts.
type StartKind string

const (
	StartAgent  StartKind = "agent"
	StartDisk   StartKind = "local"   // its own disk
	StartShell  StartKind = "shell"   // the rescue shell, without an agent
	StartMemory StartKind = "memtest" // the memory test
)

// Boot answers a PC that asks for its boot script: what it starts and, if that is
// the agent, a token for this start. Nothing is known of the asker but what it
// says, so a boot changes no job; it spends what was chosen for the next start.
func (r *Registry) Boot(ctx context.Context, s Start) (kind StartKind, token string, err error) {
	hw, err := net.ParseMAC(s.MAC)
	if err != nil || len(hw) != 6 {
		return "", "", &Refusal{Kind: Invalid, Message: "“" + Text(s.MAC) + "” is no network address"}
	}
	s.MAC, s.UUID = hw.String(), strings.ToLower(Text(s.UUID))
	err = r.decide(ctx, func(d *draft) error {
		if v := r.recognise(s.MAC, s.UUID); v != nil {
			if kind = d.rescue(v, s); kind != "" {
				return nil
			}
			if j := r.newest(v.ID); j != nil && !j.State.Live() && !v.Again && !v.Wait && !r.looksAgain(v, s, d.now) {
				kind = StartDisk
				return nil
			}
		} else if r.home(s, d.now) {
			kind = StartDisk
			return nil
		}
		if !r.scripts.AllowN(d.now, 1) {
			return &Refusal{Kind: Busy, Message: "Too many PCs ask for a boot script at once", Next: "Start the PC again in a minute"}
		}
		var b [32]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		kind, token = StartAgent, base64.RawURLEncoding.EncodeToString(b[:])
		d.makeRoom(s.MAC)
		d.boots = append(d.boots, &Boot{TokenHash: hashToken(token), MAC: s.MAC, Issued: d.now})
		return nil
	})
	if err != nil {
		return "", "", err
	}
	return kind, token, nil
}

// StickBoot answers a PC that was started from a stick as Boot does. A stick with
// an older key for images would only fail later, and less plainly.
func (r *Registry) StickBoot(ctx context.Context, ask wire.BootAsk) (wire.BootAnswer, error) {
	if key := r.cfg.Key; key != nil && ask.Key != base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)) {
		return wire.BootAnswer{}, &Refusal{Kind: Conflict, Message: "This stick carries another key for images than this appliance signs with",
			Next: "Make a new stick: sudo build/refurb payload usb"}
	}
	kind, token, err := r.Boot(ctx, Start{MAC: ask.MAC, UUID: ask.UUID, Stick: true})
	return wire.BootAnswer{Local: kind == StartDisk, Shell: kind == StartShell, Token: token}, err
}

// recognise finds the device that starts, or nil if in doubt: then the agent
// starts and says more. A wrong answer here would send a PC that nobody has seen
// to its donor's disk, so each way asks for more than one word.
func (r *Registry) recognise(mac, uuid string) *Device {
	if mac = cleanMAC(mac); mac == "" {
		return nil
	}
	if nodeOf(uuid) == mac {
		uuid = "" // made of the address by the card's ROM: no second word
	}
	plain := plainUUID(uuid)
	if one := r.only("mac " + mac); one != nil {
		for _, v := range r.group(one.ID) {
			// What firmware says of itself stays the same even where it is a filler.
			if theirs := plainUUID(v.Report.Identity.UUID); slices.Contains(v.MACs, mac) && (plain == "" || plain == theirs || theirs == "" && saidUUID(v, uuid)) {
				return one
			}
		}
		return nil
	}
	// A USB network card goes from PC to PC. One that starts from it is known by its
	// UUID, if it has been seen with this card before; and only where its maker has
	// filled in a serial number as well: else another board may have that UUID, too.
	// Such a one may get home all the same: see goodbye.
	one := r.only("uuid " + plain)
	if plain == "" || one == nil {
		return nil
	}
	for _, v := range r.group(one.ID) {
		if id := identityOf(&v.Report, nil); id.uuid == plain && (id.system != "" || id.board != "") && hasCard(&v.Report, mac) {
			return one
		}
	}
	return nil
}

// hasCard reports whether a PC has shown this network card, its own or not.
func hasCard(rep *wire.Report, mac string) bool {
	return slices.ContainsFunc(rep.NICs, func(n wire.NIC) bool { return cleanMAC(n.MAC) == mac || cleanMAC(n.Permanent) == mac })
}

// saidUUID reports whether a device has given this UUID, in either byte order, or
// none at all.
func saidUUID(v *Device, uuid string) bool {
	theirs := strings.ToLower(strings.TrimSpace(v.Report.Identity.UUID))
	return theirs == "" || theirs == uuid || theirs == swapUUID(uuid)
}

// swapUUID turns the byte order of the first three fields round; "" if it is none.
func swapUUID(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return ""
	}
	b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7] = b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// inUse reports whether a boot belongs to a job that may still go on.
func (r *Registry) inUse(b *Boot) bool {
	j := r.newest(b.Device)
	return j != nil && b.BootID != "" && j.Boot == b.BootID && j.State.Live()
}

func (r *Registry) expired(b *Boot, now time.Time) bool {
	return now.Sub(b.Issued) > tokenLife && !r.inUse(b)
}

// makeRoom forgets boots so that one more for mac stays within the bounds.
func (d *draft) makeRoom(mac string) {
	r := d.r
	own := r.byMAC[mac]
	for _, h := range own {
		if len(own) < perMAC {
			break
		}
		if !r.inUse(r.boots[h]) {
			d.forget = append(d.forget, h)
			own = own[1:]
		}
	}
	if len(r.boots)-len(d.forget) < maxBoots {
		return
	}
	var oldest *Boot
	for _, b := range r.boots {
		if (oldest == nil || b.Issued.Before(oldest.Issued)) && !r.inUse(b) {
			oldest = b
		}
	}
	if oldest != nil {
		d.forget = append(d.forget, oldest.TokenHash)
	}
}
