package proxy

import (
	"net"
	"net/netip"
	"testing"
)

// A proxy on the same link is known by its address, whatever the interface is called here.
func TestTrustedOnLink(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("192.0.2.0/24")}
	for addr, want := range map[string]bool{
		"fe80::1%eth0": true, "fe80::1": true, "::ffff:192.0.2.1": true, "192.0.2.1": true, "fec0::1%eth0": false, "198.51.100.1": false,
	} {
		ip := netip.MustParseAddr(addr)
		if got := trusted(networks, &net.TCPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}); got != want {
			t.Errorf("%s: %t", addr, got)
		}
	}
}
