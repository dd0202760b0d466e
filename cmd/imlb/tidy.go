package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// After a burst, such as everybody's return, a process of Go holds about twice the memory
// that it needs: garbage that is collected when as much again has come, which in a quiet
// process takes two minutes, and free pages that are given back slowly, and not all. So
// what is left of a burst is given back once it is over.
const (
	tidyInterval = time.Second
	tidyQuiet    = 3       // intervals in a row in which little was allocated
	tidyLittle   = 1 << 20 // bytes in an interval, or a part of what is in use:
	tidyPart     = 64
	tidyWorth    = 1 << 20 // bytes to be had at least, and a quarter of what is in use
)

// frontSlack is how many bytes of garbage a front may have besides as much as is in use. With
// little in use it would else collect every few MB, which is some twentieth of its processor
// time when it opens and closes connections. A node does more for each of its sessions, and
// would pay with memory: the more garbage there was, the more pages hold a little that is alive.
const frontSlack = 16 << 20

// startTidying gives memory back after bursts until stop is called, which waits for its end,
// and lets the process have that much garbage more.
func startTidying(ctx context.Context, slack uint64) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	// The collector paces itself by what is in use, to which this counts. Nobody writes to
	// it, so that the system has no memory to give for it.
	ballast := make([]byte, slack)
	running.Go(func() {
		keepTidy(ctx, slack)
		runtime.KeepAlive(ballast)
	})
	return func() {
		cancel()
		running.Wait()
	}
}

func keepTidy(ctx context.Context, slack uint64) {
	ticker := time.NewTicker(tidyInterval)
	defer ticker.Stop()
	var t tidier
	for {
		select {
		case <-ticker.C:
			if t.due(readMemoryUse().without(slack)) {
				debug.FreeOSMemory() // which collects garbage first
			}
		case <-ctx.Done():
			return
		}
	}
}

// memoryUse is what is known of the heap, in bytes.
type memoryUse struct {
	allocated uint64 // ever
	live      uint64 // of objects that the last collection has found in use
	objects   uint64 // of these and what was allocated since
	free      uint64 // of pages that hold nothing and were not given back
}

func readMemoryUse() memoryUse {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 {
		if samples[i].Value.Kind() != metrics.KindUint64 { // another Go does not have it
			return 0
		}
		return samples[i].Value.Uint64()
	}
	return memoryUse{allocated: value(0), live: value(1), objects: value(2), free: value(3)}
}

// without leaves out a ballast, which the first collection has not yet seen.
func (m memoryUse) without(ballast uint64) memoryUse {
	m.live -= min(ballast, m.live)
	m.objects -= min(ballast, m.objects)
	return m
}

// tidier tells when there is something to give back and time to do it.
type tidier struct {
	allocated uint64 // by the last interval
	quiet     int    // intervals in a row
}

// due is asked once in an interval.
func (t *tidier) due(m memoryUse) bool {
	grown := m.allocated - t.allocated
	t.allocated = m.allocated
	if grown > max(tidyLittle, m.live/tidyPart) {
		t.quiet = 0
		return false
	}
	if t.quiet++; t.quiet < tidyQuiet {
		return false
	}
	garbage := m.objects - min(m.live, m.objects)
	return garbage+m.free > max(tidyWorth, m.live/4)
}
