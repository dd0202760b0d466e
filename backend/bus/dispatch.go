package bus

import (
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"
)

// dispatcher calls the handler for its share of the partitions, one signal at a
// time. Its queues are bounded: what finds one full is dropped, and made up for by a
// call of Lost (see sweep).
type dispatcher struct {
	// Static.
	bus   *Bus
	queue chan *nats.Msg // filled by the connection, which never waits
	wake  chan struct{}  // something is in own or lost

	spare []Signal // owned by run

	mu   sync.Mutex
	own  []Signal            // of this node itself
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
			d.deliverOwn()
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
	if !d.bus.current(partition, msg.Sub) {
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
// server. It does not wait.
func (d *dispatcher) loop(s Signal) {
	d.mu.Lock()
	full := len(d.own) >= d.bus.options.Queue
	if full {
		d.lost[s.Partition] = struct{}{}
	} else {
		d.own = append(d.own, s)
	}
	first := full || len(d.own) == 1
	d.mu.Unlock()
	if first {
		poke(d.wake)
	}
}

func (d *dispatcher) deliverOwn() {
	own := d.takeOwn()
	for _, signal := range own {
		if d.bus.hosts(signal.Partition) {
			d.bus.counts.received.Add(1)
			d.bus.options.Handler(signal)
		}
	}
	clear(own)
	d.spare = own
}

// takeOwn returns what waits, and has the next gather where the last was.
func (d *dispatcher) takeOwn() []Signal {
	d.mu.Lock()
	defer d.mu.Unlock()
	own := d.own
	d.own, d.spare = d.spare[:0], nil
	return own
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
