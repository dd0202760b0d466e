package limit_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"imlb/proxy/limit"
)

func TestAccess(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		global, listener limit.Access
		admitted, denied []string
	}{
		{
			name:     "no lists",
			admitted: []string{"192.0.2.1", "2001:db8::1"},
		}, {
			name:     "deny beats allow, however long it is",
			global:   limit.Access{Allow: prefixes("192.0.2.1/32", "10.0.0.0/8"), Deny: prefixes("192.0.2.0/24", "10.1.0.0/16")},
			admitted: []string{"10.0.0.1", "10.255.255.255", "::ffff:10.0.0.1"},
			denied:   []string{"192.0.2.1", "10.1.2.3", "::ffff:10.1.2.3", "11.0.0.0", "9.255.255.255", "2001:db8::1"},
		}, {
			name:     "both lists allow",
			global:   limit.Access{Allow: prefixes("10.0.0.0/8")},
			listener: limit.Access{Allow: prefixes("10.1.0.0/16", "192.0.2.0/24")},
			admitted: []string{"10.1.0.0", "10.1.255.255"},
			denied:   []string{"10.0.0.1", "192.0.2.1"},
		}, {
			name:     "the listener denies",
			listener: limit.Access{Deny: prefixes("2001:db8::/32", "fe80::/10")},
			admitted: []string{"2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "192.0.2.1"},
			denied:   []string{"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::1%eth0"},
		}, {
			name:     "all IPv6 is no IPv4",
			global:   limit.Access{Deny: prefixes("::/0")},
			admitted: []string{"192.0.2.1", "::ffff:192.0.2.1", "0.0.0.0"},
			denied:   []string{"2001:db8::1", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		}, {
			name:     "IPv4 in IPv6 notation",
			global:   limit.Access{Deny: prefixes("::ffff:10.1.2.3/104")},
			admitted: []string{"11.0.0.1", "2001:db8::1"},
			denied:   []string{"10.0.0.1", "::ffff:10.0.0.1"},
		}, {
			name:     "all IPv4",
			global:   limit.Access{Deny: prefixes("0.0.0.0/0", "10.0.0.0/8")},
			admitted: []string{"2001:db8::1"},
			denied:   []string{"0.0.0.0", "255.255.255.255"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGuard(t, limit.Rules{Access: tt.global, Listeners: map[string]limit.Listener{"one": {Access: tt.listener}}})
			for want, list := range map[limit.Reason][]string{limit.ReasonNone: tt.admitted, limit.ReasonDenied: tt.denied} {
				for _, addr := range list {
					_, wait, reason := g.Accept(start(), "one", netip.MustParseAddr(addr))
					decided(t, addr, wait, reason, 0, want)
				}
			}
		})
	}
}

// The lists say of each address what asking all prefixes says.
func TestAccessModel(t *testing.T) {
	t.Parallel()
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		var b [16]byte
		for i := range b { // few values, so that prefixes overlap
			b[i] = rapid.SampledFrom([]byte{0, 1, 0x80, 0xff}).Draw(t, "byte")
		}
		if rapid.Bool().Draw(t, "IPv4") {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16(b)
	})
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := addr.Draw(t, "address")
		return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
	})
	rapid.Check(t, func(t *rapid.T) {
		a := limit.Access{Allow: rapid.SliceOfN(prefix, 0, 20).Draw(t, "allow"), Deny: rapid.SliceOfN(prefix, 0, 20).Draw(t, "deny")}
		g, err := limit.New(start(), limit.Rules{Access: a})
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range rapid.SliceOfN(addr, 1, 50).Draw(t, "addresses") {
			_, _, reason := g.Accept(start(), "", addr)
			if (reason == limit.ReasonDenied) != denied(a, addr) {
				t.Fatalf("%v: %v", addr, reason)
			}
		}
	})
}
