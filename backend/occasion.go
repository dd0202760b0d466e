package backend

import (
	"sync"
	"time"
)

// occasionEvery is how often a thing that goes wrong again and again is told of.
const occasionEvery = 10 * time.Second

// occasion limits how often the log tells of one thing.
type occasion struct {
	mu     sync.Mutex
	next   time.Time
	unsaid int
}

// arises tells whether to log now, and how often it was not since the last time.
func (o *occasion) arises(now time.Time) (unsaid int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Before(o.next) {
		o.unsaid++
		return 0, false
	}
	unsaid, o.unsaid = o.unsaid, 0
	o.next = now.Add(occasionEvery)
	return unsaid, true
}
