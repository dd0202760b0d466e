package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/login"
	"imlb/configs"
)

const saslNode = "name: n\ndomain: example.com\ndatabase: {url: \"sqlite:x.db\"}\nsasl: "

func nodeDocument(t *testing.T, dir, sasl string) configs.Node {
	t.Helper()
	file := filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(file, []byte(saslNode+sasl+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, err := configs.LoadNode(file)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// What checks logins is what the document says.
func TestLoginChecks(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"secret": "s", "keys": "{}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const search = "search: {base: 'dc=example', dn: 'cn=imlb', password_file: secret"
	for _, tt := range []struct {
		sasl      string
		passwords bool
		tokens    bool
		err       string
	}{
		{sasl: "{}"},
		{sasl: "{accounts: {ldap: {url: 'ldaps://h', " + search + "}}}}", passwords: true},
		{sasl: "{accounts: {ldap: {url: 'ldaps://h', bind_dn: 'uid={user},dc=example'}}}", passwords: true},
		{sasl: "{accounts: {ldap: {url: 'ldaps://h', " + search + ", filter: '(&(uid={user})'}}}}", err: "accounts in LDAP: filter"},
		{sasl: "{accounts: {ldap: {url: 'ldaps://h', bind_dn: 'people,uid={user}'}}}", err: "accounts in LDAP: name of users"},
		{sasl: "{accounts: {http: {url: 'https://h', token_file: secret}}}", passwords: true},
		{sasl: "{oauth: {keys: keys, issuer: i, audience: [a]}}", tokens: true},
		{sasl: "{accounts: {http: {url: 'https://h'}}, oauth: {keys: 'https://h', issuer: i, audience: [a]}}", passwords: true, tokens: true},
	} {
		checks, err := newLoginChecks(nodeDocument(t, dir, tt.sasl))
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %v, want %s", tt.sasl, err, tt.err)
		}
		if (checks.passwords != nil) != tt.passwords || (checks.tokens != nil) != tt.tokens {
			t.Errorf("%s: got %T, %T", tt.sasl, checks.passwords, checks.tokens)
		}
		if err := checks.close(); err != nil {
			t.Error(err)
		}
	}
}

var (
	_ backend.Passwords = (*login.LDAP)(nil)
	_ backend.Passwords = (*login.HTTP)(nil)
	_ backend.Tokens    = (*login.Tokens)(nil)
)

func TestLoginBackoff(t *testing.T) {
	doc := nodeDocument(t, t.TempDir(), "{backoff: {free: 1, source_free: 2, first: 3s, max: 4s, window: 5s}}")
	want := backend.Backoff{Free: 1, SourceFree: 2, First: 3 * time.Second, Max: 4 * time.Second, Window: 5 * time.Second}
	if got := loginBackoff(doc.SASL.Backoff); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestMechanismNames(t *testing.T) {
	if got := mechanismNames(nil); got != nil {
		t.Errorf("got %q for none, want the node's default", got)
	}
	if got := mechanismNames([]configs.Mechanism{configs.External, configs.Plain}); len(got) != 2 || got[0] != "EXTERNAL" || got[1] != "PLAIN" {
		t.Errorf("got %q", got)
	}
}
