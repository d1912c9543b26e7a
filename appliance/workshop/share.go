package workshop

import (
	"context"
	"reflect"
	"sync"
	"time"
)

// stayFor is how long a PC whose disk is proved may stay for others.
const stayFor = 2 * time.Minute

// Sharer is a PC that may be passed frames and pass them on.
type Sharer struct {
	Job, Device string
	Number      int
	Image       string // root
	Frames      int    // of the image, those of zeroes included
	Done        bool   // its disk is proved: it may only stay for others

	until     time.Time // with Done
	key       ClaimKey
	claimable bool
	claims    int // bytes that its claims may have
}

// sharing is what a PC's word about frames is held against. It has a lock of its
// own, which is taken after the registry's if both are: PCs that share must not
// fall silent to each other while a decision is being stored.
type sharing struct {
	mu      sync.Mutex
	byToken map[string]*Sharer // by token hash; replaced, never changed
	claims  map[ClaimKey]*Claim
	fresh   map[ClaimKey]bool // not stored yet
}

// Sharer finds who sends a Share: a PC whose job is writing or reading back, or
// was proved a moment ago. It decides nothing and stores nothing.
func (r *Registry) Sharer(token string) (*Sharer, error) {
	r.sharing.mu.Lock()
	s := r.sharing.byToken[hashToken(token)]
	r.sharing.mu.Unlock()
	now := r.cfg.Now()
	if s != nil && (!s.Done || now.Before(s.until)) {
		return s, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.boot(token, now); err != nil {
		return nil, err
	}
	return nil, &Refusal{Kind: Conflict, Message: "This PC is not being imaged", Next: "Stop sharing"}
}

// Ended returns those of the jobs that share no more: nobody is to wait for what
// their PCs have. One that is lost may come back with its next word, and whether
// it still speaks to the others is not known here.
func (r *Registry) Ended(jobs []string) (ended []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Now()
	for _, id := range jobs {
		j := r.jobs[id]
		if j != nil && r.newest(j.Device) == j {
			switch stood := j.stood(); {
			case j.Erase != nil:
			case stood == Approved || stood == Imaging || stood == Verifying:
				continue
			case stood == Verified:
				if now.Before(j.Changed.Add(stayFor)) {
					continue
				}
			}
		}
		ended = append(ended, id)
	}
	return ended
}

// applySharing notes which PCs may share after a change. A job that is lost still
// may: whoever speaks is not lost, and its next word takes the job up again.
func (r *Registry) applySharing(c Change) {
	s := &r.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range c.Forget {
		delete(s.byToken, token)
	}
	for _, v := range c.Jobs {
		all := r.history[v.Device]
		for _, id := range all[max(0, len(all)-2):] { // a new job ends the turn of the one before
			j := r.jobs[id]
			token := r.byBoot[j.Boot]
			if token == "" {
				continue
			}
			delete(s.byToken, token)
			switch state := j.stood(); {
			case r.newest(j.Device) != j || j.Erase != nil:
			// The first frames are wanted before the first write.
			case state == Approved || state == Imaging || state == Verifying || state == Verified:
				v := &Sharer{
					Job: j.ID, Device: j.Device, Number: r.devices[j.Device].Number, Image: j.Image,
					Done: state == Verified, until: j.Changed.Add(stayFor),
				}
				v.Frames, v.claims = framesOf(j.Bytes)
				v.key, v.claimable = j.claimKey()
				v.claimable = v.claimable && state != Approved
				s.byToken[token] = v
			}
		}
	}
}

// Flow is from where a PC gets its frames and to whom it passes them on, as told
// by whoever arranges it. It is only shown: no decision rests on it.
type Flow struct {
	Appliance bool   `json:"from_appliance,omitempty"`
	From      []int  `json:"from,omitempty"` // numbers of the PCs
	To        []int  `json:"to,omitempty"`
	After     int    `json:"after,omitempty"` // it waits while the PC of this number is served first
	Place     int    `json:"place,omitempty"` // in line, from 1
	Of        int    `json:"of,omitempty"`    // PCs in its line
	Slow      string `json:"slow,omitempty"`  // why it was put at the end of the line
}

// Arranged shows how frames flow now, by job. Who isn't named shares nothing.
func (r *Registry) Arranged(flows map[string]Flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := map[string]*Flow{}
	for id, f := range flows {
		if j := r.jobs[id]; j != nil && r.newest(j.Device) == j {
			now[j.Device] = &f
		}
	}
	for device := range r.flowing {
		if now[device] == nil {
			delete(r.flowing, device)
			r.at(device).flow = nil
			r.touch(device, false)
		}
	}
	for device, f := range now {
		r.flowing[device] = true
		if p := r.at(device); p.flow == nil || !reflect.DeepEqual(*p.flow, *f) {
			p.flow = f
			r.touch(device, false)
		}
	}
}

// Suspect writes down why a PC is taken to pass damaged frames on, once; or, with
// no reason, that it was somebody else. A suspected PC stays marked until its
// next job: somebody has to look at its memory.
func (r *Registry) Suspect(ctx context.Context, job, why string) error {
	return r.decide(ctx, func(d *draft) error {
		j := r.jobs[job]
		if j == nil || j.Suspected == (why != "") {
			return nil
		}
		v := d.job(job)
		v.Suspected = why != ""
		line := Event{Device: v.Device, Job: v.ID, Kind: "suspected", Actor: "appliance", Reason: why, Params: map[string]string{"boot": v.Boot, "image": v.Image}}
		if why == "" {
			line.Kind, line.Reason = "cleared", "Another PC was the culprit"
		}
		d.event(line)
		return nil
	})
}
