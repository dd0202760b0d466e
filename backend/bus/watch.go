package bus

import (
	"errors"
	"log/slog"
	"maps"
	"time"

	"github.com/nats-io/nats.go"
)

// beatSubject carries the beats of all nodes.
const beatSubject = "n.beat"

// watchEvery is how often the links of this node are looked at.
const watchEvery = 250 * time.Millisecond

// watch beats, and finds out when signals may have been lost. It ends with the bus.
func (b *Bus) watch() {
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	beats := time.NewTicker(beatEvery)
	defer beats.Stop()
	var seq uint64
	var routes map[uint64]struct{}
	for {
		select {
		case <-look.C:
			routes = b.lookAtRoutes(routes)
			b.sweep()
		case <-beats.C:
			b.expireLinks()
			seq = b.beat(seq)
		case <-b.greet:
			seq = b.beat(seq)
		case <-b.done:
			b.sayGoodbye()
			return
		}
	}
}

// sayGoodbye spares the others waiting for this node's answers.
func (b *Bus) sayGoodbye() {
	if b.conn.IsConnected() {
		b.publishBeat(beat{node: b.id, seq: goodbye, name: b.options.Name})
		_ = b.conn.FlushTimeout(flushWait)
	}
}

// beat publishes the number after seq, and returns it.
func (b *Bus) beat(seq uint64) uint64 {
	seq++
	if b.takeSkip() {
		seq++
	}
	b.publishBeat(beat{node: b.id, seq: seq, name: b.options.Name})
	return seq
}

func (b *Bus) publishBeat(t beat) {
	// A beat that is not sent is missed by those who wait for it.
	_ = b.conn.Publish(beatSubject, t.append(nil))
}

func (b *Bus) takeSkip() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	skip := b.skip
	b.skip = false
	return skip
}

// takeBeat runs on a goroutine of the connection.
func (b *Bus) takeBeat(msg *nats.Msg) {
	t, err := decodeBeat(msg.Data)
	if err != nil || t.node == b.id {
		return
	}
	switch b.hear(t) {
	case linkNew:
		b.options.Logger.Info("node heard on the bus", slog.String("peer", t.name))
		b.wantBeat()
		b.noteBroken()
	case linkBroke:
		b.options.Logger.Warn("signals of a node may be lost", slog.String("peer", t.name))
		b.noteBroken()
	case linkGood:
	}
}

func (b *Bus) hear(t beat) link {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.silent, t.name)
	return b.links.hear(t, time.Now())
}

func (b *Bus) expireLinks() {
	b.mu.Lock()
	gone := b.links.expire(time.Now())
	b.fellSilent(gone)
	b.mu.Unlock()
	for _, name := range gone {
		b.options.Logger.Warn("node no longer heard on the bus", slog.String("peer", name))
	}
}

// lookAtRoutes compares the server's routes with those seen last. A new one
// may stand for one that broke between two beats.
func (b *Bus) lookAtRoutes(last map[uint64]struct{}) map[uint64]struct{} {
	if b.server == nil {
		return nil
	}
	now, err := b.server.routes()
	if err != nil {
		return last
	}
	for id := range now {
		if _, known := last[id]; !known {
			b.noteBroken()
			break
		}
	}
	return now
}

// noteBroken has Lost called for all hosted partitions.
func (b *Bus) noteBroken() { poke(b.broken) }

// wantBeat has a beat sent before its time.
func (b *Bus) wantBeat() { poke(b.greet) }

// poke leaves word in a channel of capacity one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drops is what was last seen of a subscription whose queue was full.
type drops struct {
	partition uint16
	dropped   int   // signals dropped until then
	delivered int64 // signals queued until then
}

// asyncError runs on a goroutine of the connection. A full queue is told once, and
// again only after a signal got through; sweep counts what is dropped meanwhile.
func (b *Bus) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if sub != nil && errors.Is(err, nats.ErrSlowConsumer) {
		if partition, err := subjectPartition(sub.Subject); err == nil {
			b.mu.Lock()
			b.dropped[sub] = drops{partition: partition}
			b.mu.Unlock()
			return
		}
	}
	b.options.Logger.Warn("bus connection reports an error", slog.Any("err", err))
}

// sweep tells of the partitions whose signals were dropped since the last time.
// A subscription is watched until a signal was queued and none dropped since
// then: only from there on will the connection tell of the next drop.
func (b *Bus) sweep() {
	for sub, last := range b.dropping() {
		dropped, err := sub.Dropped()
		delivered, err2 := sub.Delivered()
		switch {
		case errors.Join(err, err2) != nil: // unsubscribed
			b.forgetDrops(sub, last)
		case dropped != last.dropped:
			b.dispatcher(last.partition).noteLost(last.partition)
			b.keepDrops(sub, drops{last.partition, dropped, delivered})
		case delivered != last.delivered:
			b.forgetDrops(sub, last)
		}
	}
}

func (b *Bus) dropping() map[*nats.Subscription]drops {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return maps.Clone(b.dropped)
}

func (b *Bus) keepDrops(sub *nats.Subscription, d drops) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped[sub] = d
}

// forgetDrops forgets d, unless it was told anew.
func (b *Bus) forgetDrops(sub *nats.Subscription, d drops) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dropped[sub] == d {
		delete(b.dropped, sub)
	}
}
