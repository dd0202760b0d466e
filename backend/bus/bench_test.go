package bus_test

import (
	"testing"

	"imlb/backend/bus"
)

// BenchmarkSignal is the way of a signal from one node to another.
func BenchmarkSignal(b *testing.B) {
	for _, nodes := range []struct {
		name  string
		apart bool
	}{{"same node", false}, {"other node", true}} {
		b.Run(nodes.name, func(b *testing.B) {
			from, to := benchNodes(b, nodes.apart)
			if err := to.Host(1); err != nil {
				b.Fatal(err)
			}
			s := entry(1, 0)
			s.Data = make([]byte, 400)
			b.ReportAllocs()
			for b.Loop() {
				if err := from.Publish(s); err != nil {
					b.Fatal(err)
				}
				<-to.heard
			}
		})
	}
}

// BenchmarkHost is what the first login of a partition waits for.
func BenchmarkHost(b *testing.B) {
	_, to := benchNodes(b, true)
	for b.Loop() {
		if err := to.Host(1); err != nil {
			b.Fatal(err)
		}
		to.Unhost(1)
	}
}

// BenchmarkPublish is what a sender pays.
func BenchmarkPublish(b *testing.B) {
	from, _ := benchNodes(b, false)
	s := entry(1, 0)
	s.Data = make([]byte, 400)
	b.ReportAllocs()
	for b.Loop() {
		if err := from.Publish(s); err != nil {
			b.Fatal(err)
		}
	}
}

func benchNodes(b *testing.B, apart bool) (from, to node) {
	b.Helper()
	a := benchNode(b, "a")
	if !apart {
		return a, a
	}
	c := benchNode(b, "b", a.ClusterAddr())
	eventually(b, "nodes hear each other", func() bool { return a.Nodes() == 1 && c.Nodes() == 1 })
	return a, c
}

func benchNode(b *testing.B, name string, routes ...string) node {
	b.Helper()
	o, n := options(name)
	o.Embedded = &bus.Embedded{Cluster: "127.0.0.1:0", Routes: routes}
	started, err := bus.Start(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(started.Close)
	n.Bus = started
	return n
}
