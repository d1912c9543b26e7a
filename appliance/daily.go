package appliance

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keepBackups is how many daily copies of the records stay.
const keepBackups = 7

// Daily makes a checkpoint and a copy of the records at midnight UTC, and at
// once if the last ones are older than a day. A day that fails is told in the
// log and tried again after an hour; the work goes on.
func (r *Records) Daily(ctx context.Context, log *slog.Logger) error {
	wait := time.Duration(0)
	if r.recent() {
		wait = untilMidnight(time.Now())
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = untilMidnight(time.Now())
		if err := r.day(ctx, log); err != nil && ctx.Err() == nil {
			log.Error("the daily checkpoint and copy of the records failed", "err", err)
			wait = min(wait, time.Hour)
		}
	}
}

func untilMidnight(now time.Time) time.Duration {
	return now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
}

// recent says that checkpoint and copy of the last day are there.
func (r *Records) recent() bool {
	all, err := r.Checkpoints.All()
	copies := r.copies()
	if err != nil || len(all) == 0 || len(copies) == 0 {
		return false
	}
	st, err := os.Stat(copies[len(copies)-1])
	return err == nil && time.Since(st.ModTime()) < 24*time.Hour && time.Since(all[len(all)-1].Time) < 24*time.Hour
}

func (r *Records) day(ctx context.Context, log *slog.Logger) error {
	k, fresh, err := r.Checkpoint(ctx, "appliance")
	if err != nil {
		return err
	}
	if fresh {
		log.Info("checkpoint", "number", k.Number, "chains", k.Chains, "lines", k.Lines, "sha256", k.Hash)
	}
	dir := r.backups()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := r.sweep(dir); err != nil {
		return err
	}
	to, err := r.Backup(ctx, dir, false)
	if err != nil {
		return err
	}
	log.Info("copy of the records", "file", to)
	// The oldest go, and only whole ones that we made are counted. Names from
	// after this one were made while the clock was ahead.
	copies := r.copies()
	if i := slices.Index(copies, to); i >= 0 {
		copies = slices.Concat(copies[i+1:], copies[:i+1])
	}
	for ; len(copies) > keepBackups; copies = copies[1:] {
		if err := os.Remove(copies[0]); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes what a power cut has left of copies: names stand in it.
func (r *Records) sweep(dir string) error {
	for _, pattern := range []string{filepath.Join(r.data, ".backup-*"), filepath.Join(r.data, ".restore-*"), filepath.Join(dir, ".refurb-*")} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, name := range left {
			// A command may be at one of them right now.
			if st, err := os.Lstat(name); err != nil || time.Since(st.ModTime()) < 24*time.Hour {
				continue
			}
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Records) backups() string { return filepath.Join(r.data, "backups") }

// copies lists the daily copies, oldest first.
func (r *Records) copies() []string {
	entries, err := os.ReadDir(r.backups())
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), backupPrefix) && strings.HasSuffix(e.Name(), backupExt) {
			all = append(all, filepath.Join(r.backups(), e.Name()))
		}
	}
	slices.Sort(all)
	return all
}
