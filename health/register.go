package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"
)

// Registration is how a node announces itself to Consul.
type Registration struct {
	// Service is the name of the pool that the node belongs to.
	Service string
	// Name of the node, stable over restarts.
	Name string
	// Addr is where it serves sessions, host:port, as fronts can reach it.
	Addr string
	// Admin is where it serves /readyz, host:port, as its agent can reach it.
	Admin string
	// Weight is its share relative to others; 1 when 0.
	Weight float64
	// Zone is where it is.
	Zone string
	// Capacity is the most sessions that it wants; 0 for no limit.
	Capacity int
	// Load, if set, is asked what the node says of itself: it goes into the meta,
	// whether the node drains at the next look (see Verify), how many sessions it has
	// at most every SessionsEvery.
	Load func() Load
	// SessionsEvery is 10 s when 0.
	SessionsEvery time.Duration
	// Tags and Meta are added as they are.
	Tags []string
	Meta map[string]string
	// CheckInterval lies between the agent's checks of /readyz; 5 s when 0.
	CheckInterval time.Duration
	// CheckTimeout is how long one may take; CheckInterval when 0.
	CheckTimeout time.Duration
	// DeregisterAfter is how long a node may be critical before Consul drops it; 30
	// minutes when 0, and a minute at least, as Consul wants it.
	DeregisterAfter time.Duration
	// Failing, if set, is told after each look why the agent could not be asked, or did not take
	// the registration; nil when all is well.
	Failing func(error)
	// Verify lies between looks whether the agent still has the registration; 2 s
	// when 0.
	Verify time.Duration
}

// Load is what changes of a node while it is registered.
type Load struct {
	Sessions int
	Draining bool
}

// Register keeps a node registered until ctx is done, and deregisters it then: it
// registers anew when the agent has lost it, as agents do when they restart, and
// goes on trying when the agent cannot be reached. It returns an error when the
// settings are wrong, or the node could not be deregistered.
func Register(ctx context.Context, agent ConsulAgent, r Registration, log *slog.Logger) error {
	service, err := r.service()
	if err != nil {
		return err
	}
	client, closeIdle, err := agent.client()
	if err != nil {
		return err
	}
	defer closeIdle()
	k := &keeper{agent: client.Agent(), token: agent.token, settings: r, service: service, log: log.With("service", r.Service, "node", r.Name)}
	k.keep(ctx, cmp.Or(r.Verify, 2*time.Second))
	return k.deregister(ctx)
}

// service translates the registration for Consul.
func (r Registration) service() (*api.AgentServiceRegistration, error) {
	if r.Service == "" || r.Name == "" {
		return nil, errors.New("register node: it needs a service and a name")
	}
	host, portText, err := net.SplitHostPort(r.Addr)
	if err != nil {
		return nil, fmt.Errorf("register node %s: address: %w", r.Name, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("register node %s: port: %w", r.Name, err)
	}
	interval := cmp.Or(r.CheckInterval, 5*time.Second)
	return &api.AgentServiceRegistration{
		ID:      r.Service + "-" + r.Name,
		Name:    r.Service,
		Address: host,
		Port:    int(port),
		Tags:    r.Tags,
		Meta:    r.meta(),
		Check: &api.AgentServiceCheck{
			CheckID:                        r.Service + "-" + r.Name + "-ready",
			Name:                           "ready to serve",
			HTTP:                           "http://" + r.Admin + "/readyz",
			Interval:                       interval.String(),
			Timeout:                        cmp.Or(r.CheckTimeout, interval).String(),
			DeregisterCriticalServiceAfter: max(cmp.Or(r.DeregisterAfter, 30*time.Minute), time.Minute).String(),
		},
	}, nil
}

// meta is what [Consul] reads back.
func (r Registration) meta() map[string]string {
	meta := maps.Clone(r.Meta)
	if meta == nil {
		meta = make(map[string]string)
	}
	meta["name"] = r.Name
	meta["admin"] = r.Admin
	meta["weight"] = strconv.FormatFloat(cmp.Or(r.Weight, 1), 'g', -1, 64)
	if r.Zone != "" {
		meta["zone"] = r.Zone
	}
	if r.Capacity > 0 {
		meta["capacity"] = strconv.Itoa(r.Capacity)
	}
	return meta
}

// keeper holds one registration.
type keeper struct {
	agent    *api.Agent
	token    func() string // as it is now
	settings Registration
	service  *api.AgentServiceRegistration
	log      *slog.Logger
	failing  bool
	load     Load      // that is registered
	at       time.Time // when it was
}

// stale tells whether the node says something else than what is registered.
func (k *keeper) stale(now Load) bool {
	return now.Draining != k.load.Draining ||
		now.Sessions != k.load.Sessions && time.Since(k.at) >= cmp.Or(k.settings.SessionsEvery, 10*time.Second)
}

// now asks the node for its load.
func (k *keeper) now() Load {
	if k.settings.Load == nil {
		return Load{}
	}
	return k.settings.Load()
}

// describe puts a load into what is registered.
func (k *keeper) describe(l Load) {
	if k.settings.Load == nil {
		return
	}
	meta := maps.Clone(k.service.Meta)
	meta[metaSessions], meta[metaDrain] = strconv.Itoa(l.Sessions), strconv.FormatBool(l.Draining)
	k.service.Meta = meta
}

// The keys of what changes in the meta.
const (
	metaSessions = "sessions"
	metaDrain    = "drain"
)

// keep registers, and looks every now and then whether that still holds.
func (k *keeper) keep(ctx context.Context, verify time.Duration) {
	pause := backoff{first: 100 * time.Millisecond, most: 5 * time.Second}
	for missing := true; ; {
		err := k.assure(ctx, missing)
		if ctx.Err() != nil {
			return
		}
		k.note(err)
		wait := jittered(verify)
		if err != nil {
			wait = pause.delay()
		} else {
			pause.reset()
			missing = false
		}
		if sleep(ctx, wait) != nil {
			return
		}
	}
}

// callTimeout bounds one call of the agent.
const callTimeout = 5 * time.Second

// assure registers the node if that is missing or the agent does not know it.
func (k *keeper) assure(ctx context.Context, missing bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	load := k.now()
	if !missing && !k.stale(load) {
		_, _, err := k.agent.Service(k.service.ID, (&api.QueryOptions{Token: k.token()}).WithContext(ctx))
		if err == nil {
			return nil
		}
		if !isNotFound(err) {
			return fmt.Errorf("look up registration: %w", err)
		}
		k.log.Warn("consul agent has lost the registration")
	}
	k.describe(load)
	options := api.ServiceRegisterOpts{ReplaceExistingChecks: true, Token: k.token()}.WithContext(ctx)
	if err := k.agent.ServiceRegisterOpts(k.service, options); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	level := slog.LevelDebug // the load is registered anew often
	if k.at.IsZero() || missing {
		level = slog.LevelInfo
	}
	k.load, k.at = load, time.Now()
	k.log.Log(ctx, level, "registered with consul", "id", k.service.ID, "addr", net.JoinHostPort(k.service.Address, strconv.Itoa(k.service.Port)))
	return nil
}

func isNotFound(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

// note logs when calls begin or cease to fail.
func (k *keeper) note(err error) {
	switch {
	case err != nil && !k.failing:
		k.log.Warn("consul agent does not answer; trying on", "error", err)
	case err == nil && k.failing:
		k.log.Info("consul agent answers again")
	}
	k.failing = err != nil
	if k.settings.Failing != nil {
		k.settings.Failing(err)
	}
}

// deregister ends the registration, although ctx is done.
func (k *keeper) deregister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	err := k.agent.ServiceDeregisterOpts(k.service.ID, (&api.QueryOptions{Token: k.token()}).WithContext(ctx))
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("deregister %s: %w", k.service.ID, err)
	}
	k.log.Info("deregistered from consul", "id", k.service.ID)
	return nil
}
