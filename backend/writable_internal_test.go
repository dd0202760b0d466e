package backend

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"imlb/backend/store"
)

func TestWritable(t *testing.T) {
	t.Parallel()
	const memory = 10 * time.Second
	away := fmt.Errorf("append: %w", store.ErrUnavailable)
	late := errors.New("renew the lease")
	var w writable
	now := time.Now()
	want := func(what string, after time.Duration, want error) {
		t.Helper()
		if got := w.err(now.Add(after), memory); !errors.Is(got, want) || want == nil && got != nil {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	want("before anything was written", 0, nil)
	w.stored(away, now)
	want("messages were refused", 0, away)
	w.leased(nil)
	want("they were, and the lease was renewed", memory-1, away)
	want("no message has been tried since", memory, nil)
	w.leased(late)
	want("the lease was not renewed", memory, late)
	w.stored(nil, now)
	want("it was not, and messages were stored", 0, late)
	w.leased(nil)
	want("it was renewed", 0, nil)
	w.stored(errors.New("a bad message"), now)
	want("one message was refused", 0, nil)
}
