package appliance

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"refurb/appliance/audit"
	"refurb/appliance/store"
)

// A backup is a gzipped tar: backup.json, refurb.db, the checkpoints that the
// records know of, the public halves of former keys, and the secret keys only
// if somebody asked for them. Images and boot files are not in it: they are
// large and can be made again.
const (
	backupPrefix = "refurb-"
	backupExt    = ".tar.gz"
	backupIndex  = "backup.json"
	recordsFile  = "refurb.db"
)

// spare is what a backup leaves free on the disk of the records, in bytes: some
// thousand PCs' reports.
const spare = 64 << 20

// secrets are the files of a backup that nobody else may see.
var secrets = []string{"keys/signing.ed25519", "keys/tls.pem"}

// inBackup are the only names that are ever taken out of one.
var inBackup = regexp.MustCompile(`^(refurb\.db|checkpoints/[0-9]{6}\.(note|heads)|keys/(retired/[0-9a-f]{16}\.pub|signing\.ed25519|tls\.pem))$`)

// backupInfo is backup.json.
type backupInfo struct {
	Version    int       `json:"refurb_backup"` // 1
	Time       time.Time `json:"time"`
	Checkpoint int64     `json:"checkpoint,omitempty"` // the newest one in it
	Keys       bool      `json:"keys"`
}

// Backup writes a copy of the records while the appliance works: to a new file,
// or to a file named after the time in a folder. It says where it is.
func (r *Records) Backup(ctx context.Context, to string, withKeys bool) (file string, err error) {
	now := time.Now().UTC()
	switch st, err := os.Stat(to); {
	case err != nil && !strings.HasSuffix(to, backupExt):
		// A stick that isn't in would become a file on the server's own disk.
		return "", fmt.Errorf("there is no folder %s: is the stick in, and is that its name? (a file's name ends in %s)", to, backupExt)
	case err == nil && st.IsDir():
		to = filepath.Join(to, backupPrefix+now.Format("20060102T150405Z")+backupExt)
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is there already: choose another name", to)
	}
	if err := r.room(to); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(r.data, ".backup-*")
	if err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	records := filepath.Join(work, recordsFile)
	if err := r.Store.Backup(ctx, records); err != nil {
		return "", err
	}
	names, info, err := r.backupFiles(ctx, records, withKeys)
	if err != nil {
		return "", err
	}
	info.Time = now

	f, err := os.CreateTemp(filepath.Dir(to), ".refurb-*") // mode 0600: it holds password hashes
	if err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	defer os.Remove(f.Name())
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	index, err := json.MarshalIndent(info, "", "\t")
	if err != nil {
		return "", err
	}
	err = t.WriteHeader(&tar.Header{Name: backupIndex, Mode: 0o600, Size: int64(len(index)), ModTime: now})
	if err == nil {
		_, err = t.Write(index)
	}
	for _, name := range names {
		from := filepath.Join(r.data, filepath.FromSlash(name))
		if name == recordsFile {
			from = records
		}
		if err == nil {
			err = pack(ctx, t, name, from, now)
		}
	}
	if err = errors.Join(err, t.Close(), z.Close(), f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	// Not a link: a memory stick knows none.
	if err := errors.Join(os.Rename(f.Name(), to), syncDir(filepath.Dir(to))); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	return to, nil
}

// room refuses to fill a disk with copies: what PCs report must still be stored,
// during the copying too. It asks for the records twice over, as a copy and as
// a backup, which is smaller, and for something to go on with.
func (r *Records) room(to string) error {
	st, err := os.Stat(filepath.Join(r.data, recordsFile))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	for _, dir := range []string{r.data, filepath.Dir(to)} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return fmt.Errorf("backup: %s: %w", dir, err)
		}
		need := 2*st.Size() + spare
		if dir != r.data {
			need = st.Size()
		}
		// Some network file systems count no blocks at all.
		if free := int64(fs.Bavail) * fs.Bsize; fs.Blocks > 0 && free < need {
			return fmt.Errorf("no copy of the records was made: %s has %d MB free, and %d MB are needed: make room", dir, free>>20, need>>20)
		}
	}
	return nil
}

// backupFiles lists what goes in. A checkpoint that was made after the copy of
// the records stays out: beside them, it would tell of lines that aren't there.
func (r *Records) backupFiles(ctx context.Context, records string, withKeys bool) ([]string, backupInfo, error) {
	info := backupInfo{Version: 1, Keys: withKeys}
	c, err := store.Open(records, audit.Seal)
	if err != nil {
		return nil, info, err
	}
	copied := &Records{Store: c}
	house, err := copied.house(ctx)
	if err = errors.Join(err, c.Close()); err != nil {
		return nil, info, err
	}
	for _, e := range house {
		if n, err := strconv.ParseInt(e.Params["number"], 10, 64); err == nil && e.Kind == kindCheckpoint {
			info.Checkpoint = max(info.Checkpoint, n)
		}
	}
	all, err := r.Checkpoints.All()
	if err != nil {
		return nil, info, err
	}
	names := []string{recordsFile}
	for _, k := range all {
		if k.Number <= info.Checkpoint {
			names = append(names, "checkpoints/"+k.Name+".note", "checkpoints/"+k.Name+".heads")
		}
	}
	retired, err := filepath.Glob(filepath.Join(r.data, "keys", "retired", "*.pub"))
	if err != nil {
		return nil, info, err
	}
	for _, name := range retired {
		names = append(names, "keys/retired/"+filepath.Base(name))
	}
	if withKeys {
		names = append(names, secrets...)
	}
	return names, info, nil
}

func pack(ctx context.Context, t *tar.Writer, name, from string, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: st.Size(), ModTime: now}); err != nil {
		return err
	}
	_, err = io.CopyN(t, f, st.Size())
	return err
}

// Restored says what came of a restore.
type Restored struct {
	Time  time.Time // of the backup
	Aside string    // where the records that were there are now; empty: there were none
	Keys  bool      // secret keys were put back
	// Found is what is wrong with the records now, beside the checkpoints of this
	// house: an older backup than the newest checkpoint is one such thing.
	Found []store.Damage
}

// Restore puts the records of a backup into a data folder in which no appliance
// is running. What is there is moved aside, never deleted; checkpoints and keys
// that are there stay as they are.
func Restore(ctx context.Context, data, file string) (done Restored, err error) {
	if err := makeData(data); err != nil {
		return done, err
	}
	lock, err := lockData(data)
	if err != nil {
		return done, err
	}
	defer lock.Close()
	work, err := os.MkdirTemp(data, ".restore-*")
	if err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	info, names, err := unpack(ctx, file, work)
	if err != nil {
		return done, fmt.Errorf("%s: %w: nothing was changed", file, err)
	}
	done.Time = info.Time
	// The copy must be whole before it takes the place of anything.
	if err := whole(ctx, filepath.Join(work, recordsFile)); err != nil {
		return done, fmt.Errorf("the records in %s: %w: nothing was changed", file, err)
	}
	signing := filepath.Join(data, filepath.FromSlash(secrets[0]))
	switch _, err := os.Lstat(signing); {
	case errors.Is(err, fs.ErrNotExist) && !slices.Contains(names, secrets[0]):
		return done, fmt.Errorf("%s is not there, and this backup was made without keys: put back the keys from where you keep them first; a new key would orphan all that the old one signed", signing)
	case errors.Is(err, fs.ErrNotExist):
		done.Keys = true
	case err != nil:
		return done, err
	}
	if done.Aside, err = setAside(data); err != nil {
		return done, err
	}
	for _, name := range names {
		to := filepath.Join(data, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return done, err
		}
		if _, err := os.Lstat(to); err == nil && name != recordsFile {
			continue
		}
		if err := errors.Join(os.Rename(filepath.Join(work, filepath.FromSlash(name)), to), syncDir(filepath.Dir(to))); err != nil {
			return done, fmt.Errorf("restore: %w", err)
		}
	}
	keys, err := loadKeys(data)
	if err != nil {
		return done, err
	}
	r, err := OpenRecords(data, keys)
	if err != nil {
		return done, err
	}
	done.Found, err = r.Examine(ctx)
	return done, errors.Join(err, r.Close())
}

// whole says what is wrong with a file of records by itself.
func whole(ctx context.Context, path string) error {
	s, err := store.Open(path, audit.Seal)
	if err != nil {
		return err
	}
	found, err := s.Inspect(ctx)
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	if (&Damaged{found}).final() {
		return found[0]
	}
	return nil
}

// setAside gives the records that are there a second name, under which they stay
// when others take their place, and takes their journals out of the way. At no
// moment is the folder without records: the appliance would begin new ones.
func setAside(data string) (string, error) {
	path := filepath.Join(data, recordsFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	aside := path + ".before-" + time.Now().UTC().Format("20060102T150405Z")
	if _, err := os.Lstat(aside); err == nil {
		return "", fmt.Errorf("%s is there already: wait a second", aside)
	}
	// What a crash has left in the journal belongs into the file. Records that
	// can't be opened are set aside as they are.
	if s, err := OpenStore(data); err == nil {
		if err := s.Close(); err != nil {
			return "", fmt.Errorf("setting the present records aside: %w", err)
		}
	}
	if err := os.Link(path, aside); err != nil {
		return "", fmt.Errorf("setting the present records aside: %w", err)
	}
	// Beside other records a journal would be played into them.
	for _, ext := range []string{"-wal", "-shm"} {
		if err := os.Rename(path+ext, aside+ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("setting the present records aside: %w", err)
		}
	}
	return aside, syncDir(data)
}

// unpack takes a backup apart into a folder. Only names that a backup can have
// are taken.
func unpack(ctx context.Context, file, dir string) (info backupInfo, names []string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return info, nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return info, nil, errors.New("it is no backup, or it is damaged")
	}
	t := tar.NewReader(z)
	for {
		if err := ctx.Err(); err != nil {
			return info, nil, err
		}
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return info, nil, fmt.Errorf("it is damaged: %w", err)
		}
		if h.Name == backupIndex {
			if err := json.NewDecoder(io.LimitReader(t, 64<<10)).Decode(&info); err != nil || info.Version != 1 {
				return info, nil, errors.New("it is no backup that this program knows")
			}
			continue
		}
		if h.Typeflag != tar.TypeReg || !inBackup.MatchString(h.Name) || path.Clean(h.Name) != h.Name || slices.Contains(names, h.Name) {
			return info, nil, fmt.Errorf("it holds %q, which no backup of ours does", strings.ToValidUTF8(h.Name, "?"))
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return info, nil, err
		}
		out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return info, nil, err
		}
		n, err := io.Copy(out, t)
		if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
			return info, nil, fmt.Errorf("it is damaged: %w", err)
		}
		if n != h.Size {
			return info, nil, errors.New("it is damaged: a file in it is too short")
		}
		names = append(names, h.Name)
	}
	// The checksum stands at the very end.
	if _, err := io.Copy(io.Discard, z); err != nil {
		return info, nil, fmt.Errorf("it is damaged: %w", err)
	}
	if info.Version != 1 || !slices.Contains(names, recordsFile) {
		return info, nil, errors.New("it is no backup of ours, or only a part of one")
	}
	return info, names, nil
}
