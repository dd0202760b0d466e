package chatload

import "imlb/backend/xmpp"

// askEvery is after how many stanzas the server is asked what it has.
const askEvery = 64

// batchSize is from what size on messages that are due are written.
const batchSize = 32 << 10

// push hands stanzas, or anything else if that is 0, to the writer.
func (s *session) push(raw []byte, stanzas uint32) {
	s.mu.Lock()
	s.raw = append(s.raw, raw...)
	s.stanzas += stanzas
	s.mu.Unlock()
	s.poke()
}

// due hands a message to the writer that is due at a time, of which compose knows the
// meaning.
func (s *session) due(at int64) {
	s.mu.Lock()
	s.dues = append(s.dues, at)
	s.mu.Unlock()
	s.poke()
}

// finish has the writer end the stream behind what waits.
func (s *session) finish() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.poke()
}

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// waiting returns how many messages are due and not sent.
func (s *session) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dues)
}

// outgoing is what a writer has taken to write. Its memory is used again and again.
type outgoing struct {
	batch, raw []byte
	dues       []int64
}

// writing writes what it is handed until the session is finished or gone.
func (s *session) writing(gone <-chan struct{}) error {
	var o outgoing
	for {
		select {
		case <-s.wake:
		case <-gone:
			return nil
		}
		if closing, err := s.flush(&o); closing || err != nil {
			return err
		}
	}
}

// flush writes all that waits.
func (s *session) flush(o *outgoing) (closing bool, err error) {
	s.mu.Lock()
	o.dues, s.dues = s.dues, o.dues[:0]
	o.raw, s.raw = s.raw, o.raw[:0]
	stanzas, closing := s.stanzas, s.closing
	s.stanzas = 0
	s.mu.Unlock()

	s.out.Add(stanzas)
	o.batch = append(o.batch[:0], o.raw...)
	for _, due := range o.dues {
		o.batch = s.ask(s.handler.compose(s, o.batch, due))
		if len(o.batch) < batchSize {
			continue
		}
		if err := s.write(o.batch); err != nil {
			return closing, err
		}
		o.batch = o.batch[:0]
	}
	if closing {
		o.batch = append(o.batch, xmpp.StreamEnd...)
	}
	if len(o.batch) == 0 {
		return closing, nil
	}
	return closing, s.write(o.batch)
}

const smRequest = "<r xmlns='" + xmpp.NSSM + "'/>"

// ask appends a request for the server's count, if it is time.
func (s *session) ask(batch []byte) []byte {
	if out := s.out.Load(); s.managed && out-s.asked >= askEvery {
		s.asked = out
		batch = append(batch, smRequest...)
	}
	return batch
}
