package xmpp

import "encoding/base64"

// ParseSASL2 reads an element of SASL2 (XEP-0388); ok is false if raw is not one. What is inside
// an <authenticate/>, a <success/> or a <continue/> for other extensions is not looked at. The
// error is that of ParseSASL.
func ParseSASL2(raw []byte) (f SASLFrame, ok bool, err error) {
	e, ok := sasl2Element(raw)
	if !ok {
		return SASLFrame{}, false, nil
	}
	f = SASLFrame{SASL2: true, Kind: sasl2Kind(e.Local())}
	switch f.Kind {
	case SASLAuth:
		err = f.readAuthenticate(e)
	case SASLResponse, SASLChallenge:
		err = f.readPayload(e)
	case SASLSuccess:
		if user, ok := e.Child(NSSASL2, "authorization-identifier"); ok {
			f.User = user.Text()
		}
	case SASLFailure:
		f.Condition, _ = condition(e, NSSASL, NotAuthorized)
		if text, ok := e.Child(NSSASL2, "text"); ok {
			f.Text = text.Text()
		}
	case SASLAbort, SASLContinue, SASLNext, SASLTaskData:
	default:
		err = &SASLError{Condition: MalformedRequest, Text: "unknown element"}
	}
	return f, true, err
}

func sasl2Element(raw []byte) (Element, bool) {
	e, err := view(raw)
	return e, err == nil && e.Space() == NSSASL2
}

// sasl2Kind returns the kind of the element of that name, or 0.
func sasl2Kind(local string) SASLKind {
	if local == "authenticate" {
		return SASLAuth
	}
	for k := SASLResponse; k <= SASLTaskData; k++ {
		if k.String() == local {
			return k
		}
	}
	return 0
}

// readAuthenticate reads mechanism and initial response, which is there as soon as its
// element is, whether that says "=" or nothing.
func (f *SASLFrame) readAuthenticate(e Element) error {
	if f.Mechanism, _ = e.Attr("mechanism"); f.Mechanism == "" {
		return &SASLError{Condition: InvalidMechanism, Text: "no mechanism"}
	}
	initial, ok := e.Child(NSSASL2, "initial-response")
	if !ok {
		return nil
	}
	if err := f.readPayload(initial); err != nil {
		return err
	}
	f.HasPayload = true
	return nil
}

// AppendInitialResponse appends an <authenticate/> that has none with an initial response,
// which comes first. An element that is not well-formed is appended as it is.
func AppendInitialResponse(dst, raw, payload []byte) []byte {
	e, err := view(raw)
	if err != nil {
		return append(dst, raw...)
	}
	dst = append(dst, raw[:e.tagInside()]...)
	dst = append(dst, "><initial-response xmlns='"+NSSASL2+"'>"...)
	dst = appendPayload(dst, payload, true)
	dst = append(dst, "</initial-response>"...)
	if e.empty {
		return appendEndTag(dst, e)
	}
	return append(dst, raw[e.body:]...)
}

// appendPayload appends data of a SASL element, if there is any.
func appendPayload(dst, payload []byte, has bool) []byte {
	switch {
	case len(payload) > 0:
		return base64.StdEncoding.AppendEncode(dst, payload)
	case has:
		return append(dst, '=')
	}
	return dst
}

// appendSASL2 appends the frame as an element of SASL2.
func (f SASLFrame) appendSASL2(dst []byte) []byte {
	local := f.Kind.String()
	if f.Kind == SASLAuth {
		local = "authenticate"
	}
	dst = append(dst, "<"+local+" xmlns='"+NSSASL2+"'"...)
	dst = appendAttr(dst, Attr{"mechanism", f.Mechanism})
	body := len(dst) + 1
	dst = f.appendSASL2Body(append(dst, '>'))
	if len(dst) == body {
		return append(dst[:body-1], "/>"...)
	}
	return append(dst, "</"+local+">"...)
}

func (f SASLFrame) appendSASL2Body(dst []byte) []byte {
	text := func(local, value string) {
		if value != "" {
			dst = AppendEscaped(append(dst, "<"+local+">"...), value)
			dst = append(dst, "</"+local+">"...)
		}
	}
	switch {
	case f.Condition != "":
		dst = append(dst, "<"+f.Condition+" xmlns='"+NSSASL+"'/>"...)
		text("text", f.Text)
	case f.User != "":
		text("authorization-identifier", f.User)
	case f.Kind == SASLAuth && f.HasPayload:
		dst = append(dst, "<initial-response>"...)
		dst = appendPayload(dst, f.Payload, true)
		dst = append(dst, "</initial-response>"...)
	default:
		dst = appendPayload(dst, f.Payload, f.HasPayload)
	}
	return dst
}
