package chatload

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"imlb/backend/xmpp"
)

// writers is how many sessions fill an archive.
const writers = 8

// firstQueries are for the server to get warm, and do not count.
const firstQueries = 20

// runArchive is the workload: the first user's archive is filled, if that is wanted, and
// its last page is read again and again, as a client does that starts.
func runArchive(ctx context.Context, o Options) (*Result, error) {
	filled, err := preload(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("fill the archive: %w", err)
	}
	s, a, err := newGate(o).login(ctx, 0, o.tlsConfig())
	if err != nil {
		return nil, err
	}
	defer s.leave() //nolint:errcheck // all is said
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	r := &reader{stream: s, page: o.Page, timeout: o.Timeout}
	if o.Preload >= o.Page {
		r.want = o.Page
	}
	result, err := r.measure(o)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	result.Mechanism, result.Archive.Filled = a.mechanism, filled
	return result, nil
}

// preload has others write to the first user.
func preload(ctx context.Context, o Options) (int64, error) {
	if o.Preload == 0 {
		return 0, nil
	}
	o.Rate = 0
	e := newExchange(o)
	e.left.Store(int64(o.Preload))
	if err := e.start(ctx, newGate(o), min(len(o.Accounts), 1+writers)); err != nil {
		return 0, err
	}
	defer e.fleet.close()
	e.fill()
	left := func() int64 { return int64(o.Preload) - e.delivered.Load() - e.refused.Load() }
	if err := settled(ctx, o.Timeout, left); err != nil {
		return 0, fmt.Errorf("%w after %d messages", err, e.delivered.Load())
	}
	if n := e.refused.Load(); n > 0 {
		return 0, fmt.Errorf("%d messages were refused", n)
	}
	return e.delivered.Load(), nil
}

// reader reads pages of an archive.
type reader struct {
	*stream
	page    int
	want    int // entries on each; 0: as many as were on the first
	number  int
	timeout time.Duration

	results [][]byte // of the last page
	newest  []string // the ids of its messages
	changed int      // pages that were not like the one before
}

func (r *reader) measure(o Options) (*Result, error) {
	for range min(firstQueries, o.Queries) {
		if _, err := r.read(); err != nil {
			return nil, err
		}
	}
	r.look()
	r.changed = 0
	before, err := readUsage(o.PIDs)
	if err != nil {
		return nil, err
	}
	var latency Histogram
	var entries int64
	began := time.Now()
	for range o.Queries {
		asked := time.Now()
		n, err := r.read()
		if err != nil {
			return nil, err
		}
		latency.Record(time.Since(asked))
		r.look()
		entries += int64(n)
	}
	took := time.Since(began)
	after, err := readUsage(o.PIDs)
	return &Result{
		Workload: Archive, Sessions: 1, Seconds: took.Seconds(), Latency: newLatency(&latency),
		CPU:     after.since(before).counts(float64(o.Queries)),
		Archive: &ArchiveCounts{Queries: o.Queries, Page: o.Page, Entries: entries, Newest: r.newest, Changed: r.changed},
	}, err
}

// read asks for the last page (XEP-0313 §5.4, XEP-0059 §2.5) and returns how many entries came.
func (r *reader) read() (n int, err error) {
	r.number++
	r.results = r.results[:0]
	id := "page" + strconv.Itoa(r.number)
	r.by(r.timeout)
	query := "<iq type='set' id='" + id + "'><query xmlns='" + xmpp.NSMAM + "' queryid='" + id + "'><set xmlns='" + xmpp.NSRSM +
		"'><max>" + strconv.Itoa(r.page) + "</max><before/></set></query></iq>"
	if err := r.write([]byte(query)); err != nil {
		return 0, err
	}
	for {
		e, err := r.element()
		if err != nil {
			return n, err
		}
		switch e.Local() {
		case "message":
			if result, ok := e.Child(xmpp.NSMAM, "result"); ok {
				if of, _ := result.Attr("queryid"); of == id {
					n++
					r.results = append(r.results, bytes.Clone(e.Raw()))
				}
			}
		case "iq":
			if of, _ := e.Attr("id"); of == id {
				return n, r.check(e, n)
			}
			if err := r.reply(e); err != nil {
				return n, err
			}
		}
	}
}

// look notes what messages are on the page. It is not part of what is measured.
func (r *reader) look() {
	ids := make([]string, len(r.results))
	for i, raw := range r.results {
		ids[i] = archivedID(raw)
	}
	if !slices.Equal(ids, r.newest) {
		r.newest = ids
		r.changed++
	}
}

// archivedID returns the id of the message in a result, empty if there is none.
func archivedID(raw []byte) string {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return ""
	}
	for _, name := range [][2]string{{xmpp.NSMAM, "result"}, {xmpp.NSForward, "forwarded"}, {xmpp.NSClient, "message"}} {
		var ok bool
		if e, ok = e.Child(name[0], name[1]); !ok {
			return ""
		}
	}
	id, _ := e.Attr("id")
	return id
}

// reply answers what the server asks meanwhile.
func (r *reader) reply(e xmpp.Element) error {
	if kind, _ := e.Attr("type"); kind != "get" && kind != "set" {
		return nil
	}
	return r.write(answer(e.Raw()))
}

// check looks whether the page is what it has to be.
func (r *reader) check(answer xmpp.Element, n int) error {
	if err := stanzaError(answer); err != nil {
		return err
	}
	if _, ok := answer.Child(xmpp.NSMAM, "fin"); !ok {
		return fmt.Errorf("the answer to a query has no <fin/>")
	}
	if r.want == 0 {
		r.want = n
	}
	if n != r.want {
		return fmt.Errorf("a page has %d entries instead of %d", n, r.want)
	}
	return nil
}
