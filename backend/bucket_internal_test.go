package backend

import (
	"fmt"
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r := perHour(3)
	b := bucket{tokens: r.burst, at: start}
	for i, tt := range []struct {
		after time.Duration
		want  bool
	}{
		{0, true},
		{0, true},
		{time.Second, true},
		{time.Second, false},
		{-time.Hour, false}, // the clock was set back
		{20*time.Minute - time.Second, false},
		{20 * time.Minute, true},
		{20 * time.Minute, false},
		{10 * time.Hour, true}, // no more than the burst
		{10 * time.Hour, true},
		{10 * time.Hour, true},
		{10 * time.Hour, false},
	} {
		if got := b.take(r, start.Add(tt.after)); got != tt.want {
			t.Errorf("step %d after %v: got %t", i, tt.after, got)
		}
	}
}

func TestBucketsAreBounded(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	const most = 10
	bs := newBuckets(perHour(2), most, now)
	allowed := 0
	for i := range 1000 {
		if bs.take(fmt.Sprint(i), now) {
			allowed++
		}
	}
	if want := most + 2; allowed != want || len(bs.known) != most {
		t.Errorf("%d names got a token, want %d; %d are known", allowed, want, len(bs.known))
	}
	if !bs.take("3", now) || bs.take("3", now) {
		t.Error("a name that is known does not have its own bucket")
	}
	now = now.Add(time.Hour)
	if !bs.take("new", now) || len(bs.known) != 1 {
		t.Errorf("%d are known after they are full again", len(bs.known))
	}
}
