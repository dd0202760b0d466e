package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"imlb/proxy/limit"
)

// journal writes the session log, on a goroutine of its own: whoever a session ends
// on, like a loop that carries others, must not wait for a log that is slow.
type journal struct {
	log  *slog.Logger
	lost func(n int) // told of lines that found no room

	refusals occasions[refused] // of which the sessions have no line

	mu     sync.Mutex
	queue  []entry
	missed int  // lines that found no room since the last that did
	asleep bool // the writer waits to be woken
	closed bool
	wake   chan struct{} // holds one
	done   chan struct{}
}

// entry is a line that waits to be written.
type entry struct {
	level    slog.Level
	attrs    []slog.Attr
	refusals bool // of many sessions
}

// refused is what clients were refused for, and where.
type refused struct {
	listener string
	reason   Reason
	limit    limit.Reason
}

// journalRoom is how many lines may wait. Those that come when all of it is taken are
// lost, and counted.
const journalRoom = 16 << 10

func newJournal(log *slog.Logger, lost func(int)) *journal {
	j := &journal{log: log, lost: lost, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go j.write()
	return j
}

// add has the record's line written, if it is one that is. The record may be changed
// afterwards.
func (j *journal) add(r *Record) {
	switch level := r.level(); {
	case j.log.Enabled(context.Background(), level): //nolint:forbidigo // the line belongs to nobody's context
		j.put(entry{level: level, attrs: r.attrs()})
	case r.Reason.refuses():
		j.tell(r)
	}
}

// tell has the log say now and then that clients are refused, with one of them as an example,
// where each has no line: strangers can cause that at will.
func (j *journal) tell(r *Record) {
	before, ok := j.refusals.arises(refused{r.Listener, r.Reason, r.Limit}, time.Now())
	if !ok {
		return
	}
	attrs := []slog.Attr{
		slog.String("reason", r.Reason.String()), slog.String("listener", r.Listener), slog.String("source", r.Source),
	}
	if r.Limit != limit.ReasonNone {
		attrs = append(attrs, slog.String("limit", r.Limit.String()))
	}
	j.put(entry{slog.LevelInfo, append(attrs, slog.Int("unsaid", before)), true})
}

// put has a line written.
func (j *journal) put(e entry) {
	j.mu.Lock()
	if len(j.queue) >= journalRoom || j.closed {
		j.missed++
		j.mu.Unlock()
		j.lost(1)
		return
	}
	j.queue = append(j.queue, e)
	wake := j.asleep
	j.asleep = false
	j.mu.Unlock()
	if wake {
		j.wake <- struct{}{}
	}
}

// close writes what waits, and ends the writer.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	wake := j.asleep
	j.asleep = false
	j.mu.Unlock()
	if wake {
		j.wake <- struct{}{}
	}
	<-j.done
}

// write writes lines until close.
func (j *journal) write() {
	defer close(j.done)
	ctx := context.Background() //nolint:forbidigo // lines belong to nobody's context
	for {
		lines, missed, more := j.take()
		for _, e := range lines {
			if e.refusals {
				j.log.LogAttrs(ctx, e.level, "clients are refused", e.attrs...)
			} else {
				j.log.LogAttrs(ctx, e.level, "session", e.attrs...)
			}
		}
		if missed > 0 {
			j.log.LogAttrs(ctx, slog.LevelWarn, "the session log is too slow: lines were lost", slog.Int("lines", missed))
		}
		if !more {
			return
		}
	}
}

// take waits for lines and returns all there are. The last time more is false.
func (j *journal) take() (lines []entry, missed int, more bool) {
	for {
		j.mu.Lock()
		lines, missed = j.queue, j.missed
		j.queue, j.missed = nil, 0
		if len(lines) > 0 || missed > 0 {
			j.mu.Unlock()
			return lines, missed, true
		}
		if j.closed {
			j.mu.Unlock()
			return nil, 0, false
		}
		j.asleep = true
		j.mu.Unlock()
		<-j.wake
	}
}
