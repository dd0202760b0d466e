package backend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// The PROXY v2 TLVs that front and node agree on beyond the specification's own.
const (
	tlvTransport = proxyproto.PP2Type(0xE0) // tcp, starttls, tls, quic or ws
	tlvSettle    = proxyproto.PP2Type(0xE2) // bare JID, NUL, decimal entry number
)

// proxyV2 is the version of the header that is required.
const proxyV2 = 2

// headerBuffer holds a PROXY header with the TLVs that a front sends.
const headerBuffer = 1024

// facts are what the front says about the client's leg.
type facts struct {
	source    string // the client's address
	id        string // the front's name of the connection
	transport string
	tls       string // the version; empty: the client's leg is in clear
}

// accept takes connections until ctx ends. Their work goes on with the context
// work.
func (n *Node) accept(ctx, work context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case isTemporary(err):
			n.opts.Logger.WarnContext(ctx, "accept a connection", slog.Any("error", err))
			if !pause(ctx, acceptPause) {
				return nil
			}
		case err != nil:
			return fmt.Errorf("accept a connection: %w", err)
		default:
			n.conns.Go(func() { n.serveConn(work, conn) })
		}
	}
}

// acceptPause is how long the node waits when it cannot accept, which is when
// file descriptors are short.
const acceptPause = 50 * time.Millisecond

func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary() && !errors.Is(err, net.ErrClosed)
}

// pause waits; it returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serveConn is the life of a connection.
func (n *Node) serveConn(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	if !n.track(conn) {
		return
	}
	defer n.untrack(conn)
	s := newSession(n, conn)
	s.serve(ctx)
	s.record(ctx)
}

// track makes conn known to abort.
func (n *Node) track(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[conn] = struct{}{}
	return true
}

func (n *Node) untrack(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, conn)
}

// trusts tells whether the peer may be a front.
func (n *Node) trusts(peer net.Addr) bool {
	addr, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return false
	}
	ip := addr.Addr().Unmap()
	for _, prefix := range n.opts.TrustedFronts {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// readHeader reads the PROXY v2 header. early are the bytes of the stream that
// came with it.
func readHeader(conn net.Conn) (header *proxyproto.Header, early []byte, err error) {
	r := bufio.NewReaderSize(conn, headerBuffer)
	header, err = proxyproto.Read(r)
	if err != nil {
		return nil, nil, err
	}
	if header.Version != proxyV2 {
		return nil, nil, fmt.Errorf("PROXY header has version %d", header.Version)
	}
	early = make([]byte, r.Buffered())
	_, err = io.ReadFull(r, early)
	return header, early, err
}

// readFacts takes from the header what the front says about the client.
func readFacts(header *proxyproto.Header, tlvs []proxyproto.TLV) facts {
	f := facts{transport: "tcp"}
	if header.SourceAddr != nil {
		f.source = header.SourceAddr.String()
	}
	if ssl, ok := tlvparse.FindSSL(tlvs); ok && ssl.ClientSSL() {
		f.tls, _ = ssl.SSLVersion() // it is there: the parser has seen to that
	}
	if id, ok := findTLV(tlvs, proxyproto.PP2_TYPE_UNIQUE_ID); ok {
		f.id = string(id)
	}
	if transport, ok := findTLV(tlvs, tlvTransport); ok {
		f.transport = string(transport)
	}
	return f
}

func findTLV(tlvs []proxyproto.TLV, kind proxyproto.PP2Type) (value []byte, ok bool) {
	for _, tlv := range tlvs {
		if tlv.Type == kind {
			return tlv.Value, true
		}
	}
	return nil, false
}

// settle raises a user's delivered number to what a front says that it has
// written to a client whose node died. The front reads the close as the answer.
func (n *Node) settle(ctx context.Context, word []byte) error {
	user, seq, err := parseSettle(word)
	if err != nil {
		return err
	}
	ctx, cancel := n.storeContext(ctx)
	defer cancel()
	account, ok, err := n.accounts.lookup(ctx, user)
	if err != nil {
		return fmt.Errorf("settle for %s: %w", user, err)
	}
	if !ok {
		return fmt.Errorf("settle for %s: no such account", user)
	}
	head, _, err := n.store.Head(ctx, account.Owner)
	if err != nil {
		return fmt.Errorf("settle for %s: %w", user, err)
	}
	seq = min(seq, head) // what was never stored cannot have been delivered
	if err := n.store.SetDelivered(ctx, map[store.OwnerID]uint64{account.Owner: seq}); err != nil {
		return fmt.Errorf("settle for %s: %w", user, err)
	}
	if h := n.hub(user); h != nil {
		h.raise(seq)
	}
	return nil
}

func parseSettle(word []byte) (user string, seq uint64, err error) {
	name, number, ok := bytes.Cut(word, []byte{0})
	if !ok {
		return "", 0, errors.New("settle: no entry number")
	}
	jid, err := xmpp.ParseJID(string(name))
	if err != nil {
		return "", 0, fmt.Errorf("settle: %w", err)
	}
	seq, err = strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		return "", 0, fmt.Errorf("settle: %w", err)
	}
	return jid.Bare().String(), seq, nil
}
