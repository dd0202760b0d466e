package configs_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"imlb/configs"
)

func TestNodeSASL(t *testing.T) {
	parse := func(sasl string) configs.NodeSASL {
		t.Helper()
		n, err := configs.ParseNode("f", []byte(chatNode+sasl))
		if err != nil {
			t.Fatal(err)
		}
		return n.SASL
	}
	backoff := configs.NodeBackoff{Free: 5, SourceFree: 50, First: time.Second, Max: 5 * time.Minute, Window: 15 * time.Minute}
	if got, want := parse(""), (configs.NodeSASL{Iterations: 10_000, TokenLifetime: 504 * time.Hour, Backoff: backoff}); !reflect.DeepEqual(got, want) {
		t.Errorf("by default got %+v, want %+v", got, want)
	}
	got := parse(`sasl:
  mechanisms: [PLAIN, OAUTHBEARER, EXTERNAL]
  accounts: {ldap: {url: "ldap://h", search: {base: "dc=example"}}}
  oauth: {keys: "https://issuer.example/jwks", issuer: i, audience: [a, b], user_claim: user.name, create_accounts: true}
`)
	want := configs.NodeSASL{
		Mechanisms: []configs.Mechanism{configs.Plain, configs.OAuthBearer, configs.External}, Iterations: 10_000,
		TokenLifetime: 504 * time.Hour, Backoff: backoff,
		Accounts: configs.NodeAccounts{LDAP: &configs.NodeLDAP{
			URL: "ldap://h", StartTLS: true, Search: &configs.NodeLDAPSearch{Base: "dc=example", Filter: "(uid={user})"},
			Timeout: 5 * time.Second, Connections: 8,
		}},
		OAuth: &configs.NodeOAuth{
			Keys: "https://issuer.example/jwks", Issuer: "i", Audience: []string{"a", "b"}, UserClaim: "user.name",
			Leeway: 30 * time.Second, Refresh: 10 * time.Minute, CreateAccounts: true,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, good := range []string{
		"accounts: {http: {url: 'https://h/check'}}",
		"accounts: {http: {url: 'http://[::1]:8080/check'}}",
		"accounts: {http: {url: 'http://localhost/check'}}",
		"accounts: {ldap: {url: 'ldap://127.0.0.1:1389', start_tls: false, bind_dn: 'uid={user},dc=example'}}",
		"accounts: {ldap: {url: 'ldaps://h:636/', start_tls: false, bind_dn: 'uid={user},dc=example'}}",
		"oauth: {keys: jwks.json, issuer: i, audience: [a]}",
		"mechanisms: [SCRAM-SHA-512-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS, SCRAM-SHA-512]",
		"backoff: {first: 0s, max: 0s}",
	} {
		parse("sasl: {" + good + "}\n")
	}
}

// Each mistake gets exactly this error.
func TestWrongNodeSASL(t *testing.T) {
	const bind = "bind_dn: 'uid={user}'"
	for _, tt := range []struct{ sasl, want string }{
		{"mechanisms: [SCRAM-SHA-3]", `mechanisms[0]: "SCRAM-SHA-3" is not known here; did you mean "SCRAM-SHA-1"?`},
		{"mechanisms: [OAUTHBEARER]", "oauth: is missing; OAUTHBEARER needs to know which tokens are good"},
		{"mechanisms: [PLAIN], oauth: {keys: k, issuer: i, audience: [a]}", "oauth: is of no use, since sasl.mechanisms does not list OAUTHBEARER"},
		{"oauth: {issuer: i, audience: [a]}", "oauth.keys: is missing; say where the issuer's keys are, like https://issuer.example.com/jwks.json"},
		{"oauth: {keys: 'http://h/k', issuer: i, audience: [a]}", `oauth.keys: "http://h/k" would be asked in the clear; write https://, http:// being for this machine only`},
		{"oauth: {keys: 'ftp://h/k', issuer: i, audience: [a]}", `oauth.keys: "ftp://h/k" is not a URL; write it like https://accounts.example.com/check`},
		{"oauth: {keys: k, issuer: i, audience: [a], ca_file: f}", "oauth.ca_file: is of no use, since keys is a file"},
		{"oauth: {keys: k, issuer: '', audience: [a]}", "oauth: has an empty issuer or audience, so that any token would be good"},
		{"oauth: {keys: k, issuer: i, audience: ['']}", "oauth: has an empty issuer or audience, so that any token would be good"},
		{"oauth: {keys: k, issuer: i, audience: []}", "oauth.audience: is empty; list what tokens for this service have in the claim aud"},
		{"oauth: {keys: k, issuer: i, audience: [a], user_claim: 'a b'}", `oauth.user_claim: "a b" is not the name of a claim; write it like sub, or user.id for one inside another`},
		{"accounts: {ldap: {url: 'ldaps://h', " + bind + "}, http: {url: 'https://h'}}", "accounts: has both ldap and http; keep one of them"},
		{
			"mechanisms: [PLAIN, SCRAM-SHA-1], accounts: {http: {url: 'https://h'}}",
			"mechanisms[1]: SCRAM-SHA-1 needs keys in the database, but passwords are checked elsewhere; leave it out",
		},
		{"accounts: {http: {}}", "accounts.http.url: is missing; say whom to ask, like https://accounts.example.com/check"},
		{"accounts: {http: {url: ''}}", `accounts.http.url: "" is not a URL; write it like https://accounts.example.com/check`},
		{"accounts: {http: {url: 'http://h'}}", `accounts.http.url: "http://h" would be asked in the clear; write https://, http:// being for this machine only`},
		{"accounts: {ldap: {" + bind + "}}", "accounts.ldap.url: is missing; say where the directory is, like ldaps://ldap.example.com"},
		{"accounts: {ldap: {url: 'h', " + bind + "}}", `accounts.ldap.url: "h" is not where a directory is; write ldaps://host or ldap://host`},
		{"accounts: {ldap: {url: 'ldap://h/dc=x', " + bind + "}}", `accounts.ldap.url: "ldap://h/dc=x" is not where a directory is; write ldaps://host or ldap://host`},
		{"accounts: {ldap: {url: 'ldaps://h'}}", "accounts.ldap: needs either bind_dn, where all users are called alike, or search"},
		{"accounts: {ldap: {url: 'ldaps://h', " + bind + ", search: {base: b}}}", "accounts.ldap: needs either bind_dn, where all users are called alike, or search"},
		{"accounts: {ldap: {url: 'ldaps://h', bind_dn: 'uid=alice'}}", `accounts.ldap.bind_dn: "uid=alice" does not say where the user is; write it like uid={user},ou=people,dc=example,dc=com`},
		{"accounts: {ldap: {url: 'ldaps://h', search: {}}}", "accounts.ldap.search.base: is missing; name the entry below which the users are, like ou=people,dc=example,dc=com"},
		{"accounts: {ldap: {url: 'ldaps://h', search: {base: b, filter: 'uid={user}'}}}", `accounts.ldap.search.filter: "uid={user}" is not a filter with the user in it; write it like (uid={user})`},
		{"accounts: {ldap: {url: 'ldaps://h', search: {base: b, filter: '(uid=x)'}}}", `accounts.ldap.search.filter: "(uid=x)" is not a filter with the user in it; write it like (uid={user})`},
		{"accounts: {ldap: {url: 'ldaps://h', search: {base: b, dn: d}}}", "accounts.ldap.search: has only one of dn and password_file; who searches needs both, and anybody neither"},
		{
			"accounts: {ldap: {url: 'ldap://h', start_tls: false, " + bind + "}}",
			"accounts.ldap.start_tls: is false, so that passwords would travel in the clear; leave it out, or write ldaps:// into the URL",
		},
		{"backoff: {first: 1m, max: 1s}", "backoff.max: 1s is less than first, 1m0s"},
	} {
		_, err := configs.ParseNode("f", []byte(chatNode+"sasl: {"+tt.sasl+"}\n"))
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), ": sasl."+tt.want) {
			t.Errorf("%s: got\n\t%v, want\n\t%s", tt.sasl, err, tt.want)
		}
	}
}

// Users cannot change passwords that somebody else keeps.
func TestRegistrationElsewhere(t *testing.T) {
	const elsewhere = "sasl: {accounts: {http: {url: 'https://h'}}}\n"
	if _, err := configs.ParseNode("f", []byte(chatNode+elsewhere)); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"open", "password_change", "cancel"} {
		_, err := configs.ParseNode("f", []byte(chatNode+elsewhere+"registration: {"+key+": true}\n"))
		if err == nil || !strings.Contains(err.Error(), "registration: makes and changes accounts, but passwords are checked elsewhere (sasl.accounts)") {
			t.Errorf("%s: got %v", key, err)
		}
	}
}

// The files that logins need are tried.
func TestNodeSASLFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "node.yaml")
	missing := func(name string) string { return "open " + filepath.Join(dir, name) + ": no such file or directory" }
	for sasl, want := range map[string][]string{
		"oauth: {keys: k, issuer: i, audience: [a]}":                          {"sasl.oauth.keys: cannot be used: stat " + filepath.Join(dir, "k") + ": no such file or directory"},
		"oauth: {keys: 'https://h/k', ca_file: ca, issuer: i, audience: [a]}": {"sasl.oauth.ca_file: cannot be used: " + missing("ca")},
		"accounts: {http: {url: 'https://h', ca_file: ca, token_file: t}}": {
			"sasl.accounts.http.ca_file: cannot be used: " + missing("ca"), "sasl.accounts.http.token_file: cannot be used: read secret: " + missing("t"),
		},
		"accounts: {ldap: {url: 'ldaps://h', ca_file: ca, search: {base: b, dn: d, password_file: p}}}": {
			"sasl.accounts.ldap.ca_file: cannot be used: " + missing("ca"),
			"sasl.accounts.ldap.search.password_file: cannot be used: read secret: " + missing("p"),
		},
	} {
		write(t, file, chatNode+"sasl: {"+sasl+"}\n")
		_, err := configs.LoadNode(file)
		if err == nil {
			t.Errorf("%s: no error", sasl)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		for i, w := range want {
			if len(lines) != len(want) || !strings.Contains(lines[i], w) {
				t.Errorf("%s: got\n\t%v, want\n\t%s", sasl, err, w)
			}
		}
	}
}
