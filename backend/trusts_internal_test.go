package backend

import (
	"net"
	"net/netip"
	"testing"
)

// A front on the same link is known by its address, whatever the interface is called here.
func TestTrustsOnLink(t *testing.T) {
	n := &Node{opts: Options{TrustedFronts: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}}}
	for addr, want := range map[string]bool{"fe80::1%eth0": true, "fe80::1": true, "fec0::1%eth0": false, "127.0.0.1": false} {
		ip := netip.MustParseAddr(addr)
		if got := n.trusts(&net.TCPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}); got != want {
			t.Errorf("%s: %t", addr, got)
		}
	}
}
