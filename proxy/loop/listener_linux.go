//go:build linux && !386 && !s390x && !imlb_portable

package loop

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxAccepts is how many connections one turn of a loop accepts from a listener.
const maxAccepts = 16

// Listener accepts connections on the loops of a group that do.
type Listener struct {
	group  *Group
	fd     int
	addr   net.Addr
	accept func(*Conn, netip.AddrPort)
	warn   func(error, time.Duration)
	parts  []*accepting // one for each of the loops
	once   sync.Once
}

// accepting is a loop's part of a listener. The loop owns it.
type accepting struct {
	*Listener
	loop  *Loop
	slot  int32
	burst int           // how many to accept at the next event
	parks int           // of the loop, at the last event
	pause time.Duration // the last one
	retry *Timer
	over  bool
}

// Listen accepts connections from inner, which it takes over, and calls accept on
// the loop of each, with the peer's address. When there are no descriptors left, or
// no memory, warn is told (if not nil) why accepting pauses, and for how long; that
// may be on any goroutine. Listen may be called from any goroutine.
func (g *Group) Listen(inner *net.TCPListener, accept func(*Conn, netip.AddrPort), warn func(err error, retryIn time.Duration)) (*Listener, error) {
	ln := &Listener{group: g, addr: inner.Addr(), accept: accept, warn: warn}
	fd, err := dup(inner)
	if err = errors.Join(err, inner.Close()); err == nil {
		err = tune(fd, g.opts.KeepAlive)
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, opError("listen", err)
	}
	ln.fd = fd
	for _, l := range g.accepting() {
		ln.parts = append(ln.parts, &accepting{Listener: ln, loop: l, burst: 1})
	}
	if !g.open(ln) {
		return nil, errors.Join(net.ErrClosed, ln.Close())
	}
	for _, a := range ln.parts {
		a.loop.Post(a.start) // or the group is closed, and so is ln
	}
	return ln, nil
}

// Addr returns the address that is listened on.
func (ln *Listener) Addr() net.Addr { return ln.addr }

// Close ends accepting. What was accepted stays. No more callbacks run when it
// returns. It may be called from any goroutine that is not a loop's.
func (ln *Listener) Close() error {
	var err error
	ln.once.Do(func() {
		ln.group.forget(ln)
		var ended sync.WaitGroup
		for _, a := range ln.parts {
			ended.Add(1)
			if !a.loop.Post(func() { defer ended.Done(); a.stop() }) {
				ended.Done()
			}
		}
		ended.Wait()
		ln.settle()
		err = os.NewSyscallError("close", unix.Close(ln.fd))
	})
	return err
}

// settle waits until what one loop has accepted for another is there: it may have come to that
// after its part had ended.
func (ln *Listener) settle() {
	var placed sync.WaitGroup
	for _, a := range ln.parts {
		placed.Add(1)
		if !a.loop.Post(placed.Done) {
			placed.Done()
		}
	}
	placed.Wait()
}

// start has the loop woken for connections. One loop at a time is.
func (a *accepting) start() {
	if a.over {
		return
	}
	p := &a.loop.poll
	if p.listeners == nil {
		p.listeners = map[int32]*accepting{}
	}
	if a.slot == 0 {
		p.listened++
		a.slot = slotWake - p.listened
	}
	p.listeners[a.slot] = a
	if err := p.ctl(unix.EPOLL_CTL_ADD, a.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, a.slot, 0); err != nil {
		a.rest(err)
	}
}

func (a *accepting) stop() {
	a.over = true
	a.halt()
	if a.retry != nil {
		a.retry.Stop()
	}
}

func (a *accepting) halt() {
	delete(a.loop.poll.listeners, a.slot)
	_ = a.loop.poll.ctl(unix.EPOLL_CTL_DEL, a.fd, 0, 0, 0)
}

// rest stops accepting for a while: a listener that cannot be served would have the
// loop woken all the time.
func (a *accepting) rest(err error) {
	a.halt()
	a.pause = min(max(2*a.pause, minAcceptPause), maxAcceptPause)
	a.retry = a.loop.After(a.pause, a.start)
	if a.warn != nil {
		a.warn(opError("accept", err), a.pause)
	}
}

// acceptBatch accepts what waits, up to a bound that grows while the loop does not
// come to rest: a single connection costs a single call.
func (a *accepting) acceptBatch() {
	if a.parks != a.loop.poll.parks {
		a.parks, a.burst = a.loop.poll.parks, 1
	}
	for range a.burst {
		switch ok, err := a.acceptOne(); {
		case err != nil:
			a.rest(err)
			return
		case !ok:
			a.burst = 1
			return
		}
	}
	a.burst = min(2*a.burst, maxAccepts)
}

// acceptOne accepts a connection if one waits.
func (a *accepting) acceptOne() (bool, error) {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	fd, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(a.fd),
		uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)), //nolint:gosec // G103: the kernel's interface
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	switch errno {
	case 0:
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
		return false, os.NewSyscallError("accept4", errno)
	case syscall.EAGAIN:
		return false, nil
	default:
		return true, nil // of a connection that is gone again
	}
	a.pause = 0
	s, from := socket{int32(fd)}, rawAddrPort(&sa) //nolint:gosec // G115: a descriptor
	if l := quietest(a.group.accepting()); l != a.loop && a.loop.live.Load() > l.live.Load()*9/8+32 {
		// Exclusive wake-ups favour one loop. Sessions that stay must not pile up there.
		if !l.Post(func() { a.place(l, s, from) }) {
			_ = s.close(true)
		}
		return true, nil
	}
	a.place(a.loop, s, from)
	return true, nil
}

// place puts an accepted connection on a loop.
func (a *accepting) place(l *Loop, s socket, from netip.AddrPort) {
	c, err := l.newConn(s)
	if err != nil {
		if a.warn != nil && !errors.Is(err, net.ErrClosed) {
			a.warn(err, 0)
		}
		return
	}
	l.current = c
	a.Listener.accept(c, from)
	l.current = nil
}

// rawAddrPort decodes the address of accept4.
func rawAddrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa)) //nolint:gosec // G103: the kernel's interface
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swapped(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa)) //nolint:gosec // G103: the kernel's interface
		return addrPort(&unix.SockaddrInet6{Port: int(swapped(in.Port)), Addr: in.Addr, ZoneId: in.Scope_id})
	}
	return netip.AddrPort{}
}

// swapped returns a port that is in network order.
func swapped(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port)) //nolint:gosec // G103: bytes as they lie
	return uint16(b[0])<<8 | uint16(b[1])
}
