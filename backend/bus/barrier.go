package bus

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// A barrier makes sure that what this node has sent so far, interest
// included, has arrived at all nodes that are heard: a question goes the same
// way, and they answer it. One barrier serves all who wait when it begins.
const (
	barrierSubject = "n.barrier"

	// answerWait is how long a node may take to answer. One that does not is
	// forgotten, so that hearing it again is news.
	answerWait = 500 * time.Millisecond
)

type answer struct {
	node  nodeID
	token uint64
}

func (a answer) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.node))
	return binary.BigEndian.AppendUint64(dst, a.token)
}

func decodeAnswer(p []byte) (a answer, ok bool) {
	if len(p) != 16 {
		return answer{}, false
	}
	return answer{
		node:  nodeID(binary.BigEndian.Uint64(p)),
		token: binary.BigEndian.Uint64(p[8:]),
	}, true
}

// answerSubject is where the answers to this node go.
func (b *Bus) answerSubject() string {
	return "n.answer." + strconv.FormatUint(uint64(b.id), 16)
}

// barrier waits for a barrier that begins after the call.
func (b *Bus) barrier() error {
	reached := make(chan error, 1)
	select {
	case b.waiting <- reached:
	case <-b.done:
		return ErrClosed
	}
	select {
	case err := <-reached:
		return err
	case <-b.done:
		return ErrClosed
	}
}

// keepBarriers makes one barrier after the other, as they are wanted. It ends
// with the bus.
func (b *Bus) keepBarriers() {
	for token := uint64(1); ; token++ {
		select {
		case first := <-b.waiting:
			batch := b.allWaiting(first)
			err := b.reach(token)
			for _, reached := range batch {
				reached <- err
			}
		case <-b.broken:
			b.mend(token)
		case <-b.done:
			return
		}
	}
}

func (b *Bus) allWaiting(first chan error) []chan error {
	batch := []chan error{first}
	for {
		select {
		case next := <-b.waiting:
			batch = append(batch, next)
		default:
			return batch
		}
	}
}

// mend has everybody who relies on signals look into the database, once signals
// come through again.
func (b *Bus) mend(token uint64) {
	if err := b.reach(token); err != nil {
		// The connection is lost; it will be back, and tell.
		b.options.Logger.Warn("bus barrier failed", slog.Any("err", err))
		return
	}
	for _, partition := range b.hostedNow() {
		b.dispatcher(partition).noteLost(partition)
	}
}

func (b *Bus) hostedNow() []uint16 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	partitions := make([]uint16, 0, len(b.hosted))
	for partition := range b.hosted {
		partitions = append(partitions, partition)
	}
	return partitions
}

// reach makes one barrier.
func (b *Bus) reach(token uint64) error {
	expected := b.heardNow()
	question := answer{node: b.id, token: token}.append(nil)
	if err := b.conn.PublishRequest(barrierSubject, b.answerSubject(), question); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	if err := b.conn.FlushTimeout(flushWait); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	b.collect(token, expected)
	return nil
}

// heardNow returns the nodes that are heard.
func (b *Bus) heardNow() map[nodeID]struct{} {
	b.mu.RLock()
	defer b.mu.RUnlock()
	nodes := make(map[nodeID]struct{}, len(b.links))
	for id := range b.links {
		nodes[id] = struct{}{}
	}
	return nodes
}

// collect waits for the answers of the expected nodes.
func (b *Bus) collect(token uint64, expected map[nodeID]struct{}) {
	limit := time.NewTimer(answerWait)
	defer limit.Stop()
	for len(expected) > 0 {
		select {
		case a := <-b.answers:
			if a.token == token {
				delete(expected, a.node)
			}
		case <-limit.C:
			b.forget(expected)
			return
		case <-b.done:
			return
		}
	}
}

// forget drops nodes that do not answer.
func (b *Bus) forget(nodes map[nodeID]struct{}) {
	for _, name := range b.dropLinks(nodes) {
		b.options.Logger.Warn("node does not answer on the bus", slog.String("peer", name))
	}
}

func (b *Bus) dropLinks(nodes map[nodeID]struct{}) (names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range nodes {
		if p, ok := b.links[id]; ok {
			names = append(names, p.name)
			delete(b.links, id)
		}
	}
	b.fellSilent(names)
	return names
}

// takeBarrier answers another node's question. It runs on a goroutine of the
// connection.
func (b *Bus) takeBarrier(msg *nats.Msg) {
	question, ok := decodeAnswer(msg.Data)
	if !ok || question.node == b.id || msg.Reply == "" {
		return
	}
	// A lost answer is a node that does not answer.
	_ = b.conn.Publish(msg.Reply, answer{node: b.id, token: question.token}.append(nil))
}

// takeAnswer runs on a goroutine of the connection.
func (b *Bus) takeAnswer(msg *nats.Msg) {
	if a, ok := decodeAnswer(msg.Data); ok {
		select {
		case b.answers <- a:
		case <-b.done:
		}
	}
}
