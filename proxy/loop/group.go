package loop

import (
	"cmp"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// scratchSize is how much one read takes at most.
const scratchSize = 64 << 10

// yieldAfter is how long a loop that has no pause keeps its processor from other
// goroutines. To yield wakes another processor if there is an idle one, which is
// felt when it happens every millisecond.
const yieldAfter = int64(9 * time.Millisecond)

// How long accepting pauses when there are no descriptors: longer each time.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// Options say how a group works.
type Options struct {
	// Loops is how many loops there are; 0 means as many as Go has processors. All but
	// one of several accept connections. DESIGN.md tells why.
	Loops int
	// KeepAlive is set on every connection, accepted, adopted or dialled.
	KeepAlive net.KeepAliveConfig
	// AnswerTime replaces the constant of that name; 0 does not.
	AnswerTime time.Duration
	// Panic is told of every panic that was recovered, on the loop; the error is a
	// *PanicError. It may be nil.
	Panic func(error)
}

// Group is a number of loops that share the work. All of its methods may be called
// from any goroutine.
type Group struct {
	opts   Options
	loops  []*Loop
	start  time.Time
	chunks sync.Pool     // of *chunk
	procs  int64         // that Go had when the group was started
	held   atomic.Int64  // of them, by loops that doze
	done   chan struct{} // closed by Close
	once   sync.Once
	ended  sync.WaitGroup

	mu        sync.Mutex
	listeners map[*Listener]bool // that are open; nil after Close
}

// New starts a group.
func New(opts Options) (*Group, error) {
	if opts.Loops <= 0 {
		opts.Loops = runtime.GOMAXPROCS(0)
	}
	g := &Group{opts: opts, start: time.Now(), procs: int64(runtime.GOMAXPROCS(0)), done: make(chan struct{}), listeners: map[*Listener]bool{}}
	for range opts.Loops {
		l, err := newLoop(g)
		if err != nil {
			for _, l := range g.loops {
				l.poll.close()
			}
			return nil, fmt.Errorf("start loop: %w", err)
		}
		g.loops = append(g.loops, l)
	}
	for _, l := range g.loops {
		g.ended.Go(l.run)
	}
	return g, nil
}

func (g *Group) answerTime() int64 { return int64(cmp.Or(g.opts.AnswerTime, AnswerTime)) }

// Loops returns the loops.
func (g *Group) Loops() []*Loop { return slices.Clone(g.loops) }

// Next returns the loop with the fewest connections.
func (g *Group) Next() *Loop { return quietest(g.loops) }

// accepting returns the loops that accept connections.
func (g *Group) accepting() []*Loop { return g.loops[:max(len(g.loops)-1, 1)] }

// quietest returns the loop with the fewest connections.
func quietest(loops []*Loop) *Loop {
	least := loops[0]
	for _, l := range loops[1:] {
		if l.live.Load() < least.live.Load() {
			least = l
		}
	}
	return least
}

// Conns returns how many connections there are.
func (g *Group) Conns() int {
	n := 0
	for _, l := range g.loops {
		n += int(l.live.Load())
	}
	return n
}

// Close closes the listeners, ends all connections, which their handlers see as
// net.ErrClosed, and waits for the loops. It must not be called on a loop.
func (g *Group) Close() error {
	g.once.Do(func() {
		for ln := range g.retire() {
			_ = ln.Close()
		}
		close(g.done)
		for _, l := range g.loops {
			l.Post(func() { l.stopping = true })
		}
	})
	g.ended.Wait()
	return nil
}

// hold asks for a processor that a loop may keep while it dozes: all but one may be.
// release gives it back after hold returned true.
func (g *Group) hold() bool {
	if g.held.Add(1) < g.procs {
		return true
	}
	g.held.Add(-1)
	return false
}

func (g *Group) release() { g.held.Add(-1) }

// open notes a listener, so that Close finds it. It returns false after Close.
func (g *Group) open(ln *Listener) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listeners == nil {
		return false
	}
	g.listeners[ln] = true
	return true
}

// forget is for a listener that closes.
func (g *Group) forget(ln *Listener) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.listeners, ln)
}

// retire returns the listeners, of which there will be no more.
func (g *Group) retire() map[*Listener]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := g.listeners
	g.listeners = nil
	return all
}

// Loop is a goroutine that owns connections.
type Loop struct {
	group *Group
	poll  poller
	live  atomic.Int64 // connections

	// The inbox, for every goroutine.
	mu     sync.Mutex
	inbox  []func()
	closed bool
	asleep atomic.Bool // a post has to wake the loop

	// Owned by the loop.
	wheel     wheel
	now       int64 // time since the group's start, in ns, of this turn
	yielded   int64 // when other goroutines last had their chance
	conns     []*Conn
	free      []int32 // slots of conns
	gen       int32   // of the last connection
	current   *Conn   // whose handler runs
	dialer    Dialer  // who is told of current, which it has dialled
	queue     []*Conn // to be called once more in this turn
	queueing  []*Conn // the queue of this turn, and how far it is done
	queueDone int
	posts     []func() // the inbox of this turn, and how far it is done
	postsDone int
	pipes     pipes
	scratch   []byte
	outbox    outbox
	awaited   int // posts that will come, and must find the loop
	stopping  bool
}

func newLoop(g *Group) (*Loop, error) {
	l := &Loop{group: g, scratch: make([]byte, scratchSize), outbox: outbox{buf: make([]byte, outboxSize)}}
	return l, l.poll.open(l)
}

// Post has f called on the loop, in the order of the posts. It returns false if
// the group is closed, and f will not be called. It may be called from any
// goroutine.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.inbox = append(l.inbox, f)
	l.mu.Unlock()
	if l.asleep.Swap(false) {
		l.poll.wake()
	}
	return true
}

// Scratch returns a buffer of 64 KiB. It belongs to the handler that runs, until
// that returns or starts a relay.
func (l *Loop) Scratch() []byte { return l.scratch }

// Now returns when this turn began, as the time since the group's start. It is for the loop's
// own goroutine, and spares a look at the clock.
func (l *Loop) Now() time.Duration { return time.Duration(l.now) }

// clock returns the time as the loop counts it. l.now is cheaper, and as good
// within a turn.
func (l *Loop) clock() int64 { return int64(time.Since(l.group.start)) }

// run works until the group is closed.
func (l *Loop) run() {
	defer l.poll.close()
	for !l.turns() {
	}
	l.pipes.close()
}

// turns takes turns until the loop is over and true, or a panic. What was begun
// when it came is gone on with.
func (l *Loop) turns() (over bool) {
	defer func() {
		if v := recover(); v != nil {
			l.panicked(&PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	for {
		l.now = l.clock()
		l.outbox.open = true
		l.poll.dispatch(l)
		l.outbox.close()
		l.runPosts()
		l.runQueue()
		l.wheel.fire(l.now)
		switch {
		case !l.stopping:
			l.sleep()
		case l.stop():
			return true
		case l.awaited > 0:
			l.sleep()
		}
	}
}

// sleep waits for something to do.
func (l *Loop) sleep() {
	if len(l.queue) > 0 {
		l.yield()
		l.poll.wait(l, 0)
		return
	}
	// Whoever posts from here on wakes the loop; before, it was seen.
	l.asleep.Store(true)
	if l.hasPosts() {
		l.asleep.Store(false)
		l.poll.wait(l, 0)
		return
	}
	l.poll.wait(l, l.wheel.wait(l.now))
	l.asleep.Store(false)
}

// yield lets other goroutines run if it is their time.
func (l *Loop) yield() {
	if l.now-l.yielded > yieldAfter {
		l.yielded = l.now
		runtime.Gosched()
	}
}

func (l *Loop) hasPosts() bool {
	if l.postsDone < len(l.posts) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inbox) > 0
}

// runPosts calls what was posted.
func (l *Loop) runPosts() {
	if l.postsDone == len(l.posts) {
		clear(l.posts)
		l.mu.Lock()
		l.posts, l.inbox = l.inbox, l.posts[:0]
		l.mu.Unlock()
		l.postsDone = 0
	}
	for l.postsDone < len(l.posts) {
		l.postsDone++
		l.posts[l.postsDone-1]()
	}
}

// runQueue calls the handlers that asked for it.
func (l *Loop) runQueue() {
	if l.queueDone == len(l.queueing) {
		clear(l.queueing)
		l.queueing, l.queue = l.queue, l.queueing[:0]
		l.queueDone = 0
	}
	for l.queueDone < len(l.queueing) {
		c := l.queueing[l.queueDone]
		l.queueDone++
		c.queued = false
		c.woken()
	}
}

// panicked ends the connection whose handler panicked.
func (l *Loop) panicked(err *PanicError) {
	defer func() {
		if v := recover(); v != nil {
			l.report(&PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	c, d := l.current, l.dialer
	l.current, l.dialer = nil, nil
	l.report(err)
	var h Handler
	if c != nil {
		h = c.handler // nil once it is closed
		_ = c.Reset()
	}
	if h == nil && d != nil {
		h = d
	}
	if f, ok := h.(Failer); ok {
		f.Failed(c, err)
	}
}

func (l *Loop) report(err *PanicError) {
	if l.group.opts.Panic != nil {
		l.group.opts.Panic(err)
	}
}

// stop ends the connections, one after the other so that a panic ends but one of
// them, and the inbox. It returns true when all is over.
func (l *Loop) stop() bool {
	for _, c := range l.conns {
		if c != nil {
			c.abandon()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = l.postsDone == len(l.posts) && len(l.inbox) == 0 && len(l.queue) == 0 && l.live.Load() == 0 && l.awaited == 0
	return l.closed
}

// dialled tells who has dialled of what came of it.
func (l *Loop) dialled(d Dialer, c *Conn, err error) {
	l.current, l.dialer = c, d
	d.Dialled(c, err)
	l.current, l.dialer = nil, nil
}

// add gives a connection its place.
func (l *Loop) add(c *Conn) {
	c.loop = l
	c.timer.owner, c.timer.bucket = c, bucketNone
	if n := len(l.free); n > 0 {
		c.slot, l.free = l.free[n-1], l.free[:n-1]
		l.conns[c.slot] = c
	} else {
		c.slot = int32(len(l.conns)) //nolint:gosec // G115: descriptors are fewer
		l.conns = append(l.conns, c)
	}
	l.gen++
	c.gen = l.gen
	l.live.Add(1)
}

// remove forgets a connection.
func (l *Loop) remove(c *Conn) {
	l.wheel.stop(&c.timer)
	l.conns[c.slot] = nil
	l.free = append(l.free, c.slot)
	l.live.Add(-1)
}
