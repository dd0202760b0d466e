package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"imlb/proxy"
)

// absent is an address that no machine has (RFC 5737).
var absent = netip.MustParseAddr("192.0.2.9")

// from has connections to nodes come from these addresses.
func from(pick proxy.Picker, sources ...netip.Addr) func(*proxy.Options) {
	return func(o *proxy.Options) {
		o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialAttempts: 1, DialTimeout: patience, Source: sources}}
	}
}

// Connections to nodes come from the pool's sources: all of those that are of the node's kind
// are used, and one that cannot be had is passed over.
func TestSource(t *testing.T) {
	t.Parallel()
	sources := []netip.Addr{absent, netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.7"), netip.MustParseAddr("127.0.0.8")}
	const enough = 40 // for chance to have had each, or something is wrong with chance
	want := map[string]bool{"127.0.0.7": true, "127.0.0.8": true}
	host := func(addr net.Addr) string { return addr.(*net.TCPAddr).IP.String() }

	t.Run("opaque", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, from(pick, sources...))
		got := map[string]bool{}
		for range enough {
			client := f.dial()
			client.send("x")
			leg := n.leg()
			leg.recv("x")
			got[host(leg.RemoteAddr())] = true
			f.hangsUp(client, leg)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("from %v, want %v", got, want)
		}
	})
	t.Run("framed", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		f := startFront(t, pick, from(pick, sources...))
		got := map[string]bool{}
		for range enough {
			client := f.dialTLS()
			leg := login(client, n, "alice")
			got[host(leg.conn.(*proxyproto.Conn).Raw().RemoteAddr())] = true
			f.leaves(client, leg)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("from %v, want %v", got, want)
		}
	})
}

// When no source can be had the log says what to do, and the node is not blamed.
func TestNoSource(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		source netip.Addr
		want   string
	}{
		{absent, "this machine has no such address; see source of the pool"},
		{netip.IPv6Loopback(), "no source address is of this kind (IPv4 or IPv6)"},
	} {
		check := func(t *testing.T, f *front, pick *picker) {
			t.Helper()
			if got := f.ended("dial-failed"); !strings.Contains(got["cause"], tt.want) {
				t.Errorf("the log says %v, want %q", got, tt.want)
			}
			if want := []string{"one: untried"}; !reflect.DeepEqual(pick.outcomes, want) {
				t.Errorf("reported %v, want %v", pick.outcomes, want)
			}
		}
		t.Run(fmt.Sprint("opaque from ", tt.source), func(t *testing.T) {
			t.Parallel()
			_, pick := onlyNode(t)
			f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, from(pick, tt.source))
			f.dial().send("x")
			check(t, f, pick)
		})
		t.Run(fmt.Sprint("framed from ", tt.source), func(t *testing.T) {
			t.Parallel()
			_, pick := onlyNode(t)
			f := startFront(t, pick, from(pick, tt.source))
			client := f.dialTLS()
			client.send(streamOpen)
			client.expect(frontHeader + frontOffer)
			client.send(plain("alice", "secret"))
			check(t, f, pick)
		})
	}
}
