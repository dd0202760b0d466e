package test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Pauses between what the tests do all the time, long enough to leave the
// processors to what is tested.
const (
	talkPause  = 25 * time.Millisecond
	loginPause = 100 * time.Millisecond
)

// tryLogin opens a session over direct TLS. Unlike stream.session it may be
// called from any goroutine; so may stream.next, but nothing else of the stream.
func tryLogin(ctx context.Context, addr string, config *tls.Config, a account) (s *stream, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	s = &stream{conn: secure}
	domain := config.ServerName
	if err := s.tryOpen(domain); err != nil {
		return nil, err
	}
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + a.name + "\x00" + a.password))
	if err := s.ask(fmt.Sprintf("<auth xmlns='%s' mechanism='PLAIN'>%s</auth>", nsSASL, response), nsSASL, "success"); err != nil {
		return nil, err
	}
	if err := s.tryOpen(domain); err != nil {
		return nil, err
	}
	return s, s.ask(fmt.Sprintf("<iq type='set' id='b1'><bind xmlns='%s'/></iq>", nsBind), "jabber:client", "iq")
}

// tryOpen sends a stream header and reads the answer up to the features.
func (s *stream) tryOpen(domain string) error {
	s.dec = xml.NewDecoder(s.conn)
	_, err := fmt.Fprintf(s.conn, "<?xml version='1.0'?><stream:stream to='%s' version='1.0' xmlns='jabber:client' xmlns:stream='%s'>", domain, nsStreams)
	for err == nil {
		var token xml.Token
		token, err = s.dec.Token()
		if _, ok := token.(xml.StartElement); ok {
			return s.ask("", nsStreams, "features")
		}
	}
	return err
}

// ask writes text and reads an element, which has to be this one.
func (s *stream) ask(text, space, local string) error {
	if _, err := io.WriteString(s.conn, text); err != nil {
		return err
	}
	e, err := s.next()
	if err != nil {
		return fmt.Errorf("wait for <%s>: %w", local, err)
	}
	if !e.is(space, local) || e.attr("type") == "error" {
		return fmt.Errorf("want <%s>, got %+v", local, e)
	}
	return nil
}

// hear reads on to the next message and returns its body.
func (s *stream) hear() (string, error) {
	for {
		e, err := s.next()
		if err != nil {
			return "", err
		}
		if e.XMLName.Local == "message" {
			return e.body(), nil
		}
		if e.is(nsStreams, "error") {
			return "", fmt.Errorf("stream error %+v", e)
		}
	}
}

// activity is something that goes on in the background, round after round, and
// must not fail.
type activity struct {
	t    *testing.T
	name string
	stop func() // ends it and waits for the end

	mu      sync.Mutex
	rounds  int
	longest time.Duration
	err     error
}

// act repeats round until the activity is stopped or fails.
func act(t *testing.T, name string, pause time.Duration, round func(ctx context.Context, n int) error) *activity {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	a := &activity{t: t, name: name, stop: func() { cancel(); <-done }}
	go func() {
		defer close(done)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for n := 0; a.do(ctx, n, round); n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		a.stop()
		a.wantWell()
	})
	return a
}

func (a *activity) do(ctx context.Context, n int, round func(context.Context, int) error) bool {
	begin := time.Now()
	err := round(ctx, n)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			a.err = fmt.Errorf("round %d: %w", n, err)
		}
		return false
	}
	a.rounds++
	a.longest = max(a.longest, time.Since(begin))
	return true
}

func (a *activity) state() (rounds int, longest time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rounds, a.longest, a.err
}

// goesOn waits for so many more rounds.
func (a *activity) goesOn(rounds int) {
	a.t.Helper()
	before, _, _ := a.state()
	eventually(a.t, fmt.Sprintf("%d more rounds of %s", rounds, a.name), func(context.Context) (bool, string) {
		now, _, err := a.state()
		if err != nil {
			a.t.Fatalf("%s: %v", a.name, err)
		}
		return now >= before+rounds, fmt.Sprint(now, " of ", before+rounds)
	})
}

// wantWell fails the test if the activity did.
func (a *activity) wantWell() {
	a.t.Helper()
	rounds, longest, err := a.state()
	if err != nil {
		a.t.Errorf("%s: %v", a.name, err)
	}
	a.t.Logf("%s: %d rounds, the longest took %v", a.name, rounds, longest.Round(time.Millisecond))
}

// converse makes two users talk to each other over connections that have to last:
// each message must arrive once and in its turn, each way.
func converse(t *testing.T, f *front, addr string, alice, bob account) *activity {
	t.Helper()
	a, b := f.login(t, addr, alice), f.login(t, addr, bob)
	a.write("<presence/>")
	b.write("<presence/>")
	a.sync(f.via)
	b.sync(f.via)
	name := fmt.Sprintf("the talk of %s and %s at %s", alice.name, bob.name, addr)
	return act(t, name, talkPause, func(_ context.Context, n int) error {
		body := fmt.Sprint("round ", n)
		return errors.Join(say(a, b, bob, body), say(b, a, alice, body))
	})
}

// say sends a message and waits until it arrives.
func say(from, to *stream, user account, body string) error {
	for _, s := range []*stream{from, to} {
		if d, ok := s.conn.(deadliner); ok {
			if err := d.SetDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
		}
	}
	if _, err := fmt.Fprintf(from.conn, "<message to='%s' type='chat'><body>%s</body></message>", user.jid, body); err != nil {
		return err
	}
	got, err := to.hear()
	if err != nil {
		return fmt.Errorf("%s waits for %q: %w", user.jid, body, err)
	}
	if got != body {
		return fmt.Errorf("%s received %q, want %q", user.jid, got, body)
	}
	return nil
}

// logins logs users in and out all the time, one after another.
func logins(t *testing.T, f *front, addr string, users []account) *activity {
	t.Helper()
	config := f.via.tls(t, "xmpp-client")
	return act(t, "logins at "+addr, loginPause, func(ctx context.Context, n int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		a := users[n%len(users)]
		s, err := tryLogin(ctx, addr, config, a)
		if err != nil {
			return fmt.Errorf("login of %s: %w", a.jid, err)
		}
		_, err = io.WriteString(s.conn, "</stream:stream>")
		return errors.Join(err, s.conn.Close())
	})
}

// neverEmpty looks at a pool all the time: there must always be fit nodes in it.
func neverEmpty(t *testing.T, admin string) *activity {
	t.Helper()
	return act(t, "the look at "+admin, talkPause, func(ctx context.Context, _ int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		s, err := readStatus(ctx, admin)
		if err == nil && s.pool("chat").Fit == 0 {
			err = fmt.Errorf("no node is fit: %+v", s.pool("chat"))
		}
		return err
	})
}
