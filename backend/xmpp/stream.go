package xmpp

import (
	"bytes"
	"strings"
)

// StreamEnd closes a stream (RFC 6120 §4.4).
const StreamEnd = "</stream:stream>"

// StreamHeader holds the attributes of a stream header (RFC 6120 §4.7), "" for those
// it does not have.
type StreamHeader struct {
	To      string
	From    string
	ID      string
	Version string // "1.0"; Append writes that for ""
	Lang    string // xml:lang; parsed, it is a language tag or ""
	NS      string // content namespace; Append writes jabber:client for ""
}

// ParseStreamHeader reads a token of KindOpen. The error is a *StreamError: bad-format if it is
// no stream, bad-namespace-prefix for a prefix other than "stream" (RFC 6120 §4.8.5),
// invalid-namespace for one that is not an XMPP stream of jabber:client (§4.8),
// unsupported-version for one before 1.0 (§4.7.5).
func ParseStreamHeader(raw []byte) (StreamHeader, error) {
	e, err := view(withoutDeclaration(raw))
	if err != nil {
		return StreamHeader{}, err
	}
	h := e.streamHeader()
	h.NS, _ = e.Attr("xmlns")
	switch {
	case e.Local() != "stream":
		return h, &StreamError{Condition: BadFormat, Text: "stream header expected"}
	case e.Space() != NSStream:
		return h, &StreamError{Condition: InvalidNamespace, Text: "not an XMPP stream"}
	case e.Prefix() != "stream":
		return h, &StreamError{Condition: BadNamespacePrefix, Text: "prefix is not stream"}
	case h.NS != NSClient:
		return h, &StreamError{Condition: InvalidNamespace, Text: "content namespace is not " + NSClient}
	}
	return h, h.checkVersion()
}

// withoutDeclaration returns raw without a leading XML declaration.
func withoutDeclaration(raw []byte) []byte {
	if !bytes.HasPrefix(raw, []byte("<?")) {
		return raw
	}
	_, after, _ := bytes.Cut(raw, []byte("?>"))
	return after[skipBlank(after, 0):]
}

func (e Element) streamHeader() (h StreamHeader) {
	h.To, _ = e.Attr("to")
	h.From, _ = e.Attr("from")
	h.ID, _ = e.Attr("id")
	h.Version, _ = e.Attr("version")
	if lang, _ := e.Attr("xml:lang"); isLanguageTag(lang) {
		h.Lang = lang
	}
	return h
}

// languageMost is how long a language tag may be; RFC 5646 §4.4.1 asks for 35 at least.
const languageMost = 35

// isLanguageTag tells whether text looks like a tag of RFC 5646 §2.1, as the language of a
// stream has to (RFC 6120 §4.7.4): subtags of up to eight letters and digits, of which the first
// has only letters. What says no language counts as none. It would go with each stanza that
// has none of its own.
func isLanguageTag(text string) bool {
	if len(text) > languageMost {
		return false
	}
	for i, part := range strings.Split(text, "-") {
		if len(part) < 1 || len(part) > 8 {
			return false
		}
		for _, c := range []byte(part) {
			digit := c >= '0' && c <= '9'
			if class[c]&isNameByte == 0 || c == '_' || c == '-' || c == '.' || digit && i == 0 {
				return false
			}
		}
	}
	return true
}

// checkVersion wants a major number of 1 or more, leading zeros ignored.
func (h StreamHeader) checkVersion() error {
	major, minor, ok := strings.Cut(h.Version, ".")
	if !ok || !isNumber(major) || !isNumber(minor) || strings.Trim(major, "0") == "" {
		return &StreamError{Condition: UnsupportedVersion}
	}
	return nil
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// Append appends the header with an XML declaration.
func (h StreamHeader) Append(dst []byte) []byte {
	space := h.NS
	if space == "" {
		space = NSClient
	}
	dst = append(dst, "<?xml version='1.0'?><stream:stream"...)
	dst = appendAttr(dst, Attr{"xmlns", space})
	dst = appendAttr(dst, Attr{"xmlns:stream", NSStream})
	dst = h.appendAttrs(dst)
	return append(dst, '>')
}

// appendAttrs appends the attributes that a stream header and an <open/> frame share.
func (h StreamHeader) appendAttrs(dst []byte) []byte {
	version := h.Version
	if version == "" {
		version = "1.0"
	}
	dst = appendAttr(dst, Attr{"to", h.To})
	dst = appendAttr(dst, Attr{"from", h.From})
	dst = appendAttr(dst, Attr{"id", h.ID})
	dst = appendAttr(dst, Attr{"version", version})
	return appendAttr(dst, Attr{"xml:lang", h.Lang})
}

// ParseFramingOpen reads an <open/> frame (RFC 7395 §3.4). The error is a *StreamError:
// bad-format if it is something else, unsupported-version for one before 1.0.
func ParseFramingOpen(raw []byte) (StreamHeader, error) {
	e, err := view(raw)
	if err != nil {
		return StreamHeader{}, err
	}
	h := e.streamHeader()
	h.NS = NSClient
	switch {
	case e.Local() != "open":
		return h, &StreamError{Condition: BadFormat, Text: "<open/> expected"}
	case e.Space() != NSFraming:
		return h, &StreamError{Condition: InvalidNamespace, Text: "not an <open/> of " + NSFraming}
	}
	return h, h.checkVersion()
}

// AppendFramingOpen appends the header as an <open/> frame.
func (h StreamHeader) AppendFramingOpen(dst []byte) []byte {
	dst = append(dst, "<open"...)
	dst = appendAttr(dst, Attr{"xmlns", NSFraming})
	dst = h.appendAttrs(dst)
	return append(dst, "/>"...)
}

// IsFramingClose tells whether raw is a <close/> frame.
func IsFramingClose(raw []byte) bool {
	e, err := view(raw)
	return err == nil && e.Is(NSFraming, "close")
}

// AppendFramingClose appends a <close/> frame (RFC 7395 §3.6).
func AppendFramingClose(dst []byte) []byte {
	return append(dst, "<close xmlns='"+NSFraming+"'/>"...)
}
