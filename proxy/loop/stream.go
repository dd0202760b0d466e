package loop

import "io"

// Stream is what a session's bytes are read from and written to, over a Conn: a
// *tls.Conn after its handshake. Read returns the error of the Conn's Read when that
// is temporary, and nothing at all when what has come is not for the session; Write takes
// everything.
type Stream interface {
	io.ReadWriter
	// CloseWrite says to the peer that nothing follows.
	CloseWrite() error
}

// Meter is a Stream that may bring nothing for the session of much that it reads: a WebSocket.
type Meter interface {
	Stream
	// Extra returns how many bytes it has read that are none of the session. They count for the
	// limits, and for how long the session may keep the loop. It is called after Read.
	Extra() int64
}

// Parter is a Stream that has no half-close, and words for how a session ends: a
// WebSocket. When Read returns io.EOF, both its directions have ended. CloseWrite is called
// then.
type Parter interface {
	Stream
	// Part says that the session ends, and how. The peer is read up to its answer. Part is
	// called when the other side has ended, and when the session has, unless the peer was
	// first. It tells whether the peer knows; if not, the connection ends as it does without.
	Part(e Ending) bool
}

// End is one end of a session.
type End struct {
	Conn   *Conn
	Stream Stream // nil for the bytes of Conn as they are
}

// read reads from a side. Of a stream it takes as many records as there are room
// for, so that they are written at once. extra is how much of what it read is not the
// session's, and takes room, too. Records may hold next to nothing, or ask for answers: of what
// carries them no more is read at a time than there is room for, and nothing as long as the peer does
// not take what it was answered.
func (r *Relay) read(from Side, p []byte) (sum, extra int, err error) {
	end := &r.ends[from]
	if end.Stream == nil {
		sum, err = end.Conn.Read(p)
		return sum, 0, err
	}
	meter, _ := end.Stream.(Meter)
	came, waits := end.Conn.came, end.Conn.out.len
	for err == nil && sum+extra < len(p) && int(end.Conn.came-came) < len(p) {
		var n int
		n, err = end.Stream.Read(p[sum:])
		sum += n
		if meter != nil {
			extra += r.dirs[from].more(meter)
		}
		if n == 0 {
			break
		}
	}
	r.dirs[from].owes = end.Conn.out.len > waits
	return sum, extra, err
}

// owes tells whether a side has yet to take what its stream has answered when it was read: that
// TLS has other keys (RFC 8446 §4.6.3), or a pong.
func (r *Relay) owes(side Side) bool { return r.dirs[side].owes && r.ends[side].Conn.out.len > 0 }

// more returns what a meter has counted since it was last asked.
func (d *direction) more(m Meter) int {
	all := m.Extra()
	n := all - d.extra
	d.extra = all
	return int(n)
}

// write sends bytes to a side, unless it has parted.
func (r *Relay) write(to Side, p []byte) error {
	end := &r.ends[to]
	if r.dirs[to].parted {
		return nil
	}
	if end.Stream == nil {
		_, err := end.Conn.Write(p)
		return err
	}
	end.Conn.cork()
	_, err := end.Stream.Write(p)
	end.Conn.uncork()
	if err == nil {
		err = end.Conn.writeErr // of what was gathered
	}
	return err
}
