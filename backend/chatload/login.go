package chatload

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"imlb/backend/xmpp"
)

// gate is how sessions come to a server.
type gate struct {
	o      Options
	tls    *tls.Config
	users  []*user
	dialer net.Dialer
}

func newGate(o Options) *gate {
	g := &gate{o: o, tls: o.tlsConfig()}
	for _, a := range o.Accounts {
		g.users = append(g.users, &user{Account: a})
	}
	return g
}

// attempt is what is known of a login.
type attempt struct {
	jid       string // that was bound
	mechanism string
	resumed   bool // TLS
	managed   bool // the server offers stream management (XEP-0198)
}

// stepError says in which step of a login something went wrong.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// login takes the n-th session from a TCP connection to a bound resource. The end of ctx
// ends it; the caller has to close the stream. config is for TLS.
func (g *gate) login(ctx context.Context, n int, config *tls.Config) (*stream, attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
	defer cancel()
	conn, err := g.dialer.DialContext(ctx, "tcp", g.o.Servers[n%len(g.o.Servers)])
	if err != nil {
		return nil, attempt{}, &stepError{"connect", err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	s := newStream(conn)
	s.by(g.o.Timeout)
	a, err := g.steps(ctx, s, g.users[n%len(g.users)], config)
	if !stop() { // the connection is closed, whatever the steps say
		err = &stepError{"login", context.Cause(ctx)}
	}
	if err != nil {
		_ = conn.Close()
		return nil, a, err
	}
	_ = s.SetDeadline(time.Time{})
	return s, a, nil
}

// steps are those of RFC 6120 §1.4.
func (g *gate) steps(ctx context.Context, s *stream, u *user, config *tls.Config) (a attempt, err error) {
	features, err := g.reach(ctx, s, config)
	if err != nil {
		return a, err
	}
	a.resumed = s.resumed()
	if a.mechanism, err = choose(features, g.o.Mechanism); err != nil {
		return a, &stepError{"login", err}
	}
	if err := s.authenticate(a.mechanism, u); err != nil {
		return a, &stepError{"login", err}
	}
	if features, err = s.open(g.o.Domain); err != nil {
		return a, &stepError{"open the stream after the login", err}
	}
	_, a.managed = features.Child(xmpp.NSSM, "sm")
	if a.jid, err = s.bind(); err != nil {
		return a, &stepError{"bind", err}
	}
	return a, nil
}

// reach opens the stream that a login can begin on, in TLS if that is wanted.
func (g *gate) reach(ctx context.Context, s *stream, config *tls.Config) (features xmpp.Element, err error) {
	if g.o.TLS == DirectTLS {
		if err := s.secure(ctx, config); err != nil {
			return features, &stepError{"TLS", err}
		}
	}
	if features, err = s.open(g.o.Domain); err != nil {
		return features, &stepError{"open the stream", err}
	}
	if g.o.TLS != StartTLS {
		return features, nil
	}
	if _, ok := features.Child(xmpp.NSTLS, "starttls"); !ok {
		return features, &stepError{"STARTTLS", errors.New("it is not offered")}
	}
	if err := s.startTLS(ctx, config); err != nil {
		return features, &stepError{"STARTTLS", err}
	}
	if features, err = s.open(g.o.Domain); err != nil {
		return features, &stepError{"open the stream in TLS", err}
	}
	return features, nil
}

// bind has the server make a resource (RFC 6120 §7.6).
func (s *stream) bind() (string, error) {
	if err := s.write([]byte("<iq type='set' id='bind'><bind xmlns='" + xmpp.NSBind + "'/></iq>")); err != nil {
		return "", err
	}
	e, err := s.element()
	if err != nil {
		return "", err
	}
	if err := stanzaError(e); err != nil {
		return "", err
	}
	bound, _ := e.Child(xmpp.NSBind, "bind")
	jid, ok := bound.Child(xmpp.NSBind, "jid")
	if !ok {
		return "", fmt.Errorf("<%s/> instead of an address", e.Local())
	}
	return jid.Text(), nil
}

// stanzaError returns the error of a stanza of that type, or nil.
func stanzaError(e xmpp.Element) error {
	if kind, _ := e.Attr("type"); kind != "error" {
		return nil
	}
	failure := &xmpp.StanzaError{Condition: xmpp.UndefinedCondition}
	for child := range e.Children() {
		if child.Local() != "error" {
			continue
		}
		for c := range child.Children() {
			if c.Space() == xmpp.NSStanzas && c.Local() != "text" {
				failure.Condition = c.Local()
			}
		}
	}
	return failure
}

// manage turns stream management on (XEP-0198 §3), if the server has it.
func (s *stream) manage(a attempt) error {
	if !a.managed {
		return nil
	}
	if err := s.write([]byte("<enable xmlns='" + xmpp.NSSM + "'/>")); err != nil {
		return err
	}
	e, err := s.element()
	if err == nil && !e.Is(xmpp.NSSM, "enabled") {
		err = fmt.Errorf("<%s/> instead of enabled", e.Local())
	}
	return err
}
