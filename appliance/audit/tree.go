package audit

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Head is where the chain of a device ("": of the house) ends.
type Head struct {
	Device string `json:"device"`
	Seq    int64  `json:"seq"`
	Hash   string `json:"hash"`
}

// leaf is the head's place in a tree: the canonical JSON of its three fields.
func (h Head) leaf() (tlog.Hash, error) {
	b, err := canonical(h)
	return tlog.RecordHash(b), err
}

// tree holds the hashes of all its complete subtrees, in tlog's order.
type tree []tlog.Hash

func (t tree) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, n := range at {
		if n < 0 || n >= int64(len(t)) {
			return nil, fmt.Errorf("there is no hash %d", n)
		}
		out[i] = t[n]
	}
	return out, nil
}

// grow makes the tree over heads, sorted by device.
func grow(heads []Head) (tree, error) {
	var t tree
	for i, h := range heads {
		if i > 0 && heads[i-1].Device >= h.Device {
			return nil, errors.New("the heads are not in order")
		}
		leaf, err := h.leaf()
		if err != nil {
			return nil, err
		}
		more, err := tlog.StoredHashesForRecordHash(int64(i), leaf, t)
		if err != nil {
			return nil, err
		}
		t = append(t, more...)
	}
	return t, nil
}

// rootOf is the tree's root and how many lines its chains have.
func rootOf(heads []Head) (root tlog.Hash, lines int64, err error) {
	t, err := grow(heads)
	if err != nil {
		return root, 0, err
	}
	for _, h := range heads {
		lines += h.Seq
	}
	root, err = tlog.TreeHash(int64(len(heads)), t)
	return root, lines, err
}

// sortHeads brings heads into the order of a tree.
func sortHeads(heads []Head) []Head {
	heads = slices.Clone(heads)
	slices.SortFunc(heads, func(a, b Head) int { return cmp.Compare(a.Device, b.Device) })
	return heads
}

// Proof shows that a checkpoint covers one device's chain up to a line, without
// showing anything of the others: only hashes beside its way to the root.
type Proof struct {
	Note  string      `json:"note"` // the checkpoint
	Seq   int64       `json:"seq"`  // the chain's last line then
	Hash  string      `json:"hash"`
	Index int64       `json:"index"` // of the leaf
	Path  []tlog.Hash `json:"path"`
}

// prove makes the proof for a device from the heads that the note covers; nil
// if the device isn't among them.
func prove(b []byte, heads []Head, device string) (*Proof, error) {
	at, ok := slices.BinarySearchFunc(heads, device, func(h Head, d string) int { return cmp.Compare(h.Device, d) })
	if !ok {
		return nil, nil
	}
	t, err := grow(heads)
	if err != nil {
		return nil, err
	}
	path, err := tlog.ProveRecord(int64(len(heads)), int64(at), t)
	if err != nil {
		return nil, err
	}
	return &Proof{Note: string(b), Seq: heads[at].Seq, Hash: heads[at].Hash, Index: int64(at), Path: path}, nil
}

// check follows the proof to the root of its checkpoint.
func (p *Proof) check(device string, keys []ed25519.PublicKey) (Checkpoint, *Trouble) {
	c, _, t := openCheckpoint([]byte(p.Note), keys)
	if t != nil {
		return c, t
	}
	leaf, err := Head{Device: device, Seq: p.Seq, Hash: p.Hash}.leaf()
	if err != nil || p.Seq < 1 || tlog.CheckRecord(p.Path, c.Chains, c.Root, p.Index, leaf) != nil {
		return c, &Trouble{Part: "the proof", Kind: Forged, Text: fmt.Sprintf("it doesn't lead to the root of checkpoint %d", c.Number)}
	}
	return c, nil
}

// holds says whether a chain that was checked goes through the proof's line.
func (p *Proof) holds(c Checkpoint, entries []Entry, row int) *Trouble {
	n := int64(len(entries))
	when := fmt.Sprintf("checkpoint %d of %s", c.Number, c.Time.Format("2006-01-02"))
	switch {
	case p.Seq > n:
		return &Trouble{Row: row + int(n), Seq: n + 1, Kind: CutOff, Text: fmt.Sprintf("%s saw %d lines, the last one here is %d", when, p.Seq, n)}
	case entries[p.Seq-1].Hash != p.Hash:
		return &Trouble{Row: row + int(p.Seq) - 1, Seq: p.Seq, Kind: Changed, Text: when + " saw another history up to here"}
	}
	return nil
}
