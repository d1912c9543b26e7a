package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Capabilities are all that the appliance has of root's powers, in the lab as in
// its service (scripts/service/refurb.service).
var Capabilities = []string{"net_bind_service", "net_admin", "net_raw"}

// asService is the command line before a program that has to live with the
// service's user and powers, and hands the data folder to that user.
func asService(data string) ([]string, error) {
	uid, gid, err := serviceUser(data)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(data, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(path, uid, gid)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("handing the data folder over: %w", err)
	}
	caps := "-all,+" + strings.Join(Capabilities, ",+")
	return []string{"setpriv", fmt.Sprintf("--reuid=%d", uid), fmt.Sprintf("--regid=%d", gid), "--clear-groups", "--no-new-privs",
		"--inh-caps=" + caps, "--ambient-caps=" + caps, "--bounding-set=" + caps}, nil
}

// serviceUser is nobody, unless a folder above data is closed to others: then
// the one it belongs to.
func serviceUser(data string) (uid, gid int, err error) {
	for dir := filepath.Dir(data); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return 0, 0, err
		}
		if own, ok := st.Sys().(*syscall.Stat_t); ok && st.Mode().Perm()&0o001 == 0 {
			return int(own.Uid), int(own.Gid), nil
		}
	}
	return 65534, 65534, nil
}
