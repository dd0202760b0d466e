package loop

import (
	"math"
	"math/bits"
	"time"
)

// The wheel counts in ticks of 2^24 ns, about 17 ms. It has levels of 64 buckets,
// each level 64 times as coarse as the one below: 1 s, 69 s, 73 min, 78 h.
const (
	tickShift  = 24
	levelShift = 6
	levelSize  = 1 << levelShift
	levels     = 4

	bucketDue  = levels * levelSize // the list of timers that are being fired
	bucketNone = -1                 // not armed
)

// timer is an entry of a wheel. It is part of what it belongs to, so that arming
// costs no memory.
type timer struct {
	next, prev *timer
	when       int64 // when to fire, on the loop's clock
	owner      interface{ expire() }
	bucket     int32
}

// wheel is a hierarchical timing wheel (Varghese and Lauck, 1987). A timer sits in
// the bucket of the coarsest level that tells it from now, and is looked at when
// that bucket begins: early, and then it is put into a finer one. That is all the
// cascading there is. Arming, moving and stopping is O(1).
//
// Owners are lazy on top of that: a deadline that moves away leaves the timer where
// it is; when it fires too early, it is armed again.
type wheel struct {
	tick     int64 // up to which everything has fired
	occupied [levels]uint64
	buckets  [levels*levelSize + 1]*timer
}

// armed tells whether the timer will fire.
func (t *timer) armed() bool { return t.bucket != bucketNone }

// set arms a timer, or moves it.
func (w *wheel) set(t *timer, when int64) {
	w.stop(t)
	t.when = when
	tick := max((when+1<<tickShift-1)>>tickShift, w.tick+1)
	level := min((bits.Len64(uint64(tick-w.tick))-1)/levelShift, levels-1) //nolint:gosec // G115: at least 1
	shift := level * levelShift
	// One whole turn of the level away would be the bucket of now.
	at := min(tick>>shift, w.tick>>shift+levelSize-1)
	w.link(t, int32(level*levelSize)+int32(at&(levelSize-1))) //nolint:gosec // G115: below 256
}

func (w *wheel) link(t *timer, bucket int32) {
	t.bucket, t.prev, t.next = bucket, nil, w.buckets[bucket]
	if t.next != nil {
		t.next.prev = t
	}
	w.buckets[bucket] = t
	if bucket < bucketDue {
		w.occupied[bucket>>levelShift] |= 1 << (bucket & (levelSize - 1))
	}
}

// stop disarms a timer.
func (w *wheel) stop(t *timer) {
	if !t.armed() {
		return
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	if t.prev != nil {
		t.prev.next = t.next
	} else if w.buckets[t.bucket] = t.next; t.next == nil && t.bucket < bucketDue {
		w.occupied[t.bucket>>levelShift] &^= 1 << (t.bucket & (levelSize - 1))
	}
	t.bucket, t.next, t.prev = bucketNone, nil, nil
}

// nextTick returns the tick at which the next bucket begins that is not empty.
func (w *wheel) nextTick() int64 {
	next := int64(math.MaxInt64)
	for level, set := range w.occupied {
		if set == 0 {
			continue
		}
		shift := level * levelShift
		after := w.tick>>shift + 1
		away := bits.TrailingZeros64(bits.RotateLeft64(set, -int(after&(levelSize-1))))
		next = min(next, (after+int64(away))<<shift)
	}
	return next
}

// wait returns how long to sleep from now until there is something to fire, or -1
// for ever.
func (w *wheel) wait(now int64) time.Duration {
	switch next := w.nextTick(); {
	case w.buckets[bucketDue] != nil:
		return 0
	case next == math.MaxInt64:
		return -1
	default:
		return time.Duration(max(next<<tickShift-now, 0))
	}
}

// fire calls the owners of the timers that are due. A panic of an owner loses
// none of the others.
func (w *wheel) fire(now int64) {
	w.fireDue(now)
	for to := now >> tickShift; w.tick < to; {
		w.tick = min(to, w.nextTick())
		for level := range w.occupied {
			w.collect(level)
		}
		w.fireDue(now)
	}
}

// collect moves the timers of the bucket that begins at this tick to those due.
func (w *wheel) collect(level int) {
	shift := level * levelShift
	if w.tick&(1<<shift-1) != 0 {
		return
	}
	bucket := int32(level*levelSize) + int32(w.tick>>shift&(levelSize-1)) //nolint:gosec // G115: below 256
	for t := w.buckets[bucket]; t != nil; t = w.buckets[bucket] {
		w.stop(t)
		w.link(t, bucketDue)
	}
}

func (w *wheel) fireDue(now int64) {
	for t := w.buckets[bucketDue]; t != nil; t = w.buckets[bucketDue] {
		w.stop(t)
		if t.when > now {
			w.set(t, t.when)
			continue
		}
		t.owner.expire()
	}
}

// Timer is a function that is called once, later.
type Timer struct {
	timer
	loop *Loop
	f    func()
}

// After calls f on the loop after d, or up to 34 ms later.
func (l *Loop) After(d time.Duration, f func()) *Timer {
	t := &Timer{loop: l, f: f}
	t.owner, t.bucket = t, bucketNone
	l.wheel.set(&t.timer, l.clock()+int64(d))
	return t
}

// Stop makes a timer that was not called yet be called no more.
func (t *Timer) Stop() { t.loop.wheel.stop(&t.timer) }

func (t *Timer) expire() { t.f() }
