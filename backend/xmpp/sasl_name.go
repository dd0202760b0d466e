package xmpp

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// saslNames says how the names are read out of the initial response of a mechanism, or
// nil if that is not known.
func saslNames(mechanism string) func(initial []byte) (authzid, authcid string, err error) {
	switch {
	case mechanism == "PLAIN", mechanism == "X-OAUTH2": // the latter has a token for the password
		return plainName
	case strings.HasPrefix(mechanism, "SCRAM-"):
		plus := strings.HasSuffix(mechanism, "-PLUS")
		return func(initial []byte) (string, string, error) { return scramName(initial, plus) }
	case mechanism == "EXTERNAL":
		return externalName
	case mechanism == "OAUTHBEARER":
		return bearerName
	case strings.HasPrefix(mechanism, "HT-"):
		return tokenName
	default:
		return nil
	}
}

// NamesUser tells whether SASLName can read the initial response of a mechanism.
func NamesUser(mechanism string) bool { return saslNames(mechanism) != nil }

// SASLName reads the names out of the initial response of PLAIN (RFC 4616), X-OAUTH2, SCRAM-* (RFC
// 5802), EXTERNAL (RFC 4422 appendix A) and OAUTHBEARER (RFC 7628), of which there is only an authzid
// that may be empty, or of HT-* (the tokens of XEP-0484). The names are as the client wrote
// them, not prepared. The error is a *SASLError: invalid-mechanism for another mechanism,
// malformed-request for what breaks the mechanism's syntax.
func SASLName(mechanism string, initial []byte) (authzid, authcid string, err error) {
	read := saslNames(mechanism)
	if read == nil {
		return "", "", &SASLError{Condition: InvalidMechanism}
	}
	authzid, authcid, err = read(initial)
	if err == nil && !(utf8.ValidString(authzid) && utf8.ValidString(authcid)) {
		return "", "", &SASLError{Condition: MalformedRequest, Text: "invalid UTF-8"}
	}
	return authzid, authcid, err
}

// externalName reads [authzid] (RFC 4422 appendix A).
func externalName(initial []byte) (authzid, authcid string, err error) {
	if bytes.IndexByte(initial, 0) >= 0 {
		return "", "", &SASLError{Condition: MalformedRequest, Text: "NUL in EXTERNAL data"}
	}
	return string(initial), "", nil
}

// tokenName reads authcid NUL hash (draft-schmaus-kitten-sasl-ht §3.1). The hash may be any bytes.
func tokenName(initial []byte) (authzid, authcid string, err error) {
	name, hash, ok := bytes.Cut(initial, []byte{0})
	if !ok || len(name) == 0 || len(hash) == 0 {
		return "", "", &SASLError{Condition: MalformedRequest, Text: "not a hashed token"}
	}
	return "", string(name), nil
}

// bearerName reads the authzid of OAUTHBEARER.
func bearerName(initial []byte) (authzid, authcid string, err error) {
	authzid, _, err = OAuthBearer(initial)
	return authzid, "", err
}

var errBearer = &SASLError{Condition: MalformedRequest, Text: "not an OAUTHBEARER message"}

// OAuthBearer reads the initial response of OAUTHBEARER (RFC 7628 §3.1): the authzid of its GS2
// header, and the token, each of which may be missing. The error is a *SASLError.
func OAuthBearer(initial []byte) (authzid, token string, err error) {
	const separator = "\x01"
	header, rest, ok := strings.Cut(string(initial), separator)
	flag, zid, hasName := strings.Cut(header, ",")
	zid, end, hasEnd := strings.Cut(zid, ",")
	if !ok || !hasName || !hasEnd || end != "" || flag != "n" && flag != "y" {
		return "", "", errBearer
	}
	if zid != "" {
		if authzid, err = saslName(zid, "a="); err != nil {
			return "", "", errBearer
		}
	}
	for rest != separator {
		var pair string
		if pair, rest, ok = strings.Cut(rest, separator); !ok || pair == "" {
			return "", "", errBearer
		}
		if key, value, _ := strings.Cut(pair, "="); key == "auth" {
			if scheme, credentials, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
				token = strings.TrimLeft(credentials, " ")
			}
		}
	}
	return authzid, token, nil
}

// plainName reads [authzid] NUL authcid NUL passwd (RFC 4616 §2).
func plainName(initial []byte) (authzid, authcid string, err error) {
	parts := bytes.Split(initial, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 {
		return "", "", &SASLError{Condition: MalformedRequest, Text: "not PLAIN data"}
	}
	return string(parts[0]), string(parts[1]), nil
}

var errSCRAM = &SASLError{Condition: MalformedRequest, Text: "not a SCRAM message"}

// scramName reads gs2-cbind-flag "," [authzid] "," "n=" name "," "r=" nonce [extensions]
// (RFC 5802 §7), where the flag is "p=" with a mechanism for channel binding only.
func scramName(initial []byte, plus bool) (authzid, authcid string, err error) {
	parts := strings.SplitN(string(initial), ",", 4)
	if len(parts) != 4 {
		return "", "", errSCRAM
	}
	flag, zid, cid, nonce := parts[0], parts[1], parts[2], parts[3]
	if binds := strings.HasPrefix(flag, "p=") && len(flag) > len("p="); binds != plus || !binds && flag != "n" && flag != "y" {
		return "", "", errSCRAM
	}
	if zid != "" {
		if authzid, err = saslName(zid, "a="); err != nil {
			return "", "", err
		}
	}
	if authcid, err = saslName(cid, "n="); err != nil { // "m=" would be an extension that nobody knows
		return "", "", err
	}
	nonce, _, _ = strings.Cut(nonce, ",")
	if !strings.HasPrefix(nonce, "r=") || len(nonce) == len("r=") {
		return "", "", errSCRAM
	}
	return authzid, authcid, nil
}

// saslName decodes an attribute that is a name, in which "=2C" is a comma, "=3D" an equals
// sign, and no other "=" may be (RFC 5802 §5.1).
func saslName(attr, key string) (string, error) {
	value, ok := strings.CutPrefix(attr, key)
	if !ok || value == "" || strings.IndexByte(value, 0) >= 0 {
		return "", errSCRAM
	}
	before, rest, found := strings.Cut(value, "=")
	var name strings.Builder
	name.WriteString(before)
	for found {
		switch {
		case strings.HasPrefix(rest, "2C"):
			name.WriteByte(',')
		case strings.HasPrefix(rest, "3D"):
			name.WriteByte('=')
		default:
			return "", errSCRAM
		}
		before, rest, found = strings.Cut(rest[2:], "=")
		name.WriteString(before)
	}
	return name.String(), nil
}
