package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/proxy/loop"
)

// nodeConn is a connection to a node: TCP, what it begins with, and TLS if the
// pool has it.
type nodeConn struct {
	wire   *wire      // TCP
	conn   halfCloser // on top of it
	choice Choice
	spent  time.Duration // from the dial until the node served
}

// name is the node's.
func (n *nodeConn) name() string { return n.choice.Node.Name }

// close closes the connection and tells the picker that the session is gone from
// the node.
func (n *nodeConn) close() {
	_ = n.conn.Close()
	n.choice.release()
}

// giveUp is close for a node that has not had a byte of the session's when that is over: it must
// not take this for all that there was, and is not waited for.
func (n *nodeConn) giveUp() {
	breakOff(n.conn)
	n.close()
}

// dialNext connects the session to one of the user's nodes, as reachFor does.
func (s *session) dialNext(ctx context.Context, user string, greet func(*nodeConn) error) (*nodeConn, error) {
	node, err := s.reachFor(ctx, user, greet)
	if err != nil {
		return nil, err
	}
	s.served(node)
	s.track(node.wire)
	return node, nil
}

// reachFor is reach for a client that may leave meanwhile.
func (s *session) reachFor(ctx context.Context, user string, greet func(*nodeConn) error) (node *nodeConn, err error) {
	err = s.minding(ctx, func(ctx context.Context) (err error) {
		node, err = s.reach(ctx, user, greet)
		return err
	})
	if err != nil && node != nil { // it is too late
		node.giveUp()
		node = nil
	}
	return node, err
}

// reach connects to the user's nodes, best first, until one serves: greet makes sure
// of that, by the deadline that the connection then has. An *ending of greet is final.
// It changes nothing of the session. The error is an *ending.
func (s *session) reach(ctx context.Context, user string, greet func(*nodeConn) error) (*nodeConn, error) {
	var t tries
	pool := s.pool()
	for {
		node, err := s.tryNodes(ctx, &t, pool, user, greet)
		if final := (*ending)(nil); err == nil || errors.As(err, &final) {
			return node, err
		}
		dialled := t.dialled()
		wait, again := t.again(pool, time.Now())
		if !again || pause(ctx, wait) != nil {
			return nil, s.unplaced(ctx, err, dialled)
		}
	}
}

// tryNodes is one round of reach. An error that is no *ending says that no node has served.
func (s *session) tryNodes(ctx context.Context, t *tries, pool Pool, user string, greet func(*nodeConn) error) (*nodeConn, error) {
	for range pool.DialAttempts {
		choice, err := t.pick(ctx, pool, user)
		if err != nil {
			return nil, errors.Join(err, t.failed)
		}
		node, err := s.dial(ctx, pool, choice, greet)
		if err == nil {
			return node, nil
		}
		choice.release()
		var final *ending
		switch {
		case ctx.Err() != nil:
			return nil, s.shutdown()
		case errors.As(err, &final):
			return nil, final
		}
		outcome := outcomeOf(err)
		s.srv.report(choice, outcome)
		t.refused(choice.Node.Name, err, outcome)
	}
	return nil, t.failed
}

// dial connects to the chosen node. The caller has to release the choice when it
// fails. It changes nothing of the session.
func (s *session) dial(ctx context.Context, pool Pool, choice Choice, greet func(*nodeConn) error) (*nodeConn, error) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, pool.DialTimeout)
	defer cancel()
	conn, err := pool.dialNode(limited, choice.Node.Addr)
	if err != nil {
		return nil, err
	}
	w := newWire(conn)
	node := &nodeConn{wire: w, conn: w, choice: choice}
	hurried := make(chan struct{})
	stop := context.AfterFunc(limited, func() {
		defer close(hurried)
		_ = conn.SetDeadline(past)
	})
	defer stop()
	err = s.begin(limited, node, pool)
	if err == nil {
		err = greet(node)
	}
	if err == nil && !stop() {
		<-hurried
		err = overdue(limited, conn)
	}
	if err != nil {
		return nil, s.undial(ctx, node, pool, err)
	}
	node.spent = time.Since(began)
	return node, nil
}

// overdue is the error of a dial that was done when its context had ended. That the client has
// left in order is none: the node hears of it as it would of a client that leaves later.
func overdue(ctx context.Context, conn net.Conn) error {
	if cause := context.Cause(ctx); !ended(cause) {
		return cause
	}
	return conn.SetDeadline(time.Time{})
}

// undial closes the connection to a node that does not serve the session, and returns the error
// of that.
func (s *session) undial(ctx context.Context, node *nodeConn, pool Pool, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		s.suspectHeader(ctx, node, pool, err)
	case !ended(cause) && !errors.Is(cause, ctx.Err()): // the client's connection broke
		breakOff(node.wire)
		return err
	}
	return errors.Join(err, node.wire.Close())
}

// served notes that a node has taken the session.
func (s *session) served(node *nodeConn) {
	s.rec.Dial = node.spent
	s.srv.metrics.dialTime.Observe(node.spent.Seconds())
	s.srv.report(node.choice, OutcomeConnected)
}

// begin sends the PROXY header, and does TLS if the pool has it.
func (s *session) begin(ctx context.Context, node *nodeConn, pool Pool, more ...proxyproto.TLV) error {
	if !s.rec.Opaque {
		age := strconv.AppendInt(nil, time.Since(s.rec.Started).Milliseconds(), 10)
		more = append(more, proxyproto.TLV{Type: tlvAge, Value: age})
	}
	header, err := s.facts.header(pool.Header, s.rec.ID, node.conn, more...)
	if err != nil {
		return fmt.Errorf("PROXY header: %w", err)
	}
	if len(header) > 0 {
		if _, err := node.conn.Write(header); err != nil {
			return fmt.Errorf("PROXY header: %w", err)
		}
	}
	if pool.TLS == nil {
		return nil
	}
	conn := tls.Client(node.conn, nodeTLS(pool.TLS, node.choice.Node.Addr))
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	node.conn = conn
	return nil
}

// nodeTLS returns the configuration for a node.
func nodeTLS(config *tls.Config, addr string) *tls.Config {
	if config.ServerName != "" {
		return config
	}
	config = config.Clone()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		config.ServerName = host
	}
	return config
}

// dialNode makes a TCP connection to a node of the pool.
func (p Pool) dialNode(ctx context.Context, addr string) (*net.TCPConn, error) {
	var to netip.Addr // of a host name it is not known
	if literal, err := netip.ParseAddrPort(addr); err == nil {
		to = literal.Addr()
	}
	err := loop.ErrNoSource
	for source := range loop.Sources(p.Source, to) {
		var conn *net.TCPConn
		if conn, err = dialFrom(ctx, source, addr); err == nil {
			return conn, nil
		}
		if !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, loop.ErrNoSource) {
			break
		}
	}
	return nil, dialError(err)
}

// dialFrom makes a TCP connection, from the source if that is valid.
func dialFrom(ctx context.Context, source netip.Addr, addr string) (*net.TCPConn, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive()}
	if source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		dialer.Control = loop.PortLater
	}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	var unfit *net.AddrError
	switch {
	case source.IsValid() && errors.As(err, &unfit): // all that the name stands for is of the other kind
		return nil, fmt.Errorf("%w: %w", loop.ErrNoSource, err)
	case err != nil:
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is not a TCP address", addr), conn.Close())
	}
	return tcp, nil
}

// dialError says of an error what can be done about it, where that is not plain.
func dialError(err error) error {
	var call *os.SyscallError
	switch {
	case !errors.Is(err, syscall.EADDRNOTAVAIL):
		return err
	case errors.As(err, &call) && call.Syscall == "bind":
		return fmt.Errorf("%w: this machine has no such address; see source of the pool", err)
	default:
		return fmt.Errorf("%w: no local port is left for connections to this node; "+
			"widen net.ipv4.ip_local_port_range, or give the pool more addresses in source", err)
	}
}
