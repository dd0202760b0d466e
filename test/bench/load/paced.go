//go:build linux

package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// paced sends at a fixed rate, whether or not answers come: message k is due at
// k/rate, and its latency counts from then. So a proxy that makes one message wait
// is charged for those that should have been sent meanwhile.
func (c *tcpClient) paced(context.Context) error {
	if err := c.connect(c.spec.Conns, echo); err != nil {
		return err
	}
	c.window.connect()
	interval := time.Second / time.Duration(c.spec.Rate)
	timer, err := newTimer(interval)
	if err != nil {
		return err
	}
	defer unix.Close(timer)
	if err := c.poller.add(timer, unix.EPOLLIN); err != nil {
		return err
	}
	p := &pacer{tcpClient: c, timer: timer, interval: interval, first: c.window.now()}
	p.targets = slices.DeleteFunc(slices.Clone(c.conns), func(conn *tcpConn) bool { return conn == nil })
	return p.run()
}

// pacer is a paced workload that runs.
type pacer struct {
	*tcpClient
	timer    int // descriptor of a timer that expires for each message
	interval time.Duration
	first    time.Duration // when message 0 was due
	targets  []*tcpConn    // that take turns
	due      uint64        // the number of the next message
	waiting  int           // messages of the window that are not answered
}

func (p *pacer) run() error {
	for !p.window.over() || p.waiting > 0 {
		events, err := p.poller.wait(loopTick)
		if err != nil {
			return err
		}
		for _, e := range events {
			if int(e.Fd) == p.timer {
				err = p.tick()
			} else {
				err = p.answer(p.conns[e.Fd])
			}
			if err != nil {
				return err
			}
		}
		if p.late() {
			return fmt.Errorf("%d messages are not answered", p.waiting)
		}
	}
	return nil
}

// late tells whether the oldest message of a connection waits for too long.
func (p *pacer) late() bool {
	for _, conn := range p.targets[:min(16, len(p.targets))] {
		if len(conn.queue) > 0 && p.window.now()-conn.queue[0].intended > stall {
			return true
		}
	}
	return false
}

// tick sends what is due.
func (p *pacer) tick() error {
	var expired [8]byte
	if _, err := unix.Read(p.timer, expired[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("timer: %w", err)
	}
	if binary.NativeEndian.Uint64(expired[:]) == 0 {
		return nil
	}
	for {
		intended := p.first + time.Duration(p.due)*p.interval //nolint:gosec // a count
		if intended > p.window.now() || p.window.over() {
			return nil
		}
		conn := p.targets[p.due%uint64(len(p.targets))]
		p.due++
		s := sending{intended: intended, counts: p.window.measuring()}
		conn.queue = append(conn.queue, s)
		if s.counts {
			p.waiting++
		}
		if err := p.sendMessage(conn); err != nil {
			return err
		}
	}
}

// answer takes what came on a connection, and counts the messages that are whole.
func (p *pacer) answer(conn *tcpConn) error {
	if _, err := p.take(conn); err != nil {
		return err
	}
	size := uint64(p.spec.Size)                                         //nolint:gosec // a length
	answered := len(conn.queue) - int((conn.sent-conn.got+size-1)/size) //nolint:gosec // what is queued
	now := p.window.now()
	for _, s := range conn.queue[:answered] {
		if s.counts {
			p.waiting--
			p.tally.units++
			p.tally.latency.Record(now - s.intended)
		}
	}
	conn.queue = slices.Delete(conn.queue, 0, answered)
	return nil
}

// newTimer makes a descriptor that is ready at each interval.
func newTimer(interval time.Duration) (int, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("timerfd_create: %w", err)
	}
	every := unix.NsecToTimespec(interval.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("timerfd_settime: %w", err)
	}
	return fd, nil
}
