package loop

import (
	"errors"
	"iter"
	"math/rand/v2"
	"net/netip"
)

// ErrNoSource says that no address that a connection may come from is of the kind, IPv4 or
// IPv6, of the one that it goes to.
var ErrNoSource = errors.New("no source address is of this kind (IPv4 or IPv6)")

// Sources yields the addresses of from that a connection to the address to may come from:
// those of its kind, or all if it is not known, each once, beginning anywhere. A
// connection for which one has no port left tries the next. With an empty from that is the
// zero Addr, for which the system chooses.
func Sources(from []netip.Addr, to netip.Addr) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if len(from) == 0 {
			yield(netip.Addr{})
			return
		}
		first := rand.IntN(len(from)) //nolint:gosec // G404: no secret
		for i := range from {
			source := from[(first+i)%len(from)]
			if to.IsValid() && to.Unmap().Is4() != source.Unmap().Is4() {
				continue
			}
			if !yield(source) {
				return
			}
		}
	}
}
