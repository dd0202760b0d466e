package limit

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Rules are all limits. The zero Rules limit nothing. A Guard keeps no reference
// to what they refer to.
type Rules struct {
	// IPv4Bits and IPv6Bits say how long the prefix is that makes a source;
	// default 32 and 64.
	IPv4Bits, IPv6Bits int
	Source             Scope // of each source
	User               Scope // of each user
	Global             Scope
	// Listeners are the limits of each listener, by name. Connections of others
	// are counted for no listener.
	Listeners map[string]Listener
	Access    Access         // of all listeners
	Exempt    []netip.Prefix // sources without limits of their own
	Backoff   Backoff
	// MaxEntries bounds each table; default 100,000, or twice Global.Concurrent
	// if that is more. When it is lowered the tables stop growing, and shrink
	// only with a new Guard.
	MaxEntries int
}

// Listener is what holds for one listener.
type Listener struct {
	Scope
	Access
}

// Scope limits what is counted together. Zero means no limit.
type Scope struct {
	Rate            Rate
	Concurrent      int
	Unauthenticated int // at a time, of Concurrent
	In, Out         Bandwidth
}

// Rate limits connections or logins per second.
type Rate struct {
	PerSecond float64       // 0: no limit
	Burst     int           // admitted at once; at least 1
	MaxWait   time.Duration // how long one may wait for its turn; 0: none waits
}

// Bandwidth limits bytes in one direction.
type Bandwidth struct {
	PerSecond int64 // bytes; 0: no limit
	Burst     int64 // bytes that are moved without a pause; at least 1
}

// Access says which addresses may connect.
type Access struct {
	Allow []netip.Prefix // none: all
	Deny  []netip.Prefix // beats Allow
}

// Backoff says how failed logins delay the next ones.
type Backoff struct {
	Pair    Steps         // failures of a user from one source
	Source  Steps         // failures of all users from one source
	User    Steps         // failures of a user from all sources; Max is at most MaxWait
	MaxWait time.Duration // a login that would have to wait for longer is refused
	Window  time.Duration // since the last failure, until all are forgotten; no delay is longer
}

// Steps are how a delay grows. The zero Steps never delay.
type Steps struct {
	Free       int           // failures without a delay
	First, Max time.Duration // the delay after the next, doubled for each further one up to Max
}

// Defaults of Rules.
const (
	defaultIPv4Bits   = 32
	defaultIPv6Bits   = 64
	defaultMaxEntries = 100_000
)

// Check returns an error that tells all that is wrong with the rules.
func (r Rules) Check() error {
	_, err := r.normalize()
	return err
}

// normalize checks the rules and returns them with defaults filled in. The error
// tells all that is wrong.
func (r Rules) normalize() (Rules, error) {
	r.IPv4Bits = orDefault(r.IPv4Bits, defaultIPv4Bits)
	r.IPv6Bits = orDefault(r.IPv6Bits, defaultIPv6Bits)
	r.MaxEntries = orDefault(r.MaxEntries, max(defaultMaxEntries, 2*r.Global.Concurrent))
	var errs []error
	if r.IPv4Bits < 0 || r.IPv4Bits > 32 || r.IPv6Bits < 0 || r.IPv6Bits > 128 {
		errs = append(errs, fmt.Errorf("no prefixes are %d or %d bits long", r.IPv4Bits, r.IPv6Bits))
	}
	if r.MaxEntries < 0 || r.MaxEntries > 1<<30 {
		errs = append(errs, errors.New("the number of entries is out of range"))
	}
	errs = append(errs, within("source", r.Source.check()), within("user", r.User.check()),
		within("global", r.Global.check()), within("access", r.Access.check()),
		within("exempt", checkPrefixes(r.Exempt)), within("back-off", r.Backoff.check()))
	for name, l := range r.Listeners {
		errs = append(errs, within(fmt.Sprintf("listener %q", name), errors.Join(l.Scope.check(), l.Access.check())))
	}
	if err := errors.Join(errs...); err != nil {
		return r, fmt.Errorf("limits: %w", err)
	}
	return r, nil
}

func (s Scope) check() error {
	var errs []error
	if s.Concurrent < 0 || s.Unauthenticated < 0 {
		errs = append(errs, errors.New("a number of connections is negative"))
	}
	return errors.Join(append(errs, s.Rate.check(), s.In.check(), s.Out.check())...)
}

func (r Rate) check() error {
	switch {
	case r.PerSecond == 0:
		return nil
	case !(r.PerSecond > 0 && r.PerSecond <= 1e9) || r.MaxWait < 0 || r.MaxWait > maxSpan: // NaN too
		return errors.New("a rate is out of range")
	case r.Burst < 1:
		return errors.New("a rate needs a burst of at least 1")
	}
	return checkSpan(float64(r.Burst), r.PerSecond)
}

func (b Bandwidth) check() error {
	switch {
	case b.PerSecond == 0:
		return nil
	case b.PerSecond < 0:
		return errors.New("a bandwidth is negative")
	case b.Burst < 1:
		return errors.New("a bandwidth needs a burst of at least 1 byte")
	}
	return checkSpan(float64(b.Burst), float64(b.PerSecond))
}

// checkSpan sees to it that no sum of times overflows.
func checkSpan(burst, perSecond float64) error {
	if burst/perSecond > maxSpan.Seconds() {
		return fmt.Errorf("a burst of %g at %g per second takes years to come back", burst, perSecond)
	}
	return nil
}

func (a Access) check() error {
	return errors.Join(checkPrefixes(a.Allow), checkPrefixes(a.Deny))
}

func (b Backoff) check() error {
	var errs []error
	for _, s := range []Steps{b.Pair, b.Source, b.User} {
		if s.First < 0 || s.Free < 0 || s.Max < s.First {
			errs = append(errs, errors.New("delays must grow from first to max"))
		}
		if s.Max > b.Window {
			errs = append(errs, fmt.Errorf("a delay of %v is longer than failures are remembered, %v", s.Max, b.Window))
		}
	}
	if b.User.Max > max(0, b.MaxWait) {
		errs = append(errs, fmt.Errorf("who fails a user's logins must not get them refused: the delay %v exceeds the longest wait, %v", b.User.Max, b.MaxWait))
	}
	if b.MaxWait < 0 || b.Window < 0 || b.Window > maxSpan {
		errs = append(errs, errors.New("a time is out of range"))
	}
	return errors.Join(errs...)
}

// within says which part of the rules an error is about.
func within(part string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}

// orDefault returns v, or d if v is 0.
func orDefault(v, d int) int {
	if v == 0 {
		return d
	}
	return v
}
