package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// MQTTCheck sends an MQTT 3.1.1 CONNECT to the node's session address and expects a
// CONNACK (§3.2 of the standard).
type MQTTCheck struct {
	// Accepted is set when the CONNACK has to accept us; otherwise a refusal, for want
	// of a password perhaps, shows as well that the broker works.
	Accepted bool
	Opening  Opening
}

// connect is a CONNECT with a clean session, 10 s keep-alive, and the client
// identifier imlb-check.
const connect = "\x10\x16" + "\x00\x04MQTT" + "\x04" + "\x02" + "\x00\x0a" + "\x00\x0aimlb-check"

// disconnect is a DISCONNECT.
const disconnect = "\xe0\x00"

// refusals are the return codes of a CONNACK (MQTT 3.1.1 table 3.1).
func refusal(code byte) string {
	switch code {
	case 1:
		return "unacceptable protocol version"
	case 2:
		return "identifier rejected"
	case 3:
		return "server unavailable"
	case 4:
		return "bad user name or password"
	case 5:
		return "not authorized"
	default:
		return fmt.Sprintf("code %d", code)
	}
}

// Probe implements [Check].
func (c MQTTCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	conn, err := c.Opening.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, connect); err != nil {
		return nil, fmt.Errorf("send CONNECT: %w", err)
	}
	var packet [4]byte // type, length 2, flags, return code
	if _, err := io.ReadFull(conn, packet[:]); err != nil {
		return nil, fmt.Errorf("read CONNACK: %w", err)
	}
	if !bytes.Equal(packet[:2], []byte{0x20, 2}) || packet[2]&^1 != 0 {
		return nil, errors.New("read CONNACK: something else came")
	}
	if code := packet[3]; code != 0 {
		if c.Accepted || code == 3 {
			return nil, fmt.Errorf("connection refused by MQTT: %s", refusal(code))
		}
		return nil, nil
	}
	if _, err := io.WriteString(conn, disconnect); err != nil {
		return nil, fmt.Errorf("send DISCONNECT: %w", err)
	}
	return nil, nil
}
