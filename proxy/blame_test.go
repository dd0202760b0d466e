package proxy_test

import (
	"fmt"
	"net"
	"os"
	"reflect"
	"syscall"
	"testing"
	"time"

	"imlb/proxy"
)

// What the front says of a node that did not serve a client is about the node, and never
// what a client can bring about.
func TestWhoIsToBlame(t *testing.T) {
	t.Parallel()
	says := func(what string) func(*peer) {
		return func(leg *peer) { leg.send(what) }
	}
	refuses := func(condition string) func(*peer) {
		return says(of(fresh, nodeHeader) + streamError(condition) + streamEnd)
	}
	for name, tt := range map[string]struct {
		mixed  bool            // the listener takes other protocols, too
		all    bool            // and all domains
		known  bool            // the nodes have offered their features before
		answer func(leg *peer) // nil for silence
		want   string
	}{
		"a node of XMPP is silent":                  {want: "refused"},
		"a node of XMPP closes":                     {answer: (*peer).close, want: "refused"},
		"a node of XMPP speaks in tongues":          {answer: says("220 example.com ESMTP\r\n"), want: "refused"},
		"a node stops":                              {answer: refuses("system-shutdown"), want: "refused"},
		"a node lacks a domain":                     {answer: refuses("host-unknown"), want: "refused"},
		"a node has banned the client":              {answer: refuses("policy-violation"), want: "declined"},
		"a node does not like the client's name":    {answer: refuses("invalid-from"), want: "declined"},
		"a node of another protocol is silent":      {mixed: true, want: "declined"},
		"a node of another protocol closes":         {mixed: true, answer: (*peer).close, want: "declined"},
		"a node of another protocol has a banner":   {mixed: true, answer: says("220 example.com ESMTP\r\n"), want: "declined"},
		"one of many protocols that stops":          {mixed: true, answer: refuses("system-shutdown"), want: "refused"},
		"one of many protocols has stopped to":      {mixed: true, known: true, want: "refused"},
		"a domain that the client has made up":      {all: true, want: "declined"},
		"a domain that the nodes are known to have": {all: true, known: true, want: "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFresh(t, pick, func(o *proxy.Options) {
				o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialAttempts: 1, DialTimeout: patience}}
				if tt.answer == nil {
					o.Pools["nodes"] = proxy.Pool{Picker: pick, DialAttempts: 1, DialTimeout: 200 * time.Millisecond}
				}
				if tt.all {
					o.Domains = nil
				}
				if tt.mixed {
					l := &o.Listeners[3]
					l.ALPN, l.Identify = []string{"xmpp-client", "raw"}, bySource()
				}
			})
			if tt.known {
				if err := f.Learn("nodes", fresh, nodeOffer); err != nil {
					t.Fatal(err)
				}
			}
			client := f.openQUIC(f.dialQUIC())
			client.send(of(fresh, streamOpen))
			if tt.known {
				client.open()
				client.element()
				client.send(plain("alice", "secret"))
			}
			if tt.answer != nil {
				leg := n.accept()
				leg.open()
				tt.answer(leg)
			}
			f.ended("dial-failed")
			if want := []string{"one: " + tt.want}; !reflect.DeepEqual(pick.outcomes, want) {
				t.Errorf("reported %v, want %v", pick.outcomes, want)
			}
		})
	}
}

// What this system lacks is no node's fault.
func TestLackIsNotToBlame(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]proxy.Outcome{
		syscall.EMFILE: proxy.OutcomeUntried, syscall.ENFILE: proxy.OutcomeUntried, syscall.ENOBUFS: proxy.OutcomeUntried,
		syscall.ENOMEM: proxy.OutcomeUntried, syscall.EADDRNOTAVAIL: proxy.OutcomeUntried,
		syscall.ECONNREFUSED: proxy.OutcomeRefused, syscall.EHOSTUNREACH: proxy.OutcomeRefused,
	} {
		err := fmt.Errorf("node one: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", errno)})
		if got := proxy.OutcomeOf(err); got != want {
			t.Errorf("%v: reported as %v, want %v", errno, got, want)
		}
	}
}
