package chatload

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ticker is a timer of the kernel's. Go's own are up to a millisecond late in a process
// that waits for the network, because epoll_wait counts in milliseconds.
type ticker struct{ file *os.File }

func newTicker(interval time.Duration) (*ticker, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	t := &ticker{file: os.NewFile(uintptr(fd), "timer")} //nolint:gosec // a descriptor
	every := unix.NsecToTimespec(interval.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		t.stop()
		return nil, fmt.Errorf("timerfd_settime: %w", err)
	}
	return t, nil
}

// wait waits for the next tick. It is os.ErrClosed after stop.
func (t *ticker) wait() error {
	var expired [8]byte
	_, err := t.file.Read(expired[:])
	return err
}

func (t *ticker) stop() { _ = t.file.Close() }
