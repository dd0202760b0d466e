package proxy_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"imlb/proxy"
)

// endsAfter checks that the session ends by that limit, as long from now.
func (s *pumped) endsAfter(t *testing.T, want time.Duration, why proxy.Reason) {
	t.Helper()
	go io.Copy(io.Discard, s.client) // to the end, so that it is not waited for
	go io.Copy(io.Discard, s.node)
	s.lasts(t, want)
	if s.reason != why.String() {
		t.Errorf("the session ended by %s, not %s", s.reason, why)
	}
}

// The limits count from the last byte, whenever they were looked at before.
func TestPumpLimits(t *testing.T) {
	t.Parallel()
	const idle, halfOpen = 20 * time.Second, 5 * time.Second
	for name, run := range map[string]func(*testing.T, *pumped){
		"silent from the start": func(t *testing.T, s *pumped) { s.endsAfter(t, idle, proxy.ReasonIdle) },
		"a byte from the client": func(t *testing.T, s *pumped) {
			<-time.After(time.Second)
			says(t, s.client, s.node, "x")
			s.endsAfter(t, idle, proxy.ReasonIdle)
		},
		"bytes from both": func(t *testing.T, s *pumped) {
			for range 10 {
				<-time.After(idle - time.Second)
				says(t, s.client, s.node, "x")
				<-time.After(idle / 3)
				says(t, s.node, s.client, "x")
			}
			s.endsAfter(t, idle, proxy.ReasonIdle)
		},
		"a byte that was long not taken": func(t *testing.T, s *pumped) {
			if _, err := s.client.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			<-time.After(2*idle + time.Second)
			if _, err := io.ReadFull(s.node, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			s.endsAfter(t, idle, proxy.ReasonIdle)
		},
		"half-open": func(t *testing.T, s *pumped) {
			<-time.After(idle - time.Second)
			says(t, s.client, s.node, "x")
			if err := s.client.CloseWrite(); err != nil {
				t.Error(err)
			}
			s.endsAfter(t, halfOpen, proxy.ReasonHalfOpen)
		},
		"half-open, and a byte": func(t *testing.T, s *pumped) {
			if err := s.client.CloseWrite(); err != nil {
				t.Error(err)
			}
			for range 3 {
				<-time.After(halfOpen - time.Second)
				says(t, s.node, s.client, "x")
			}
			s.endsAfter(t, halfOpen, proxy.ReasonHalfOpen)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { run(t, startPump(t, idle, halfOpen)) })
		})
	}
}
