package configs

import (
	"math"
	"time"
)

// check holds the limits against each other.
func (l *ProxyLimits) check(d *decoder, identify time.Duration) {
	if l.MaxStanzaBeforeLogin > l.MaxStanza {
		d.refuse("limits.max_stanza_before_login", "%v is more than max_stanza, %v", l.MaxStanzaBeforeLogin, l.MaxStanza)
	}
	l.Source.counts().check(d, "limits.source")
	l.User.counts().check(d, "limits.user")
	l.Global.counts().check(d, "limits.global")
	l.LoginBackoff.check(d, "limits.login_backoff", identify)
}

// counts are the limits that all scopes have.
type counts struct {
	rate                         Pace
	connections, unauthenticated int
	in, out                      Bandwidth
}

func (l SourceLimits) counts() counts {
	return counts{l.Rate, l.Connections, l.Unauthenticated, l.BytesIn, l.BytesOut}
}

func (l UserLimits) counts() counts { // whose unauthenticated ones are not among its connections
	return counts{l.Rate, l.Connections, 0, l.BytesIn, l.BytesOut}
}

func (l GlobalLimits) counts() counts {
	return counts{l.Rate, l.Connections, l.Unauthenticated, l.BytesIn, l.BytesOut}
}

func (l ListenerLimits) counts() counts {
	return counts{Pace{}, l.Connections, l.Unauthenticated, l.BytesIn, l.BytesOut}
}

func (c counts) check(d *decoder, at string) {
	if d.has(at, "unauthenticated") && c.connections > 0 && c.unauthenticated > c.connections {
		d.refuse(at+".unauthenticated", "%d is more than connections, %d", c.unauthenticated, c.connections)
	}
	checkBurst(d, at+".rate", c.rate.PerSecond, c.rate.FullBurst())
	checkBurst(d, at+".bytes_in", float64(c.in.PerSecond), c.in.FullBurst())
	checkBurst(d, at+".bytes_out", float64(c.out.PerSecond), c.out.FullBurst())
	for key, burst := range map[string]int{"rate": c.rate.Burst, "bytes_in": int(c.in.Burst), "bytes_out": int(c.out.Burst)} {
		if burst > 0 {
			d.needs(join(at, key), "per_second", "burst alone limits nothing")
		}
	}
}

// check holds the limits of the listener at a path against each other.
func (l *Listener) checkLimits(d *decoder, at string) {
	checkBurst(d, at+".rate", l.Rate.PerSecond, l.Rate.Burst)
	l.Limits.counts().check(d, at+".limits")
}

// mostRefill is how long a burst may take to come back.
const mostRefill = 365 * 24 * time.Hour

// checkBurst refuses one that would never come back.
func checkBurst[T int | Size](d *decoder, at string, perSecond float64, burst T) {
	if perSecond > 0 && float64(burst)/perSecond > mostRefill.Seconds() {
		d.refuse(at+".burst", "%v takes more than a year to come back at %g per second; lower it, or raise per_second", burst, perSecond)
	}
}

// FullBurst is the burst, also when it is left to the rate.
func (p Pace) FullBurst() int {
	if p.Burst > 0 {
		return p.Burst
	}
	return max(1, int(math.Ceil(p.PerSecond)))
}

// FullBurst is the burst, also when it is left to the rate.
func (b Bandwidth) FullBurst() Size {
	if b.Burst > 0 {
		return b.Burst
	}
	return b.PerSecond
}

func (b *LoginBackoff) check(d *decoder, at string, identify time.Duration) {
	for _, s := range []struct {
		key   string
		steps PairBackoff
	}{
		{"user_and_source", b.UserAndSource}, {"source", PairBackoff(b.Source)}, {"user", PairBackoff(b.User)},
	} {
		at := join(at, s.key)
		switch {
		case s.steps.Max == 0:
		case s.steps.First > s.steps.Max:
			d.refuse(at+".max", "%v is less than first, %v; 0s is no delay at all", s.steps.Max, s.steps.First)
		case s.steps.Max > b.Window:
			d.refuse(at+".max", "%v is longer than failures are remembered, %v; raise window", s.steps.Max, b.Window)
		}
	}
	if b.User.Max > b.MaxWait {
		d.refuse(at+".user.max", "%v is more than max_wait, %v: who fails a user's logins must not get them refused", b.User.Max, b.MaxWait)
	}
	if d.has(at, "max_wait") && b.MaxWait > identify {
		d.refuse(at+".max_wait", "%v is more than timeouts.identify, %v, after which a login is over", b.MaxWait, identify)
	}
}
