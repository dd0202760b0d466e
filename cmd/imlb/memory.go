package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// memoryInterval is how often the collector's pace and what could be given back are looked at.
const memoryInterval = time.Second

// keepMemory sets the collector's pace by how many sessions there are, and gives memory back
// after bursts, until ctx ends. Who has set GOGC has chosen a pace.
func keepMemory(ctx context.Context, sessions func() int) {
	ticker := time.NewTicker(memoryInterval)
	defer ticker.Stop()
	var (
		pace pacer
		tidy tidier
	)
	chosen := os.Getenv("GOGC") != ""
	for {
		select {
		case <-ticker.C:
			use := readMemoryUse()
			if percent, changed := pace.next(use.live, sessions()); changed && !chosen {
				debug.SetGCPercent(percent)
			}
			if tidy.due(use) {
				debug.FreeOSMemory() // which collects garbage first
			}
		case <-ctx.Done():
			return
		}
	}
}

// How much garbage there may be before it is collected is a matter of processor time and of
// memory. While little is in use the collector would come every few MB, and take a tenth of
// the processor time; so there may be steadyGarbage at least, up to a multiple of what is in
// use, lest it grows far before the pace follows. But while sessions arrive, what stays of each
// comes to lie between its garbage, on pages that then cannot be given back for as long as the
// session is there: the less garbage there is, the fewer they are.
const (
	steadyGarbage   = 32 << 20 // bytes
	steadyPercent   = 400      // of what is in use, at most
	arrivingGarbage = 4 << 20  // bytes
	arrivingPercent = 50       // at least
	usualPercent    = 100      // Go's own

	arrivingIntervals = 5   // in which sessions have become
	arrivingFew       = 256 // more than so many more, and
	arrivingPart      = 128 // than such a part of all
)

// pacer finds GOGC, the garbage that there may be in percent of what is in use.
type pacer struct {
	sessions [arrivingIntervals]int // by the last intervals, in turns
	turn     int
	percent  int // 0: as the process has begun
}

// next is asked once in an interval, with the bytes in use.
func (p *pacer) next(live uint64, sessions int) (percent int, changed bool) {
	before := p.sessions[p.turn]
	p.sessions[p.turn] = sessions
	p.turn = (p.turn + 1) % len(p.sessions)
	arriving := sessions-before > max(arrivingFew, sessions/arrivingPart)

	percent = min(max(percentOf(steadyGarbage, float64(live)), usualPercent), steadyPercent)
	if arriving {
		percent = min(max(percentOf(arrivingGarbage, float64(live)), arrivingPercent), usualPercent)
	}
	// Setting it stops the world for a moment, which some percent are not worth.
	if difference := percent - p.percent; p.percent != 0 && max(difference, -difference) <= p.percent/8 {
		return p.percent, false
	}
	p.percent = percent
	return percent, true
}

// percentOf returns how many percent of the bytes in use others are, of nothing very many.
func percentOf(part, live float64) int { return int(part * 100 / max(live, 1)) }

// After a burst, such as everybody's return, a process of Go holds about twice the memory
// that it needs: garbage that is collected when as much again has come, which in a quiet
// process takes two minutes, and free pages that are given back slowly, and not all. So
// what is left of a burst is given back once it is over.
const (
	tidyQuiet  = 3       // intervals in a row in which little was allocated
	tidyLittle = 1 << 20 // bytes in an interval, or a part of what is in use:
	tidyPart   = 64
	tidyWorth  = 1 << 20 // bytes to be had at least, and a quarter of what is in use
)

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
