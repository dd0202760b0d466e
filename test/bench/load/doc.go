// Package load makes load: clients on one side and a backend on the other, between
// which a proxy may stand. Both run in processes of their own.
//
// Plain TCP, and WebSockets on it, are driven by one epoll loop on either side, because
// Go's own poller would cost more than some of the proxies that it is to measure. TLS,
// QUIC, XMPP and idle clients are goroutines.
//
// Every byte that arrives, at the clients or at the backend, is compared with what
// has to be at its place in its stream. A wrong one fails the measurement.
package load
