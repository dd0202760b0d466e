package backend

import (
	"testing"
	"time"
)

func TestOccasion(t *testing.T) {
	t.Parallel()
	var o occasion
	start := time.Now()
	for _, step := range []struct {
		after  time.Duration
		unsaid int
		ok     bool
	}{
		{0, 0, true},
		{1, 0, false},
		{occasionEvery - 1, 0, false},
		{occasionEvery, 2, true},
		{2*occasionEvery - 1, 0, false},
		{3 * occasionEvery, 1, true},
		{4 * occasionEvery, 0, true},
	} {
		if unsaid, ok := o.arises(start.Add(step.after)); unsaid != step.unsaid || ok != step.ok {
			t.Errorf("after %v: %d, %t", step.after, unsaid, ok)
		}
	}
}
