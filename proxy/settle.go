package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
)

// settleTime is how long a settle may take, and how long a login of its user
// waits for it.
const settleTime = 3 * time.Second

// settles knows the users of whom a lost node may not have noted what they
// received. Until their next node knows, a login of theirs has to wait, or they
// would get it again.
type settles struct {
	proof time.Duration // proofTime, but in tests
	doubt time.Duration // doubtTime, but in tests

	mu      sync.Mutex
	pending map[string]*pendingSettle
	doubted map[string][]*doubtedSettle // by user
	leaving map[string][]*doubtedSettle // the same, by the node's address
}

// doubtTime is how long a node is given to store what a session leaves that can be resumed and whose client is gone. If the node
// is lost meanwhile only the front knows what was written.
const doubtTime = 2 * time.Second

// doubtedSettle tells the next node what one that may have stored it itself has written to a client.
type doubtedSettle struct {
	user, node string
	settle     func(lost ...string) // not at these, unless they are back
}

// pendingSettle is one user's.
type pendingSettle struct {
	sessions int           // that have to settle
	done     chan struct{} // closed when none is left
}

func newSettles() *settles {
	return &settles{
		proof: proofTime, doubt: doubtTime, pending: make(map[string]*pendingSettle),
		doubted: make(map[string][]*doubtedSettle), leaving: make(map[string][]*doubtedSettle),
	}
}

// remember keeps a settle for as long as it may be wanted.
func (t *settles) remember(d *doubtedSettle) {
	if t.doubt <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doubted[d.user] = append(t.doubted[d.user], d)
	t.leaving[d.node] = append(t.leaving[d.node], d)
	time.AfterFunc(t.doubt, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.forget(d)
	})
}

// forget drops a settle; under settles.mu.
func (t *settles) forget(d *doubtedSettle) {
	drop(t.doubted, d.user, d)
	drop(t.leaving, d.node, d)
}

func drop(from map[string][]*doubtedSettle, key string, d *doubtedSettle) {
	left := from[key]
	if i := slices.Index(left, d); i >= 0 {
		left = slices.Delete(left, i, i+1)
	}
	if from[key] = left; len(left) == 0 {
		delete(from, key)
	}
}

// returned makes what is in doubt of a user, who wants to log in, known to the node that is next.
func (t *settles) returned(user string) {
	for d, done := range t.due(t.doubted, user) {
		d.settle()
		done()
	}
}

// due takes what is in doubt of a user, or of a node; until the func that comes with each is called, logins of its user wait.
func (t *settles) due(of map[string][]*doubtedSettle, key string) map[*doubtedSettle]func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(of[key]) == 0 {
		return nil
	}
	all := make(map[*doubtedSettle]func())
	for _, d := range slices.Clone(of[key]) {
		t.forget(d)
		all[d] = t.pend(d.user)
	}
	return all
}

// lost does so with what is in doubt of a node that is lost: nobody may log in before. The returned channel is closed when
// all is known; nil: there is nothing.
func (t *settles) lost(node, name string) <-chan struct{} {
	due := t.due(t.leaving, node)
	if len(due) == 0 {
		return nil
	}
	over := make(chan struct{})
	var all sync.WaitGroup
	room := make(chan struct{}, doubtedAtOnce)
	for d, done := range due {
		all.Go(func() {
			room <- struct{}{}
			d.settle(name)
			done()
			<-room
		})
	}
	go func() {
		defer close(over)
		all.Wait()
	}()
	return over
}

// doubtedAtOnce is how many of these are told at the same time.
const doubtedAtOnce = 64

// begin makes logins of user wait until the returned func is called.
func (t *settles) begin(user string) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pend(user)
}

// pend is begin under settles.mu.
func (t *settles) pend(user string) (done func()) {
	p := t.pending[user]
	if p == nil {
		p = &pendingSettle{done: make(chan struct{})}
		t.pending[user] = p
	}
	p.sessions++
	return func() { t.end(user, p) }
}

func (t *settles) end(user string, p *pendingSettle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.sessions--
	if p.sessions == 0 {
		delete(t.pending, user)
		close(p.done)
	}
}

// wait waits until nothing of the user's is left to settle, at most for
// settleTime. The error is that of ctx.
func (t *settles) wait(ctx context.Context, user string) error {
	t.mu.Lock()
	p := t.pending[user]
	t.mu.Unlock()
	if p == nil {
		return nil
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// leaveNode closes the node leg. The returned func tells the user's next node
// what the client has received, if the node was lost before it could note that
// itself and belongs to those that take such a note; it must be called when the client
// is gone, and is told whether that was in an order which proves that all was received.
func (s *session) leaveNode(ctx context.Context, end *ending) (settle func(received bool)) {
	node := s.node
	if node == nil {
		s.leaveFar(end)
		return func(bool) {}
	}
	s.dropNode()
	if end.reason == ReasonNodeLost {
		s.srv.report(node.link.choice, OutcomeLost)
		if others := s.srv.settles.lost(node.link.choice.Node.Addr, node.link.name()); others != nil {
			defer func() {
				own := settle
				settle = func(received bool) {
					own(received)
					<-others
				}
			}()
		}
	}
	// A node that ends the stream, as in a planned stop, has noted what was
	// acknowledged (XEP-0198), and not what is still on its way. One that does not read may stand still.
	noted := !node.broken && end.reason != ReasonNodeClosed && end.reason != ReasonSlowNode
	if !node.features.settles || (s.rec.LastEntry == 0 && s.resumes == nil && !s.mayProve()) || s.pool().Header != HeaderV2 {
		return func(bool) {}
	}
	if noted {
		s.doubt(ctx, node.link.choice.Node.Addr)
		return func(bool) {}
	}
	done := s.srv.settles.begin(s.rec.User)
	settle = func(received bool) {
		defer done()
		s.settle(ctx, node.link.name(), received)
	}
	if s.resumes != nil {
		return s.srv.settles.soon(settle)
	}
	return settle
}

// doubt keeps what the next node has to know of a session whose client is gone, if the node is lost before it has stored that.
func (s *session) doubt(ctx context.Context, node string) {
	if s.resumes == nil {
		return
	}
	note := s.settleNote(false)
	late := &session{ // no more than that takes, since many may go at once
		srv: s.srv, ln: s.ln, terms: s.terms, routed: s.routed, rec: Record{ID: s.rec.ID, User: s.rec.User, Started: s.rec.Started, LastEntry: s.rec.LastEntry},
		facts: &facts{transport: s.facts.transport, source: s.facts.source, destination: s.facts.reached()},
	}
	s.srv.settles.remember(&doubtedSettle{user: s.rec.User, node: node, settle: func(lost ...string) {
		late.srv.metrics.settles.WithLabelValues(late.tell(ctx, note, lost...).String()).Inc()
	}})
}

// leaveFar reports that the node's connection of an opaque session broke.
func (s *session) leaveFar(end *ending) {
	if s.place != nil && (end.reason == ReasonNodeLost || end.reason == ReasonNodeError) {
		s.srv.report(Choice{Node: Node{Name: s.rec.Node}, Place: s.place}, OutcomeLost)
	}
}

// proofTime is how long the settle of a session that can be resumed waits for a proof of
// its client's. It needs none: what the client has handled it will say itself.
const proofTime = 200 * time.Millisecond

// soon begins a settle at once. The returned func says whether the client has received
// all, for which the settle waits a little, and waits for its end.
func (t *settles) soon(settle func(received bool)) func(received bool) {
	proof, over := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(over)
		settle(within(t.proof, proof))
	}()
	return func(received bool) {
		proof <- received
		<-over
	}
}

// within returns what comes in time, or false.
func within(d time.Duration, proof <-chan bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case received := <-proof:
		return received
	case <-timer.C:
		return false
	}
}

// settle tells the user's next node what was received, and notes the outcome.
func (s *session) settle(ctx context.Context, lost string, received bool) {
	s.rec.Settled = SettleUnproved
	if received || s.resumes != nil {
		s.rec.Settled = s.tell(ctx, s.settleNote(received), lost)
	}
	s.srv.metrics.settles.WithLabelValues(s.rec.Settled.String()).Inc()
}

// tell has one of the user's nodes take the note, but not those that were lost, and returns what came of it.
func (s *session) tell(ctx context.Context, note proxyproto.TLV, lost ...string) Settled {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if err := s.settleNext(ctx, note, lost); err != nil {
		s.srv.log.LogAttrs(ctx, slog.LevelWarn, "settle failed", slog.String("id", s.rec.ID.String()),
			slog.String("user", s.rec.User), slog.Uint64("entry", s.rec.LastEntry), slog.Any("error", err))
		return SettleFailed
	}
	return SettleDone
}

// settleNext has one of the user's nodes take the note. When there is none, or none can be reached, the lost one may soon be
// back, or another one come: those who want to log in wait for the same.
func (s *session) settleNext(ctx context.Context, note proxyproto.TLV, lost []string) error {
	t := tries{nodes: lost, until: time.Now().Add(settleTime), pause: firstRetry}
	for {
		pool := s.pool()
		err := s.settleRound(ctx, &t, pool, note)
		if err == nil {
			return nil
		}
		wait, again := t.again(pool, time.Now())
		if !again || pause(ctx, wait) != nil {
			return err
		}
	}
}

// settleRound tries the user's nodes until one has taken the note.
func (s *session) settleRound(ctx context.Context, t *tries, pool Pool, note proxyproto.TLV) error {
	for range pool.DialAttempts {
		choice, err := t.pick(ctx, pool, s.rec.User)
		if err != nil {
			return errors.Join(err, t.failed)
		}
		err = s.settleAt(ctx, pool, choice, note)
		choice.release()
		if err == nil {
			return nil
		}
		s.srv.report(choice, outcomeOf(err))
		t.refused(choice.Node.Name, err, outcomeOf(err))
	}
	return t.failed
}

// settleAt hands the note to one node, which closes the connection in order when
// it has taken it.
func (s *session) settleAt(ctx context.Context, pool Pool, choice Choice, note proxyproto.TLV) error {
	ctx, cancel := context.WithTimeout(ctx, pool.DialTimeout)
	defer cancel()
	conn, err := pool.dialNode(ctx, choice.Node.Addr)
	if err != nil {
		return err
	}
	s.track(conn)
	defer s.untrack(conn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	defer stop()
	w := newWire(conn)
	node := &nodeConn{wire: w, conn: w, choice: choice}
	if err := s.begin(ctx, node, pool, note); err != nil {
		return err
	}
	if err := node.conn.CloseWrite(); err != nil {
		return &declined{err}
	}
	n, err := io.Copy(io.Discard, node.conn)
	if err == nil && n > 0 {
		err = errors.New("the node answered a settle with a stream")
	}
	if err != nil { // what the note says is the client's
		return &declined{err}
	}
	return nil
}

// settleNote is the note as a field of the PROXY header: the user, and the last entry that
// the client has received, 0 when that is not proved. Of a session that can be resumed its
// id follows, how many stanzas were written to the client since XEP-0198 counts them,
// modulo 2^32, and what the last of them told, oldest first: the number of an entry, 0 for none,
// or a place after '@', or '+' if it is one with hadBit, and '~' and '=' if they have copyBit as well, or what was written out of turn, after '!'. NUL stands between two of these, a comma between what two stanzas told.
func (s *session) settleNote(received bool) proxyproto.TLV {
	last := s.rec.LastEntry
	if !received {
		last = 0
	}
	note := strconv.AppendUint(append([]byte(s.rec.User), 0), last, 10)
	if s.resumes != nil {
		note = s.resumes.append(note)
	}
	return proxyproto.TLV{Type: tlvSettle, Value: note}
}
