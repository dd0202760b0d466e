package bus_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"imlb/backend/bus"
)

// reader is a node as it uses the bus: it keeps up with numbers that go up in a
// database, by signals, and by reading when it was told of a loss.
type reader struct {
	db *database

	mu   sync.Mutex
	seen map[uint16]uint64
}

// database holds the last number of each partition's only user.
type database struct {
	mu   sync.Mutex
	head map[uint16]uint64
}

func (d *database) add(partition uint16) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.head[partition]++
	return d.head[partition]
}

func (d *database) read(partition uint16) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.head[partition]
}

func (r *reader) learn(partition uint16, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[partition] = max(r.seen[partition], seq)
}

func (r *reader) behind(partitions uint16) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range partitions {
		if head := r.db.read(p); r.seen[p] < head {
			return fmt.Sprintf("partition %d: seen %d of %d", p, r.seen[p], head)
		}
	}
	return ""
}

// Whatever breaks between two nodes, and however briefly: what was written while it was
// broken is learned soon after, without another signal for it.
func TestNothingStaysUnknown(t *testing.T) {
	const partitions, rounds = 20, 12
	r := &reader{db: &database{head: map[uint16]uint64{}}, seen: map[uint16]uint64{}}
	a := start(t, "a", func(o *bus.Options) {
		o.Embedded.Cluster = "127.0.0.1:0"
		o.Queue = 64
		o.Handler = func(s bus.Signal) { r.learn(s.Partition, s.Seq) }
		o.Lost = func(p uint16) { r.learn(p, r.db.read(p)) }
	})
	wire := newWire(t, a.ClusterAddr())
	b := start(t, "b", func(o *bus.Options) {
		o.Embedded.Cluster = "127.0.0.1:0"
		o.Embedded.Advertise = wire.addr() // not reached from a
		o.Embedded.Routes = []string{wire.addr()}
	})
	together(t, a, b)
	for p := range uint16(partitions) {
		host(t, a, p)
	}
	breakages := []func() error{
		func() error { wire.cut(); return nil },
		a.CutConnection,
		b.CutConnection,
		func() error { wire.stall(); return nil },
	}
	for round := range rounds {
		stop := make(chan struct{})
		var writer sync.WaitGroup
		writer.Go(func() { write(b, r.db, partitions, stop) })
		pause := time.NewTimer(time.Duration(rand.IntN(200)) * time.Millisecond)
		<-pause.C
		if err := breakages[round%len(breakages)](); err != nil {
			t.Fatal(err)
		}
		pause.Reset(time.Duration(rand.IntN(200)) * time.Millisecond)
		<-pause.C
		close(stop)
		writer.Wait()
		wire.resume()
		eventually(t, "all is known", func() bool { return r.behind(partitions) == "" })
	}
}

// write goes on until stop, mostly in bursts.
func write(n node, db *database, partitions uint16, stop chan struct{}) {
	for {
		p := uint16(rand.UintN(uint(partitions)))
		// What is not sent while there is no connection is found by reading.
		_ = n.Publish(entry(p, db.add(p)))
		if rand.IntN(50) > 0 {
			continue
		}
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
	}
}
