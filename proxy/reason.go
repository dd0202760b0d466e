package proxy

import (
	"imlb/backend/xmpp"
	"imlb/proxy/limit"
)

// Reason says why a session ended. Every session ends with exactly one.
type Reason uint8

// The reasons, in the order in which a session can meet them.
const (
	ReasonNone             Reason = iota // still running
	ReasonShutdown                       // the front stops
	ReasonDenied                         // the address is on a deny list, or on no allow list
	ReasonRateLimited                    // more connections in a second than a limit admits
	ReasonTooMany                        // more connections at a time than a limit admits
	ReasonAuthBackoff                    // too many failed logins before
	ReasonProbe                          // closed without a byte: port scan, or health check; or a proxy's own connection
	ReasonProxyHeader                    // a trusted proxy sent no PROXY header, or a broken one
	ReasonHandshakeTimeout               // TLS or the upgrade took too long
	ReasonTLSFailed                      // the TLS handshake failed
	ReasonNoStream                       // a QUIC connection ended without a stream
	ReasonHTTP                           // plain HTTP only: the connection never became a WebSocket; BOSH sessions are others
	ReasonHostUnknown                    // the stream was for a domain that is not served
	ReasonIdentifyTimeout                // no successful login, or nothing that names the user, in time
	ReasonUnidentified                   // nothing of an opaque session named its user
	ReasonAuthFailed                     // too many failed logins, or the session ended after one
	ReasonNoNode                         // no node may take the user
	ReasonDialFailed                     // no node could be reached
	ReasonNodeLost                       // the node leg broke, or ended without an end of the XML stream
	ReasonNodeClosed                     // the node ended the stream or connection in order
	ReasonNodeError                      // the node sent what is no XMPP, or not what it should have
	ReasonNodeStanza                     // the node sent an element that is too long, or nested too deep, to be carried
	ReasonSlowNode                       // the node did not read for too long
	ReasonClientClosed                   // the client ended its stream or connection in order
	ReasonClientReset                    // the client's connection broke
	ReasonClientLost                     // the client vanished: keepalives or retransmissions went unanswered
	ReasonSlowClient                     // the client did not read for too long
	ReasonInactive                       // a BOSH client made no request for too long
	ReasonIdle                           // not a byte in either direction for too long
	ReasonHalfOpen                       // one side of an opaque session had ended, and not a byte came from the other for too long
	ReasonEndedByAdmin                   // an administrator has ended the session
	ReasonProtocolError                  // the client sent what its protocol forbids
	ReasonInternal                       // a bug in the front
)

// String returns the reason as it is logged and as it labels the metric.
func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return "none"
	case ReasonShutdown:
		return "shutdown"
	case ReasonDenied:
		return "denied"
	case ReasonRateLimited:
		return "rate-limited"
	case ReasonTooMany:
		return "too-many"
	case ReasonAuthBackoff:
		return "auth-backoff"
	case ReasonProbe:
		return "probe"
	case ReasonProxyHeader:
		return "proxy-header"
	case ReasonHandshakeTimeout:
		return "handshake-timeout"
	case ReasonTLSFailed:
		return "tls-failed"
	case ReasonNoStream:
		return "no-stream"
	case ReasonHTTP:
		return "http"
	case ReasonHostUnknown:
		return "host-unknown"
	case ReasonIdentifyTimeout:
		return "identify-timeout"
	case ReasonUnidentified:
		return "unidentified"
	case ReasonAuthFailed:
		return "auth-failed"
	case ReasonNoNode:
		return "no-node"
	case ReasonDialFailed:
		return "dial-failed"
	case ReasonNodeLost:
		return "node-lost"
	case ReasonNodeClosed:
		return "node-closed"
	case ReasonNodeError:
		return "node-error"
	case ReasonNodeStanza:
		return "node-stanza"
	case ReasonSlowNode:
		return "slow-node"
	case ReasonClientClosed:
		return "client-closed"
	case ReasonClientReset:
		return "client-reset"
	case ReasonClientLost:
		return "client-lost"
	case ReasonSlowClient:
		return "slow-client"
	case ReasonInactive:
		return "inactive"
	case ReasonIdle:
		return "idle-timeout"
	case ReasonHalfOpen:
		return "half-open-timeout"
	case ReasonEndedByAdmin:
		return "ended-by-admin"
	case ReasonProtocolError:
		return "protocol-error"
	case ReasonInternal:
		return "internal"
	}
	return "unknown"
}

// clientGone tells whether nothing can be said to the client any more.
func (r Reason) clientGone() bool {
	switch r {
	case ReasonProbe, ReasonDenied, ReasonProxyHeader, ReasonTLSFailed, ReasonHTTP,
		ReasonClientReset, ReasonClientLost, ReasonSlowClient, ReasonInactive, ReasonHalfOpen:
		return true
	default:
		return false
	}
}

// quiet tells whether the end is of interest to nobody but the counters: what
// strangers can cause at will must not fill the log.
func (r Reason) quiet() bool {
	switch r {
	case ReasonProbe, ReasonDenied, ReasonRateLimited, ReasonTooMany, ReasonHTTP:
		return true
	default:
		return false
	}
}

// alarming tells whether something is wrong behind the front, or in it.
func (r Reason) alarming() bool {
	switch r {
	case ReasonNoNode, ReasonDialFailed, ReasonNodeLost, ReasonNodeError, ReasonNodeStanza, ReasonSlowNode, ReasonInternal:
		return true
	default:
		return false
	}
}

// refuses tells whether a limit or a list did not admit the client.
func (r Reason) refuses() bool {
	return r == ReasonDenied || r == ReasonRateLimited || r == ReasonTooMany
}

// ending is why a session is over. It is the error of every stage.
type ending struct {
	reason    Reason
	condition string       // what the client is told (RFC 6120 §4.9.3); "" for a plain end
	text      string       // goes to the client with the condition; "" for none
	cause     error        // what the log is told; may be nil
	answered  bool         // the client of an opaque session has got an answer that says so
	limit     limit.Reason // which limit refuses a QUIC connection; of sessions it is in the record
}

// Error returns the reason and the cause.
func (e *ending) Error() string {
	if e.cause == nil {
		return e.reason.String()
	}
	return e.reason.String() + ": " + e.cause.Error()
}

// Unwrap returns the cause.
func (e *ending) Unwrap() error { return e.cause }

// streamError returns what the client is told, or nil.
func (e *ending) streamError() *xmpp.StreamError {
	if e.condition == "" {
		return nil
	}
	return &xmpp.StreamError{Condition: e.condition, Text: e.text}
}
