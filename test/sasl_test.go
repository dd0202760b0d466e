package test

import (
	"encoding/base64"
	"slices"
	"testing"
)

// testMechanisms: what is offered under TLS is what works.
func testMechanisms(t *testing.T, d *dev) {
	alice := d.account(t)
	s := d.dialTLS(t)
	features := s.open(d.Domain)
	if s.from != d.Domain {
		t.Errorf("the stream is from %q, want %q", s.from, d.Domain)
	}
	var offered []string
	for _, m := range features.child(nsSASL, "mechanisms").Children {
		offered = append(offered, m.Text)
	}
	for _, m := range []string{"PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		if !slices.Contains(offered, m) {
			t.Errorf("%s is not offered: %v", m, offered)
			continue
		}
		s := d.dialTLS(t)
		s.session(d.Domain, m, alice)
		s.close()
	}
}

// testSASLFailures: each wrong request gets its own condition of RFC 6120 §6.5.
func testSASLFailures(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)
	nobody := account{name: "nobody-of-that-name", password: "secret", jid: "nobody-of-that-name@localhost"}
	auth := func(mechanism, payload string) func(*stream) element {
		return func(s *stream) element {
			s.write("<auth xmlns='%s' mechanism='%s'>%s</auth>", nsSASL, mechanism, payload)
			return s.read()
		}
	}
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	tests := []struct {
		name string
		try  func(*stream) element
		want string
	}{
		{"PLAIN, wrong password", func(s *stream) element { return s.plain(alice, "wrong") }, "not-authorized"},
		{"SCRAM-SHA-1, wrong password", func(s *stream) element { return s.scram("SCRAM-SHA-1", alice, "wrong") }, "not-authorized"},
		{"SCRAM-SHA-256, wrong password", func(s *stream) element { return s.scram("SCRAM-SHA-256", alice, "wrong") }, "not-authorized"},
		{"PLAIN, unknown user", func(s *stream) element { return s.plain(nobody, "secret") }, "not-authorized"},
		{"SCRAM-SHA-1, unknown user", func(s *stream) element { return s.scram("SCRAM-SHA-1", nobody, "secret") }, "not-authorized"},
		{"SCRAM-SHA-256, unknown user", func(s *stream) element { return s.scram("SCRAM-SHA-256", nobody, "secret") }, "not-authorized"},
		{"a name that no account can have", auth("PLAIN", encoded("\x00a b@c\x00secret")), "not-authorized"},
		{"unsupported mechanism", auth("X-SECRET-HANDSHAKE", ""), "invalid-mechanism"},
		{"mechanism of another layer", auth("EXTERNAL", "="), "invalid-mechanism"},
		{"no mechanism", auth("", ""), "invalid-mechanism"},
		{"malformed base64", auth("PLAIN", "AGFsaWNl*AHNlY3JldA=="), "incorrect-encoding"},
		{"base64 cut short", auth("SCRAM-SHA-1", "biwsbj1hbGljZSxyPWFiY2"), "incorrect-encoding"},
		{"PLAIN without separators", auth("PLAIN", encoded("alice")), "malformed-request"},
		{"SCRAM without a nonce", auth("SCRAM-SHA-1", encoded("n,,n=alice")), "malformed-request"},
		{"on behalf of another", auth("PLAIN", encoded(bob.jid+"\x00"+alice.name+"\x00"+alice.password)), "invalid-authzid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := d.dialTLS(t)
			s.open(d.Domain)
			wantFailure(t, tt.try(s), tt.want)
			s.close() // the stream is still a good one
		})
	}
}

func wantFailure(t *testing.T, got element, condition string) {
	t.Helper()
	if !got.is(nsSASL, "failure") || got.child(nsSASL, condition).XMLName.Local == "" {
		t.Errorf("want <failure><%s/></failure>, got %+v", condition, got)
	}
}

// testSASLRetry: after a failure the client may try again on the same stream,
// also as another user, who may live on another node (RFC 6120 §6.4.5).
func testSASLRetry(t *testing.T, d *dev) {
	alice, bob := apart(t, d)
	s := d.dialTLS(t)
	s.open(d.Domain)
	wantFailure(t, s.scram("SCRAM-SHA-1", alice, "wrong"), "not-authorized")
	wantFailure(t, s.auth("X-NONE", ""), "invalid-mechanism")
	if got := s.plain(bob, bob.password); !got.is(nsSASL, "success") {
		t.Fatalf("a second try with the right password: %+v", got)
	}
	s.open(d.Domain)
	s.write("<iq type='set' id='b1'><bind xmlns='%s'><resource>desk</resource></bind></iq>", nsBind)
	result := s.readUntil("the result of binding", func(e element) bool { return e.attr("id") == "b1" })
	if got := result.child(nsBind, "bind").child(nsBind, "jid").Text; got != bob.jid+"/desk" {
		t.Errorf("bound to %q, want %s/desk", got, bob.jid)
	}
	s.close()
	r := d.awaitRecord(t, "of "+bob.jid+" with a retry", func(r record) bool {
		return r.text("user") == bob.jid && r.text("mechanism") == "PLAIN" && r.text("id") != "" && r.text("reason") == "client-closed"
	})
	if r.text("node") == "" {
		t.Errorf("session record %v names no node", r)
	}
}

// testSASLAbort: a client may give up in the middle (RFC 6120 §6.4.4).
func testSASLAbort(t *testing.T, d *dev) {
	alice := d.account(t)
	s := d.dialTLS(t)
	s.open(d.Domain)
	if got := s.auth("SCRAM-SHA-1", "n,,n="+alice.name+",r=fyko+d2lbbFgONRv9qkxdawL"); !got.is(nsSASL, "challenge") {
		t.Fatalf("want a challenge, got %+v", got)
	}
	s.write("<abort xmlns='%s'/>", nsSASL)
	wantFailure(t, s.read(), "aborted")
	if got := s.plain(alice, alice.password); !got.is(nsSASL, "success") {
		t.Errorf("a try after <abort/>: %+v", got)
	}
}
