package loop

import "sync"

// chunkSize is how much output one chunk holds.
const chunkSize = 16<<10 - 32

// chunk is a piece of output that the kernel did not take. Chunks are borrowed: a
// connection without pending output has none.
type chunk struct {
	next *chunk
	from int // sent up to here
	to   int // filled up to here
	data [chunkSize]byte
}

// queue is output in order.
type queue struct {
	head, tail *chunk
	len        int
}

// push copies p to the end of the queue.
func (q *queue) push(pool *sync.Pool, p []byte) {
	for len(p) > 0 {
		if q.tail == nil || q.tail.to == chunkSize {
			q.grow(pool)
		}
		n := copy(q.tail.data[q.tail.to:], p)
		q.tail.to += n
		q.len += n
		p = p[n:]
	}
}

func (q *queue) grow(pool *sync.Pool) {
	c, ok := pool.Get().(*chunk)
	if !ok {
		c = new(chunk)
	}
	c.next, c.from, c.to = nil, 0, 0
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
}

// front returns what is to be sent first, or nothing.
func (q *queue) front() []byte {
	if q.head == nil {
		return nil
	}
	return q.head.data[q.head.from:q.head.to]
}

// sent drops n bytes of front.
func (q *queue) sent(pool *sync.Pool, n int) {
	q.len -= n
	q.head.from += n
	if q.head.from == q.head.to {
		q.drop(pool)
	}
}

// drop gives the first chunk back.
func (q *queue) drop(pool *sync.Pool) {
	c := q.head
	q.head = c.next
	if q.head == nil {
		q.tail = nil
	}
	pool.Put(c)
}

// clear gives everything back.
func (q *queue) clear(pool *sync.Pool) {
	for q.head != nil {
		q.drop(pool)
	}
	q.len = 0
}
