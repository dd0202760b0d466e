package login_test

import (
	"crypto/tls"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// directory is an LDAP server with as much as a login asks for (RFC 4511).
type directory struct {
	addr    string
	entries []dirEntry
	filter  string // of searches, with {user} for what was escaped
	tls     *tls.Config
	mute    chan struct{} // not nil: nothing is answered before it is closed

	mu    sync.Mutex
	log   []string // what was asked for
	conns map[net.Conn]bool
	most  int // connections at a time
	done  sync.WaitGroup
}

type dirEntry struct {
	dn, user, password string
	result             uint16 // of a bind with the right password
}

func startDirectory(t *testing.T, direct bool, entries ...dirEntry) *directory {
	t.Helper()
	https := httptest.NewTLSServer(nil) // for its certificate
	https.Close()
	d := &directory{entries: entries, filter: "(uid={user})", tls: https.TLS.Clone(), conns: make(map[net.Conn]bool)}
	d.tls.NextProtos = nil
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = ln.Addr().String()
	d.done.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if direct {
				conn = tls.Server(conn, d.tls)
			}
			d.done.Go(func() { d.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		d.hangUp()
		d.done.Wait()
	})
	return d
}

// hangUp closes all connections.
func (d *directory) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.conns {
		_ = conn.Close()
	}
}

func (d *directory) asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

func (d *directory) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, what)
}

func (d *directory) serve(conn net.Conn) {
	raw := conn
	d.mu.Lock()
	d.conns[raw] = true
	d.most = max(d.most, len(d.conns))
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.conns, raw)
		_ = raw.Close()
	}()
	for {
		p, err := ber.ReadPacket(conn)
		if err != nil || len(p.Children) < 2 {
			return
		}
		if d.mute != nil {
			<-d.mute
		}
		id, op := p.Children[0].Value.(int64), p.Children[1]
		switch op.Tag {
		case ldap.ApplicationBindRequest:
			answer(conn, id, ldap.ApplicationBindResponse, d.bind(op))
		case ldap.ApplicationSearchRequest:
			dns, result := d.search(op)
			for _, dn := range dns {
				entry := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
				entry.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, dn, ""))
				entry.AppendChild(ber.NewSequence(""))
				send(conn, id, entry)
			}
			answer(conn, id, ldap.ApplicationSearchResultDone, result)
		case ldap.ApplicationExtendedRequest: // StartTLS
			answer(conn, id, ldap.ApplicationExtendedResponse, ldap.LDAPResultSuccess)
			conn = tls.Server(conn, d.tls)
		default:
			return
		}
	}
}

func (d *directory) bind(op *ber.Packet) uint16 {
	dn, password := op.Children[1].Value.(string), op.Children[2].Data.String()
	d.note("bind " + dn)
	if dn == "" && password == "" {
		return ldap.LDAPResultSuccess
	}
	for _, e := range d.entries {
		if e.dn == dn && e.password == password {
			return e.result
		}
	}
	return ldap.LDAPResultInvalidCredentials
}

func (d *directory) search(op *ber.Packet) (dns []string, result uint16) {
	filter, err := ldap.DecompileFilter(op.Children[6])
	if err != nil {
		return nil, ldap.LDAPResultProtocolError
	}
	d.note("search " + filter)
	if strings.Contains(op.Children[0].Value.(string), "nowhere") {
		return nil, ldap.LDAPResultNoSuchObject
	}
	for _, e := range d.entries {
		if e.user != "" && filter == strings.ReplaceAll(d.filter, "{user}", e.user) {
			dns = append(dns, e.dn)
		}
	}
	return dns, ldap.LDAPResultSuccess
}

func answer(conn net.Conn, id int64, op ber.Tag, result uint16) {
	p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, op, nil, "")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(result), ""))
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
	p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "", ""))
	send(conn, id, p)
}

func send(conn net.Conn, id int64, op *ber.Packet) {
	p := ber.NewSequence("")
	p.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	p.AppendChild(op)
	_, _ = conn.Write(p.Bytes())
}
