package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
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
	mu      sync.Mutex
	pending map[string]*pendingSettle
}

// pendingSettle is one user's.
type pendingSettle struct {
	sessions int           // that have to settle
	done     chan struct{} // closed when none is left
}

func newSettles() *settles {
	return &settles{pending: make(map[string]*pendingSettle)}
}

// begin makes logins of user wait until the returned func is called.
func (t *settles) begin(user string) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
// itself; it must be called when the client is gone, and is told whether that was
// in an order which proves that all was received.
func (s *session) leaveNode(end *ending) (settle func(ctx context.Context, received bool)) {
	node := s.node
	if node == nil {
		return func(context.Context, bool) {}
	}
	s.dropNode()
	if end.reason == ReasonNodeLost {
		s.srv.report(node.choice, OutcomeLost)
	}
	// A node that ends the stream, as in a planned stop, has noted what was
	// acknowledged (XEP-0198), and not what is still on its way.
	if !node.broken && end.reason != ReasonNodeClosed || s.rec.LastEntry == 0 {
		return func(context.Context, bool) {}
	}
	done := s.srv.settles.begin(s.rec.User)
	return func(ctx context.Context, received bool) {
		defer done()
		s.settle(ctx, node.name, received)
	}
}

// settle tells the user's next node what was received, and notes the outcome.
func (s *session) settle(ctx context.Context, lost string, received bool) {
	s.rec.Settled = "unproved"
	if received {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
		defer cancel()
		s.rec.Settled = "done"
		if err := s.settleNext(ctx, []string{lost}); err != nil {
			s.rec.Settled = "failed"
			s.srv.log.LogAttrs(ctx, slog.LevelWarn, "settle failed", slog.String("id", s.rec.ID),
				slog.String("user", s.rec.User), slog.Uint64("entry", s.rec.LastEntry), slog.Any("error", err))
		}
	}
	s.srv.metrics.settles.WithLabelValues(s.rec.Settled).Inc()
}

// settleNext tries the user's nodes until one has taken the note.
func (s *session) settleNext(ctx context.Context, tried []string) error {
	var failed error
	pool := s.pool()
	for range pool.DialAttempts {
		choice, err := pool.Picker.Pick(ctx, s.rec.User, tried)
		if err != nil {
			return errors.Join(err, failed)
		}
		err = s.settleAt(ctx, choice.Node.Addr)
		choice.release()
		if err == nil {
			return nil
		}
		s.srv.report(choice, OutcomeRefused)
		failed = errors.Join(failed, fmt.Errorf("settle at %s: %w", choice.Node.Name, err))
		tried = append(tried, choice.Node.Name)
	}
	return failed
}

// settleAt hands the note to one node, which closes the connection in order when
// it has taken it.
func (s *session) settleAt(ctx context.Context, addr string) error {
	conn, err := dialNode(ctx, addr)
	if err != nil {
		return err
	}
	s.track(conn)
	defer s.untrack(conn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	defer stop()
	if err := sendProxyHeader(conn, s.settleHeader); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, conn)
	if err == nil && n > 0 {
		err = errors.New("the node answered a settle with a stream")
	}
	return err
}

// settleHeader is the session's PROXY header with the note added.
func (s *session) settleHeader(conn net.Conn) (*proxyproto.Header, error) {
	h, err := s.proxyHeader(conn)
	if err != nil {
		return nil, err
	}
	tlvs, err := h.TLVs()
	if err != nil {
		return nil, err
	}
	note := append([]byte(s.rec.User), 0)
	note = strconv.AppendUint(note, s.rec.LastEntry, 10)
	return h, h.SetTLVs(append(tlvs, proxyproto.TLV{Type: tlvSettle, Value: note}))
}
