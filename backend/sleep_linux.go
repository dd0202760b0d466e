//go:build linux

package backend

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// dormitory is where sessions sleep whose clients are quiet: without a goroutine, whose
// stack would be most of what an idle session takes. One goroutine waits for all of
// them, in an epoll instance of the node's own.
type dormitory struct {
	file *os.File // the epoll instance, as Go's poller waits for it
	raw  syscall.RawConn
	done chan struct{} // closed when watch has ended
	size prometheus.Gauge

	mu       sync.Mutex
	sleepers map[int32]*session // by descriptor
}

// newDormitory opens the epoll instance. size is told how many sleep.
func newDormitory(size prometheus.Gauge) (*dormitory, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// Nonblocking is what makes package os hand the descriptor to Go's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	d := &dormitory{
		file:     os.NewFile(uintptr(fd), "epoll"), //nolint:gosec // G115: a descriptor
		done:     make(chan struct{}),
		size:     size,
		sleepers: make(map[int32]*session),
	}
	err = d.file.SetReadDeadline(time.Time{}) // fails if the poller did not take it
	if err == nil {
		d.raw, err = d.file.SyscallConn()
	}
	if err != nil {
		_ = d.file.Close()
		return nil, fmt.Errorf("wait for an epoll instance: %w", err)
	}
	go d.watch()
	return d, nil
}

// close ends the watch. Nobody sleeps any more.
func (d *dormitory) close() {
	_ = d.file.Close()
	<-d.done
}

// watch wakes whose client says something, or is gone, until close.
func (d *dormitory) watch() {
	defer close(d.done)
	var events [64]unix.EpollEvent
	for {
		var ready int
		err := d.raw.Read(func(fd uintptr) bool {
			var err error
			for ready, err = unix.EpollWait(int(fd), events[:], 0); errors.Is(err, unix.EINTR); { //nolint:gosec // G115: a descriptor
				ready, err = unix.EpollWait(int(fd), events[:], 0) //nolint:gosec // G115: a descriptor
			}
			return ready != 0
		})
		if err != nil {
			return
		}
		for _, ev := range events[:max(ready, 0)] {
			if s := d.take(ev.Fd); s != nil {
				s.wakeUp()
			}
		}
	}
}

// rouse wakes a session if it sleeps.
func (d *dormitory) rouse(s *session) {
	d.mu.Lock()
	asleep := d.sleepers[s.bed] == s
	if asleep {
		d.remove(s.bed)
	}
	d.mu.Unlock()
	if asleep {
		s.wakeUp()
	}
}

// take takes out who sleeps at a descriptor. It returns nil if nobody does: somebody else
// was faster.
func (d *dormitory) take(fd int32) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sleepers[fd]
	d.remove(fd)
	return s
}

// remove takes out who sleeps at a descriptor, if somebody does; under dormitory.mu.
func (d *dormitory) remove(fd int32) {
	delete(d.sleepers, fd)
	d.size.Set(float64(len(d.sleepers)))
}

// lay has a session sleep until its client says something, rouse is called, or the time
// comes at which it wants to be woken. It returns false if it cannot sleep. If it can,
// somebody else may run it from then on.
func (d *dormitory) lay(s *session, until time.Time) bool {
	raw := rawConn(s.conn)
	if raw == nil {
		return false
	}
	asleep := false
	err := raw.Control(func(fd uintptr) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if s.ended() || s.in.owes() || s.dismissed.Load() { // whoever has brought that about rouses it afterwards
			return
		}
		s.bed = int32(fd) //nolint:gosec // G115: a descriptor
		if asleep = d.register(s.bed); asleep {
			d.sleepers[s.bed] = s
			d.size.Set(float64(len(d.sleepers)))
			s.setAlarm(until)
		}
	})
	return err == nil && asleep
}

// register has the kernel tell once when there is something to read; under dormitory.mu.
func (d *dormitory) register(fd int32) bool {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: fd}
	registered := false
	err := d.raw.Control(func(epoll uintptr) {
		err := unix.EpollCtl(int(epoll), unix.EPOLL_CTL_MOD, int(fd), &ev) //nolint:gosec // G115: descriptors
		if errors.Is(err, unix.ENOENT) {
			err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(fd), &ev) //nolint:gosec // G115: descriptors
		}
		registered = err == nil
	})
	return err == nil && registered
}

// rawConn is the descriptor of a connection, nil if it has none.
func rawConn(conn net.Conn) syscall.RawConn {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
