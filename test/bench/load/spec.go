//go:build linux

package load

import (
	"net/netip"
	"time"
)

// loopTick is how often loops look whether they are to end.
const loopTick = 20 * time.Millisecond

// Spec is one measurement, as the client process is told.
type Spec struct {
	Workload string
	Addr     netip.AddrPort // of the proxy, or of the backend
	PIDs     []int          // of the proxy; none when there is none
	Roots    string         // PEM file with the certificate to trust
	Warmup   time.Duration  // that is not measured
	Window   time.Duration  // that is measured
	Conns    int            // connections that are busy at a time
	Size     int            // bytes of a message
	Rate     int            // messages per second, of a workload that is paced
	Sessions int            // connections that are idle
	Settle   time.Duration  // until memory is read
}

// Result is what a measurement gave: the names of the metrics are those of package
// report.
type Result struct {
	Metrics map[string]float64
}
