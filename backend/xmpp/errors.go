package xmpp

// Conditions of stream errors (RFC 6120 §4.9.3), of stanza errors (§8.3.3) and of
// SASL failures (§6.5). One that belongs to several of them is listed once.
const (
	// Stream errors.
	BadFormat              = "bad-format"
	BadNamespacePrefix     = "bad-namespace-prefix"
	Conflict               = "conflict" // stanza errors too
	ConnectionTimeout      = "connection-timeout"
	HostGone               = "host-gone"
	HostUnknown            = "host-unknown"
	ImproperAddressing     = "improper-addressing"
	InternalServerError    = "internal-server-error" // stanza errors too
	InvalidFrom            = "invalid-from"
	InvalidNamespace       = "invalid-namespace"
	InvalidXML             = "invalid-xml"
	NotAuthorized          = "not-authorized" // stanza errors and SASL failures too
	NotWellFormed          = "not-well-formed"
	PolicyViolation        = "policy-violation" // stanza errors too
	RemoteConnectionFailed = "remote-connection-failed"
	Reset                  = "reset"
	ResourceConstraint     = "resource-constraint" // stanza errors too
	RestrictedXML          = "restricted-xml"
	SeeOtherHost           = "see-other-host"
	SystemShutdown         = "system-shutdown"
	UndefinedCondition     = "undefined-condition" // stanza errors too
	UnsupportedEncoding    = "unsupported-encoding"
	UnsupportedFeature     = "unsupported-feature"
	UnsupportedStanzaType  = "unsupported-stanza-type"
	UnsupportedVersion     = "unsupported-version"

	// Stanza errors.
	BadRequest            = "bad-request"
	FeatureNotImplemented = "feature-not-implemented"
	Forbidden             = "forbidden"
	Gone                  = "gone"
	ItemNotFound          = "item-not-found"
	JIDMalformed          = "jid-malformed"
	NotAcceptable         = "not-acceptable"
	NotAllowed            = "not-allowed"
	RecipientUnavailable  = "recipient-unavailable"
	Redirect              = "redirect"
	RegistrationRequired  = "registration-required"
	RemoteServerNotFound  = "remote-server-not-found"
	RemoteServerTimeout   = "remote-server-timeout"
	ServiceUnavailable    = "service-unavailable"
	SubscriptionRequired  = "subscription-required"
	UnexpectedRequest     = "unexpected-request"

	// SASL failures.
	Aborted              = "aborted"
	AccountDisabled      = "account-disabled"
	CredentialsExpired   = "credentials-expired"
	EncryptionRequired   = "encryption-required"
	IncorrectEncoding    = "incorrect-encoding"
	InvalidAuthzid       = "invalid-authzid"
	InvalidMechanism     = "invalid-mechanism"
	MalformedRequest     = "malformed-request"
	MechanismTooWeak     = "mechanism-too-weak"
	TemporaryAuthFailure = "temporary-auth-failure"
)

// Types of stanza errors (RFC 6120 §8.3.2): what the sender may do about it.
const (
	ErrorAuth     = "auth"     // retry after providing credentials
	ErrorCancel   = "cancel"   // do not retry
	ErrorContinue = "continue" // only a warning
	ErrorModify   = "modify"   // retry after changing the data
	ErrorWait     = "wait"     // retry after waiting
)

// A StreamError ends a stream (RFC 6120 §4.9). Condition goes to the peer, and so
// does Text when it is not empty.
type StreamError struct {
	Condition string
	Text      string
	App       string // an application-specific condition (§4.9.4), as an element; "" for none
}

// Error returns the condition and the text.
func (e *StreamError) Error() string {
	if e.Text == "" {
		return "stream error: " + e.Condition
	}
	return "stream error: " + e.Condition + ": " + e.Text
}

// Append appends the error as an element, which the stream's end has to follow.
func (e *StreamError) Append(dst []byte) []byte {
	dst = append(dst, "<stream:error>"...)
	dst = appendCondition(dst, e.Condition, e.Text, NSStreams)
	dst = append(dst, e.App...)
	return append(dst, "</stream:error>"...)
}

// ParseStreamError reads a <stream:error/> element. It returns false if raw is
// another element. A condition that is missing reads as undefined-condition.
func ParseStreamError(raw []byte) (*StreamError, bool) {
	e, err := ParseElement(raw)
	is := err == nil && e.Local() == "error" && (e.Prefix() == "stream" || e.Space() == NSStream)
	if !is {
		return nil, false
	}
	out := &StreamError{Condition: UndefinedCondition}
	out.Condition, out.Text = condition(e, NSStreams, out.Condition)
	return out, true
}

// A StanzaError answers a stanza that cannot be handled (RFC 6120 §8.3).
type StanzaError struct {
	Type      string // one of the Error constants above; "" for the condition's usual type
	Condition string
	Text      string
	App       string // an application-specific condition (§8.3.4), as an element; "" for none
}

// NewStanzaError returns an error of the type that is usual for its condition.
func NewStanzaError(condition, text string) *StanzaError {
	return &StanzaError{Type: usualType(condition), Condition: condition, Text: text}
}

// Error returns the condition and the text.
func (e *StanzaError) Error() string {
	if e.Text == "" {
		return "stanza error: " + e.Condition
	}
	return "stanza error: " + e.Condition + ": " + e.Text
}

// Append appends the <error/> element alone.
func (e *StanzaError) Append(dst []byte) []byte {
	kind := e.Type
	if kind == "" {
		kind = usualType(e.Condition)
	}
	dst = append(dst, "<error type='"...)
	dst = AppendEscaped(dst, kind)
	dst = append(dst, "'>"...)
	dst = appendCondition(dst, e.Condition, e.Text, NSStanzas)
	dst = append(dst, e.App...)
	return append(dst, "</error>"...)
}

// AppendReply appends the error reply to the stanza raw: the same kind and id, the
// addresses exchanged, the type "error" and only the error inside (§8.3.1). The
// caller must not reply to a stanza that is an error itself.
func (e *StanzaError) AppendReply(dst, raw []byte) []byte {
	in, err := ParseElement(raw)
	if err != nil {
		return dst
	}
	dst = appendReplyTag(dst, in, "error")
	dst = e.Append(dst)
	return appendEndTag(dst, in)
}

// usualType returns the type that RFC 6120 §8.3.3 names for a condition.
func usualType(condition string) string {
	switch condition {
	case Forbidden, NotAuthorized, RegistrationRequired, SubscriptionRequired:
		return ErrorAuth
	case BadRequest, JIDMalformed, NotAcceptable, PolicyViolation, Redirect:
		return ErrorModify
	case RecipientUnavailable, RemoteServerTimeout, ResourceConstraint, UnexpectedRequest:
		return ErrorWait
	default:
		return ErrorCancel
	}
}

// appendCondition appends a defined condition and its optional text.
func appendCondition(dst []byte, condition, text, space string) []byte {
	dst = append(dst, '<')
	dst = append(dst, condition...)
	dst = append(dst, " xmlns='"...)
	dst = append(dst, space...)
	dst = append(dst, "'/>"...)
	if text == "" {
		return dst
	}
	dst = append(dst, "<text xmlns='"...)
	dst = append(dst, space...)
	dst = append(dst, "' xml:lang='en'>"...)
	dst = AppendEscaped(dst, text)
	return append(dst, "</text>"...)
}

// condition reads the defined condition and the text inside an error element.
func condition(e Element, space, missing string) (name, text string) {
	name = missing
	for child := range e.Children() {
		switch {
		case child.Space() != space:
		case child.Local() == "text":
			text = child.Text()
		default:
			name = child.Local()
		}
	}
	return name, text
}
