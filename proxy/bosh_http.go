package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"imlb/proxy/bosh"
)

// boshUse is what a connection of HTTP has to do with BOSH. Requests are served one by one,
// and may be of different sessions.
type boshUse struct {
	ctx    context.Context //nolint:containedctx // of the connection's session
	owner  *session
	last   atomic.Pointer[boshSession] // of which a request came last
	member chan struct{}               // closed when there was one of a session that had logged in
	joined sync.Once
	until  atomic.Int64 // nanoseconds of Unix: the connection has a reason to be there

	mu      sync.Mutex
	over    bool
	serving sync.WaitGroup
}

// enter begins to serve a request, unless the connection is over.
func (u *boshUse) enter() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.over {
		u.serving.Add(1)
	}
	return !u.over
}

// leave waits until none is served, when the connection is closed.
func (u *boshUse) leave() {
	u.mu.Lock()
	u.over = true
	u.mu.Unlock()
	u.serving.Wait()
}

// reprieve is for how long the connection has a reason to be there, beyond that of every
// other: a request of a session is served, or was just now.
func (u *boshUse) reprieve() time.Duration {
	return time.Until(time.Unix(0, u.until.Load()))
}

// use notes that a request of a session is served until then.
func (u *boshUse) use(s *boshSession, until time.Time) {
	u.last.Store(s)
	u.until.Store(until.UnixNano())
	if s.placed.Load() {
		u.joined.Do(func() { close(u.member) })
	}
}

// farewell has the last session say good-bye, because the front stops.
func (u *boshUse) farewell(server *http.Server, closed <-chan struct{}) {
	s := u.last.Load()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), lingerTime)
	defer cancel()
	select {
	case <-s.done:
	case <-closed:
	case <-ctx.Done():
	}
	_ = server.Shutdown(ctx) // when the answer is written
}

// binds tells whether BOSH is at a path.
func (c *httpConn) binds(path string) bool {
	return c.listener.BOSH != nil && c.listener.BOSH.Path == path && !c.use.owner.check
}

// serveBOSH answers a request at the address of BOSH. Pages of any origin may make one, as
// they may open a WebSocket: see accept.
func (c *httpConn) serveBOSH(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	switch r.Method {
	case http.MethodPost:
		if c.use.enter() {
			defer c.use.serving.Done()
			c.bind(w, r)
		}
	case http.MethodOptions: // whether a page may do it
		h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Content-Type")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
	default:
		h.Set("Allow", "POST, OPTIONS")
		http.Error(w, "This is the address of BOSH (XEP-0124). Open it with a client of XMPP.", http.StatusMethodNotAllowed)
	}
}

// bind has a request be answered by its session, which it may begin.
func (c *httpConn) bind(w http.ResponseWriter, r *http.Request) {
	in, err := c.readBOSH(r)
	if in.session == nil && err == nil && (in.request.SID != "" || in.request.Terminate) {
		err = &bosh.Error{Condition: bosh.ItemNotFound}
	}
	var answer <-chan []byte
	what := (*bosh.Error)(nil)
	switch errors.As(err, &what); {
	case in.session != nil && (err == nil || what != nil):
		answer = in.session.conn.receive(in.request, in.size, what)
	case err == nil:
		in.session, answer, err = c.use.owner.beginBOSH(c.use.ctx, in.request)
		errors.As(err, &what)
	}
	switch {
	case answer != nil:
		c.await(w, r, in, answer)
	case what != nil:
		c.tell(w, bosh.ContentType, bosh.Terminal(what.Condition))
	}
}

// incoming is a request that has come.
type incoming struct {
	request *bosh.Request
	session *boshSession // nil when it names none
	size    int
}

// readBOSH reads a request. The error is a *bosh.Error, or one of the connection. Its start tag
// comes first and says whose it is, and so how long all of it may be.
func (c *httpConn) readBOSH(r *http.Request) (in incoming, err error) {
	buf := make([]byte, 0, bosh.MaxTag)
	for more := true; more; {
		if len(buf) == cap(buf) {
			return in, &bosh.Error{Condition: bosh.BadRequest, Text: "the start tag is too long"}
		}
		n, readErr := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if in.request, more, err = bosh.ParseTag(buf); more && readErr != nil {
			return in, tooShort(readErr, err)
		}
	}
	limit := c.owner().terms.Limits.MaxPreAuth + bosh.MaxTag
	if in.request != nil && in.request.SID != "" {
		in.session = c.owner().srv.bosh.get(in.request.SID, c.owner().ln)
	}
	if in.session != nil {
		limit = in.session.conn.limit()
	}
	if err != nil {
		return in, err
	}
	rest, err := io.ReadAll(io.LimitReader(r.Body, int64(limit-len(buf)+1)))
	buf = append(buf, rest...)
	switch in.size = len(buf); {
	case err != nil:
		return in, err
	case in.size > limit:
		return in, &bosh.Error{Condition: bosh.PolicyViolation, Text: "the request is too long"}
	case r.Header.Get("Content-Encoding") != "":
		return in, &bosh.Error{Condition: bosh.BadRequest, Text: "the request is encoded"}
	}
	head := in.request
	if in.request, err = bosh.Parse(buf, limit); in.request == nil {
		in.request = head
	}
	return in, err
}

// tooShort says why there is no start tag.
func tooShort(readErr, err error) error {
	if errors.Is(readErr, io.EOF) {
		return err
	}
	return readErr
}

func (c *httpConn) owner() *session { return c.use.owner }

// forever is when a request was answered of which nobody knows when that will be.
//
//nolint:gochecknoglobals // a constant in all but syntax
var forever = time.Unix(1<<33, 0)

// await waits for the answer to a request, for which the limits of the HTTP server do not
// hold, and gives it to the client.
func (c *httpConn) await(w http.ResponseWriter, r *http.Request, in incoming, answer <-chan []byte) {
	t := c.owner().terms.Timeouts
	c.use.use(in.session, forever)
	defer func() { c.use.use(in.session, time.Now().Add(t.Handshake)) }()
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // or it is closed, and seen
	select {
	case body := <-answer:
		c.tell(w, in.session.contentType(), body)
		return
	case <-r.Context().Done():
	}
	if c.use.ctx.Err() != nil { // which ends what is read, and so the request's context
		select {
		case body := <-answer: // there is one at the session's end
			c.tell(w, in.session.contentType(), body)
			return
		case <-c.closed:
		}
	}
	in.session.conn.gone(in.request)
}

func (b *boshSession) contentType() string { return b.conn.session.ContentType() }

// tell writes an answer.
func (c *httpConn) tell(w http.ResponseWriter, kind string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(c.owner().terms.Timeouts.Write))
	_, _ = w.Write(body) // the client may have gone
}
