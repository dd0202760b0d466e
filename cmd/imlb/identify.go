package main

import (
	"crypto/rand"
	"fmt"

	"imlb/configs"
	"imlb/proxy"
	"imlb/proxy/identify"
)

// identifyOf translates how the users of a listener's opaque sessions are known.
// Steps are named by the word of the document, for logs.
func identifyOf(c configs.Identify, protocol proxy.Protocol) (proxy.Identify, error) {
	chain := make(identify.Chain, len(c.By))
	for i, by := range c.By {
		step, err := identifierOf(by, int(c.MaxBytes), protocol)
		if err != nil {
			return proxy.Identify{}, fmt.Errorf("identify by %s (%d): %w", by.Type, i+1, err)
		}
		chain[i] = identify.Step{Name: string(by.Type), Identifier: step}
	}
	return proxy.Identify{Chain: chain, MaxBytes: int(c.MaxBytes), Timeout: c.Timeout}, nil
}

func identifierOf(c configs.Identifier, limit int, protocol proxy.Protocol) (identify.Identifier, error) {
	switch c.Type {
	case configs.ByMQTT:
		return identify.MQTT{ClientIDFirst: c.First == configs.ClientID, Max: limit, Agreed: c.Agreed}, nil
	case configs.BySNI:
		if protocol == proxy.TCP {
			return identify.SNI{Max: limit}, nil // TLS between client and node
		}
		return identify.ServerName{}, nil
	case configs.ByWebSocket:
		value, err := requestValue(c)
		return identify.Request{Value: value, Claim: c.Claim}, err
	case configs.ByCertificate:
		return identify.Certificate{Field: certificateField(c.Field)}, nil
	case configs.ByProxyTLV:
		return identify.ByTLV{Type: byte(c.TLV), Sub: byte(c.Sub)}, nil //nolint:gosec // the document's validation bounds them
	case configs.ByPattern:
		return identify.NewPattern(identify.PatternConfig{Expr: string(c.Pattern), Tries: c.MaxLines, Max: min(limit, maxPattern)})
	case configs.BySource:
		return identify.Source{IPv4Bits: c.IPv4Prefix, IPv6Bits: c.IPv6Prefix}, nil
	case configs.ByRandom:
		return random{}, nil
	}
	return nil, fmt.Errorf("no identifier is of type %q", c.Type)
}

// maxPattern is how many bytes a pattern is tried on: what a hostile client can make
// it cost is that times the lines.
const maxPattern = 1 << 10

// requestValue is the part of the request that may name the user.
func requestValue(c configs.Identifier) (identify.Value, error) {
	switch c.From {
	case configs.FromPath:
		return identify.Path(string(c.Pattern))
	case configs.FromSegment:
		return identify.Segment(c.Segment), nil
	case configs.FromQuery:
		return identify.Query(c.Name), nil
	case configs.FromHeader:
		return identify.Header(c.Name), nil
	case configs.FromCookie:
		return identify.Cookie(c.Name), nil
	case configs.FromBearer:
		return identify.Bearer(), nil
	case configs.FromSubprotocol:
		return identify.Subprotocol(c.Name), nil
	}
	return nil, fmt.Errorf("no part of a request is called %q", c.From)
}

func certificateField(f configs.CertificateField) identify.CertificateField {
	switch f {
	case configs.DNSName:
		return identify.DNSName
	case configs.Email:
		return identify.EmailAddress
	case configs.URI:
		return identify.URI
	case configs.CommonName:
	}
	return identify.CommonName
}

// random makes a user of each connection.
type random struct{}

// Identify implements identify.Identifier. The key is one that nobody else has.
func (random) Identify(identify.Input) identify.Result {
	return identify.Result{Verdict: identify.Found, Key: rand.Text()}
}
