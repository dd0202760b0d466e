package secrets

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Policy says when secrets come and go.
type Policy struct {
	Period time.Duration // between one secret and the next; 12 h when 0
	Grace  time.Duration // for a new secret to become known before it is used; 10 min when 0
	Kept   int           // periods that a secret is good for; 3 when 0, at least 2
}

// WithDefaults returns the policy with what is 0 filled in. The error is nil
// unless it contradicts itself.
func (p Policy) WithDefaults() (Policy, error) {
	p.Period = cmp.Or(p.Period, 12*time.Hour)
	p.Grace = cmp.Or(p.Grace, min(10*time.Minute, p.Period/4))
	p.Kept = cmp.Or(p.Kept, 3)
	switch {
	case p.Period < 0, p.Grace < 0:
		return p, errors.New("rotate secrets: a time below 0")
	case p.Grace > p.Period/2:
		return p, fmt.Errorf("rotate secrets: a grace of %v is more than half of the period of %v", p.Grace, p.Period)
	case p.Kept < 2 || p.Kept > maxSecrets/2:
		return p, fmt.Errorf("rotate secrets: %d periods; from 2 to %d can be kept", p.Kept, maxSecrets/2)
	}
	return p, nil
}

// lifetime is how old a secret may be.
func (p Policy) lifetime() time.Duration { return time.Duration(p.Kept) * p.Period }

// Bounds of a ring.
const (
	minMaterial = 32 // bytes of a secret
	maxMaterial = 1024
	maxSecrets  = 16
)

// secret is key material and the time when it was made, to the second. It is a
// value: nobody changes it.
type secret struct {
	since    time.Time
	material string
}

// newSecret makes one from the system's randomness, which never fails. Its time is
// the next full second, so that nobody's grace is shorter for it.
func newSecret(now time.Time) secret {
	var b [minMaterial]byte
	_, _ = rand.Read(b[:])
	return secret{since: now.Add(time.Second - 1).UTC().Truncate(time.Second), material: string(b[:])}
}

// Ring is the key material of a cluster. It is a value: methods return new ones.
// The zero Ring is empty. It prints as what may be known of it.
type Ring struct {
	static  string   // material of what does not rotate; "" for none
	secrets []secret // the newest first
}

// Len returns how many secrets the ring has, the static one left out.
func (r Ring) Len() int { return len(r.secrets) }

// Newest returns the time of the newest secret; the zero time when there is none.
func (r Ring) Newest() time.Time {
	if len(r.secrets) == 0 {
		return time.Time{}
	}
	return r.secrets[0].since
}

// Equal tells whether two rings hold the same.
func (r Ring) Equal(other Ring) bool {
	return r.static == other.static && slices.EqualFunc(r.secrets, other.secrets, func(a, b secret) bool {
		return a.since.Equal(b.since) && a.material == b.material
	})
}

// Format prints nothing secret, whatever the verb.
func (r Ring) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, fmt.Sprintf("ring of %d secrets", len(r.secrets)))
}

// Next returns the ring as it should be now, and whether that is another one: it
// gets what it lacks, a new secret when the newest is older than the period, and
// loses those that have expired. A secret from the future, made by a front whose
// clock is wrong, does not put the next one off.
func (r Ring) Next(now time.Time, p Policy) (Ring, bool) {
	next := Ring{static: r.static}
	if next.static == "" {
		next.static = newSecret(now).material
	}
	all := slices.Clone(r.secrets)
	if r.due(now, p) {
		all = append(all, newSecret(now))
		slices.SortStableFunc(all, func(a, b secret) int { return b.since.Compare(a.since) })
	}
	current := encrypting(all, now, p)
	for i, s := range all {
		if i == current || now.Sub(s.since) < p.lifetime() {
			next.secrets = append(next.secrets, s)
		}
	}
	next.secrets = next.secrets[:min(len(next.secrets), maxSecrets)]
	return next, !next.Equal(r)
}

// due tells whether it is time for a new secret.
func (r Ring) due(now time.Time, p Policy) bool {
	for _, s := range r.secrets {
		if age := now.Sub(s.since); age > -p.Grace {
			return age >= p.Period
		}
	}
	return true
}

// encrypting returns the index of the secret to encrypt with: the newest that all
// fronts know by now, or else the one that they have known for longest.
func encrypting(list []secret, now time.Time, p Policy) int {
	i := slices.IndexFunc(list, func(s secret) bool { return now.Sub(s.since) >= p.Grace })
	if i < 0 {
		return len(list) - 1
	}
	return i
}

// active returns the secrets that are good now: the one to encrypt with, then the
// others, the newest first. A secret within its grace is already accepted, since
// clocks differ.
func (r Ring) active(now time.Time, p Policy) []secret {
	if len(r.secrets) == 0 {
		return nil
	}
	current := encrypting(r.secrets, now, p)
	good := []secret{r.secrets[current]}
	for i, s := range r.secrets {
		if i != current && now.Sub(s.since) < p.lifetime() {
			good = append(good, s)
		}
	}
	return good
}

// Change returns when Next or Keys will next say something else, if the ring stays
// as it is. It is after now.
func (r Ring) Change(now time.Time, p Policy) time.Time {
	change := now.Add(p.Period)
	for _, s := range r.secrets {
		for _, after := range []time.Duration{p.Grace, p.Period, p.lifetime()} {
			if t := s.since.Add(after); t.After(now) && t.Before(change) {
				change = t
			}
		}
	}
	return change
}
