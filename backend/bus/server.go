package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	serverUser = "imlb"
	anyPort    = server.RANDOM_PORT

	// routePing finds a server that went without a word: its route is
	// given up after routePingsOut intervals.
	routePing     = time.Second
	routePingsOut = 2

	// startWait is how long an embedded server may take to listen.
	startWait = 10 * time.Second
)

// serverOptions is the whole configuration of an embedded server. It is kept
// plain, because the server treats what it cannot do as fatal.
func serverOptions(name string, e Embedded) (*server.Options, error) {
	o := &server.Options{
		ServerName:      name,
		NoSigs:          true,
		NoSystemAccount: true,
		MaxPayload:      maxPayload,
	}
	if err := clientOptions(o, e); err != nil {
		return nil, err
	}
	if err := clusterOptions(o, e); err != nil {
		return nil, err
	}
	return o, nil
}

// clientOptions has the server listen for clients in any case: without that,
// it would never begin to listen for other servers. Where no listener was
// asked for, nobody gets in but by the password of this run.
func clientOptions(o *server.Options, e Embedded) (err error) {
	listen := e.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	if o.Host, o.Port, err = splitAddr(listen); err != nil {
		return fmt.Errorf("client address: %w", err)
	}
	o.Username, o.Password = e.credentials()
	return nil
}

// credentials are what a client of the server has to show; none if the server
// is open to all.
func (e Embedded) credentials() (user, password string) {
	switch {
	case e.Secret != "":
		return serverUser, e.Secret
	case e.Listen == "":
		return serverUser, ownPassword()
	default:
		return "", ""
	}
}

// ownPassword is known to this process alone.
var ownPassword = sync.OnceValue(rand.Text)

func clusterOptions(o *server.Options, e Embedded) (err error) {
	if e.Cluster == "" {
		if len(e.Routes) > 0 {
			return errors.New("routes without a cluster address")
		}
		return nil
	}
	c := &o.Cluster
	if c.Host, c.Port, err = splitAddr(e.Cluster); err != nil {
		return fmt.Errorf("cluster address: %w", err)
	}
	if c.Name = e.ClusterName; c.Name == "" {
		c.Name = "imlb"
	}
	if e.Secret != "" {
		c.Username, c.Password = serverUser, e.Secret
	}
	c.Advertise = e.Advertise
	c.NoAdvertise = true // of addresses for clients
	// One connection between two servers, so that what one of them sends
	// arrives in order, interest and messages alike.
	c.PoolSize = -1
	c.Compression.Mode = server.CompressionOff
	c.PingInterval, c.MaxPingsOut = routePing, routePingsOut
	o.Routes, err = e.routeURLs(e.Routes)
	return err
}

// embedded is a NATS server of this process.
type embedded struct {
	*server.Server
	config Embedded
	name   string
	log    *serverLog
}

// startServer returns when the server listens and can be connected to. A
// fatal error of the server is returned here, or kept for later in its log; it
// does not end the process.
func startServer(ctx context.Context, name string, config Embedded, logger *slog.Logger) (*embedded, error) {
	options, err := serverOptions(name, config)
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, err
	}
	e := &embedded{Server: s, config: config, name: name, log: newServerLog(logger)}
	s.SetLoggerV2(e.log, false, false, false)
	s.Start()
	if err := e.awaitReady(ctx); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

// awaitReady polls in short steps, because a server that failed to listen never
// gets ready and says so only in its log.
func (e *embedded) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for !e.ReadyForConnections(100 * time.Millisecond) {
		if err := e.log.fatal(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("not listening: %w", err)
		}
	}
	return e.log.fatal()
}

func (e *embedded) stop() {
	e.Shutdown()
	e.WaitForShutdown()
}

// setRoutes replaces the addresses that the server connects to by itself. Servers
// that it knows from others stay connected.
func (e *embedded) setRoutes(addrs []string) error {
	config := e.config
	config.Routes = addrs
	options, err := serverOptions(e.name, config)
	if err != nil {
		return err
	}
	return e.ReloadOptions(options)
}

// routes returns the ids of the connections to other servers. A connection that
// was made anew has a new id.
func (e *embedded) routes() (map[uint64]struct{}, error) {
	report, err := e.Routez(nil)
	if err != nil {
		return nil, err
	}
	ids := make(map[uint64]struct{}, len(report.Routes))
	for _, route := range report.Routes {
		ids[route.Rid] = struct{}{}
	}
	return ids, nil
}

// serverLog hands the server's words to slog, and keeps the first fatal one.
type serverLog struct {
	logger *slog.Logger

	mu  sync.Mutex
	err error
}

func newServerLog(logger *slog.Logger) *serverLog {
	return &serverLog{logger: logger.With(slog.String("part", "nats-server"))}
}

func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Noticef implements server.Logger. What a server finds worth a notice, such as
// each line of its banner, is detail for a node.
func (l *serverLog) Noticef(format string, v ...any) { say(l.logger.Debug, format, v) }

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, plaintextWarning) {
		return
	}
	say(l.logger.Warn, format, v)
}

// Errorf implements server.Logger. What a server calls an error is a peer or a
// client that it has trouble with. A node that is not there, or not
// yet, is nothing to warn of: who relies on it finds out by other means.
func (l *serverLog) Errorf(format string, v ...any) {
	if strings.HasPrefix(format, noRoute) {
		say(l.logger.Info, format, v)
		return
	}
	say(l.logger.Warn, format, v)
}

// What the server says of passwords in files, and of nodes that it cannot reach.
const (
	plaintextWarning = "Plaintext passwords detected"
	noRoute          = "Error trying to connect to route"
)

// Debugf implements server.Logger.
func (l *serverLog) Debugf(format string, v ...any) { say(l.logger.Debug, format, v) }

// Tracef implements server.Logger.
func (l *serverLog) Tracef(format string, v ...any) { say(l.logger.Debug, format, v) }

// Fatalf implements server.Logger. It returns, so that the process lives on.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.keep(fmt.Errorf(format, v...))
	say(l.logger.Error, format, v)
}

func (l *serverLog) keep(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

func say(log func(msg string, args ...any), format string, v []any) {
	log("nats server", slog.String("said", fmt.Sprintf(format, v...)))
}
