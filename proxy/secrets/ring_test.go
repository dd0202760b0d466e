package secrets_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/proxy/secrets"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func policy(t testing.TB) secrets.Policy {
	t.Helper()
	p, err := secrets.Policy{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// next is the ring as it should be at a time.
func next(t testing.TB, r secrets.Ring, now time.Time, p secrets.Policy, changed bool) secrets.Ring {
	t.Helper()
	n, did := r.Next(now, p)
	if did != changed || n.Equal(r) == changed {
		t.Errorf("at %v: changed is %t, want %t", now.Sub(epoch), did, changed)
	}
	return n
}

func TestRotation(t *testing.T) {
	p := policy(t) // 12 h, 10 min, 3
	first := next(t, secrets.Ring{}, epoch, p, true)
	if first.Len() != 1 || !first.Newest().Equal(epoch) {
		t.Fatalf("%v, of %v", first, first.Newest())
	}
	a := first.Keys(epoch, p)
	next(t, first, epoch.Add(p.Period-1), p, false)

	now := epoch.Add(p.Period)
	second := next(t, first, now, p, true)
	next(t, second, now, p, false)
	// The others may not know it yet: it decrypts only.
	early := second.Keys(now.Add(p.Grace-1), p)
	if len(early.Tickets) != 2 || early.Tickets[0] != a.Tickets[0] || early.Token != a.Token {
		t.Error("a new secret is used too early")
	}
	b := second.Keys(now.Add(p.Grace), p)
	if len(b.Tickets) != 2 || b.Tickets[0] != early.Tickets[1] || b.Tickets[1] != a.Tickets[0] || b.Token == a.Token {
		t.Error("a new secret is not used after the grace")
	}
	if b.Reset != a.Reset || b.ConnectionID != a.ConnectionID {
		t.Error("what must not rotate did")
	}

	third := next(t, second, now.Add(p.Period), p, true)
	if third.Len() != 3 {
		t.Errorf("%d secrets are kept, want 3", third.Len())
	}
	fourth := next(t, third, now.Add(2*p.Period), p, true)
	for _, key := range fourth.Keys(now.Add(2*p.Period), p).Tickets {
		if fourth.Len() != 3 || key == a.Tickets[0] {
			t.Errorf("the first of four secrets is still there; there are %d", fourth.Len())
		}
	}
}

// A cluster that was off for a year, or a ring that nobody rotates.
func TestOldRing(t *testing.T) {
	p := policy(t)
	old := next(t, next(t, secrets.Ring{}, epoch, p, true), epoch.Add(p.Period), p, true)
	now := epoch.AddDate(1, 0, 0)
	if keys := old.Keys(now, p); len(keys.Tickets) != 1 || keys.Tickets[0] != old.Keys(epoch.Add(p.Period+p.Grace), p).Tickets[0] {
		t.Errorf("%d of the old secrets are good, want the newest", len(keys.Tickets))
	}
	fresh := next(t, old, now, p, true)
	keys := fresh.Keys(now, p)
	if fresh.Len() != 2 || len(keys.Tickets) != 2 || keys.Tickets[0] != old.Keys(now, p).Tickets[0] {
		t.Errorf("%v: the secret that all know is not used until the new one is", fresh)
	}
	if fresh, _ = fresh.Next(now.Add(p.Grace), p); fresh.Len() != 1 {
		t.Errorf("%v: the old secret is kept for longer than it is of use", fresh)
	}
}

// A front with a clock that is a year ahead puts nobody else's rotation off.
func TestFuture(t *testing.T) {
	p := policy(t)
	ring := next(t, secrets.Ring{}, epoch, p, true)
	wrong := next(t, ring, epoch.AddDate(1, 0, 0), p, true)
	for now := epoch; now.Before(epoch.AddDate(0, 0, 10)); now = now.Add(time.Hour) {
		wrong, _ = wrong.Next(now, p)
		keys := wrong.Keys(now, p)
		if len(keys.Tickets) < 2 || keys.Tickets[0] == keys.Tickets[len(keys.Tickets)-1] {
			t.Fatalf("at %v: %v", now, wrong)
		}
		if now.Sub(epoch) == p.Period+time.Hour && keys.Tickets[0] == ring.Keys(now, p).Tickets[0] {
			t.Error("the secret from the future put the rotation off")
		}
	}
}

// Whatever the policy and the times at which somebody looks, the key that encrypts
// was known for the grace before, is accepted for long enough after, and the ring
// stays small.
func TestRotationHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		period := time.Duration(rapid.IntRange(4, 100).Draw(t, "period")) * time.Hour
		p, err := secrets.Policy{
			Period: period, Kept: rapid.IntRange(2, 8).Draw(t, "kept"),
			Grace: time.Duration(rapid.Int64Range(int64(time.Second), int64(period/2)).Draw(t, "grace")).Truncate(time.Second),
		}.WithDefaults()
		if err != nil {
			t.Fatal(err)
		}
		known := make(map[[32]byte]time.Time) // ticket keys, since when
		var ring secrets.Ring
		now := epoch
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			ring, _ = ring.Next(now, p)
			keys := ring.Keys(now, p)
			for _, k := range keys.Tickets {
				if _, ok := known[k]; !ok {
					known[k] = now
				}
			}
			if since := now.Sub(known[keys.Tickets[0]]); step > 0 && len(known) > 1 && since < p.Grace {
				t.Fatalf("a key is used %v after it came", since)
			}
			if len(keys.Tickets) > p.Kept+1 || ring.Len() > p.Kept+1 {
				t.Fatalf("%d keys of %v, %d are kept", len(keys.Tickets), ring, p.Kept)
			}
			if again, changed := ring.Next(now, p); changed || !again.Equal(ring) {
				t.Fatal("the ring changes without a change of the time")
			}
			change := ring.Change(now, p)
			if !change.After(now) {
				t.Fatalf("the next change is at %v, it is %v", change, now)
			}
			before := change.Add(-1)
			if _, changed := ring.Next(before, p); changed || !ring.Keys(before, p).Equal(keys) {
				t.Fatal("something changes before Change says so")
			}
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*period)).Draw(t, "later")))
			if rapid.Bool().Draw(t, "at the change") {
				now = change
			}
		}
	})
}

func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		policy secrets.Policy
		want   string // of the error
	}{
		{secrets.Policy{}, ""},
		{secrets.Policy{Period: time.Minute}, ""},
		{secrets.Policy{Period: time.Hour, Grace: 31 * time.Minute}, "more than half of the period"},
		{secrets.Policy{Period: -1}, "below 0"},
		{secrets.Policy{Kept: 1}, "from 2 to 8"},
		{secrets.Policy{Kept: 9}, "from 2 to 8"},
	} {
		_, err := c.policy.WithDefaults()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.policy, err)
		}
	}
}

// Each purpose has a key of its own, and the derivation never changes: fronts of
// different versions have to agree.
func TestDerivation(t *testing.T) {
	ring, err := secrets.Parse([]byte("static " + strings.Repeat("01", 32) + "\n0 " + strings.Repeat("02", 32)))
	if err != nil {
		t.Fatal(err)
	}
	k := ring.Keys(epoch, policy(t))
	got := fmt.Sprintf("%x %x %x %x", k.Tickets[0][:4], k.Token[:4], k.Reset[:4], k.ConnectionID[:4])
	if want := "3fc746a0 6d90f352 3e10f4f5 e1aef95e"; got != want {
		t.Errorf("derived %s, want %s", got, want)
	}
	bare, err := secrets.Parse([]byte("9 " + strings.Repeat("03", 32) + "\n0 " + strings.Repeat("01", 32)))
	if err != nil {
		t.Fatal(err)
	}
	if b := bare.Keys(epoch, policy(t)); b.Reset != k.Reset || b.ConnectionID != k.ConnectionID {
		t.Error("without a static secret the oldest stands for it")
	}
	if empty := (secrets.Ring{}).Keys(epoch, policy(t)); !empty.Equal(secrets.Keys{}) {
		t.Error("an empty ring has keys")
	}
}

// Nothing that is printed or logged shows a secret.
func TestNothingIsPrinted(t *testing.T) {
	const material = "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
	hexed := fmt.Sprintf("%x", material)
	ring, err := secrets.Parse([]byte("static " + strings.Repeat("41", 32) + "\n0 " + hexed))
	if err != nil {
		t.Fatal(err)
	}
	keys := ring.Keys(epoch, policy(t))
	hidden := []string{material, hexed, "AAAAAAAA", "4141", fmt.Sprintf("%x", keys.Token[:6]), fmt.Sprintf("%d", keys.Token[:6])[1:10]}
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	log.Info("x", "ring", ring, "keys", keys, "both", struct {
		R secrets.Ring
		K *secrets.Keys
	}{ring, &keys})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", ring, keys, []any{ring, &keys})
	}
	for _, h := range hidden {
		if strings.Contains(out.String(), h) {
			t.Errorf("%q is printed:\n%s", h, out.String())
		}
	}
}
