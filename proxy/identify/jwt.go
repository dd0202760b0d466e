package identify

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// Claim returns a claim of a JSON Web Token in the compact form of a signature (RFC 7519,
// RFC 7515 §7.1), without looking at the signature. It must be a string or a whole number.
func Claim(token, path string) (string, Verdict) {
	if len(token) > maxToken {
		return "", TooLong
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, signature, signed := strings.Cut(rest, ".")
	if !signed || strings.Contains(signature, ".") {
		return "", Malformed
	}
	decoded, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || !utf8.Valid(decoded) {
		return "", Malformed
	}
	var claims map[string]json.RawMessage
	if json.Unmarshal(decoded, &claims) != nil || claims == nil {
		return "", Malformed
	}
	return scalar(lookUp(claims, path))
}

// lookUp returns the value at a path. Names may hold dots themselves, as those that
// are URLs do, so a whole name goes before a path.
func lookUp(claims map[string]json.RawMessage, path string) json.RawMessage {
	if value, ok := claims[path]; ok {
		return value
	}
	name, rest, ok := strings.Cut(path, ".")
	if !ok {
		return nil
	}
	var inner map[string]json.RawMessage
	if json.Unmarshal(claims[name], &inner) != nil {
		return nil
	}
	return lookUp(inner, rest)
}

// scalar returns what a string or a whole number says.
func scalar(value json.RawMessage) (string, Verdict) {
	var text string
	switch {
	case len(value) == 0:
		return "", Nobody
	case value[0] == '"':
		if json.Unmarshal(value, &text) != nil {
			return "", Malformed
		}
		return text, Found
	case strings.Trim(string(value), "0123456789") == "":
		return string(value), Found
	default:
		return "", Nobody
	}
}
