package configs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"
)

// question is what is asked of Consul's key-value store again and again.
type question struct {
	agent  Consul
	client *api.Client // of agent
	key    string
	below  bool   // all keys that begin like this one, not the key itself
	told   uint64 // the index of what was known before, 0 for none
}

// answer is what Consul said.
type answer struct {
	pairs     api.KVPairs // one at most unless below was asked for
	index     uint64      // of Consul, which grows with each change
	restarted bool        // the index went backwards: Consul has lost state
	err       error
}

// follow asks until ctx is done. On the channel come the first answer, each one
// that may differ from the one before, failures, and the recovery from them.
func (p *pursuit) follow(ctx context.Context, q question) <-chan answer {
	answers := make(chan answer)
	p.running.Go(func() { p.ask(ctx, q, answers) })
	return answers
}

func (w *Watcher) ask(ctx context.Context, q question, answers chan<- answer) {
	pause := backoff{first: 100 * time.Millisecond, most: w.options.MaxBackoff}
	var index uint64 // to wait for a change from
	told := q.told   // of the last good answer that was passed on …
	passed := false  // … of ours, if there was one
	for w.limiter.Wait(ctx) == nil {
		a, next := w.once(ctx, q, index)
		if a.err != nil {
			index = 0 // to learn the state at once
			if !pass(ctx, answers, a) || !pause.wait(ctx) {
				return
			}
			continue
		}
		// Index rules: never below 1, back to 0 when it goes backwards, and an answer
		// with the same index is the same answer.
		next = max(next, 1)
		a.index, a.restarted = next, next < told
		index = next
		if a.restarted {
			index = 0
		}
		if next == told && passed && pause.next == 0 {
			continue
		}
		told, passed = next, true
		pause.next = 0
		if !pass(ctx, answers, a) {
			return
		}
	}
}

// pass hands on an answer, and reports false when ctx is done first.
func pass(ctx context.Context, answers chan<- answer, a answer) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case answers <- a:
		return true
	case <-ctx.Done():
		return false
	}
}

// once asks once. With an index it waits for a change since.
func (w *Watcher) once(ctx context.Context, q question, index uint64) (answer, uint64) {
	// The server adds up to a sixteenth to the wait.
	ctx, cancel := context.WithTimeout(ctx, w.options.Wait+w.options.Wait/16+10*time.Second)
	defer cancel()
	options := (&api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: w.options.Wait, Token: q.agent.Token()}).WithContext(ctx)
	pairs, meta, err := q.get(options)
	if err == nil && len(pairs) == 0 && meta.ResultsFilteredByACLs {
		err = errors.New("the ACL token may not see what is there; let it read the keys under imlb/")
	}
	if err != nil {
		return answer{err: fmt.Errorf("read %s from consul: %w", q.key, err)}, 0
	}
	return answer{pairs: pairs}, meta.LastIndex
}

func (q question) get(options *api.QueryOptions) (api.KVPairs, *api.QueryMeta, error) {
	if q.below {
		return q.client.KV().List(q.key, options)
	}
	pair, meta, err := q.client.KV().Get(q.key, options)
	if err != nil || pair == nil {
		return nil, meta, err
	}
	return api.KVPairs{pair}, meta, nil
}

// backoff grows with every failure from first to most. Half of each pause is left
// to chance, so that many fronts do not come back at the same moment.
type backoff struct {
	first, most time.Duration
	next        time.Duration // 0 when all is well
}

// wait pauses after a failure, and reports false when ctx is done first.
func (b *backoff) wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, b.first), b.most)
	timer := time.NewTimer(b.next/2 + rand.N(b.next/2+1)) //nolint:gosec // spreads load, guards nothing
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
