package balancer

import "container/heap"

// holding is what one node owns while a table is built, and gives up in the
// order of how little it likes it.
type holding struct {
	claims  []claim
	ordered bool // claims is a heap, the worst on top; made so when first needed
}

// newHoldings divides the claims by node.
func newHoldings(t *Table, claims []claim) []holding {
	counts := make([]int, len(t.names))
	for _, c := range claims {
		counts[c.node]++
	}
	held := make([]holding, len(t.names))
	room := make([]claim, len(claims))
	for i, n := range counts {
		held[i].claims, room = room[:0:n], room[n:]
	}
	for _, c := range claims {
		h := &held[c.node]
		h.claims = append(h.claims, c)
	}
	return held
}

// take adds a claim.
func (h *holding) take(c claim) {
	if h.ordered {
		heap.Push(h, c)
		return
	}
	h.claims = append(h.claims, c)
}

// giveUp removes the worst claim and returns it.
func (h *holding) giveUp() claim {
	if !h.ordered {
		heap.Init(h)
		h.ordered = true
	}
	worst := h.claims[0]
	heap.Pop(h)
	return worst
}

// The methods of heap.Interface.

func (h *holding) Len() int           { return len(h.claims) }
func (h *holding) Less(i, j int) bool { return h.claims[j].before(h.claims[i]) }
func (h *holding) Swap(i, j int)      { h.claims[i], h.claims[j] = h.claims[j], h.claims[i] }
func (h *holding) Push(x any)         { h.claims = append(h.claims, x.(claim)) } //nolint:errcheck // what take pushes
func (h *holding) Pop() any {
	last := len(h.claims) - 1
	c := h.claims[last]
	h.claims = h.claims[:last]
	return c
}
