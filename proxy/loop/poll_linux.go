//go:build linux && !386 && !s390x && !imlb_portable

package loop

import (
	"errors"
	"net"
	"os"
	"runtime/metrics"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxEvents is how many sockets one turn looks at.
const maxEvents = 256

// slotWake stands for the eventfd. Listeners are below it.
const slotWake = -1

// watched is what a connection is registered for, once. Edges tell of changes, so
// nothing has to be registered again. EPOLLPRI tells of urgent data, at which a
// read stops short of what follows.
const watched = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | edgeTriggered

// edgeTriggered is EPOLLET as the kernel has it; the constant is negative.
const edgeTriggered = 1 << 31

// poller waits for sockets.
type poller struct {
	epoll     int
	bell      int      // an epoll instance that has epoll in it, when it is to ring
	file      *os.File // bell, as Go's poller waits for it
	raw       syscall.RawConn
	look      func(uintptr) bool // lookOrPark
	parked    bool               // in this wait
	alone     bool               // see relieve
	hung      bool               // epoll is in the bell
	rings     bool               // and the bell is on
	deadline  int64              // of file, on the loop's clock; 0 for none
	ringing   sync.Mutex
	eventfd   int // held by ringing from the first wait on; -1 after close
	events    [maxEvents]syscall.EpollEvent
	ready     int // how many of events there are
	done      int // how many have been dispatched
	listeners map[int32]*accepting
	listened  int32
	parks     int   // how often the loop has slept, as far as is known
	slept     int64 // when it last began to, on the loop's clock
	brisk     int   // how often in a row something came soon
	waiting   [1]metrics.Sample
	young     young // connections without keepalives yet
}

// open makes the descriptors.
func (p *poller) open(*Loop) (err error) {
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if p.eventfd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.epoll)
		return os.NewSyscallError("eventfd", err)
	}
	if p.bell, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		_ = unix.Close(p.epoll)
		_ = unix.Close(p.eventfd)
		return os.NewSyscallError("epoll_create1", err)
	}
	p.look = p.lookOrPark
	p.waiting[0].Name = runnable
	// Nonblocking is what makes package os hand the descriptor to Go's poller.
	err = os.NewSyscallError("fcntl", unix.SetNonblock(p.bell, true))
	p.file = os.NewFile(uintptr(p.bell), "epoll") //nolint:gosec // G115: a descriptor
	if err == nil {
		p.raw, err = p.file.SyscallConn()
	}
	if err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails if the poller did not take it
	}
	if err == nil {
		err = p.ctl(unix.EPOLL_CTL_ADD, p.eventfd, unix.EPOLLIN|edgeTriggered, slotWake, 0)
	}
	if err == nil {
		err = p.hang()
	}
	if err != nil {
		p.close()
	}
	return err
}

func (p *poller) close() {
	_ = p.file.Close()
	_ = unix.Close(p.epoll)
	p.ringing.Lock()
	defer p.ringing.Unlock()
	_ = unix.Close(p.eventfd)
	p.eventfd = -1
}

func (p *poller) ctl(op, fd int, events uint32, slot, gen int32) error {
	return epollCtl(p.epoll, op, fd, &syscall.EpollEvent{Events: events, Fd: slot, Pad: gen})
}

// hang puts the bell up, which does not ring yet. The kernel looks at all connections when
// it is, and at the bell for each event from then on.
func (p *poller) hang() error {
	if p.hung {
		return nil
	}
	err := epollCtl(p.bell, unix.EPOLL_CTL_ADD, p.epoll, &syscall.EpollEvent{})
	p.hung, p.brisk = err == nil, 0
	return err
}

// unhang takes the bell down.
func (p *poller) unhang() {
	if p.hung && epollCtl(p.bell, unix.EPOLL_CTL_DEL, p.epoll, &syscall.EpollEvent{}) == nil {
		p.hung, p.rings = false, false
	}
}

// ring has events wake the loop, or not.
func (p *poller) ring(on bool) {
	ev := syscall.EpollEvent{}
	if p.rings = on; on {
		ev.Events = unix.EPOLLIN
	}
	_ = epollCtl(p.bell, unix.EPOLL_CTL_MOD, p.epoll, &ev) // which was added
}

func epollCtl(epoll, op, fd int, ev *syscall.EpollEvent) error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op),
		uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0) //nolint:gosec // G103: the kernel's interface
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// add registers a connection.
func (p *poller) add(_ *Loop, c *Conn) error {
	return p.ctl(unix.EPOLL_CTL_ADD, int(c.sock.fd), watched, c.slot, c.gen)
}

// remove forgets a connection whose socket stays open. To close the descriptor would not do: the
// kernel knows the socket by its number until it is closed for good, and refuses to take it
// anew if it comes back with the same.
func (p *poller) remove(c *Conn) { _ = p.ctl(unix.EPOLL_CTL_DEL, int(c.sock.fd), 0, 0, 0) }

// wake ends a wait. It may be called from any goroutine, and late, when what it is for has been
// done and the loop is over: then nobody else's descriptor must be written to that has the
// number. The count of the eventfd is never read: with edges, each write is an event.
func (p *poller) wake() {
	one := uint64(1)
	p.ringing.Lock() // and not the inbox, which the loop needs as soon as it wakes
	defer p.ringing.Unlock()
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(p.eventfd),
		uintptr(unsafe.Pointer(&one)), 8) //nolint:gosec // G103: the kernel's interface
}

// wait gets the events of the next turn. It waits for one if there is none, for
// ever if d is negative.
//
// Unless the next event will come soon (see doze), it does so in Go's own poller, which takes the bell for one more descriptor, and
// not in a system call: the thread and the processor are free for other goroutines at
// once, and the runtime need not watch over the call. The bell is off while the loop
// is awake: it would wake a thread of the runtime for each event, for nothing.
func (p *poller) wait(l *Loop, d time.Duration) {
	p.done = 0
	if d == 0 {
		p.poll()
		p.goOn(l)
		return
	}
	p.gauge(l.now)
	if p.brisk >= dozeAfter && (p.busy() || p.doze(l, d)) {
		p.goOn(l)
		return
	}
	if p.hang() != nil { // memory is short: there will be another turn soon
		_ = p.pollFor(limited(d)) // nothing, or events
		p.goOn(l)
		return
	}
	p.alarm(l, d)
	p.parked = false
	// What comes after Read has begun is not missed, so the look for events is inside.
	if err := p.raw.Read(p.look); err != nil { // the deadline
		p.deadline = 0
		_ = p.file.SetReadDeadline(time.Time{})
		p.poll()
	}
	if p.rings {
		p.ring(false)
	}
	if p.parked {
		p.parks++
		l.yielded, p.alone = l.clock(), true
	} else {
		p.goOn(l)
	}
}

// goOn is called after a wait in which the loop did not park.
func (p *poller) goOn(l *Loop) {
	if l.now-l.yielded > relieveAfter {
		p.relieve()
	}
	l.yield()
}

// relieveAfter is how long a loop may keep the thread that waited in Go's poller. Most
// park again before, for which another thread need not be woken.
const relieveAfter = int64(200 * time.Microsecond)

// relieve has another thread wait in Go's poller, if there is an idle processor. A loop
// that is woken by that runs on the thread that waited there, and the runtime puts no
// other in its place before the loop parks or yields: until then, whatever else waits
// there (the other loops' bells, and timers) is seen every 10 ms only, by sysmon.
func (p *poller) relieve() {
	if p.alone {
		p.alone = false
		go func() {}() // which wakes a thread that, with nothing to do, waits there
	}
}

// busy gets events if several came the last time, and tells whether there are any. Where they
// come one by one, the look before a doze is mostly a call for nothing.
func (p *poller) busy() bool { return p.ready > 1 && p.poll() }

// runnable is the metric of how many goroutines wait for a processor.
const runnable = "/sched/goroutines/runnable:goroutines"

const (
	// dozeTime is how long a loop dozes at most, and within what it expects the next event.
	dozeTime = 5 * time.Millisecond
	// dozeAfter is how many waits in a row have to have been as short before it dozes.
	dozeAfter = 8
)

// limited is for how long to doze when d is left, which is negative for ever.
func limited(d time.Duration) time.Duration {
	if d < 0 {
		return dozeTime
	}
	return min(d, dozeTime)
}

// gauge notes how long the last wait was, with the turn after it.
func (p *poller) gauge(now int64) {
	if p.brisk++; now-p.slept >= int64(dozeTime) {
		p.brisk = 0
	}
	p.slept = now
}

// doze waits in a system call of which the scheduler knows nothing, and tells whether the
// wait is over. Where the next event comes soon, this is one call instead of six, and no
// change of thread. The processor is kept from other goroutines meanwhile, so it is for a
// moment only, when none wants one, and [Group.hold] leaves one to those that come. Signals,
// as those of the garbage collector, end it.
//
// A loop that does so for long takes the bell down, for which putting it up has to be paid
// again: by as many waits as the kernel has connections to look at then.
func (p *poller) doze(l *Loop, d time.Duration) (over bool) {
	if p.crowded() || !l.group.hold() {
		return false
	}
	defer l.group.release()
	p.relieve()
	if p.brisk > dozeAfter+int(l.live.Load()) {
		p.unhang()
	}
	limit := limited(d)
	switch err := p.pollFor(limit); {
	case p.ready > 0:
		p.parks++
		return true
	case err == syscall.EINTR: //nolint:errorlint // it is an Errno
		return true
	default: // ENOSYS before Linux 5.11 and EPERM by some filters, too
		p.brisk = 0
		return limit == d
	}
}

// crowded tells whether goroutines wait for a processor. To ask takes less than 0.1 µs.
func (p *poller) crowded() bool {
	metrics.Read(p.waiting[:])
	return p.waiting[0].Value.Kind() != metrics.KindUint64 || p.waiting[0].Value.Uint64() > 0
}

// pollFor is poll with a limit to how long it blocks.
func (p *poller) pollFor(limit time.Duration) error {
	ts := [2]int64{0, int64(limit)} // s and ns, of 64 bits on every system
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.epoll),
		uintptr(unsafe.Pointer(&p.events)), maxEvents, uintptr(unsafe.Pointer(&ts)), 0, 0) //nolint:gosec // G103: the kernel's interface
	p.ready = 0
	if errno != 0 {
		return errno
	}
	p.ready = int(n) //nolint:gosec // G115: at most maxEvents
	return nil
}

// lookOrPark gets events for a wait, or says that it has to go on. It looks again after
// it has put the bell on, because that alone does not ring for what is there already:
// the kernel may have the bell down as ringing, from the last time.
func (p *poller) lookOrPark(uintptr) bool {
	found := p.poll()
	if !found && !p.rings {
		p.ring(true)
		found = p.poll()
	}
	p.parked = p.parked || !found
	return found
}

// alarm makes a wait end after d, or before: a deadline that is early does no harm,
// and need not be set again.
func (p *poller) alarm(l *Loop, d time.Duration) {
	if at := l.now + int64(d); d > 0 && (p.deadline == 0 || at < p.deadline) {
		p.deadline = at
		_ = p.file.SetReadDeadline(l.group.start.Add(time.Duration(at)))
	}
}

// poll gets what events there are, and tells whether there are any. It does not
// block, so Go's scheduler need not know of the call.
func (p *poller) poll() bool {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.epoll),
		uintptr(unsafe.Pointer(&p.events)), maxEvents, 0, 0, 0) //nolint:gosec // G103: the kernel's interface
	if errno != 0 {
		n = 0 // EINTR
	}
	p.ready = int(n) //nolint:gosec // G115: at most maxEvents
	return p.ready > 0
}

// dispatch handles the events that wait got.
func (p *poller) dispatch(l *Loop) {
	for p.done < p.ready {
		ev := &p.events[p.done]
		p.done++
		switch {
		case ev.Fd >= 0:
			if c := l.conns[ev.Fd]; c != nil && c.gen == ev.Pad {
				c.event(meaning(ev.Events))
			}
		case ev.Fd < slotWake:
			if a := p.listeners[ev.Fd]; a != nil {
				a.acceptBatch()
			}
		}
	}
}

// meaning translates what epoll says.
func meaning(events uint32) int {
	what := 0
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLPRI|unix.EPOLLHUP) != 0 {
		what |= canRead
	}
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		what |= canWrite
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLPRI|unix.EPOLLHUP) != 0 {
		what |= isEager
	}
	if events&unix.EPOLLERR != 0 {
		what |= isBroken
	}
	return what
}

// Adopt takes over a connection: c is closed, its socket goes on as the Conn.
func (l *Loop) Adopt(c *net.TCPConn) (*Conn, error) {
	fd, err := dup(c)
	if err = errors.Join(err, c.Close()); err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, opError("adopt", err)
	}
	if err := tune(fd, l.group.opts.KeepAlive); err != nil {
		_ = unix.Close(fd)
		return nil, opError("adopt", err)
	}
	return l.newConn(socket{int32(fd)}) //nolint:gosec // G115: a descriptor
}

// Dial begins to connect, and tells d, later. It returns what is under way, to be reset by
// who has no use for it any more; then d is not told. It is nil where there is no such thing.
func (l *Loop) Dial(to Target, d Dialer) *Conn {
	c, err := l.dial(to)
	if err != nil {
		l.posts = append(l.posts, func() { l.dialled(d, nil, opError("dial", err)) })
		return nil
	}
	c.connecting, c.handler = true, d
	if to.Timeout > 0 {
		c.deadline = l.clock() + int64(to.Timeout)
		c.arm()
	}
	return c
}

func (l *Loop) dial(to Target) (*Conn, error) {
	s, err := socket{-1}, ErrNoSource
	for source := range Sources(to.From, to.Addr.Addr()) {
		if s, err = connect(source, to.Addr, to.Speaks); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	c, err := l.newConn(s)
	if err != nil {
		return nil, err
	}
	c.readable, c.writable, c.undelayed = false, false, false
	l.poll.young.add(l, c)
	return c, nil
}

// Spoken tells whether the peer of an accepted connection has said something that was not read yet.
func (c *Conn) Spoken() bool {
	if c.closed {
		return false
	}
	yes, err := c.sock.spoken()
	if err != nil {
		_ = c.broke(opError("read", err)) // which a read would not learn any more
	}
	return yes
}

// youth is how long a dialled connection has no keepalives. Many do not live as
// long, and are spared four system calls.
const youth = 10 * time.Second

// young are the connections that were dialled since the last look.
type young struct {
	loop  *Loop
	timer timer
	conns []placed
}

// placed is a connection that may be gone.
type placed struct{ slot, gen int32 }

func (y *young) add(l *Loop, c *Conn) {
	if !l.group.opts.KeepAlive.Enable {
		return
	}
	if y.conns = append(y.conns, placed{c.slot, c.gen}); len(y.conns) == 1 {
		y.loop = l
		y.timer.owner, y.timer.bucket = y, bucketNone
		l.wheel.set(&y.timer, l.now+int64(youth))
	}
}

// expire sets the keepalives of those that are still there.
func (y *young) expire() {
	for _, p := range y.conns {
		if c := y.loop.conns[p.slot]; c != nil && c.gen == p.gen {
			_ = keepAlive(int(c.sock.fd), y.loop.group.opts.KeepAlive) // of a broken one, which will tell
		}
	}
	y.conns = nil
}
