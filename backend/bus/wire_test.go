package bus_test

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/backend/bus"
)

func FuzzDecodeSignal(f *testing.F) {
	f.Add(uint16(0), []byte{})
	f.Add(uint16(7), bus.AppendSignal(nil, entry(7, 1<<40)))
	f.Add(uint16(7), bus.AppendSignal(nil, bus.Signal{Kind: bus.Control, User: "a@b", Target: "c"}))
	f.Add(uint16(7), []byte{1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, partition uint16, p []byte) {
		s, err := bus.DecodeSignal(partition, p)
		if err != nil {
			return
		}
		again, err := bus.DecodeSignal(partition, bus.AppendSignal(nil, s))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.Data, again.Data) || s.User != again.User || s.Target != again.Target ||
			s.Seq != again.Seq || s.Kind != again.Kind || s.Partition != again.Partition {
			t.Fatalf("%v became %v", s, again)
		}
	})
}

func FuzzSubject(f *testing.F) {
	f.Add(uint16(0), "alice@example.com")
	f.Add(uint16(65535), "a.*.>..=\x00ü ")
	f.Fuzz(func(t *testing.T, partition uint16, user string) {
		if user == "" {
			return
		}
		subject := bus.SignalSubject(partition, user)
		if len(subject) > 300 || strings.Count(subject, ".") != 2 || strings.ContainsAny(subject, "*> \t\r\n\x00") {
			t.Fatalf("subject %q", subject)
		}
		if got, err := bus.SubjectPartition(subject); err != nil || got != partition {
			t.Fatalf("partition %d, %v", got, err)
		}
	})
}

func FuzzDecodeBeat(f *testing.F) {
	f.Add([]byte("0123456789abcdefname"))
	f.Fuzz(func(_ *testing.T, p []byte) { _, _ = bus.DecodeBeat(p) })
}

func TestSubjectPartitionRefuses(t *testing.T) {
	for _, subject := range []string{"", "u", "u.", "u.1", "u.x.y", "u.65536.y", "u.-1.y", "n.1.y"} {
		if p, err := bus.SubjectPartition(subject); err == nil {
			t.Errorf("%q: partition %d", subject, p)
		}
	}
}

func TestLinks(t *testing.T) {
	start := time.Unix(0, 0)
	l := bus.NewLinkTest()
	for i, step := range []struct {
		node, seq uint64
		after     time.Duration
		want      string
	}{
		{1, 1, 0, "new"},
		{1, 2, 1 * time.Second, "good"},
		{2, 9, 1 * time.Second, "new"},
		{1, 4, 2 * time.Second, "broke"},
		{1, 5, 3 * time.Second, "good"},
		{1, 0, 4 * time.Second, "good"}, // goodbye
		{1, 6, 5 * time.Second, "new"},
	} {
		if got := l.Hear(step.node, step.seq, start.Add(step.after)); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
	if n := l.Expire(start.Add(4 * time.Second)); n != 0 {
		t.Errorf("forgot %d too early", n)
	}
	if n := l.Expire(start.Add(5 * time.Second)); n != 1 {
		t.Errorf("forgot %d, want the silent one", n)
	}
}

// wire carries TCP connections to an address, and can be cut.
type wire struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu      sync.Mutex
	conns   []net.Conn
	stalled chan struct{} // closed by resume; nil: nothing is held up
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, target: target}
	w.running.Go(w.accept)
	t.Cleanup(func() {
		w.listener.Close()
		w.resume()
		w.cut()
		w.running.Wait()
	})
	return w
}

func (w *wire) addr() string { return w.listener.Addr().String() }

func (w *wire) accept() {
	for {
		from, err := w.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", w.target)
		if err != nil {
			from.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, from, to)
		w.mu.Unlock()
		w.running.Go(func() { w.carry(to, from) })
		w.running.Go(func() { w.carry(from, to) })
	}
}

func (w *wire) carry(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		w.wait()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// stall holds everything up, as a network does that goes without a word.
func (w *wire) stall() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stalled == nil {
		w.stalled = make(chan struct{})
	}
}

func (w *wire) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stalled != nil {
		close(w.stalled)
		w.stalled = nil
	}
}

func (w *wire) wait() {
	w.mu.Lock()
	stalled := w.stalled
	w.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		conn.Close()
	}
	w.conns = nil
}
