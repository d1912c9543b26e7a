package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"refurb/images"
	"refurb/images/depot"
)

// Options of an import; the zero value is good.
type Options struct {
	Name, Version string // Name defaults to the file's
	Grow          int    // number of the GPT partition that grows; 0: the last one if it is Linux; -1: none
	Force         bool   // take what doesn't look like a disk
	// Progress gets the raw bytes that are done and their total, -1 while that
	// isn't known. A compressed qcow2 image is unpacked first, with a total of
	// -1; then it counts again from 0. It must not block.
	Progress func(done, total int64)
}

const (
	flushBytes = 64 << 20 // of frames between two flushes of the journal
	flushTime  = 5 * time.Second
	journalLog = "journal"
	spoolFile  = "unpacked.qcow2"
)

// errStale: the journal's frames are not the source's.
var errStale = errors.New("the journal belongs to another content")

// Import packs the source into the depot. When it is interrupted, by ctx, by a
// full disk (a *depot.FullError) or by a crash, the same import goes on after
// the frames that were stored. The same source and settings give the same
// frames, byte by byte. A *Refusal leaves nothing behind.
func Import(ctx context.Context, src *Source, o Options, d *depot.Depot) (images.Hash, error) {
	if o.Name == "" {
		o.Name = src.name()
	}
	if err := images.CheckName(o.Name, o.Version); err != nil {
		return images.Hash{}, &Refusal{err.Error(), "choose another"}
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	// What decides over the frames' bytes is in the id: another level, another
	// import.
	id := images.Sum(fmt.Appendf(nil, "frames %d zstd %d of %s", images.FrameSize, images.Level, src.stamp)).String()[:32]
	imp, err := d.Begin(id)
	if err != nil {
		return images.Hash{}, fmt.Errorf("importing %s: %w", src.Path, err)
	}
	m, err := pack(ctx, src, o, d, imp)
	var root images.Hash
	if err == nil {
		root, err = imp.Commit(m)
	}
	var refused *Refusal
	if errors.As(err, &refused) {
		return root, errors.Join(&Refusal{src.Path + ": " + refused.Message, refused.Next}, imp.Discard())
	}
	if err := errors.Join(err, imp.Close()); err != nil {
		return images.Hash{}, fmt.Errorf("importing %s: %w", src.Path, err)
	}
	return root, nil
}

// pack fills the import's frames and returns what to sign.
func pack(ctx context.Context, src *Source, o Options, d *depot.Depot, imp *depot.Import) (*images.Manifest, error) {
	disk := src.disk
	if disk == nil && src.inner == "qcow2" {
		room := func(done int64) error {
			o.Progress(done, -1)
			return errors.Join(ctx.Err(), d.Room(4<<20))
		}
		if err := src.spool(imp.Path(spoolFile), room); err != nil {
			return nil, d.Full(fmt.Errorf("unpacking: %w", err), 4<<20)
		}
		f, err := os.Open(imp.Path(spoolFile))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if disk, err = openDisk(f, src.inner, fi.Size()); err != nil {
			return nil, err
		}
	}
	l, err := look(src, disk, o.Force)
	if err != nil {
		return nil, err
	}
	grow, err := l.grow(o.Grow)
	if err != nil {
		return nil, err
	}
	if size := src.Bytes; disk != nil || size >= 0 {
		if disk != nil {
			size = disk.size()
		}
		if err := l.fits(size, o.Force); err != nil {
			return nil, err
		}
	}
	head := fmt.Sprintf("{\"refurb-import\":1,\"id\":%q}\n", imp.ID)
	j, err := openJournal(imp.Frames(), imp.Path(journalLog), head)
	if err != nil {
		return nil, d.Full(fmt.Errorf("opening the journal: %w", err), 1<<20)
	}
	defer j.close()
	run := func() (int64, error) {
		p := &packing{src: src, disk: disk, j: j, depot: d, progress: o.Progress, known: len(j.done)}
		size, err := p.run(ctx)
		return size, errors.Join(err, p.keep(err))
	}
	size, err := run()
	if errors.Is(err, errStale) {
		if err := j.reset(head); err != nil {
			return nil, err
		}
		size, err = run()
	}
	if err != nil {
		return nil, err
	}
	if err := errors.Join(l.fits(size, o.Force), src.unchanged()); err != nil {
		return nil, err
	}
	slots := slices.DeleteFunc(j.slots, func(s images.Slot) bool { return s.Offset+int64(s.Length) > size })
	return &images.Manifest{
		Name: o.Name, Version: o.Version, Created: time.Now().UTC().Truncate(time.Second),
		Bytes: size, Block: l.Block, Boots: l.Boots, Grow: grow, Slots: slots, Frames: j.done,
	}, nil
}

// look reads the disk's start.
func look(src *Source, disk disk, force bool) (layout, error) {
	var r io.Reader
	if disk != nil {
		r = io.NewSectionReader(disk, 0, disk.size())
	} else {
		z, err := src.unpack()
		if err != nil {
			return layout{}, err
		}
		defer z.Close()
		r = z
	}
	head := make([]byte, headSize)
	n, err := fill(r, head)
	if err != nil && err != io.EOF {
		if src.comp != nil && disk == nil {
			err = src.damaged(err)
		}
		return layout{}, err
	}
	return detect(head[:n], force)
}

// packing is one run of the pipeline: a feeder hands out frames, the workers
// compress them, and the caller's goroutine writes them in order.
type packing struct {
	src      *Source
	disk     disk // nil: a stream
	j        *journal
	depot    *depot.Depot
	progress func(done, total int64)
	known    int // frames that the journal had

	size int64 // raw bytes in all, once known
}

type job struct {
	i, n   int // frame, raw bytes
	read   bool
	hole   bool
	known  bool // in the journal: compare it only
	raw    []byte
	packed []byte
	hash   images.Hash
	slots  []images.Slot
	err    error
	done   chan struct{}
}

func (p *packing) run(ctx context.Context) (int64, error) {
	if err := p.room(); err != nil {
		return 0, err
	}
	workers := runtime.GOMAXPROCS(0)
	slots := 2*workers + 1
	free, work, order := make(chan *job, slots), make(chan *job, slots), make(chan *job, slots)
	for range slots {
		free <- &job{done: make(chan struct{}, 1)}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		return p.feed(ctx, free, work, order)
	})
	for range workers {
		g.Go(func() error { return p.work(work) })
	}
	g.Go(func() error { return p.write(ctx, order, free) })
	if err := g.Wait(); err != nil {
		return 0, err
	}
	if want := images.Count(p.size); int64(len(p.j.done)) != want {
		if len(p.j.done) > int(want) {
			return 0, errStale
		}
		return 0, fmt.Errorf("%d frames were packed of %d", len(p.j.done), want)
	}
	return p.size, nil
}

// room refuses what surely won't fit: installed systems shrink to a third or a
// quarter of their data.
func (p *packing) room() error {
	need := int64(1 << 20)
	if fi, err := p.src.file.Stat(); err == nil && p.known == 0 {
		if data, ok := stored(fi); ok && p.disk != nil && p.src.comp == nil {
			need += data / 4
		} else if p.disk == nil {
			need += fi.Size() / 2
		}
	}
	return p.depot.Room(need)
}

func (p *packing) feed(ctx context.Context, free, work, order chan *job) error {
	var stream io.ReadCloser
	first := 0
	if p.disk == nil {
		var err error
		if stream, err = p.src.unpack(); err != nil {
			return err
		}
		defer stream.Close()
	} else {
		p.size = p.disk.size()
		// The source is unchanged by its stamp; look at the last frames still.
		first = max(0, p.known-recheck)
	}
	next := int64(-1) // the disk's next data
	for i := first; ; i++ {
		off := int64(i) * images.FrameSize
		if p.disk != nil && off >= p.size {
			return nil
		}
		if off >= images.MaxBytes {
			return &Refusal{fmt.Sprintf("the image has more than %d bytes", int64(images.MaxBytes)), ""}
		}
		var b *job
		select {
		case b = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		*b = job{i: i, known: i < p.known, raw: b.raw, packed: b.packed, done: b.done}
		if p.disk != nil {
			b.n = int(min(images.FrameSize, p.size-off))
			if next < off {
				var err error
				if next, err = p.disk.next(off); err != nil {
					return err
				}
			}
			b.hole = next >= off+int64(b.n)
		}
		if !b.hole && b.raw == nil {
			b.raw, b.packed = make([]byte, images.FrameSize), make([]byte, 0, images.MaxFrame)
		}
		end := false
		if p.disk == nil {
			n, err := fill(stream, b.raw)
			if end = err == io.EOF; err != nil && !end {
				return p.src.damaged(err)
			}
			p.size = off + int64(n)
			if n == 0 {
				return nil
			}
			b.n, b.read = n, true
		}
		work <- b // neither blocks: there are as many places as jobs
		order <- b
		if end {
			return nil
		}
	}
}

func (p *packing) work(work chan *job) error {
	enc, err := images.NewEncoder()
	if err != nil {
		return err
	}
	for b := range work {
		b.err = p.frame(b, enc)
		b.done <- struct{}{}
	}
	return nil
}

func (p *packing) frame(b *job, enc *images.Encoder) error {
	b.packed, b.hash = b.packed[:0], images.Hash{}
	if b.hole {
		return nil
	}
	raw := b.raw[:b.n]
	off := int64(b.i) * images.FrameSize
	if !b.read {
		if n, err := p.disk.ReadAt(raw, off); n < len(raw) {
			if err == nil || err == io.EOF {
				return &Refusal{"the file got shorter while it was imported", "import it again when nothing writes to it"}
			}
			return err
		}
	}
	if b.known {
		if !images.Zero(raw) {
			b.hash = images.Sum(raw)
		}
		return nil
	}
	b.packed, b.hash = enc.Encode(raw, b.packed)
	var err error
	b.slots, err = findSlots(raw, off)
	return err
}

func (p *packing) write(ctx context.Context, order, free chan *job) error {
	total := int64(-1)
	if p.disk != nil {
		total = p.disk.size()
	} else if p.src.Bytes > 0 {
		total = p.src.Bytes
	}
	done := int64(0)
	flushed := time.Now()
	for {
		var b *job
		var ok bool
		select {
		case b, ok = <-order:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !ok {
			break
		}
		select {
		case <-b.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if b.err != nil {
			return b.err
		}
		if b.known {
			if p.j.done[b.i].Hash != b.hash {
				return errStale
			}
		} else {
			if n := len(p.j.slots); n > 0 && len(b.slots) > 0 && b.slots[0].Offset < p.j.slots[n-1].Offset+images.SlotSize {
				b.slots = b.slots[1:] // padding that reaches into this frame
			}
			if len(p.j.slots)+len(b.slots) > images.MaxSlots {
				return &Refusal{fmt.Sprintf("the image holds more than %d slots", images.MaxSlots), "zero its free space (zerofree)"}
			}
			if err := p.j.add(b.n, b.packed, b.hash, b.slots); err != nil {
				return p.full(err, done, total)
			}
		}
		done = int64(b.i)*images.FrameSize + int64(b.n)
		if p.j.pending >= flushBytes || p.j.lines.Len() > 0 && time.Since(flushed) > flushTime {
			if err := p.depot.Room(images.MaxFrame); err != nil {
				return p.full(err, done, total)
			}
			if err := p.j.flush(); err != nil {
				return p.full(err, done, total)
			}
			flushed = time.Now()
		}
		free <- b
		p.progress(done, total)
	}
	return ctx.Err()
}

// full makes a full disk's error say what is needed: as much per raw byte as
// so far.
func (p *packing) full(err error, done, total int64) error {
	need := int64(images.MaxFrame)
	if total > done && done > 0 {
		need = max(need, int64(float64(p.j.end)/float64(done)*float64(total-done)))
	}
	var full *depot.FullError
	if errors.As(err, &full) {
		return &depot.FullError{Need: max(need, full.Need), Has: full.Has}
	}
	return p.depot.Full(err, need)
}

// keep flushes what was packed before an error, so that the next try finds it.
func (p *packing) keep(err error) error {
	if errors.Is(err, errStale) {
		return nil
	}
	if ferr := errors.Join(p.j.flush(), p.j.wait()); ferr != nil && err == nil {
		return p.depot.Full(fmt.Errorf("flushing the image: %w", ferr), images.MaxFrame)
	}
	return nil
}

// findSlots looks for reserved places in a frame. One that begins within the
// place of the one before is that one's padding.
func findSlots(raw []byte, off int64) (slots []images.Slot, err error) {
	mark := []byte(images.SlotMark)
	for at := 0; ; {
		k := bytes.Index(raw[at:], mark)
		if k < 0 {
			return slots, nil
		}
		k += at
		at = k + 1
		if k%512 != 0 {
			continue
		}
		name, _, ok := bytes.Cut(raw[k+len(mark):min(len(raw), k+512)], []byte("\n"))
		if !ok || !images.SlotName(string(name)) {
			continue
		}
		if off+int64(k) < images.Head {
			return nil, &Refusal{fmt.Sprintf("the slot %s lies in the disk's first MiB, which is written last", name), "move the partition with it"}
		}
		slots = append(slots, images.Slot{Name: string(name), Offset: off + int64(k), Length: images.SlotSize})
		at = k + images.SlotSize
		if at > len(raw) {
			return slots, nil
		}
	}
}
