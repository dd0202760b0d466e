package chatload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"imlb/backend/xmpp"
)

// handler is told what comes on a session, by the session's reader. What it is given is
// valid until it returns.
type handler interface {
	message(s *session, raw []byte)
	result(s *session, raw []byte) // an IQ that answers
	// compose appends the message that was due at that time, which the session's writer
	// then writes. It counts the stanza.
	compose(s *session, batch []byte, due int64) []byte
}

// session is a user who is logged in. Two goroutines serve it until it is closed: one
// reads, one writes.
type session struct {
	*stream
	attempt
	number  int
	handler handler

	in uint32 // stanzas that came, modulo 2^32; the reader's

	out   atomic.Uint32 // stanzas that were sent, likewise; the writer's
	acked atomic.Uint32 // of them, acknowledged by the server
	asked uint32        // how many were sent when the server was last asked; the writer's

	wake chan struct{}

	mu      sync.Mutex
	dues    []int64 // of messages to be sent
	raw     []byte  // to be sent besides
	stanzas uint32  // in raw
	closing bool
}

func newSession(s *stream, a attempt, number int, h handler) *session {
	return &session{stream: s, attempt: a, number: number, handler: h, wake: make(chan struct{}, 1)}
}

// unacked returns how many stanzas the server has not acknowledged.
func (s *session) unacked() uint32 {
	if !s.managed {
		return 0
	}
	return s.out.Load() - s.acked.Load()
}

// reading reads until the stream ends.
func (s *session) reading() error {
	for {
		tok, err := s.next()
		switch {
		case err != nil:
			return err
		case tok.Kind == xmpp.KindClose:
			return errClosed
		case tok.Kind == xmpp.KindElement:
			err = s.take(tok.Raw)
		}
		if err != nil {
			return err
		}
	}
}

// take handles one element.
func (s *session) take(raw []byte) error {
	switch string(elementName(raw)) {
	case "message":
		s.in++
		s.handler.message(s, raw)
	case "presence":
		s.in++
	case "iq":
		s.in++
		return s.iq(raw)
	case "r":
		s.push([]byte("<a xmlns='"+xmpp.NSSM+"' h='"+strconv.FormatUint(uint64(s.in), 10)+"'/>"), 0)
	case "a":
		return s.takeAck(raw)
	default:
		if failure, ok := xmpp.ParseStreamError(raw); ok {
			return failure
		}
	}
	return nil
}

// elementName returns the name of an element, as written.
func elementName(raw []byte) []byte {
	for i := 1; i < len(raw); i++ {
		switch raw[i] {
		case ' ', '>', '/', '\t', '\r', '\n':
			return raw[1:i]
		}
	}
	return nil
}

// takeAck notes what the server has (XEP-0198 §4).
func (s *session) takeAck(raw []byte) error {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return err
	}
	text, _ := e.Attr("h")
	h, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return fmt.Errorf("the server acknowledges %q stanzas", text)
	}
	acked, out := s.acked.Load(), s.out.Load()
	if uint32(h)-acked > out-acked {
		return fmt.Errorf("the server acknowledges %d stanzas after %d, but %d were sent", h, acked, out)
	}
	s.acked.Store(uint32(h))
	return nil
}

// iq answers requests of the server's, and hands on answers.
func (s *session) iq(raw []byte) error {
	h, err := xmpp.ParseHeader(raw)
	if err != nil {
		return err
	}
	switch h.Type {
	case "get", "set":
		s.push(answer(raw), 1)
	default:
		s.handler.result(s, raw)
	}
	return nil
}

// answer is what a client answers that knows pings (XEP-0199) and nothing else.
func answer(raw []byte) []byte {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return nil
	}
	if _, ok := e.Child(xmpp.NSPing, "ping"); ok {
		return xmpp.AppendResult(nil, raw, nil)
	}
	return xmpp.NewStanzaError(xmpp.ServiceUnavailable, "").AppendReply(nil, raw)
}

// serve reads and writes until the session is closed, by either side, or ctx ends.
func (s *session) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	gone := make(chan struct{})
	wrote := make(chan error, 1)
	go func() {
		err := s.writing(gone)
		if err != nil {
			_ = s.Close()
		}
		wrote <- err
	}()
	err := s.reading()
	close(gone)
	_ = s.Close()
	if failed := <-wrote; failed != nil && errors.Is(err, net.ErrClosed) {
		err = failed // which is why the connection was closed
	}
	switch {
	case s.finished():
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

func (s *session) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// begin makes the session available and waits until the server has dealt with that.
func (s *session) begin(timeout time.Duration) error {
	s.by(timeout)
	if err := s.manage(s.attempt); err != nil {
		return &stepError{"turn stream management on", err}
	}
	const ping = "<iq type='get' id='begin'><ping xmlns='" + xmpp.NSPing + "'/></iq>"
	s.out.Add(2)
	if err := s.write([]byte("<presence/>" + ping)); err != nil {
		return &stepError{"become available", err}
	}
	for {
		e, err := s.element()
		if err != nil {
			return &stepError{"become available", err}
		}
		id, _ := e.Attr("id")
		ready := e.Local() == "iq" && id == "begin"
		if err := s.take(e.Raw()); err != nil {
			return &stepError{"become available", err}
		}
		if ready {
			return s.SetDeadline(time.Time{})
		}
	}
}
