package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"
)

// ConsulAgent says how to reach a Consul agent. What is left empty is taken from
// the environment, as Consul's own tools do (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN …).
type ConsulAgent struct {
	Address    string // host:port, https://host:port or unix:///path
	Token      string // ACL token
	TokenFile  string // file that holds the ACL token; it is read each time that the agent is asked
	Datacenter string
	CAFile     string // verifies the agent's certificate
	CertFile   string // our certificate, with KeyFile
	KeyFile    string
	ServerName string // in the agent's certificate; empty: the host of Address
}

// client returns a client, and what frees its connections.
func (a ConsulAgent) client() (client *api.Client, closeIdle func(), err error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: callTimeout}
	client, err = api.NewClient(&api.Config{
		Address:    a.Address,
		Token:      a.Token,
		TokenFile:  a.TokenFile,
		Datacenter: a.Datacenter,
		Transport:  transport,
		TLSConfig:  api.TLSConfig{Address: a.ServerName, CAFile: a.CAFile, CertFile: a.CertFile, KeyFile: a.KeyFile},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("prepare consul client for %s: %w", a.Address, err)
	}
	return client, transport.CloseIdleConnections, nil
}

// token returns the ACL token as its file has it now; empty: the one that the client was made
// with. Tokens that expire are replaced there by who hands them out.
func (a ConsulAgent) token() string {
	if a.TokenFile == "" {
		return ""
	}
	token, err := os.ReadFile(a.TokenFile)
	if err != nil { // the agent says whether the one from before still is good
		return ""
	}
	return strings.TrimSpace(string(token))
}

// ConsulOptions are the settings of a [Consul] source.
type ConsulOptions struct {
	Agent   ConsulAgent
	Service string
	Tag     string // only instances with this tag, if set
	// Wait is how long a query may wait for a change; one minute when 0.
	Wait time.Duration
	// Hold is how long a node keeps its place when Consul has become doubtful; five
	// minutes when 0. See the package documentation.
	Hold time.Duration
	// Rate and Burst bound the queries per second; 4 and 8 when 0.
	Rate  float64
	Burst int
	// Cache is a file in which the last known nodes are kept, for a start while
	// Consul does not answer; its directory is made when it is not there. Without it
	// nothing is kept.
	Cache string
	// MaxBackoff is the longest wait after a failure; ten seconds when 0.
	MaxBackoff time.Duration
	Logger     *slog.Logger
}

// Consul is the source of the instances of one Consul service. It holds one
// blocking query.
//
// An instance's name is its meta "name", else its service id. From its meta come
// "admin" (host:port), "weight" (else Consul's own weight), "zone", "capacity" and
// "drain" (true or false). An instance in maintenance drains.
type Consul struct {
	options   ConsulOptions
	client    *api.Client
	closeIdle func() // connections of client
	limiter   *rate.Limiter

	mu     sync.Mutex
	status SourceStatus
}

// NewConsul returns a source. It does not talk to the agent yet.
func NewConsul(o ConsulOptions) (*Consul, error) {
	if o.Service == "" {
		return nil, errors.New("consul source: no service is named")
	}
	o.Wait = cmp.Or(o.Wait, time.Minute)
	o.Hold = cmp.Or(o.Hold, 5*time.Minute)
	o.Rate = cmp.Or(o.Rate, 4)
	o.Burst = cmp.Or(o.Burst, 8)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	client, closeIdle, err := o.Agent.client()
	if err != nil {
		return nil, err
	}
	limiter := rate.NewLimiter(rate.Limit(o.Rate), o.Burst)
	return &Consul{options: o, client: client, closeIdle: closeIdle, limiter: limiter}, nil
}

// Status implements [Source].
func (c *Consul) Status() SourceStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// answer is the outcome of one query.
type answer struct {
	endpoints []Endpoint
	lag       time.Duration
	restarted bool // the index went backwards: Consul has lost state
	err       error
}

// Run implements [Source]. It never fails.
func (c *Consul) Run(ctx context.Context, publish func([]Endpoint)) error {
	defer c.closeIdle()
	answers := make(chan answer)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { c.watch(ctx, answers) })

	believed := newMemory(c.options.Hold)
	changes := changes{publish: publish}
	store := c.cache()
	c.recall(believed, store)
	changes.offer(believed.endpoints(), false)
	expiry := time.NewTimer(c.options.Hold)
	defer expiry.Stop()
	for {
		select {
		case a := <-answers:
			c.record(a)
			c.weigh(believed, a)
			news := changes.offer(believed.endpoints(), a.err == nil)
			if a.err == nil {
				c.keep(store, believed.endpoints(), news)
			}
		case <-expiry.C:
			believed.expire(time.Now())
			changes.offer(believed.endpoints(), false)
		case <-ctx.Done():
			return nil
		}
		if next := believed.next(); !next.IsZero() {
			expiry.Reset(time.Until(next))
		}
	}
}

func (c *Consul) cache() *cache {
	return &cache{path: c.options.Cache, service: c.options.Service, tag: c.options.Tag}
}

// recall begins with the nodes that were known before the process started. They
// are in doubt until Consul has spoken of them.
func (c *Consul) recall(believed *memory, store *cache) {
	nodes, saved, err := store.load()
	log := c.options.Logger.With("service", c.options.Service)
	if err != nil {
		log.Error("the nodes that were known before the start are lost; waiting for consul", "error", err)
		return
	}
	if len(nodes) == 0 {
		return
	}
	now := time.Now()
	believed.learn(now, nodes)
	believed.distrust(now)
	c.mu.Lock()
	c.status.Answered, c.status.Cached = saved, true
	c.mu.Unlock()
	log.Info("starting with the nodes that were known before", "nodes", len(nodes), "age", now.Sub(saved).Round(time.Second))
}

// keep writes the nodes to the cache, and logs when that begins or ceases to fail.
func (c *Consul) keep(store *cache, nodes []Endpoint, news bool) {
	err := store.save(time.Now(), nodes, news)
	c.mu.Lock()
	before := c.status.CacheFailing
	c.status.CacheFailing = err
	c.mu.Unlock()
	if err != nil && before == nil {
		c.options.Logger.Error("nodes are not kept for the next start", "service", c.options.Service, "error", err)
	}
}

// changes publishes lists that differ from the one before.
type changes struct {
	publish func([]Endpoint)
	last    []Endpoint
	begun   bool
}

// offer publishes a changed list, and the first one that is known to be true
// even if it is empty. It says whether it did.
func (c *changes) offer(list []Endpoint, known bool) bool {
	if slices.EqualFunc(list, c.last, Endpoint.Equal) && (c.begun || !known) {
		return false
	}
	c.begun, c.last = true, list
	c.publish(slices.Clone(list))
	return true
}

// weigh takes an answer for what it is worth.
func (c *Consul) weigh(believed *memory, a answer) {
	now := time.Now()
	if a.err != nil || a.restarted {
		believed.distrust(now)
	}
	if a.err == nil {
		believed.learn(now, a.endpoints)
	}
}

// note counts an answer.
func (s *SourceStatus) note(a answer, now time.Time) {
	s.Queries++
	if a.restarted {
		s.IndexResets++
	}
	s.Failing = a.err
	if a.err != nil {
		s.Failures++
		s.QueriesFailed++
		return
	}
	s.Answered, s.Lag, s.Failures, s.Cached = now, a.lag, 0, false
}

// Look asks once which instances there are, and remembers nothing of it.
func (c *Consul) Look(ctx context.Context) ([]Endpoint, error) {
	defer c.closeIdle()
	a, _ := c.query(ctx, 0)
	return a.endpoints, a.err
}

// record keeps the status, and logs when it turns.
func (c *Consul) record(a answer) {
	c.mu.Lock()
	before := c.status
	c.status.note(a, time.Now())
	c.mu.Unlock()

	log := c.options.Logger.With("service", c.options.Service)
	switch {
	case a.err != nil && before.Failing == nil:
		log.Warn("consul does not answer; going on with the nodes that are known", "error", a.err)
	case a.err == nil && before.Failing != nil:
		log.Info("consul answers again", "failures", before.Failures)
	}
	if a.restarted {
		log.Warn("consul has lost its state; nodes keep their places until they are seen again")
	}
}

// watch queries until ctx is done.
func (c *Consul) watch(ctx context.Context, answers chan<- answer) {
	pause := backoff{first: 100 * time.Millisecond, most: c.options.MaxBackoff}
	var index uint64
	for c.limiter.Wait(ctx) == nil {
		a, next := c.query(ctx, index)
		if ctx.Err() != nil {
			return
		}
		// Index rules: never below 1, and back to 0 when it goes backwards (and
		// after a failure, to learn the state at once).
		next = max(next, 1)
		a.restarted = a.err == nil && next < index
		index = next
		if a.err != nil || a.restarted {
			index = 0
		}
		select {
		case answers <- a:
		case <-ctx.Done():
			return
		}
		if a.err == nil {
			pause.reset()
		} else if sleep(ctx, pause.delay()) != nil {
			return
		}
	}
}

// query asks once. With an index it waits for a change since.
func (c *Consul) query(ctx context.Context, index uint64) (answer, uint64) {
	// The server adds up to a sixteenth to the wait.
	ctx, cancel := context.WithTimeout(ctx, c.options.Wait+c.options.Wait/16+10*time.Second)
	defer cancel()
	options := (&api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: c.options.Wait, Token: c.options.Agent.token()}).WithContext(ctx)
	entries, meta, err := c.client.Health().Service(c.options.Service, c.options.Tag, false, options)
	if err == nil && len(entries) == 0 && (meta.ResultsFilteredByACLs || index > 0 && c.filtered(ctx)) {
		err = errors.New("the ACL token may not see the instances that are there; let it read the service, and all nodes")
	}
	if err != nil {
		return answer{err: fmt.Errorf("query consul for service %s: %w", c.options.Service, err)}, 0
	}
	endpoints := make([]Endpoint, 0, len(entries))
	for _, entry := range entries {
		endpoints = append(endpoints, endpoint(entry))
	}
	return answer{endpoints: oneOfEach(endpoints), lag: meta.LastContact}, meta.LastIndex
}

// filtered asks whether there are instances that the ACL token may not see. A query that waits
// for a change is answered by what streams to the agent, in which nothing is said of them.
func (c *Consul) filtered(ctx context.Context) bool {
	options := (&api.QueryOptions{AllowStale: true, Token: c.options.Agent.token()}).WithContext(ctx)
	entries, meta, err := c.client.Health().Service(c.options.Service, c.options.Tag, false, options)
	return err == nil && len(entries) == 0 && meta.ResultsFilteredByACLs
}

// endpoint translates an instance. A number in the meta that cannot be read counts
// as absent.
func endpoint(entry *api.ServiceEntry) Endpoint {
	service, status := entry.Service, entry.Checks.AggregatedStatus()
	host := service.Address
	if host == "" && entry.Node != nil {
		host = entry.Node.Address
	}
	draining, _ := strconv.ParseBool(service.Meta[metaDrain])
	capacity, _ := strconv.Atoi(service.Meta["capacity"])
	return Endpoint{
		Name:     cmp.Or(service.Meta["name"], service.ID),
		Addr:     net.JoinHostPort(host, strconv.Itoa(service.Port)),
		Admin:    service.Meta["admin"],
		Weight:   instanceWeight(service),
		Zone:     service.Meta["zone"],
		Capacity: capacity,
		Draining: draining || status == api.HealthMaint,
		Healthy:  status != api.HealthCritical,
		Meta:     stableMeta(service.Meta),
	}
}

// stableMeta is the meta without what changes all the time, of which the node itself
// is asked: an instance is not another one because it has one session more.
func stableMeta(meta map[string]string) map[string]string {
	stable := maps.Clone(meta)
	delete(stable, metaSessions)
	return stable
}

func instanceWeight(service *api.AgentService) float64 {
	if w, err := strconv.ParseFloat(service.Meta["weight"], 64); err == nil && !math.IsNaN(w) && !math.IsInf(w, 0) {
		return w
	}
	if service.Weights.Passing > 0 {
		return float64(service.Weights.Passing)
	}
	return 1
}
