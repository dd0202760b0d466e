package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imlb/balancer"

	"pgregory.net/rapid"
)

// TestWaitersAreServedInOrder as sessions end.
func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withMembers(balancer.Options{}, balancer.Member{Name: "a", Weight: 1, Limit: 1})
		last := acquire(t, b, "first@example.com")
		placed := make(chan *balancer.Lease)
		for i := range 5 {
			go func() {
				l, err := b.AcquireWait(t.Context(), user(i), nil)
				if err != nil {
					t.Error(err)
				}
				placed <- l
			}()
			synctest.Wait()
			if n := b.Snapshot().Waiting; n != i+1 {
				t.Fatalf("%d wait, want %d", n, i+1)
			}
		}
		for i := range 5 {
			last.Release()
			last = <-placed
			if e := b.Explain(user(i)); e.Sessions != 1 {
				t.Errorf("%s should be next: %+v", user(i), e)
			}
		}
		last.Release()
	})
}

// TestNobodyOvertakes: who comes later does not get the room of those who wait,
// but joins live sessions at once.
func TestNobodyOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withMembers(balancer.Options{}, balancer.Member{Name: "a", Weight: 1, Limit: 1})
		last := acquire(t, b, "first@example.com")
		go func() {
			if _, err := b.AcquireWait(t.Context(), "waits@example.com", nil); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		acquire(t, b, "first@example.com").Release()
		last.Release()
		wantRefusal(t, b, balancer.AllFull)
	})
}

// TestWhatWakesWaiters: everything that may make room.
func TestWhatWakesWaiters(t *testing.T) {
	full := balancer.Member{Name: "a", Weight: 1, Limit: 1}
	for name, wake := range map[string]func(*balancer.Balancer){
		"a new node":             func(b *balancer.Balancer) { b.SetMembers([]balancer.Member{full, {Name: "b", Weight: 1}}) },
		"a higher limit":         func(b *balancer.Balancer) { b.SetMembers([]balancer.Member{{Name: "a", Weight: 1, Limit: 2}}) },
		"other fronts' sessions": func(b *balancer.Balancer) { b.SetExternal(nil) },
		"a pin elsewhere": func(b *balancer.Balancer) {
			b.Import("peer", []balancer.Exception{{User: "waits@example.com", Node: "a"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := withMembers(balancer.Options{}, full)
				b.SetExternal(map[string]int{"a": 1})
				done := make(chan error, 1)
				go func() {
					_, err := b.AcquireWait(t.Context(), "waits@example.com", nil)
					done <- err
				}()
				synctest.Wait()
				wake(b)
				synctest.Wait()
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
				default:
					t.Error("still waits")
				}
				b.SetMembers([]balancer.Member{{Name: "b", Weight: 1}})
			})
		})
	}
}

// TestRefusalsOfWaiters have names, and tell what there was to wait for.
func TestRefusalsOfWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withMembers(balancer.Options{Queue: 1}, balancer.Member{Name: "a", Weight: 1, Limit: 1})
		acquire(t, b, "first@example.com")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.AcquireWait(ctx, "alice@example.com", nil)
		refused(t, err, balancer.ParkDeadline, balancer.AllFull)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v does not wrap the context's error", err)
		}

		left := errors.New("client has left")
		ctx, leave := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() {
			_, err := b.AcquireWait(ctx, "alice@example.com", nil)
			done <- err
		}()
		synctest.Wait()
		_, err = b.AcquireWait(t.Context(), "bob@example.com", nil)
		refused(t, err, balancer.QueueFull, balancer.AllFull)
		leave(left)
		err = <-done
		refused(t, err, balancer.Abandoned, balancer.AllFull)
		if !errors.Is(err, left) {
			t.Errorf("%v does not wrap the cause", err)
		}

		_, err = b.AcquireWait(t.Context(), "bob@example.com", func(string) bool { return true })
		refused(t, err, balancer.NoneLeft, balancer.NoneLeft)
		if n := b.Snapshot().Waiting; n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

func refused(t *testing.T, err error, reason, lack balancer.Reason) {
	t.Helper()
	var refusal *balancer.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != reason || refusal.Lack != lack {
		t.Errorf("refused with %v, want %v for %v", err, reason, lack)
	}
}

// TestTriedNodeIsLeftToThoseBehind: a waiter whom the free node has failed does
// not hold up the next one.
func TestTriedNodeIsLeftToThoseBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withMembers(balancer.Options{}, balancer.Member{Name: "a", Weight: 1, Limit: 1}, balancer.Member{Name: "b", Weight: 1, Limit: 1})
		one, other := acquire(t, b, "1@example.com"), acquire(t, b, "2@example.com")
		if one.Node() != "a" {
			one, other = other, one
		}
		var wg sync.WaitGroup
		for i, tried := range [][]string{{"a"}, nil} {
			wg.Go(func() {
				l, err := b.AcquireWait(t.Context(), user(i), isOneOf(tried))
				if err != nil || l.Node() != []string{"b", "a"}[i] {
					t.Errorf("waiter %d: %v, %v", i, l, err)
				}
			})
			synctest.Wait()
		}
		one.Release()
		synctest.Wait()
		other.Release()
		wg.Wait()
	})
}

// TestWaitingLosesNobody: in random histories those who wait do so because there
// is no room, and limits hold.
func TestWaitingLosesNobody(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 60).Draw(rt, "steps")
		limits := rapid.SliceOfN(rapid.IntRange(1, 3), 1, 3).Draw(rt, "limits")
		synctest.Test(t, func(t *testing.T) { lifeWithWaiters(t, steps, limits) })
	})
}

func lifeWithWaiters(t *testing.T, steps, limits []int) {
	b := balancer.New(balancer.Options{Policy: balancer.LeastSessions})
	members := make([]balancer.Member, len(limits))
	for i, limit := range limits {
		members[i] = balancer.Member{Name: fmt.Sprint(i), Weight: 1, Limit: limit}
	}
	b.SetMembers(members)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var leases []*balancer.Lease
	var wg sync.WaitGroup
	for i, step := range steps {
		switch {
		case step < 5:
			wg.Go(func() {
				if l, err := b.AcquireWait(ctx, user(i), nil); err == nil {
					mu.Lock()
					leases = append(leases, l)
					mu.Unlock()
				}
			})
		case step < 9 && len(leases) > 0:
			mu.Lock()
			leases[0].Release()
			leases = slices.Delete(leases, 0, 1)
			mu.Unlock()
		case step == 9:
			members[0].Down = !members[0].Down
			b.SetMembers(members)
		}
		synctest.Wait()
		s := b.Snapshot()
		for _, n := range s.Nodes {
			if n.Sessions > n.Limit || s.Waiting > 0 && n.Verdict == balancer.Takes {
				t.Errorf("%d wait, and %s has %d of %d sessions: %v", s.Waiting, n.Name, n.Sessions, n.Limit, n.Verdict)
			}
		}
	}
	cancel()
	wg.Wait()
	if s := b.Snapshot(); s.Waiting != 0 || s.Sessions != len(leases) {
		t.Errorf("in the end %d wait, and there are %d sessions with %d leases", s.Waiting, s.Sessions, len(leases))
	}
}
