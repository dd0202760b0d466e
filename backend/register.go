package backend

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"imlb/backend/xmpp"
)

// In-band registration (XEP-0077): accounts made by who has none yet, and passwords
// changed and accounts given up by who has one. Each is off until the operator wants
// it.

// Registration says what users may do with accounts themselves. The zero value is:
// nothing.
type Registration struct {
	Open           bool // who has no account may make one, over TLS
	PasswordChange bool // who is logged in may change the password
	Cancel         bool // who is logged in may delete the account

	MinPassword int // characters of a password; 0: 8
	PerSource   int // accounts in an hour from one IPv4 address or IPv6 /64; 0: 5
	Total       int // accounts in an hour on this node; 0: 100
}

func (r Registration) withDefaults() Registration {
	setDefault(&r.MinPassword, 8)
	setDefault(&r.PerSource, 5)
	setDefault(&r.Total, 100)
	return r
}

// any tells whether there is anything that jabber:iq:register is for.
func (r Registration) any() bool { return r.Open || r.PasswordChange || r.Cancel }

// registrar counts registrations, by source and all together. A name that is taken
// counts as well, so that nobody can try out many.
type registrar struct {
	mu      sync.Mutex
	sources *buckets
	total   *buckets
}

// registrarSources bounds the sources that are remembered.
const registrarSources = 20_000

func newRegistrar(r Registration, now time.Time) *registrar {
	return &registrar{
		sources: newBuckets(perHour(r.PerSource), registrarSources, now),
		total:   newBuckets(perHour(r.Total), 1, now),
	}
}

// allow tells whether a source may register now; why is the metric's word if not.
func (r *registrar) allow(source string, now time.Time) (ok bool, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.sources.take(sourcePrefix(source), now):
		return false, "source_limit"
	case !r.total.take("", now):
		return false, "total_limit"
	default:
		return true, ""
	}
}

// sourcePrefix is what somebody has who has the address: an IPv4 address or an IPv6
// network of /64.
func sourcePrefix(source string) string {
	addr, err := netip.ParseAddrPort(source)
	if err != nil {
		return ""
	}
	ip := addr.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return ""
	}
	return prefix.String()
}

// registerFeature is the stream feature (XEP-0077 §8). Passwords are not taken in
// clear.
func (s *session) registerFeature() string {
	if !s.mayRegister() {
		return ""
	}
	return "<register xmlns='" + xmpp.NSRegisterFeature + "'/>"
}

func (s *session) mayRegister() bool { return s.node.opts.Registration.Open && s.client.tls != "" }

// firstElement reads the element that begins a login. What a client asks before that
// to register is answered.
func (s *session) firstElement(ctx context.Context) ([]byte, error) {
	for {
		raw, err := s.nextElement()
		if err != nil {
			return nil, err
		}
		header, query, ok := s.asksToRegister(raw)
		if !ok {
			return raw, nil
		}
		if err := s.answerRegister(ctx, raw, header, query); err != nil {
			return nil, err
		}
	}
}

// asksToRegister tells whether an element asks for what registerFeature offers.
func (s *session) asksToRegister(raw []byte) (header xmpp.Header, query xmpp.Element, ok bool) {
	if !s.mayRegister() {
		return header, query, false
	}
	header, err := xmpp.ParseHeader(raw)
	if err != nil || header.Kind != xmpp.IQ || header.ID == "" || header.To != "" && header.To != s.node.opts.Domain {
		return header, query, false
	}
	if header.Type != iqGet && header.Type != iqSet {
		return header, query, false
	}
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return header, query, false
	}
	query, ok = e.Child(xmpp.NSRegister, "query")
	return header, query, ok
}

// registerForm is what somebody without an account has to give (§3.1).
const registerForm = "<query xmlns='" + xmpp.NSRegister + "'>" +
	"<instructions>Choose a name and a password.</instructions><username/><password/></query>"

// answerRegister answers before the login. The error ends the connection.
func (s *session) answerRegister(ctx context.Context, raw []byte, header xmpp.Header, query xmpp.Element) error {
	var err error
	result := []byte(registerForm)
	if header.Type == iqSet {
		result = nil
		err = s.registerAccount(ctx, query)
	}
	refused, known := asStanzaError(err)
	if err != nil && !known {
		s.node.opts.Logger.ErrorContext(ctx, "register an account", slog.Any("error", err))
		refused = xmpp.NewStanzaError(xmpp.InternalServerError, "")
	}
	reply := append(iqHead(iqResult, header.ID, s.node.opts.Domain, ""), result...)
	reply = append(reply, "</iq>"...)
	if err != nil {
		reply = refused.AppendReply(nil, raw)
	}
	if _, err := s.conn.Write(reply); err != nil {
		return err
	}
	if s.registers++; s.registers > s.node.opts.Limits.AuthTries*2 { // a get and a set
		return &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "too many registrations"}
	}
	return nil
}

// registerAccount makes an account (§3.1); a *xmpp.StanzaError is for the client.
func (s *session) registerAccount(ctx context.Context, query xmpp.Element) error {
	outcome := "refused"
	defer func() { s.node.metrics.registers.WithLabelValues(outcome).Inc() }()
	name, password, remove := readRegister(query)
	if remove {
		return xmpp.NewStanzaError(xmpp.UnexpectedRequest, "log in first")
	}
	if name == "" || password == "" {
		return xmpp.NewStanzaError(xmpp.NotAcceptable, "give a user name and a password")
	}
	user, err := xmpp.NewJID(name, s.node.opts.Domain, "")
	if err != nil {
		return xmpp.NewStanzaError(xmpp.NotAcceptable, "this cannot be a user name")
	}
	if err := s.node.checkPassword(password); err != nil {
		return err
	}
	if ok, why := s.node.registrar.allow(s.client.source, time.Now()); !ok {
		outcome = why
		return xmpp.NewStanzaError(xmpp.ResourceConstraint, "too many accounts are being made; try again later")
	}
	if err := s.node.createAccount(ctx, user, password); err != nil {
		return err
	}
	outcome = "registered"
	s.node.opts.Logger.InfoContext(ctx, "account registered", slog.String("user", user.String()), slog.String("source", s.client.source))
	return nil
}

// readRegister reads what a set holds.
func readRegister(query xmpp.Element) (name, password string, remove bool) {
	for child := range query.Children() {
		switch child.Local() {
		case "username":
			name = child.Text()
		case "password":
			password = child.Text()
		case "remove":
			remove = true
		}
	}
	return name, password, remove
}
