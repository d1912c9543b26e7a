package erase

import (
	"fmt"
	"strings"

	"refurb/agent/wire"
)

// evidence is all that the result is judged by.
type evidence struct {
	medium        Medium
	steps         []wire.EraseStep
	check         wire.ReadCheck
	expect        int64 // bytes that the check had to read
	hidden        *wire.HiddenArea
	before, after *wire.Health
	stopped       bool // before the end, by a person or because the agent was ended
	password      bool // the disk may still hold our password
	unwritten     int64
	blind         bool // nothing of the disk could be read before
}

// judge says what was reached. Nothing is taken as erased that was not read, and
// whatever nobody can know is unknown.
func judge(e evidence) (wire.ErasureResult, wire.Level, []string) {
	begun, unknown := false, false
	level, method := wire.LevelNone, ""
	for _, s := range e.steps {
		if s.Command == "" || s.Level == wire.LevelNone {
			continue
		}
		begun = true
		switch s.Result {
		case wire.Done:
			method = s.Method
			if level != wire.LevelPurge {
				level = s.Level
			}
		case wire.Failed:
		default:
			unknown = true
		}
	}
	var except []string
	if e.password {
		except = append(except, "the disk may still be locked; its user password is "+Password)
	}
	switch c := e.check; {
	case e.stopped && begun:
		return wire.ErasureUnknown, level, except
	case unknown:
		return wire.ErasureUnknown, level, except
	case level == wire.LevelNone:
		return wire.NotErased, level, except
	case c.Mismatches != 0:
		return wire.NotErased, level, except
	case c.Bytes <= 0 || c.Expect != "zero" || c.Errors < 0:
		return wire.ErasureUnknown, level, except
	case c.Errors == 0 && c.Bytes != e.expect:
		return wire.ErasureUnknown, level, except
	case c.Errors > 0 && (c.Bytes+c.Errors*block < e.expect || c.Errors*block > e.expect/100):
		return wire.ErasureUnknown, level, except // more than a hundredth wasn't seen
	case c.Errors > 0:
		except = append(except, fmt.Sprintf("%d blocks of %d bytes couldn't be read", c.Errors, block))
	}
	return finish(e, level, method, except)
}

// finish names what was left out although all went well.
func finish(e evidence, level wire.Level, method string, except []string) (wire.ErasureResult, wire.Level, []string) {
	if e.blind && method != overwrite {
		except = append(except, "the disk couldn't be read before, so that only its own word says that something was erased")
	}
	if e.unwritten > 0 {
		except = append(except, fmt.Sprintf("%d blocks of %d bytes couldn't be written", e.unwritten, block))
	}
	for _, s := range e.steps {
		if s.Method == zeroFill && s.Result != wire.Done {
			except = append(except, "the zeroes that were read are not known to be on the medium: "+s.Why)
		}
	}
	if h := e.hidden; h != nil && !reachesHidden(method) {
		switch n := max(h.Native, h.Real) - h.Visible; {
		case n > 0:
			except = append(except, fmt.Sprintf("%d bytes hidden from the system (HPA, DCO, deleted namespaces) were not erased", n))
		case h.Native == 0 && strings.Contains(h.Note, noNative):
			except = append(except, "nobody knows whether the disk hides a part of itself: "+h.Note)
		}
	}
	switch {
	case method == overwrite && e.medium == MediumUnknown:
		except = append(except, "nobody knows what the disk is made of: what it holds back was not reached")
	case method == overwrite && e.medium.keepsBack():
		except = append(except, "flash holds cells back that writing doesn't reach")
	}
	if e.medium == MediumHDD && (method == overwrite || method == ataNormal) {
		if n := worst(e.before, e.after, func(h *wire.Health) *int64 { return h.Reallocated }); n > 0 {
			except = append(except, fmt.Sprintf("%d reallocated sectors can't be reached any more", n))
		}
		if n := worst(e.before, e.after, func(h *wire.Health) *int64 { return h.Pending }); n > 0 {
			except = append(except, fmt.Sprintf("%d sectors wait to be reallocated", n))
		}
	}
	if len(except) > 0 {
		return wire.ErasedExceptions, level, except
	}
	return wire.Erased, level, nil
}

func worst(before, after *wire.Health, field func(*wire.Health) *int64) (n int64) {
	for _, h := range []*wire.Health{before, after} {
		if h != nil && field(h) != nil {
			n = max(n, *field(h))
		}
	}
	return n
}
