package login

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// LDAPOptions say which directory to ask, and how users are found in it: by BindDN, or by
// a search.
type LDAPOptions struct {
	URL        string // ldap:// or ldaps://
	StartTLS   bool   // of ldap://: secure the connection before anything else
	CAFile     string // who has signed its certificate; empty: one of the system's authorities
	ServerName string // that the certificate is for; empty: the URL's host

	// BindDN is a user's entry, with {user} for the localpart.
	BindDN string

	// Base and Filter find a user's entry, {user} in the filter being the localpart. The
	// search is done as SearchDN with SearchPassword; empty: anonymously.
	Base, Filter             string
	SearchDN, SearchPassword string

	Timeout     time.Duration // for a place, and for each answer; 5 s
	Connections int           // at most; 8
}

// userMark stands for the localpart in a DN and in a filter.
const userMark = "{user}"

// idleTime is how long a connection is kept without use: servers close theirs some time.
const idleTime = time.Minute

// LDAP asks a directory by binding as the user (RFC 4513 §5.1.3).
type LDAP struct {
	o       LDAPOptions
	address string // host:port
	direct  bool   // TLS from the first byte
	tls     *tls.Config
	places  places
	idle    chan idleConn
}

type idleConn struct {
	conn  *ldap.Conn
	since time.Time
}

// NewLDAP returns an asker that has no connection yet.
func NewLDAP(o LDAPOptions) (*LDAP, error) {
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.Connections = cmp.Or(o.Connections, 8)
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("address of the directory: %w", err)
	}
	port := ldap.DefaultLdapPort
	if u.Scheme == "ldaps" {
		port = ldap.DefaultLdapsPort
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	pool, err := authorities(o.CAFile)
	if err != nil {
		return nil, err
	}
	return &LDAP{
		o:       o,
		address: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)),
		direct:  u.Scheme == "ldaps",
		tls:     &tls.Config{RootCAs: pool, ServerName: cmp.Or(o.ServerName, u.Hostname()), MinVersion: tls.VersionTLS12},
		places:  make(places, o.Connections),
		idle:    make(chan idleConn, o.Connections),
	}, nil
}

// check tries the names and the filter, in which a user may be anybody.
func (o LDAPOptions) check() error {
	for what, dn := range map[string]string{"users": strings.ReplaceAll(o.BindDN, userMark, "x"), "who searches": o.SearchDN, "the base": o.Base} {
		if _, err := ldap.ParseDN(dn); err != nil {
			return fmt.Errorf("name of %s in the directory, %q: %w", what, dn, err)
		}
	}
	if o.BindDN != "" {
		return nil
	}
	if _, err := ldap.CompileFilter(strings.ReplaceAll(o.Filter, userMark, "x")); err != nil {
		return fmt.Errorf("filter for the directory, %q: %w", o.Filter, err)
	}
	return nil
}

// Close closes the connections. Nothing may be asked any more.
func (l *LDAP) Close() error {
	for {
		select {
		case c := <-l.idle:
			_ = c.conn.Close()
		default:
			return nil
		}
	}
}

// Check asks whether that is the password of a user.
func (l *LDAP) Check(ctx context.Context, user, password string) (bool, error) {
	if password == "" { // which would be an anonymous bind, and succeed (RFC 4513 §5.1.2)
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.Timeout)
	defer cancel()
	if err := l.places.take(ctx); err != nil {
		return false, err
	}
	defer l.places.giveBack()
	for {
		conn, used, err := l.connect(ctx)
		if err != nil {
			return false, err
		}
		ok, err := l.ask(conn, user, password)
		if err == nil {
			l.idle <- idleConn{conn, time.Now()} // there are as many places as there is room
			return ok, nil
		}
		_ = conn.Close()
		if !used || ctx.Err() != nil || answered(err) { // else the server has closed what was idle
			return false, err
		}
	}
}

// connect returns a connection that was used before, or a new one.
func (l *LDAP) connect(ctx context.Context) (conn *ldap.Conn, used bool, err error) {
	for {
		select {
		case c := <-l.idle:
			if time.Since(c.since) < idleTime && !c.conn.IsClosing() {
				return c.conn, true, nil
			}
			_ = c.conn.Close()
		default:
			conn, err = l.dial(ctx)
			return conn, false, err
		}
	}
}

func (l *LDAP) dial(ctx context.Context) (*ldap.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", l.address)
	if err != nil {
		return nil, fmt.Errorf("connect to the directory: %w", err)
	}
	conn, err := l.secure(ctx, raw)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("secure the connection to the directory: %w", err)
	}
	conn.SetTimeout(l.o.Timeout)
	return conn, nil
}

// secure does TLS as it is wanted, and begins to speak LDAP.
func (l *LDAP) secure(ctx context.Context, raw net.Conn) (*ldap.Conn, error) {
	if l.direct {
		secured := tls.Client(raw, l.tls)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		raw = secured
	}
	conn := ldap.NewConn(raw, l.direct)
	conn.Start()
	if l.direct || !l.o.StartTLS {
		return conn, nil
	}
	// The library knows no deadline for a handshake.
	by, _ := ctx.Deadline() // Check has set one
	_ = raw.SetDeadline(by)
	if err := conn.StartTLS(l.tls); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, raw.SetDeadline(time.Time{})
}

// ask tries the password.
func (l *LDAP) ask(conn *ldap.Conn, user, password string) (bool, error) {
	dn, err := l.find(conn, user)
	if err != nil {
		return false, err
	}
	known := dn != ""
	if !known {
		dn = "cn=" + ldap.EscapeDN(user) + "," + l.o.Base // ask nevertheless: who is unknown should not be told sooner
	}
	err = conn.Bind(dn, password)
	switch {
	case err == nil:
		return known, nil
	case isNo(err) || !known && answered(err):
		return false, nil
	}
	return false, fmt.Errorf("bind to the directory as a user: %w", err)
}

// answered tells whether an error is the directory's word: the library's own have codes of
// 200 and more.
func answered(err error) bool {
	e, ok := errors.AsType[*ldap.Error](err)
	return ok && e.ResultCode < ldap.ErrorNetwork || errors.Is(err, errTwins)
}

// isNo tells whether a bind has failed for the user's sake: for the password, because there
// is no such entry, or because the directory does not let it in now.
func isNo(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultNoSuchObject,
		ldap.LDAPResultConstraintViolation, ldap.LDAPResultUnwillingToPerform,
		ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultInsufficientAccessRights)
}

var errTwins = errors.New("the directory has more than one entry for a user; make the filter match one")

// find returns the DN of a user, or nothing if there is none.
func (l *LDAP) find(conn *ldap.Conn, user string) (string, error) {
	if l.o.BindDN != "" {
		return strings.ReplaceAll(l.o.BindDN, userMark, ldap.EscapeDN(user)), nil
	}
	// The connection may still be another user's.
	bind := func() error { return conn.Bind(l.o.SearchDN, l.o.SearchPassword) }
	if l.o.SearchDN == "" {
		bind = func() error { return conn.UnauthenticatedBind("") }
	}
	if err := bind(); err != nil {
		return "", fmt.Errorf("bind to the directory for a search: %w", err)
	}
	filter := strings.ReplaceAll(l.o.Filter, userMark, ldap.EscapeFilter(user))
	found, err := conn.Search(ldap.NewSearchRequest(l.o.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases,
		2, int(l.o.Timeout.Seconds()), false, filter, []string{"1.1"}, nil)) // "1.1": no attributes (RFC 4511 §4.5.1.8)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return "", nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || err == nil && len(found.Entries) > 1:
		return "", errTwins
	case err != nil:
		return "", fmt.Errorf("search the directory: %w", err)
	case len(found.Entries) == 0:
		return "", nil
	}
	return found.Entries[0].DN, nil
}
