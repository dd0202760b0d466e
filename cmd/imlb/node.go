package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/backend"
	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
	"imlb/balancer"
	"imlb/configs"
)

// nodeCmd is `imlb node`.
type nodeCmd struct {
	Config        string `required:"" placeholder:"FILE" type:"path" help:"The node's configuration document; configs/node.example.yaml explains every key."`
	StopWithStdin bool   `hidden:"" help:"Stop when standard input closes."`
}

// Help is the long text of `imlb node --help`.
func (nodeCmd) Help() string {
	return `Runs a chat node until SIGINT or SIGTERM. Clients do not connect to it but to a front, which speaks PROXY v2 to it. On a
stop it leaves Consul, ends its sessions with the stream error system-shutdown, which makes clients log in elsewhere, and writes what it still
holds. A second signal ends it at once. It reads its document when it starts; SIGHUP changes nothing.`
}

// Run serves until ctx ends.
func (c *nodeCmd) Run(ctx context.Context) error {
	if c.StopWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = withStdin(ctx)
		defer cancel()
	}
	doc, err := configs.LoadNode(c.Config)
	if err != nil {
		return err
	}
	return runNode(ctx, doc)
}

// runNode opens the database and joins the bus, serves, and leaves in the
// opposite order. Operators are answered all the time.
func runNode(ctx context.Context, doc configs.Node) (err error) {
	log := newLogger(os.Stderr, doc.Log, slog.String("node", doc.Name))
	defer spareUserSignals(ctx, log)()
	// Service managers send it for a reload, and it would end the process.
	defer onHangup(func() {
		log.WarnContext(ctx, "SIGHUP changes nothing: a node reads its document when it starts, so restart it for another one")
	})()
	var operators startingHandler
	admin, err := startAdmin(ctx, doc.Admin.Address, &operators, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.stop()) }()
	db, err := awaitDatabase(ctx, doc, log)
	if err != nil {
		return untilStopped(ctx, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	// The bus hands signals to the node and the node hosts partitions on the
	// bus. Nothing is hosted before the node serves, so the bus is quiet until
	// the node is there.
	var node *backend.Node
	options, err := busOptions(doc, log)
	if err != nil {
		return err
	}
	options.Handler = func(s bus.Signal) { node.Signal(s) }
	options.Lost = func(partition uint16) { node.SignalsLost(partition) }
	signals, err := bus.Start(ctx, options)
	if err != nil {
		return fmt.Errorf("join the bus: %w", err)
	}
	defer signals.Close()

	checks, err := newLoginChecks(doc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, checks.close()) }()
	registry := newRegistry()
	node, err = newNode(doc, db, signals, checks, registry, log)
	if err != nil {
		return err
	}
	operators.started(node.AdminHandler())
	return untilStopped(ctx, serveNode(ctx, doc, node, signals, registry, log, admin.addr()))
}

// databasePause is how long a node waits before it looks again for a database that is away.
const databasePause = time.Second

// awaitDatabase opens the database, and makes sure that it is the node's, once it is there: who manages the services
// would give up a node that ends each time that it is started, and the database may be back later than that.
func awaitDatabase(ctx context.Context, doc configs.Node, log *slog.Logger) (db *store.DB, err error) {
	err = store.Await(ctx, log, databasePause, func() error {
		if db, err = store.Open(ctx, doc.Database.URL, store.Options{Logger: log}); err != nil {
			return fmt.Errorf("open the database: %w", err)
		}
		if err = claimDatabase(ctx, db, doc); err != nil {
			return errors.Join(err, db.Close())
		}
		return nil
	})
	return db, err
}

// untilStopped is an error, unless it is that the node was stopped while it waited for its database.
func untilStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}

// claimDatabase makes sure that the database is that of the nodes of the node's domain, and
// not in use by those of another cluster, which it would not hear.
func claimDatabase(ctx context.Context, db store.Store, doc configs.Node) error {
	cluster := doc.Cluster
	if len(doc.Bus.URLs) > 0 {
		cluster = "" // whoever uses these servers is heard
	}
	owner, err := db.Claim(ctx, doc.Domain, cluster)
	if err == nil {
		err = store.CheckDomain(owner.Domain, doc.Domain)
	}
	if err != nil || cluster == owner.Cluster {
		return err
	}
	live, err := db.LiveNodes(ctx)
	if err != nil {
		return err
	}
	return store.CheckCluster(owner.Cluster, cluster, live)
}

func busOptions(doc configs.Node, log *slog.Logger) (bus.Options, error) {
	o := bus.Options{Name: doc.Name, URLs: doc.Bus.URLs, Logger: log}
	if len(doc.Bus.URLs) > 0 {
		return o, nil
	}
	secret, err := configs.ReadSecret(doc.Bus.Cluster.SecretFile)
	if err != nil {
		return o, fmt.Errorf("secret of the bus: %w", err)
	}
	o.Embedded = &bus.Embedded{
		Cluster:     doc.Bus.Cluster.Listen,
		Advertise:   doc.Bus.Cluster.Advertise,
		ClusterName: doc.Cluster,
		Routes:      doc.Bus.Cluster.Routes,
		Secret:      secret,
	}
	return o, nil
}

func newNode(doc configs.Node, db store.Store, signals backend.Bus, checks loginChecks, registry *prometheus.Registry, log *slog.Logger) (*backend.Node, error) {
	secret, err := configs.ReadSecret(doc.SASL.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("secret of SASL: %w", err)
	}
	o := backend.Options{
		Name:            doc.Name,
		Domain:          doc.Domain,
		Store:           db,
		Bus:             signals,
		Partition:       balancer.Partition,
		TrustedFronts:   doc.TrustedFronts,
		Mechanisms:      mechanismNames(doc.SASL.Mechanisms),
		ScramIterations: doc.SASL.Iterations,
		Passwords:       checks.passwords,
		Tokens:          checks.tokens,
		Backoff:         loginBackoff(doc.SASL.Backoff),
		TokenLifetime:   doc.SASL.TokenLifetime,
		Limits: backend.Limits{
			Stanza:      xmpp.Limits{MaxBytes: int(doc.Limits.MaxStanza)},
			MaxSessions: doc.Limits.MaxSessions,
			PerUser:     doc.Limits.MaxSessionsPerUser,
			Unacked:     doc.Limits.MaxUnacknowledged,
			Directed:    doc.Limits.MaxDirected,
			QueueBytes:  int(doc.Limits.MaxQueue),
			Waiting:     doc.Limits.MaxWaiting,
			RosterItems: doc.Limits.MaxContacts,
			AuthTries:   doc.Limits.LoginAttempts,
			Rates:       clientRates(doc.Limits),

			Blocked:      doc.Limits.MaxBlocked,
			PrivateBytes: int(doc.Limits.MaxPrivate),
			VCardBytes:   int(doc.Limits.MaxVCard),
		},
		Contacts:     backend.Contacts(doc.Contacts),
		Registration: backend.Registration(doc.Registration),
		Timeouts: backend.Timeouts{
			Handshake: doc.Timeouts.Login,
			Write:     doc.Timeouts.Write,
			Lease:     doc.Timeouts.Lease,
			Resume:    resumeTime(doc.Timeouts.Resume),
			Shutdown:  doc.Timeouts.Shutdown,
		},
		Retention: backend.Retention{
			Age:     time.Duration(doc.Archive.KeepDays) * 24 * time.Hour,
			Entries: doc.Archive.KeepEntries,
		},
		Weight:     doc.Weight,
		Capacity:   doc.Limits.MaxSessions,
		Logger:     log,
		Registerer: registry,
	}
	if secret != "" {
		o.Secret = []byte(secret)
	}
	o.TokensMakeAccounts = doc.SASL.OAuth != nil && doc.SASL.OAuth.CreateAccounts
	return backend.New(o)
}

// resumeTime returns how long sessions may be resumed as the node takes it, for which
// zero would be the default.
func resumeTime(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// newRegistry holds a process's metrics, with those of Go and the process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	registerRuntimeMetrics(r)
	return r
}

// serveNode listens, registers and serves until ctx ends. The stop order is:
// leave Consul, so that fronts stop sending users; end the sessions; close.
func serveNode(ctx context.Context, doc configs.Node, node *backend.Node, signals *bus.Bus, registry *prometheus.Registry, log *slog.Logger, admin string) (err error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", doc.Listen)
	if err != nil {
		return fmt.Errorf("listen for fronts: %w", err)
	}
	unfollow, err := followRoutes(ctx, doc, signals, log)
	if err != nil {
		_ = ln.Close()
		return err
	}
	defer unfollow()
	registration := nodeRegistration(doc, node)
	if meetsByConsul(doc) {
		registration.Meta = map[string]string{busMeta: busAddress(doc, signals)}
	}
	leave := register(ctx, registration, doc.Consul, registrationGauge(registry), log)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		leave()
		stopServing()
	})
	var keeping sync.WaitGroup
	keeping.Go(func() {
		keepMemory(serving, func() int { sessions, _ := node.Load(); return sessions })
	})
	defer keeping.Wait()
	defer stopServing() // before it waits
	log.InfoContext(ctx, "serving", slog.String("listen", ln.Addr().String()), slog.String("admin", admin))
	return node.Serve(serving, ln)
}

// stopGrace is how long what is not a session may take to stop.
const stopGrace = 5 * time.Second
