//go:build unix

package main

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// inputPatience is how long a pipe may say nothing until it counts as one that will say
// something: the end of an empty one is there at once.
const inputPatience = time.Second

// hasInput tells whether there is, or may be, something to read from what is no terminal. It does not wait for
// it, and leaves a pipe alone whose writer is there.
func hasInput(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice != 0 { // closed, a terminal, /dev/null
		return false
	}
	if info.Mode().IsRegular() {
		at, err := f.Seek(0, io.SeekCurrent)
		return err != nil || at < info.Size()
	}
	polled := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}} //nolint:gosec // It is a descriptor.
	for {
		_, err = unix.Poll(polled, int(inputPatience.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || polled[0].Revents&unix.POLLHUP == 0 {
		return true
	}
	n, err := io.Copy(io.Discard, f) // the writer is gone, so this ends
	return n > 0 || err != nil
}
