package bus

import (
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"
)

// dispatcher calls the handler for its share of the partitions, one signal at a
// time. Its queue is bounded: what finds it full is dropped, and made up for by a call
// of Lost (see sweep).
type dispatcher struct {
	// Static.
	bus   *Bus
	queue chan *nats.Msg // filled by the connection and by this node, which never wait
	wake  chan struct{}  // something is in lost

	mu   sync.Mutex
	lost map[uint16]struct{} // partitions to be told of
}

func newDispatcher(b *Bus, queue int) *dispatcher {
	return &dispatcher{
		bus:   b,
		queue: make(chan *nats.Msg, queue),
		wake:  make(chan struct{}, 1),
		lost:  make(map[uint16]struct{}),
	}
}

// run ends with the bus.
func (d *dispatcher) run() {
	for {
		select {
		case msg := <-d.queue:
			d.deliver(msg)
		case <-d.wake:
			d.tellLost()
		case <-d.bus.done:
			return
		}
	}
}

func (d *dispatcher) deliver(msg *nats.Msg) {
	partition, err := subjectPartition(msg.Subject)
	if err != nil {
		d.refuse(msg, err)
		return
	}
	if own := msg.Sub == nil; own && !d.bus.hosts(partition) || !own && !d.bus.current(partition, msg.Sub) {
		return
	}
	signal, err := decodeSignal(partition, msg.Data)
	if err != nil {
		d.refuse(msg, err)
		return
	}
	d.bus.counts.received.Add(1)
	d.bus.options.Handler(signal)
}

// loop takes a signal of this node itself to its handler, without a way round by the
// servers, but in one line with what comes from there. It does not wait.
func (d *dispatcher) loop(partition uint16, msg *nats.Msg) {
	select {
	case d.queue <- msg:
	default:
		d.noteLost(partition)
	}
}

// refuse drops what cannot be understood: a node of another version, or somebody
// else on the same servers, has sent it.
func (d *dispatcher) refuse(msg *nats.Msg, err error) {
	d.bus.counts.refused.Add(1)
	d.bus.options.Logger.Debug("refuse a signal",
		slog.String("subject", msg.Subject), slog.Any("err", err))
}

// noteLost makes sure that Lost is called for a partition after this call.
func (d *dispatcher) noteLost(partition uint16) {
	d.mu.Lock()
	d.lost[partition] = struct{}{}
	d.mu.Unlock()
	poke(d.wake)
}

func (d *dispatcher) tellLost() {
	for partition := range d.takeLost() {
		if d.bus.hosts(partition) {
			d.bus.counts.lost.Add(1)
			d.bus.options.Lost(partition)
		}
	}
}

func (d *dispatcher) takeLost() map[uint16]struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost := d.lost
	d.lost = make(map[uint16]struct{})
	return lost
}
