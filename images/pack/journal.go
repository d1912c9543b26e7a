package pack

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"

	"refurb/images"
)

// A journal remembers which frames of an import are safe on the disk. It is a
// file of JSON lines beside the frames: a head, then records in the order of
// the frames. Frames are flushed before the lines that name them, so whatever
// line is whole is true; a torn last one is dropped.
type journal struct {
	frames, log *os.File

	done  []images.Frame // all frames so far, flushed or not
	slots []images.Slot
	end   int64 // of the frames file
	short int   // raw bytes that the last frame lacks

	lines    bytes.Buffer // not flushed yet
	pending  int64        // bytes of frames that aren't, either
	zeroes   int          // frames of zeroes at the end of done that have no line yet
	flushing chan error   // a flush in the background; nil: none
}

type record struct {
	Frame  int           `json:"i"`
	Zeroes int           `json:"z,omitempty"` // that many frames of zeroes, or
	Length int64         `json:"l,omitempty"` // one frame
	Hash   images.Hash   `json:"h,omitzero"`
	Raw    int           `json:"n,omitempty"` // raw bytes, when they are less than a frame's: it is the last
	Slots  []images.Slot `json:"s,omitempty"`
}

const recheck = 4 // frames at the journal's end that are read again

// openJournal continues what it finds, when that fits head, and starts over
// otherwise.
func openJournal(framesPath, logPath, head string) (*journal, error) {
	frames, err := os.OpenFile(framesPath, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logPath, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		frames.Close()
		return nil, err
	}
	j := &journal{frames: frames, log: log}
	good, err := j.replay(head)
	if err == nil && good > 0 && j.last() == nil {
		err = errors.Join(log.Truncate(good), frames.Truncate(j.end))
	} else if err == nil {
		err = j.reset(head)
	}
	if err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

func (j *journal) close() error { return errors.Join(j.wait(), j.frames.Close(), j.log.Close()) }

// reset forgets every frame.
func (j *journal) reset(head string) error {
	_ = j.wait() // what it wrote, or couldn't, is forgotten too
	*j = journal{frames: j.frames, log: j.log}
	if err := errors.Join(j.log.Truncate(0), j.frames.Truncate(0)); err != nil {
		return err
	}
	_, err := j.log.WriteAt([]byte(head), 0)
	return errors.Join(err, j.log.Sync())
}

// replay reads the lines that are whole and fit the frames file, and returns
// where they end. 0 means that nothing can be used.
func (j *journal) replay(head string) (good int64, err error) {
	fi, err := j.frames.Stat()
	if err != nil {
		return 0, err
	}
	r := bufio.NewReader(io.NewSectionReader(j.log, 0, 1<<40))
	first := make([]byte, len(head))
	if n, err := fill(r, first); err != nil && err != io.EOF {
		return 0, err
	} else if string(first[:n]) != head {
		return 0, nil
	}
	good = int64(len(head))
	for {
		line, err := r.ReadSlice('\n')
		if err == io.EOF || errors.Is(err, bufio.ErrBufferFull) {
			return good, nil
		} else if err != nil {
			return 0, err
		}
		var rec record
		if json.Unmarshal(line, &rec) != nil || rec.Frame != len(j.done) || rec.Zeroes < 0 || rec.Zeroes > images.MaxBytes/images.FrameSize ||
			rec.Raw < 0 || rec.Raw > images.FrameSize || rec.Length < 0 || rec.Length > images.MaxFrame || (rec.Zeroes == 0) != (rec.Length > 0) || j.end+rec.Length > fi.Size() {
			return good, nil
		}
		if rec.Zeroes > 0 {
			j.done = append(j.done, make([]images.Frame, rec.Zeroes)...)
		} else {
			j.done = append(j.done, images.Frame{Offset: j.end, Length: rec.Length, Hash: rec.Hash})
		}
		if rec.Raw > 0 {
			j.short = images.FrameSize - rec.Raw
		}
		j.slots = append(j.slots, rec.Slots...)
		j.end += rec.Length
		good += int64(len(line))
	}
}

// last decodes the last frames that were written: a disk that lost them in a
// power cut, against its promise, lost those.
func (j *journal) last() error {
	d, err := images.NewDecoder()
	if err != nil {
		return err
	}
	defer d.Close()
	in, out := make([]byte, images.MaxFrame), make([]byte, images.FrameSize)
	m := &images.Manifest{Bytes: int64(len(j.done))*images.FrameSize - int64(j.short), Frames: j.done}
	for i, n := len(j.done)-1, recheck; i >= 0 && n > 0; i-- {
		f := j.done[i]
		if f.Length == 0 {
			continue
		}
		n--
		if _, err := j.frames.ReadAt(in[:f.Length], f.Offset); err != nil {
			return err
		}
		if _, err := d.Decode(m, i, in[:f.Length], out); err != nil {
			return err
		}
	}
	return nil
}

// add writes one more frame of n raw bytes; packed is empty for zeroes.
func (j *journal) add(n int, packed []byte, h images.Hash, slots []images.Slot) error {
	if len(packed) == 0 {
		j.done = append(j.done, images.Frame{})
		j.zeroes++
		return nil
	}
	if _, err := j.frames.WriteAt(packed, j.end); err != nil {
		return errors.Join(err, j.frames.Truncate(j.end)) // gives the journal room on a full disk
	}
	if err := j.zeroLine(); err != nil {
		return err
	}
	f := images.Frame{Offset: j.end, Length: int64(len(packed)), Hash: h}
	rec := record{Frame: len(j.done), Length: f.Length, Hash: h, Slots: slots}
	if n < images.FrameSize {
		rec.Raw = n
	}
	if err := j.line(rec); err != nil {
		return err
	}
	j.done = append(j.done, f)
	j.slots = append(j.slots, slots...)
	j.end += f.Length
	j.pending += f.Length
	return nil
}

func (j *journal) zeroLine() error {
	if j.zeroes == 0 {
		return nil
	}
	err := j.line(record{Frame: len(j.done) - j.zeroes, Zeroes: j.zeroes})
	j.zeroes = 0
	return err
}

func (j *journal) line(r record) error {
	b, err := json.Marshal(r)
	j.lines.Write(append(b, '\n'))
	return err
}

// flush makes everything added so far survive a power cut. It goes on in the
// background, so that packing needn't stand still while the disk is busy; the
// next flush, or wait, gives its error.
func (j *journal) flush() error {
	if err := errors.Join(j.wait(), j.zeroLine()); err != nil || j.lines.Len() == 0 {
		return err
	}
	lines := bytes.Clone(j.lines.Bytes())
	j.lines.Reset()
	j.pending = 0
	j.flushing = make(chan error, 1)
	go func(done chan<- error) { done <- j.store(lines) }(j.flushing)
	return nil
}

// wait returns when no flush is under way. The lines of one that failed are
// dropped: what the kernel couldn't write once it may forget, and then call
// flushed. replay stops where they are missing.
func (j *journal) wait() error {
	if j.flushing == nil {
		return nil
	}
	err := <-j.flushing
	j.flushing = nil
	return err
}

// store flushes the frames, then the lines that name them.
func (j *journal) store(lines []byte) error {
	if err := j.frames.Sync(); err != nil {
		return err
	}
	at, err := j.log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := j.log.WriteAt(lines, at); err != nil {
		return errors.Join(err, j.log.Truncate(at))
	}
	return j.log.Sync()
}
