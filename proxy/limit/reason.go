package limit

// Reason says why a connection or a login was refused, and that it was not.
type Reason uint8

// The reasons.
const (
	ReasonNone Reason = iota // not refused
	ReasonDenied
	ReasonRateSource
	ReasonRateUser
	ReasonRateListener
	ReasonRateGlobal
	ReasonConcurrentSource
	ReasonConcurrentUser
	ReasonConcurrentListener
	ReasonConcurrentGlobal
	ReasonUnauthenticatedSource
	ReasonUnauthenticatedUser
	ReasonUnauthenticatedListener
	ReasonUnauthenticatedGlobal
	ReasonOverflowSource    // the limits of all new sources together, while the table is full
	ReasonAuthBackoff       // too many failed logins of the user from this source
	ReasonAuthBackoffSource // too many failed logins from this source
)

// String returns the reason as it is logged and as it labels the metric.
func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return "none"
	case ReasonDenied:
		return "denied"
	case ReasonRateSource:
		return "rate-source"
	case ReasonRateUser:
		return "rate-user"
	case ReasonRateListener:
		return "rate-listener"
	case ReasonRateGlobal:
		return "rate-global"
	case ReasonConcurrentSource:
		return "concurrent-source"
	case ReasonConcurrentUser:
		return "concurrent-user"
	case ReasonConcurrentListener:
		return "concurrent-listener"
	case ReasonConcurrentGlobal:
		return "concurrent-global"
	case ReasonUnauthenticatedSource:
		return "unauthenticated-source"
	case ReasonUnauthenticatedUser:
		return "unauthenticated-user"
	case ReasonUnauthenticatedListener:
		return "unauthenticated-listener"
	case ReasonUnauthenticatedGlobal:
		return "unauthenticated-global"
	case ReasonOverflowSource:
		return "overflow-source"
	case ReasonAuthBackoff:
		return "auth-backoff"
	case ReasonAuthBackoffSource:
		return "auth-backoff-source"
	}
	return "unknown"
}
