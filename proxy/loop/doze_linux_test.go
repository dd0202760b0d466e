//go:build linux && !386 && !s390x && !imlb_portable

package loop

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A loop dozes after several short waits in a row, and no more after a long one.
func TestGauge(t *testing.T) {
	t.Parallel()
	var p poller
	now := int64(time.Hour)
	p.gauge(now)
	for i := range dozeAfter {
		if p.brisk != i {
			t.Fatalf("%d short waits, want %d", p.brisk, i)
		}
		now += int64(dozeTime) - 1
		p.gauge(now)
	}
	if p.brisk != dozeAfter {
		t.Fatalf("%d short waits, want %d", p.brisk, dozeAfter)
	}
	p.gauge(now + int64(dozeTime))
	if p.brisk != 0 {
		t.Fatalf("%d short waits after a long one", p.brisk)
	}
}

// One processor is left to other goroutines, however many loops doze.
func TestHold(t *testing.T) {
	t.Parallel()
	g := &Group{procs: 3}
	for i, want := range []bool{true, true, false} {
		if got := g.hold(); got != want {
			t.Fatalf("hold %d is %t", i+1, got)
		}
	}
	g.release()
	if !g.hold() {
		t.Fatal("what was given back cannot be had")
	}
	if one := (&Group{procs: 1}); one.hold() {
		t.Fatal("the only one can be had")
	}
}

// Goroutines that wait for a processor are seen.
func TestCrowded(t *testing.T) {
	t.Parallel()
	var p poller
	p.waiting[0].Name = runnable
	var stop atomic.Bool
	var busy sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		busy.Go(func() {
			for !stop.Load() {
				runtime.Gosched()
			}
		})
	}
	defer busy.Wait()
	defer stop.Store(true)
	for end := time.Now().Add(10 * time.Second); !p.crowded(); {
		if time.Now().After(end) {
			t.Fatal("are not seen")
		}
	}
}

// Posts in quick succession make a loop doze and take its bell down; after a pause, which a
// timer ends, it is up again, and rings.
func TestDoze(t *testing.T) {
	t.Parallel()
	g, err := New(Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close() //nolint:errcheck // always nil
	l := g.loops[0]
	hung := func() bool {
		answer := make(chan bool, 1)
		l.Post(func() {
			if !l.poll.hung && l.poll.alone {
				t.Error("dozes on the thread that waited in Go's poller, and has put none in its place")
			}
			answer <- l.poll.hung
		})
		return <-answer
	}
	if g.procs > 1 {
		for end := time.Now().Add(10 * time.Second); hung(); {
			if time.Now().After(end) {
				t.Fatal("never dozes for long")
			}
		}
	}
	fired := make(chan struct{})
	l.Post(func() { l.After(4*dozeTime, func() { close(fired) }) })
	<-fired
	if !hung() {
		t.Error("the bell is down after a pause")
	}
	hung() // is not answered if the bell does not ring
}
