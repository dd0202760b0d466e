package loop_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/proxy/loop"
)

// tick is what the wheel counts in.
const tick = int64(1) << 24

// TestWheelAgainstModel arms, moves and stops timers, and lets time pass by leaps
// and by what Wait says. A timer never fires early, and at most a tick late.
func TestWheelAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 8
		w := loop.NewTestWheel(n)
		armed := map[int]int64{}
		now := int64(0)
		span := rapid.Custom(func(t *rapid.T) int64 {
			return rapid.Int64Range(0, 1<<rapid.IntRange(10, 58).Draw(t, "bits")).Draw(t, "ns")
		})
		id := rapid.IntRange(0, n-1)
		advance := func(d int64) {
			now += d
			var want []int
			for id, when := range armed {
				if when+tick <= now {
					want = append(want, id)
				}
			}
			got := w.Fire(now)
			for _, id := range want {
				if !slices.Contains(got, id) {
					t.Fatalf("timer %d, due at %d, did not fire at %d", id, armed[id], now)
				}
			}
			for _, id := range got {
				if when, ok := armed[id]; !ok || when > now {
					t.Fatalf("timer %d fired at %d; armed: %v, %d", id, now, ok, when)
				}
				delete(armed, id)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				i, d := id.Draw(t, "id"), span.Draw(t, "in")
				w.Set(i, now+d)
				armed[i] = now + d
			},
			"stop": func(t *rapid.T) {
				i := id.Draw(t, "id")
				w.Stop(i)
				delete(armed, i)
			},
			"leap": func(t *rapid.T) { advance(span.Draw(t, "by")) },
			"sleep": func(t *rapid.T) {
				if d := w.Wait(now); d >= 0 {
					advance(d)
				} else if len(armed) > 0 {
					t.Fatalf("%d timers are armed, and the loop would sleep for ever", len(armed))
				}
			},
			"": func(t *rapid.T) {
				if d := w.Wait(now); d >= 0 && len(armed) == 0 {
					t.Fatalf("nothing is armed, and the loop would wake in %v", time.Duration(d))
				}
			},
		})
	})
}

func TestAfter(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	start, fired := time.Now(), make(chan time.Duration, 10)
	on(t, l, func() {
		l.After(60*time.Millisecond, func() { fired <- time.Since(start) })
		l.After(20*time.Millisecond, func() { t.Error("a stopped timer fired") }).Stop()
	})
	if d := receive(t, fired); d < 60*time.Millisecond || d > 5*time.Second {
		t.Errorf("fired after %v, want 60ms", d)
	}
}
