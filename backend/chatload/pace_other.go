//go:build !linux

package chatload

import (
	"os"
	"sync"
	"time"
)

// ticker is Go's.
type ticker struct {
	*time.Ticker
	once    sync.Once
	stopped chan struct{}
}

func newTicker(interval time.Duration) (*ticker, error) {
	return &ticker{Ticker: time.NewTicker(interval), stopped: make(chan struct{})}, nil
}

// wait waits for the next tick. It is os.ErrClosed after stop.
func (t *ticker) wait() error {
	select {
	case <-t.C:
		return nil
	case <-t.stopped:
		return os.ErrClosed
	}
}

func (t *ticker) stop() {
	t.once.Do(func() {
		t.Stop()
		close(t.stopped)
	})
}
