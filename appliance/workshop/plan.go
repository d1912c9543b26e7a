package workshop

import (
	"context"
	"errors"
	"time"

	"refurb/agent/wire"
)

// Plan returns what the PC is to do. If that is still the plan with serial have,
// it waits at most wait (30 s at the most) for another one.
func (r *Registry) Plan(ctx context.Context, token string, have int64, wait time.Duration) (wire.Plan, error) {
	var b *Boot
	err := r.decide(ctx, func(d *draft) (err error) {
		b, err = r.enter(d, token)
		return err
	})
	if err != nil {
		return wire.Plan{}, err
	}
	timer := time.NewTimer(min(max(wait, 0), maxWait))
	defer timer.Stop()
	for {
		r.mu.Lock()
		p := r.at(b.Device)
		if p.serial != have {
			r.mu.Unlock()
			return r.answer(ctx, b, token)
		}
		changed := p.changed
		p.polls++
		r.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-timer.C:
			over = true
		case <-ctx.Done():
		}
		r.mu.Lock()
		p.polls--
		if ctx.Err() == nil {
			p.left = r.cfg.Now()
		}
		r.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return wire.Plan{}, err
		}
		if over {
			return r.answer(ctx, b, token)
		}
	}
}

// answer makes the plan for a start. An approved job whose image has gone is
// held rather than sent to fetch nothing.
func (r *Registry) answer(ctx context.Context, b *Boot, token string) (plan wire.Plan, err error) {
	err = r.decide(ctx, func(d *draft) error {
		// The end of a long poll is no word of the PC: it may have been switched
		// off meanwhile and be on its next start.
		j := r.newest(b.Device)
		if j == nil || j.Boot != b.BootID || j.State != Approved {
			return nil
		}
		if err := r.stillApproved(d, d.device(b.Device), d.job(j.ID)); err != nil || d.jobs[0].State == Approved {
			d.devices, d.jobs = nil, nil
			return err
		}
		return nil
	})
	if err != nil {
		return wire.Plan{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if plan = r.plan(r.devices[b.Device], r.newest(b.Device), b, token); plan.Action == wire.ActionLocal {
		r.sentHome(b)
	}
	return plan, nil
}

func (r *Registry) plan(dev *Device, j *Job, b *Boot, token string) wire.Plan {
	p := wire.Plan{Serial: r.at(dev.ID).serial, Number: dev.Number}
	if j == nil || j.Boot != b.BootID {
		if j != nil && j.State.Live() {
			p.Action, p.Reason, p.Next = wire.ActionFail, "This PC has been started again since", "Restart it"
			return p
		}
		p.Action, p.Reason = wire.ActionLocal, "Nothing is to be done here"
		p.Next = "To image this PC again, ask for it on the device page"
		if v := r.devices[r.root(dev.ID)]; r.giveable(v) {
			if no, ok := errors.AsType[*Refusal](r.unfit(v)); ok {
				p.Unfit, p.Reason, p.Next = true, no.Message, no.Next
			}
		}
		return p
	}
	p.Job, p.Reason, p.Next = j.ID, j.Reason, j.Next
	switch j.State {
	case Approved, Imaging, Verifying, Erasing:
		if j.Erase != nil {
			disk := j.Approval.Disk
			p.Action, p.Disk, p.Content = wire.ActionErase, &disk, j.Approval.Class
			p.Erase = &wire.Erase{Check: j.Erase.Check, Seed: j.Erase.Seed}
			return p
		}
		agentURL, httpURL := r.cfg.BaseURL()
		at := httpURL + wire.PathImages + j.Image
		disk := j.Approval.Disk
		p.Action, p.Disk, p.Content = wire.ActionImage, &disk, j.Approval.Class
		p.Image = &wire.Image{
			Name: j.ImageName, Root: j.Image, ManifestURL: at + "/manifest", FramesURL: at + "/frames", Streams: r.cfg.Streams,
			Claims:  r.claimed(j),
			Checkin: wire.Checkin{URL: agentURL + wire.PathCheckin, Pin: r.cfg.PinB64, Token: checkinToken(token, j.ID)},
			Birth:   r.birth(dev, j),
		}
	case Verified, FirstBoot:
		p.Action, p.Reason = wire.ActionLocal, "The disk was written and read back"
	case Erased:
		p.Action, p.Reason, p.Next = wire.ActionHold, "The disk is erased", "Wait: this PC looks at its disks again"
	case JobFailed, Cancelled:
		p.Action = wire.ActionFail
	default:
		p.Action = wire.ActionHold
	}
	return p
}

// birth is the record that a job leaves on its disk: the same bytes whenever the
// plan is answered, since they rest on the approval. Without a key there is none.
func (r *Registry) birth(dev *Device, j *Job) []byte {
	if r.cfg.Key == nil {
		return nil
	}
	doc, err := wire.SignBirth(wire.Birth{
		Number: dev.Number, Job: j.ID, Disk: j.Approval.Disk, Image: j.ImageName, Root: j.Image, Signed: j.Approval.At,
	}, r.cfg.Key)
	if err != nil {
		r.cfg.Log.Warn("a disk gets no birth record", "device", dev.Number, "err", err)
		return nil
	}
	return doc
}
