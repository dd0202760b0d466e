package proxy

import (
	"maps"
	"sync"
	"time"
)

// occasionEvery is how often the log tells of a thing that goes on.
const occasionEvery = time.Minute

// occasions limit how often the log tells of each of many things. Those that have not
// arisen for long are forgotten.
type occasions[K comparable] struct {
	mu sync.Mutex
	of map[K]*occasion
}

// occasion is what is known of one.
type occasion struct {
	next   time.Time // when to tell of it again
	unsaid int       // how often it has arisen since it was told of
}

// arises tells whether to log now, and how often it was not since the last time.
func (o *occasions[K]) arises(what K, now time.Time) (unsaid int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	one := o.of[what]
	if one == nil {
		maps.DeleteFunc(o.of, func(_ K, old *occasion) bool { return now.Sub(old.next) > occasionEvery })
		if o.of == nil {
			o.of = make(map[K]*occasion)
		}
		one = new(occasion)
		o.of[what] = one
	}
	if now.Before(one.next) {
		one.unsaid++
		return 0, false
	}
	unsaid, one.unsaid = one.unsaid, 0
	one.next = now.Add(occasionEvery)
	return unsaid, true
}
