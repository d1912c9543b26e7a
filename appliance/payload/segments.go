package payload

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"refurb/agent/drivers"
)

// segmentAlign is what every part of the initramfs is padded to. Four bytes
// would do for the kernel; without any, it takes the next segment's beginning
// for garbage and starts without drivers and agent.
const segmentAlign = 512

// buildCPIO writes an archive that depends on nothing but its records: sorted,
// folders before what is in them, owned by root, at the epoch.
func buildCPIO(records []cpio.Record) ([]byte, error) {
	all := map[string]cpio.Record{}
	for _, r := range records {
		r.Name = cpio.Normalize(r.Name)
		for dir := path.Dir(r.Name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = cpio.Directory(dir, 0o755)
			}
		}
		all[r.Name] = r
	}
	var buf bytes.Buffer
	w := cpio.Newc.Writer(&buf)
	// A folder's name is the beginning of the names in it, so it sorts first.
	for i, name := range slices.Sorted(maps.Keys(all)) {
		r := cpio.MakeReproducible(all[name])
		r.Ino, r.NLink = uint64(i+1), 1
		if err := w.WriteRecord(r); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, err
	}
	return pad(buf.Bytes()), nil
}

// pad appends zeroes up to the next multiple of segmentAlign.
func pad(b []byte) []byte {
	if n := len(b) % segmentAlign; n != 0 {
		b = append(b, make([]byte, segmentAlign-n)...)
	}
	return b
}

// window of the compression: as far as the kernel looks back (ZSTD_WINDOWLOG_MAX
// of lib/decompress_unzstd.c is 27).
const window = 32 << 20

// packing counts the ways in which pack has packed, for what is kept of it.
const packing = 2

// pack compresses a segment as one zstd frame, which the kernel unpacks.
func pack(b []byte) ([]byte, error) {
	// One goroutine: the same bytes on every machine. The window holds all of it.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	return pad(enc.EncodeAll(b, nil)), nil
}

// driversSegment stays uncompressed: nearly all of it is compressed already,
// and the kernel checks modules' signatures on these very bytes.
func driversSegment(set *driverSet) ([]byte, error) {
	index, err := json.Marshal(set.index)
	if err != nil {
		return nil, err
	}
	if len(index) > drivers.MaxIndex {
		return nil, fmt.Errorf("the driver index has %d bytes, at most %d are read back", len(index), drivers.MaxIndex)
	}
	records := []cpio.Record{cpio.StaticFile(drivers.IndexPath, string(index), 0o644)}
	for name, b := range set.modules {
		records = append(records, cpio.StaticFile(path.Join(drivers.ModulesPath, name), string(b), 0o644))
	}
	for name, b := range set.firmware {
		records = append(records, cpio.StaticFile(path.Join(drivers.FirmwarePath, name), string(b), 0o644))
	}
	return buildCPIO(records)
}

// AgentConfig is /etc/refurb/agent.json in the initramfs: whom the agent
// believes.
type AgentConfig struct {
	Pin     string `json:"pin"`     // base64 of the SHA-256 of the appliance's TLS key (SPKI)
	Key     string `json:"key"`     // base64 of the Ed25519 key that signs image manifests
	Version string `json:"version"` // of Refurb
}

func agentSegment(agent []byte, pin string, key ed25519.PublicKey, version string) ([]byte, error) {
	conf, err := json.MarshalIndent(AgentConfig{pin, base64.StdEncoding.EncodeToString(key), version}, "", "\t")
	if err != nil {
		return nil, err
	}
	b, err := buildCPIO([]cpio.Record{
		cpio.CharDev("dev/console", 0o600, 5, 1), // before devtmpfs, init has nowhere else to speak
		cpio.StaticFile("bin/refurb-agent", string(agent), 0o755),
		cpio.Symlink("bin/uinit", "refurb-agent"),
		cpio.StaticFile("etc/refurb/agent.json", string(append(conf, '\n')), 0o644),
	})
	if err != nil {
		return nil, err
	}
	return pack(b)
}

// baseSegment checks that base is an initramfs with an init and compresses it.
func baseSegment(base []byte) ([]byte, error) {
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(base)))
	if err != nil {
		return nil, fmt.Errorf("not a cpio archive: %w", err)
	}
	if !slices.ContainsFunc(records, func(r cpio.Record) bool { return r.Name == "init" }) {
		return nil, fmt.Errorf("it holds no init")
	}
	return pack(base)
}
