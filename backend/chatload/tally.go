package chatload

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"imlb/backend/xmpp"
)

// tally counts errors by kind.
type tally struct {
	mu    sync.Mutex
	kinds map[string]int
}

// mostKinds is how many kinds of errors are told apart.
const mostKinds = 50

// add counts an error; nil is none.
func (t *tally) add(err error) {
	if err == nil {
		return
	}
	kind := kindOf(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kinds == nil {
		t.kinds = make(map[string]int)
	}
	if _, known := t.kinds[kind]; !known && len(t.kinds) >= mostKinds {
		kind = "others"
	}
	t.kinds[kind]++
}

// result returns the counts, or nil.
func (t *tally) result() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kinds
}

// kindOf says what kind of error it is, so that a thousand of a kind are one line.
func kindOf(err error) string {
	if step, ok := errors.AsType[*stepError](err); ok {
		return step.step + ": " + kindOf(step.err)
	}
	if e, ok := errors.AsType[*xmpp.StreamError](err); ok {
		return "stream error " + e.Condition
	}
	if e, ok := errors.AsType[*xmpp.SASLError](err); ok {
		return "SASL failure " + e.Condition
	}
	if e, ok := errors.AsType[*xmpp.StanzaError](err); ok {
		return "stanza error " + e.Condition
	}
	var timeout net.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errClosed):
		return "closed by the server"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}
