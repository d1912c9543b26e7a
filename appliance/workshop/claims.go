package workshop

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

const (
	claimsEvery   = 5 * time.Second // between two times that claims are stored
	maxClaims     = 10_000          // disks and images that claims are kept for
	maxClaimBytes = 64 << 20        // of all of them: a desktop's have some 400
)

// ClaimKey names a disk and the image that was being written to it. The PC that
// holds the disk doesn't matter: a disk may move to another one.
type ClaimKey struct {
	Serial, WWN, Model string
	Bytes              int64
	Image              string // root
}

// Claim is what a PC says it has written of an image to a disk, kept in case it
// is cut off. It saves fetching, it proves nothing: the next attempt reads the
// frames from the disk and hashes them before it counts on them.
type Claim struct {
	ClaimKey
	Frames []byte // bit i%8 of byte i/8: frame i; never changed, only replaced
	At     time.Time
}

// claimKey is where the claims of a job are kept. It rests on the approval, not
// on what the PC says. A disk that its serial and WWN don't tell from another one
// gets none. A job that erases has none either: its key names no image.
func (j *Job) claimKey() (ClaimKey, bool) {
	if j.Approval == nil || j.Image == "" && j.Erase == nil {
		return ClaimKey{}, false
	}
	d := j.Approval.Disk
	return ClaimKey{Serial: d.Serial, WWN: d.WWN, Model: d.Model, Bytes: d.Bytes, Image: j.Image}, (d.Serial != "" || d.WWN != "") && !j.Approval.ByPath
}

// framesOf is how many frames an image of so many bytes has, and how many bytes
// the claims on it may have.
func framesOf(bytes int64) (frames, claims int) {
	n := min(images.Count(bytes), 1<<30)
	return int(n), int(min((n+7)/8, wire.MaxClaims))
}

// Claim notes what a job has written and flushed by now. It is kept in memory
// and stored every few seconds, together with everybody else's.
func (r *Registry) Claim(token string, frames []byte) error {
	s, err := r.Sharer(token)
	switch {
	case err != nil:
		return err
	case len(frames) > s.claims:
		return &Refusal{Kind: Invalid, Message: "The claims are longer than the image"}
	case s.Done || !s.claimable || len(frames) == 0:
		return nil
	}
	now := r.cfg.Now().UTC()
	r.sharing.mu.Lock()
	defer r.sharing.mu.Unlock()
	if now := r.sharing.byToken[hashToken(token)]; now == nil || now.Job != s.Job || now.Done {
		return nil // it has ended in between
	}
	r.sharing.claims[s.key] = &Claim{ClaimKey: s.key, Frames: bytes.Clone(frames), At: now}
	r.sharing.fresh[s.key] = true
	return nil
}

// claimed returns what is on the disk of a job by an earlier attempt's word.
func (r *Registry) claimed(j *Job) []byte {
	k, ok := j.claimKey()
	if !ok {
		return nil
	}
	r.sharing.mu.Lock()
	defer r.sharing.mu.Unlock()
	if c := r.sharing.claims[k]; c != nil {
		return c.Frames
	}
	return nil
}

// claimStep keeps the claims in step with the jobs: what a proved disk, an erased
// one or one that gets another image once held is void, and what a job that is cut off has
// written is stored with the word that it was.
func (d *draft) claimStep(j *Job, to JobState) {
	own, ok := j.claimKey()
	if !ok {
		return
	}
	s := &d.r.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	switch to {
	case Imaging, Erasing, Verified:
		disk := own
		for k := range s.claims {
			if disk.Image = k.Image; k == disk && (to == Verified || k != own) {
				d.unclaim = append(d.unclaim, k)
			}
		}
	case JobFailed, Cancelled, JobLost:
		if s.fresh[own] {
			d.claims = append(d.claims, *s.claims[own])
		}
	}
}

// storeClaims stores what is new since it was called last, and drops the oldest
// when there are too many.
func (r *Registry) storeClaims(d *draft) error {
	s := &r.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fresh) == 0 {
		return nil
	}
	for k := range s.fresh {
		d.claims = append(d.claims, *s.claims[k])
	}
	size := 0
	for _, c := range s.claims {
		size += len(c.Frames)
	}
	if len(s.claims) <= maxClaims && size <= maxClaimBytes {
		return nil
	}
	all := make([]*Claim, 0, len(s.claims))
	for _, c := range s.claims {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Claim) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Serial, b.Serial), cmp.Compare(a.Image, b.Image))
	})
	for n := len(all); n > maxClaims || size > maxClaimBytes; n-- {
		size -= len(all[0].Frames)
		d.unclaim = append(d.unclaim, all[0].ClaimKey)
		all = all[1:]
	}
	return nil
}

// applyClaims takes stored claims into memory, where a newer one may have come
// meanwhile.
func (r *Registry) applyClaims(c Change) {
	s := &r.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range c.Claims {
		if have := s.claims[v.ClaimKey]; have == nil {
			s.claims[v.ClaimKey] = &v
		} else if bytes.Equal(have.Frames, v.Frames) {
			delete(s.fresh, v.ClaimKey)
		}
	}
	for _, k := range c.Unclaim {
		delete(s.claims, k)
		delete(s.fresh, k)
	}
}

// keepClaims stores claims every few seconds, and once more when ctx ends.
func (r *Registry) keepClaims(ctx context.Context) {
	tick := time.NewTicker(claimsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if err := r.decide(context.WithoutCancel(ctx), r.storeClaims); err != nil {
			r.cfg.Log.Error("storing what PCs have written", "err", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}
