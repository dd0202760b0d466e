package backend

// Reason says why a connection to a node ended. There is exactly one for each
// connection, in its log line and in the metric.
type Reason uint8

// The reasons. Their texts are part of the interface: dashboards use them.
const (
	reasonNone          Reason = iota
	ReasonUntrusted            // not from a trusted front
	ReasonProxyHeader          // no PROXY v2 header, or a malformed one
	ReasonProbe                // a health check: PROXY LOCAL
	ReasonSettle               // a front said what it had delivered for a dead node
	ReasonHandshake            // no login within the time
	ReasonGone                 // the front left before login
	ReasonAuthFailed           // too many failed logins
	ReasonProtocolError        // the client broke the protocol; the stream error says how
	ReasonClientClosed         // the client ended its stream
	ReasonClientLost           // the connection ended without the end of the stream
	ReasonClientTimeout        // the client did not answer a ping
	ReasonSlowClient           // the client reads or acknowledges too slowly
	ReasonMoved                // the client has resumed the session on another connection
	ReasonConflict             // a newer session has the resource, or another node the session
	ReasonLapsed               // others have ended the session while the node's lease had lapsed
	ReasonAccountGone          // the account was deleted
	ReasonSuspended            // the account was suspended
	ReasonKicked               // an administrator has ended the session
	ReasonFlood                // the client sends far more than it may
	ReasonStoreFailed          // the store did not take what the client was to be promised
	ReasonBusFailed            // the bus did not host the user
	ReasonFull                 // the node, or the user, has all the sessions that it may have
	ReasonShutdown             // the node drains or stops
	ReasonInternal             // a mistake in the node: a panic
	reasonCount
)

var reasonTexts = [reasonCount]string{ //nolint:gochecknoglobals // A constant table.
	ReasonUntrusted:     "untrusted",
	ReasonProxyHeader:   "proxy-header",
	ReasonProbe:         "probe",
	ReasonSettle:        "settle",
	ReasonHandshake:     "handshake-timeout",
	ReasonGone:          "gone-before-login",
	ReasonAuthFailed:    "auth-failed",
	ReasonProtocolError: "protocol-error",
	ReasonClientClosed:  "client-closed",
	ReasonClientLost:    "client-lost",
	ReasonClientTimeout: "client-timeout",
	ReasonSlowClient:    "slow-client",
	ReasonMoved:         "moved",
	ReasonConflict:      "conflict",
	ReasonLapsed:        "lease-lapsed",
	ReasonAccountGone:   "account-gone",
	ReasonSuspended:     "suspended",
	ReasonKicked:        "ended-by-admin",
	ReasonFlood:         "flood",
	ReasonStoreFailed:   "store-failed",
	ReasonBusFailed:     "bus-failed",
	ReasonFull:          "full",
	ReasonShutdown:      "shutdown",
	ReasonInternal:      "internal",
}

// String returns the word that logs and metrics have.
func (r Reason) String() string {
	if r == reasonNone || r >= reasonCount {
		return "none"
	}
	return reasonTexts[r]
}

// silent tells whether a connection that ended so is not worth a log line.
func (r Reason) silent() bool { return r == ReasonProbe }
