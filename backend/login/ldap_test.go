package login_test

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"imlb/backend/login"
)

// testCA is the file with the authority of httptest's certificates, which are for
// example.com and 127.0.0.1.
func testCA(t *testing.T) string {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	s.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newLDAP(t *testing.T, o login.LDAPOptions) *login.LDAP {
	t.Helper()
	l, err := login.NewLDAP(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

const (
	aliceDN  = "uid=alice,ou=people,dc=example,dc=com"
	searchDN = "cn=imlb,dc=example,dc=com"
)

var people = []dirEntry{
	{dn: searchDN, password: "our own"},
	{dn: aliceDN, user: "alice", password: "pencil"},
	{dn: "cn=Bob,ou=people,dc=example,dc=com", user: "bob", password: "pencil"},
	{dn: "uid=locked,ou=people,dc=example,dc=com", user: "locked", password: "pencil", result: ldap.LDAPResultUnwillingToPerform},
	{dn: "uid=busy,ou=people,dc=example,dc=com", user: "busy", password: "pencil", result: ldap.LDAPResultBusy},
	{dn: "uid=twin,ou=people,dc=example,dc=com", user: "twin", password: "pencil"},
	{dn: "uid=twin,ou=robots,dc=example,dc=com", user: "twin", password: "pencil"},
}

type ldapCase struct {
	user, password string
	ok             bool
	err            string
}

func checkAll(t *testing.T, l *login.LDAP, cases []ldapCase) {
	t.Helper()
	for _, tt := range cases {
		ok, err := l.Check(t.Context(), tt.user, tt.password)
		if ok != tt.ok || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s with %q: got %t, %v; want %t, %s", tt.user, tt.password, ok, err, tt.ok, tt.err)
		}
	}
}

func TestLDAPBind(t *testing.T) {
	d := startDirectory(t, false, people...)
	l := newLDAP(t, login.LDAPOptions{URL: "ldap://" + d.addr, BindDN: "uid={user},ou=people,dc=example,dc=com"})
	checkAll(t, l, []ldapCase{
		{"alice", "pencil", true, ""},
		{"alice", "pen", false, ""},
		{"alice", "", false, ""},
		{"mallory", "pencil", false, ""},
		{"locked", "pencil", false, ""},
		{"busy", "pencil", false, "Busy"},
		{"x,ou=people,dc=example,dc=com", "pencil", false, ""},
	})
	want := []string{
		"bind " + aliceDN, "bind " + aliceDN,
		"bind uid=mallory,ou=people,dc=example,dc=com", "bind uid=locked,ou=people,dc=example,dc=com", "bind uid=busy,ou=people,dc=example,dc=com",
		`bind uid=x\,ou=people\,dc=example\,dc=com,ou=people,dc=example,dc=com`,
	}
	if got := d.asked(); !slices.Equal(got, want) {
		t.Errorf("the directory was asked\n%q, want\n%q", got, want)
	}
}

func TestLDAPSearch(t *testing.T) {
	for name, o := range map[string]login.LDAPOptions{
		"as somebody": {SearchDN: searchDN, SearchPassword: "our own"}, "anonymously": {},
	} {
		d := startDirectory(t, false, people...)
		o.URL, o.Base, o.Filter = "ldap://"+d.addr, "dc=example,dc=com", "(uid={user})"
		l := newLDAP(t, o)
		checkAll(t, l, []ldapCase{
			{"alice", "pencil", true, ""},
			{"bob", "pencil", true, ""},
			{"bob", "pen", false, ""},
			{"mallory", "pencil", false, ""},
			{"twin", "pencil", false, "more than one entry"},
			{"alice", "pencil", true, ""},
			{"*", "pencil", false, ""},
			{"a)(uid=alice", "pencil", false, ""},
		})
		binds := "bind " + o.SearchDN
		want := []string{
			binds, "search (uid=alice)", "bind " + aliceDN,
			binds, "search (uid=bob)", "bind cn=Bob,ou=people,dc=example,dc=com",
			binds, "search (uid=bob)", "bind cn=Bob,ou=people,dc=example,dc=com",
			binds, "search (uid=mallory)", "bind cn=mallory,dc=example,dc=com",
			binds, "search (uid=twin)",
			binds, "search (uid=alice)", "bind " + aliceDN,
			binds, `search (uid=\2a)`, "bind cn=*,dc=example,dc=com",
			binds, `search (uid=a\29\28uid=alice)`, "bind cn=a)(uid=alice,dc=example,dc=com",
		}
		if got := d.asked(); !slices.Equal(got, want) {
			t.Errorf("%s: the directory was asked\n%q, want\n%q", name, got, want)
		}
	}
}

func TestLDAPSearchFails(t *testing.T) {
	d := startDirectory(t, false, people...)
	o := login.LDAPOptions{URL: "ldap://" + d.addr, Base: "dc=nowhere", Filter: "(uid={user})"}
	checkAll(t, newLDAP(t, o), []ldapCase{{"alice", "pencil", false, ""}})
	o.SearchDN, o.SearchPassword = searchDN, "wrong"
	checkAll(t, newLDAP(t, o), []ldapCase{{"alice", "pencil", false, "for a search"}})
}

func TestLDAPMistakes(t *testing.T) {
	for want, o := range map[string]login.LDAPOptions{
		"address of the directory":                       {URL: "ldap://h:x"},
		`filter for the directory, "(uid={user}"`:        {Base: "dc=example", Filter: "(uid={user}"},
		`name of the base in the directory, "example"`:   {Base: "example", Filter: "(uid={user})"},
		`name of users in the directory, "uid=x,people"`: {BindDN: "uid={user},people"},
		`name of who searches in the directory, "imlb"`:  {Base: "dc=example", Filter: "(uid={user})", SearchDN: "imlb"},
		"read certificate authorities: open none":        {BindDN: "uid={user}", CAFile: "none"},
	} {
		if _, err := login.NewLDAP(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestLDAPSecured(t *testing.T) {
	ca := testCA(t)
	for _, direct := range []bool{false, true} {
		d := startDirectory(t, direct, people...)
		o := login.LDAPOptions{URL: "ldap://" + d.addr, StartTLS: true, BindDN: "uid={user},ou=people,dc=example,dc=com", CAFile: ca}
		if direct {
			o.URL = "ldaps://" + d.addr
		}
		checkAll(t, newLDAP(t, o), []ldapCase{{"alice", "pencil", true, ""}, {"alice", "pen", false, ""}})
		o.ServerName = "example.com"
		checkAll(t, newLDAP(t, o), []ldapCase{{"alice", "pencil", true, ""}})
		before := len(d.asked())
		o.ServerName = "ldap.example.net"
		checkAll(t, newLDAP(t, o), []ldapCase{{"alice", "pencil", false, "ldap.example.net"}})
		o.ServerName, o.CAFile = "", ""
		checkAll(t, newLDAP(t, o), []ldapCase{{"alice", "pencil", false, "unknown authority"}})
		if len(d.asked()) != before {
			t.Error("a directory that is not the one that is meant was asked")
		}
	}
}

// A directory closes connections that are idle; the next login opens another.
func TestLDAPReconnects(t *testing.T) {
	d := startDirectory(t, false, people...)
	l := newLDAP(t, login.LDAPOptions{URL: "ldap://" + d.addr, BindDN: "uid={user},ou=people,dc=example,dc=com"})
	for range 3 {
		checkAll(t, l, []ldapCase{{"alice", "pencil", true, ""}})
		d.hangUp()
	}
}

func TestLDAPConnections(t *testing.T) {
	d := startDirectory(t, false, people...)
	l := newLDAP(t, login.LDAPOptions{
		URL: "ldap://" + d.addr, Base: "dc=example,dc=com", Filter: "(uid={user})", Connections: 2, Timeout: 20 * time.Second,
	})
	var checks sync.WaitGroup
	for i := range 50 {
		checks.Go(func() {
			user := []string{"alice", "bob"}[i%2]
			if ok, err := l.Check(t.Context(), user, "pencil"); !ok {
				t.Errorf("%s: %t, %v", user, ok, err)
			}
		})
	}
	checks.Wait()
	if d.most > 2 {
		t.Errorf("there were %d connections, want at most 2", d.most)
	}
}

func TestLDAPTimeout(t *testing.T) {
	d := startDirectory(t, false, people...)
	d.mute = make(chan struct{})
	for _, secured := range []bool{false, true} {
		l := newLDAP(t, login.LDAPOptions{URL: "ldap://" + d.addr, StartTLS: secured, BindDN: "uid={user}", Timeout: 50 * time.Millisecond})
		if ok, err := l.Check(t.Context(), "alice", "pencil"); ok || err == nil {
			t.Errorf("got %t, %v", ok, err)
		}
	}
	close(d.mute)
	nobody := newLDAP(t, login.LDAPOptions{URL: "ldap://127.0.0.1:1", BindDN: "uid={user}"})
	if ok, err := nobody.Check(t.Context(), "alice", "pencil"); ok || err == nil {
		t.Errorf("nobody: got %t, %v", ok, err)
	}
}
