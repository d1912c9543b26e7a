package erase

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"refurb/agent/drive"
	"refurb/agent/wire"
)

// command is a rung as it is climbed.
type command struct {
	text  string // for the certificate
	limit time.Duration
	// give returns when the drive has taken the command or, when there is no
	// poll, when it has ended.
	give func() (code string, err error)
	poll func() (state, error)
}

// state is what a drive says of a sanitize.
type state struct {
	running bool
	result  wire.Result // empty while running, and when the drive knows of none
	percent float64
	code    string
}

// quick is the limit of commands that only ask.
const quick = 15 * time.Second

// answered tells that an error is the drive's own word: the command was refused
// or it failed. After any other error nobody knows what the drive did or still
// does.
func answered(err error) bool {
	if _, ok := errors.AsType[refusal](err); ok {
		return true
	}
	if e, ok := errors.AsType[*drive.ATAError](err); ok {
		return e.Status&1 != 0
	}
	if s, ok := errors.AsType[*drive.Sense](err); ok {
		switch key, _, _ := s.Key(); key {
		case 3, 4, 5, 7: // MEDIUM ERROR, HARDWARE ERROR, ILLEGAL REQUEST, DATA PROTECT
			return true
		}
		return false // ABORTED COMMAND and the like may come from anywhere on the way
	}
	if s, ok := errors.AsType[drive.NVMeStatus](err); ok {
		kind, code := uint16(s)>>8&7, uint16(s)&0xff
		// Path errors and aborts come from the host after a time-out.
		return kind != 3 && !(kind == 0 && (code == 0x07 || code == 0x08))
	}
	// The kernel knows no such command and has sent none.
	for _, no := range []error{unix.ENOTTY, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM, unix.EACCES} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// codeOf is how an error is shown as a completion code.
func codeOf(err error) string {
	if e, ok := errors.AsType[*drive.ATAError](err); ok {
		return fmt.Sprintf("status=%02Xh error=%02Xh", e.Status, e.Registers.Error)
	}
	if s, ok := errors.AsType[*drive.Sense](err); ok {
		key, asc, ascq := s.Key()
		return fmt.Sprintf("sense=%X/%02X/%02X", key, asc, ascq)
	}
	if s, ok := errors.AsType[drive.NVMeStatus](err); ok {
		return fmt.Sprintf("SCT=%Xh SC=%02Xh", uint16(s)>>8&7, uint16(s)&0xff)
	}
	return "none"
}

// errStuck is a call into the kernel that doesn't come back.
var errStuck = errors.New("the disk doesn't answer")

// aside runs f and waits no longer than d; a call that the kernel never ends
// keeps its goroutine.
func aside[T any](d time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.v, r.err
	case <-timer.C:
		var none T
		return none, errStuck
	}
}

// patient is a Drive whose calls come back, a while after their limit.
type patient struct{ drive.Drive }

const grace = 30 * time.Second

func (p patient) SCSI(c drive.SCSI) (int, error) {
	// A call that is given up may still write into its buffer.
	type answer struct {
		n    int
		data []byte
	}
	own := append([]byte(nil), c.Data...)
	mine := c
	mine.Data = own
	a, err := aside(c.Limit+grace, func() (answer, error) {
		n, err := p.Drive.SCSI(mine)
		return answer{n, own}, err
	})
	copy(c.Data, a.data)
	return a.n, err
}

func (p patient) NVMe(c drive.NVMe) (uint32, error) {
	type answer struct {
		result uint32
		data   []byte
	}
	own := append([]byte(nil), c.Data...)
	mine := c
	mine.Data = own
	a, err := aside(c.Limit+grace, func() (answer, error) {
		n, err := p.Drive.NVMe(mine)
		return answer{n, own}, err
	})
	copy(c.Data, a.data)
	return a.result, err
}

// command gives the rung's, and what it takes.
func (f *facts) command(method string, d drive.Drive, size int64) command {
	switch method {
	case nvmeBlock, nvmeCrypto, nvmeOverwrite:
		return f.nvmeSanitize(method, d, size)
	case nvmeFormatUser:
		return f.nvmeFormat(1, d, size)
	case nvmeFormatCrypto:
		return f.nvmeFormat(2, d, size)
	case ataBlock, ataCrypto, ataOverwrite:
		return ataSanitize(method, d, size)
	case ataEnhanced, ataNormal:
		return f.ataErase(method == ataEnhanced, d)
	case scsiBlock, scsiCrypto, scsiOverwrite:
		return scsiSanitize(method, d, size)
	}
	return command{}
}

// bySize is the time for a pass over the whole medium by a slow disk, and more.
func bySize(size int64) time.Duration {
	return 2*time.Hour + time.Duration(size/(25<<20))*time.Second
}
