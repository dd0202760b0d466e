package proxy_test

import (
	"slices"
	"testing"

	"imlb/proxy"
)

// Sessions are seen from login to end, with the node on which they live.
func TestSessions(t *testing.T) {
	t.Parallel()
	one, two := startNode(t, "one"), startNode(t, "two")
	f := startFront(t, &picker{nodes: map[string][]proxy.Node{
		"": {one.at()}, "bob@example.com": {two.at()},
	}}, nil)
	waiting := f.dialTLS()
	waiting.send(streamOpen)
	waiting.expect(frontHeader + frontOffer)
	alice, bob := f.dialTLS(), f.dialStartTLS()
	atOne, atTwo := login(alice, one, "alice"), login(bob, two, "bob")

	if all := slices.Collect(f.Sessions()); len(all) != 2 {
		t.Errorf("sessions %v", all)
	}
	for range f.Sessions() {
		break // may be left at any time
	}
	of := slices.Collect(f.SessionsOf("two"))
	if len(of) != 1 {
		t.Fatalf("sessions of two: %v", of)
	}
	s := of[0]
	if s.User != "bob@example.com" || s.Node != "two" || s.Listener != "xmpp" || s.Pool != "nodes" ||
		s.Source != bob.conn.LocalAddr().String() || s.Since.IsZero() {
		t.Errorf("session of two: %+v", s)
	}
	if r := f.leaves(bob, atTwo); r["id"] != s.ID {
		t.Errorf("session %s was logged as %s", s.ID, r["id"])
	}
	if left := slices.Collect(f.SessionsOf("two")); len(left) != 0 {
		t.Errorf("sessions of two: %v", left)
	}
	f.leaves(alice, atOne)
}
