package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
)

// Options says how a node takes part in the bus.
type Options struct {
	// Name of the node, unique in the cluster. It appears in logs and in what
	// the NATS servers report about their clients.
	Name string

	// Exactly one of the two: a server in this process, or the addresses of
	// servers that somebody else runs (nats://user:password@host:port).
	Embedded *Embedded
	URLs     []string

	// Handler receives the signals of hosted partitions.
	Handler Handler

	// Lost is called when signals of a hosted partition may have been lost, in
	// the same order of calls as Handler: whoever relies on them has to look into
	// the database now. Nil: nobody wants to know.
	Lost func(partition uint16)

	// Queue is how many signals may wait for Handler in each of the
	// dispatchers; those that find it full are dropped, and Lost is
	// called. 0: 8192.
	Queue int

	Logger *slog.Logger
}

// Embedded describes a NATS server inside this process. The node itself is
// connected to it without a socket.
type Embedded struct {
	// Listen is an address for other NATS clients, for looking at the
	// traffic; empty: none.
	Listen string

	// Cluster is the address (host:port, port 0 for any) where the servers of
	// the other nodes connect; empty: this node stands alone.
	Cluster string

	// Advertise is the address that other nodes are told for Cluster, where it
	// differs, such as behind a wildcard address; empty: Cluster.
	Advertise string

	// ClusterName must be the same on all nodes. Empty: "imlb".
	ClusterName string

	// Routes are the Cluster addresses of other nodes, as far as they are known;
	// one that answers is enough. This node's own may be among them.
	Routes []string

	// Secret, the same on all nodes, is asked from whoever connects to
	// Listen or Cluster; empty: nobody is asked.
	Secret string
}

// defaultQueue holds a burst of a second or two for a dispatcher, in 64 KiB.
const defaultQueue = 8192

// withDefaults returns o complete, or what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		return o, errors.New("a bus needs the node's name")
	}
	if o.Handler == nil {
		return o, errors.New("a bus needs a handler")
	}
	if (o.Embedded == nil) == (len(o.URLs) == 0) {
		return o, errors.New("a bus needs either an embedded server or URLs")
	}
	if o.Queue <= 0 {
		o.Queue = defaultQueue
	}
	if o.Lost == nil {
		o.Lost = func(uint16) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// routeURLs turns addresses into what the server calls routes.
func (e Embedded) routeURLs(addrs []string) ([]*url.URL, error) {
	routes := make([]*url.URL, 0, len(addrs))
	for _, addr := range addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("route: %w", err)
		}
		route := &url.URL{Scheme: "nats-route", Host: addr}
		if e.Secret != "" {
			route.User = url.UserPassword(serverUser, e.Secret)
		}
		routes = append(routes, route)
	}
	return routes, nil
}

// splitAddr parses host:port, with the server's word for "any port".
func splitAddr(addr string) (host string, port int, err error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	number, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port of %q: %w", addr, err)
	}
	if number == 0 {
		return host, anyPort, nil
	}
	return host, int(number), nil
}
