package balancer

import "math"

// Pace limits how fast moves are made.
type Pace struct {
	// PerSecond is how many moves may begin in a second, at even distances; 0 or
	// less means any number.
	PerSecond float64
	// Burst is how many may begin at once after a pause; 1 when 0 or less.
	Burst int
	// PerTarget is how many may be under way to one node; 0 or less means any
	// number.
	PerTarget int
}

// Pacer says which move may be made next. It knows no clock: the caller tells the
// time, in nanoseconds from any moment of its choice, never going back. It is not
// safe for concurrent use.
type Pacer struct {
	pace     Pace
	interval float64 // between moves, in nanoseconds
	due      float64 // when the next move would begin at an even pace
	queues   []*queue
	under    map[string]*queue // by target
	left     int
}

// queue is the moves to one target.
type queue struct {
	moves    []Move
	at       []int // where they are in the whole
	underWay int
}

// NewPacer returns a pacer for moves that are to be made in their order, for
// example those of [Plan].
func NewPacer(moves []Move, p Pace) *Pacer {
	p.Burst = max(p.Burst, 1)
	paced := &Pacer{pace: p, due: math.Inf(-1), under: make(map[string]*queue), left: len(moves)}
	if p.PerSecond > 0 {
		paced.interval = 1e9 / p.PerSecond
	}
	for i, m := range moves {
		q := paced.under[m.To]
		if q == nil {
			q = new(queue)
			paced.under[m.To] = q
			paced.queues = append(paced.queues, q)
		}
		q.moves, q.at = append(q.moves, m), append(q.at, i)
	}
	return paced
}

// Left returns how many moves have not begun.
func (p *Pacer) Left() int { return p.left }

// Next begins a move and returns it: the first whose target may have one more.
// When there is none, wait is how many nanoseconds to wait before asking again; it
// is 0 when [Pacer.Done] has to come first, or nothing is left.
func (p *Pacer) Next(now int64) (m Move, wait int64, ok bool) {
	q := p.open()
	if q == nil {
		return Move{}, 0, false
	}
	// Moves that were due long ago are made up for by a burst at most.
	due := max(p.due, float64(now)-float64(p.pace.Burst-1)*p.interval)
	if due > float64(now) {
		return Move{}, int64(math.Ceil(due - float64(now))), false
	}
	p.due = due + p.interval
	p.left--
	return q.begin(), 0, true
}

// open returns the queue whose first move is the first of those that may begin.
func (p *Pacer) open() *queue {
	var first *queue
	for _, q := range p.queues {
		if len(q.moves) == 0 || p.pace.PerTarget > 0 && q.underWay >= p.pace.PerTarget {
			continue
		}
		if first == nil || q.at[0] < first.at[0] {
			first = q
		}
	}
	return first
}

func (q *queue) begin() Move {
	m := q.moves[0]
	q.moves, q.at = q.moves[1:], q.at[1:]
	q.underWay++
	return m
}

// Done tells that a move to a target has ended, well or not. What has failed is
// not tried again.
func (p *Pacer) Done(m Move) {
	if q := p.under[m.To]; q != nil && q.underWay > 0 {
		q.underWay--
	}
}
