//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ownProcessGroup keeps a Ctrl-C in the terminal from reaching a child, so that
// the parent can stop its children in order.
func ownProcessGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// lockDirectory keeps others from using a data directory until unlock is called or the
// process ends.
func lockDirectory(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // The operator names the directory.
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // A descriptor fits.
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is in use by another imlb dev: stop that, or choose another directory with --data", dir)
	}
	return func() { _ = f.Close() }, nil
}
