package limit

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// prefixes is a set of networks. It answers by binary search among ranges that
// do not overlap.
type prefixes struct {
	v4, v6 []span
}

// span is a range of addresses, both ends included.
type span struct {
	first, last address
}

// address is an IP address as a number.
type address struct {
	high, low uint64
}

func (a address) compare(b address) int {
	if c := cmp.Compare(a.high, b.high); c != 0 {
		return c
	}
	return cmp.Compare(a.low, b.low)
}

func number(addr netip.Addr) address {
	b := addr.As16()
	return address{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// checkPrefixes returns an error when one is no prefix at all.
func checkPrefixes(list []netip.Prefix) error {
	for _, p := range list {
		if !p.IsValid() {
			return fmt.Errorf("%v is no network", p)
		}
	}
	return nil
}

// newPrefixes returns the set of valid prefixes. Those of IPv4 addresses in IPv6
// notation are IPv4 networks.
func newPrefixes(list []netip.Prefix) prefixes {
	var s prefixes
	for _, p := range list {
		p = unmap(p)
		if p.Addr().Is4() {
			s.v4 = append(s.v4, spanOf(p))
		} else {
			s.v6 = append(s.v6, spanOf(p))
		}
	}
	s.v4, s.v6 = disjoint(s.v4), disjoint(s.v6)
	return s
}

func unmap(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// spanOf returns the range of a masked prefix.
func spanOf(p netip.Prefix) span {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	first := number(p.Addr())
	last := first
	last.high |= ^uint64(0) >> min(bits, 64)
	last.low |= ^uint64(0) >> max(bits-64, 0)
	return span{first, last}
}

// disjoint sorts the ranges and drops those within others: two prefixes overlap
// only when one holds the other.
func disjoint(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(a.first.compare(b.first), b.last.compare(a.last))
	})
	kept := spans[:0]
	for _, s := range spans {
		if len(kept) == 0 || kept[len(kept)-1].last.compare(s.first) < 0 {
			kept = append(kept, s)
		}
	}
	return slices.Clip(kept)
}

// empty tells whether nothing is in the set.
func (s prefixes) empty() bool { return len(s.v4)+len(s.v6) == 0 }

// contains tells whether an address is in one of the networks. It is unmapped and
// has no zone.
func (s prefixes) contains(addr netip.Addr) bool {
	spans := s.v6
	if addr.Is4() {
		spans = s.v4
	}
	if len(spans) == 0 {
		return false
	}
	n := number(addr)
	low, high := 0, len(spans) // the first that ends at or after n is among [low, high]
	for low < high {
		mid := int(uint(low+high) >> 1) //nolint:gosec // Neither is negative.
		if spans[mid].last.compare(n) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(spans) && spans[low].first.compare(n) <= 0
}

// access is an Access, ready to be asked.
type access struct {
	allow, deny prefixes
}

func (a Access) ready() access {
	return access{newPrefixes(a.Allow), newPrefixes(a.Deny)}
}

func (a access) denies(addr netip.Addr) bool {
	return a.deny.contains(addr) || !a.allow.empty() && !a.allow.contains(addr)
}
