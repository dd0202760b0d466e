package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"time"
)

// ScriptCheck sends and expects bytes at the node's session address, step by step.
type ScriptCheck struct {
	Steps   []Step
	Opening Opening
}

// Step is one step of a [ScriptCheck]: it sends, and then reads until what has come
// since the step before holds what is expected.
type Step struct {
	// Send is sent first, if anything.
	Send string
	// Expect or Pattern is what has to come; neither if nothing has to.
	Expect  string
	Pattern *regexp.Regexp
	// Timeout is how long the step may take; as long as the whole check when 0.
	Timeout time.Duration
}

// Probe implements [Check].
func (c ScriptCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	conn, err := c.Opening.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	var heard []byte
	for i, s := range c.Steps {
		if heard, err = s.play(conn, deadline, heard); err != nil {
			return nil, fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil, nil
}

// play does a step after the bytes heard, which nothing expected yet, and returns
// those that it did not expect either.
func (s Step) play(conn net.Conn, deadline time.Time, heard []byte) ([]byte, error) {
	if own := time.Now().Add(s.Timeout); s.Timeout > 0 && (deadline.IsZero() || own.Before(deadline)) {
		deadline = own
	}
	conn.SetDeadline(deadline)
	if _, err := io.WriteString(conn, s.Send); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	buffer := make([]byte, 4<<10)
	for {
		if end := s.find(heard); end >= 0 {
			return heard[end:], nil
		}
		if len(heard) > maxAnswer {
			return nil, errors.New("what is expected does not come")
		}
		n, err := conn.Read(buffer)
		heard = append(heard, buffer[:n]...)
		if err != nil && s.find(heard) < 0 {
			return nil, fmt.Errorf("expected %s, got %.80q: %w", s.expected(), heard, err)
		}
	}
}

// find returns the end of what is expected; −1 when it is not there.
func (s Step) find(heard []byte) int {
	if s.Pattern != nil {
		if at := s.Pattern.FindIndex(heard); at != nil {
			return at[1]
		}
		return -1
	}
	if at := bytes.Index(heard, []byte(s.Expect)); at >= 0 {
		return at + len(s.Expect)
	}
	return -1
}

func (s Step) expected() string {
	if s.Pattern != nil {
		return "/" + s.Pattern.String() + "/"
	}
	return fmt.Sprintf("%q", s.Expect)
}
