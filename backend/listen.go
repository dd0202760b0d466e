package backend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"github.com/xdg-go/scram"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// The PROXY v2 TLVs that front and node agree on beyond the specification's own.
const (
	tlvTransport = proxyproto.PP2Type(0xE0) // tcp, starttls, tls, quic, ws or bosh
	tlvExporter  = proxyproto.PP2Type(0xE1) // tls-exporter channel-binding data (RFC 9266)
	tlvSettle    = proxyproto.PP2Type(0xE2) // bare JID, NUL, decimal entry number
	tlvEndPoint  = proxyproto.PP2Type(0xE3) // tls-server-end-point channel-binding data (RFC 5929 §4)
	tlvNames     = proxyproto.PP2Type(0xE4) // of the client's verified certificate: see certificate.go
	tlvAge       = proxyproto.PP2Type(0xE5) // for how long the client has been connected to the front, in ms, in decimal
)

// proxyV2 is the version of the header that is required.
const proxyV2 = 2

// headerBuffer holds a PROXY header with the TLVs that a front sends.
const headerBuffer = 2048

//nolint:gochecknoglobals // A pool is of use to all.
var headerReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, headerBuffer) }}

// facts are what the front says about the client's leg.
type facts struct {
	source    string // the client's address
	id        string // the front's name of the connection
	transport string
	front     bool   // it is one of ours: it knows what the node tells a front
	tls       string // the version; empty: the client's leg is in clear
	bindings  []scram.ChannelBinding
	verified  bool       // the client has shown a certificate, which the front has verified
	names     []certName // of that certificate
	age       int64      // for how long the client had been connected to the front when that connected to the node, in ms; 0: that is not known
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
			n.conns.Add(1)
			go n.serveConn(work, conn)
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

// serveConn is the life of a connection; its session ends it.
func (n *Node) serveConn(ctx context.Context, conn net.Conn) {
	n.track(conn)
	newSession(n, conn).serve(ctx)
}

// track makes conn known to abort.
func (n *Node) track(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[conn] = struct{}{}
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
	ip := addr.Addr().Unmap().WithZone("") // or no network has it
	for _, prefix := range n.opts.TrustedFronts {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// longHeaders has headers be as long as they can be: a front's note of what it has written to a client is. Only fronts are read.
//
//nolint:gochecknoglobals // what it changes is the process's
var longHeaders = sync.OnceFunc(func() { proxyproto.MaxV2HeaderSize = math.MaxUint16 })

// readHeader reads the PROXY v2 header. early are the bytes of the stream that
// came with it.
func readHeader(conn net.Conn) (header *proxyproto.Header, early []byte, err error) {
	r, _ := headerReaders.Get().(*bufio.Reader)
	r.Reset(conn)
	defer func() {
		r.Reset(nil)
		headerReaders.Put(r)
	}()
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
		f.bindings = readBindings(tlvs)
		f.readCertificate(ssl, tlvs)
	}
	if id, ok := findTLV(tlvs, proxyproto.PP2_TYPE_UNIQUE_ID); ok {
		f.id = string(id)
	}
	if transport, ok := findTLV(tlvs, tlvTransport); ok {
		f.transport, f.front = string(transport), true
	}
	if age, ok := findTLV(tlvs, tlvAge); ok {
		if ms, err := strconv.ParseInt(string(age), 10, 40); err == nil {
			f.age = max(ms, 1)
		}
	}
	return f
}

// readBindings takes the data that tell the client's TLS connection from others, the
// stronger first.
func readBindings(tlvs []proxyproto.TLV) []scram.ChannelBinding {
	var all []scram.ChannelBinding
	for _, kind := range []struct {
		tlv     proxyproto.PP2Type
		binding scram.ChannelBindingType
	}{{tlvExporter, scram.ChannelBindingTLSExporter}, {tlvEndPoint, scram.ChannelBindingTLSServerEndpoint}} {
		if data, ok := findTLV(tlvs, kind.tlv); ok && len(data) > 0 {
			all = append(all, scram.ChannelBinding{Type: kind.binding, Data: data})
		}
	}
	return all
}

func findTLV(tlvs []proxyproto.TLV, kind proxyproto.PP2Type) (value []byte, ok bool) {
	for _, tlv := range tlvs {
		if tlv.Type == kind {
			return tlv.Value, true
		}
	}
	return nil, false
}

// settleWord is what a front says of a session whose node it has lost.
type settleWord struct {
	user    string // canonical bare JID
	seq     uint64 // the client has received all entries up to this one; 0: that is not proved
	session string // the session's id if it may be resumed, else empty
	note    []byte // then: what was written to the client, see parseNote
}

// settle takes a front's word of the client that had that connection to it. The front reads the close as the answer.
func (n *Node) settle(ctx context.Context, data []byte, conn string) error {
	word, err := parseSettle(data)
	if err != nil {
		return err
	}
	if word.session != "" {
		word.note = slices.Concat(word.note, []byte{0}, []byte(conn))
	}
	ctx, cancel := n.storeContext(ctx)
	defer cancel()
	account, ok, err := n.accounts.lookup(ctx, word.user)
	if err == nil && !ok {
		err = errors.New("no such account")
	}
	if err == nil {
		err = n.settleFor(ctx, account.Owner, word)
	}
	if err != nil {
		return fmt.Errorf("settle for %s: %w", word.user, err)
	}
	return nil
}

// settleFor raises a user's delivered number, and notes what whoever resumes the session
// has to know.
func (n *Node) settleFor(ctx context.Context, owner store.OwnerID, word settleWord) error {
	if word.session != "" && !n.has(word.session) {
		if err := n.store.NoteResumable(ctx, word.session, owner, word.note); err != nil {
			return err
		}
	}
	if word.seq == 0 {
		return nil
	}
	head, _, err := n.store.Head(ctx, owner)
	if err != nil {
		return err
	}
	seq := min(word.seq, head) // what was never stored cannot have been delivered
	if err := n.store.SetDelivered(ctx, map[store.OwnerID]uint64{owner: seq}); err != nil {
		return err
	}
	if h := n.hub(word.user); h != nil {
		h.raise(seq)
	}
	return nil
}

// has tells whether a session is here. A front that has lost this node does not tell it so: what is said of
// a session that is here is about where it was before, and has come late. Its stanzas have other numbers now.
func (n *Node) has(session string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.sessions[session] != nil
}

// parseSettle reads "user NUL entry", or "user NUL entry NUL session NUL count NUL tail".
func parseSettle(data []byte) (word settleWord, err error) {
	name, rest, ok := bytes.Cut(data, []byte{0})
	if !ok {
		return word, errors.New("settle: no entry number")
	}
	number, rest, resumable := bytes.Cut(rest, []byte{0})
	jid, err := xmpp.ParseJID(string(name))
	if err != nil {
		return word, fmt.Errorf("settle: %w", err)
	}
	word.user = jid.Bare().String()
	if word.seq, err = strconv.ParseUint(string(number), 10, 64); err != nil {
		return word, fmt.Errorf("settle: %w", err)
	}
	if !resumable {
		return word, nil
	}
	session, note, ok := bytes.Cut(rest, []byte{0})
	if !ok {
		return word, errors.New("settle: a session without a note")
	}
	if bytes.Count(note, []byte{0}) != 1 {
		return word, errors.New("settle: a note of other parts than a count and a tail")
	}
	if _, err := parseNote(note); err != nil {
		return word, fmt.Errorf("settle: %w", err)
	}
	word.session, word.note = string(session), note
	return word, nil
}
