package proxy_test

import (
	"bytes"
	"io"
	"testing"

	"imlb/backend/xmpp"
	"imlb/proxy"
)

// A leg that comes to a loop or leaves it has all that was received and not scanned, and
// all that was written and not sent, whatever becomes of the loop's buffer.
func TestLegKeepsWhatIsLeft(t *testing.T) {
	t.Parallel()
	near, far := tcpPair(t)
	defer far.Close()
	leg, scratch := proxy.NewLeg(near), make([]byte, 64<<10)
	say := func(s string) {
		t.Helper()
		if _, err := io.WriteString(far, s); err != nil {
			t.Fatal(err)
		}
		if err := leg.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	next := func(want string) (tok xmpp.Token) {
		t.Helper()
		tok, err := leg.Next()
		if err != nil || string(tok.Raw) != want {
			t.Fatalf("got %q and %v, want %q", tok.Raw, err, want)
		}
		return tok
	}

	const header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
	say(header + "<a/><b/>")
	next(header)
	leg.JoinLoop(scratch)
	next("<a/>")
	next("<b/>")
	next("")
	say("<c/><d/>")
	if err := leg.Write(next("<c/>")); err != nil {
		t.Fatal(err)
	}
	leg.LeaveLoop()
	copy(scratch, bytes.Repeat([]byte("x"), len(scratch)))
	next("<d/>")
	if err := leg.Flush(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("<c/>"))
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "<c/>" {
		t.Errorf("sent %q and %v", got, err)
	}
	if err := leg.Close(); err != nil {
		t.Error(err)
	}
}
