package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"syscall"
)

// devHost is where `imlb dev` listens: this machine only.
const devHost = "127.0.0.1"

// frontPorts are the fixed places of the front's listeners after the base port.
type frontPorts struct {
	xmpp  string // STARTTLS
	xmpps string // direct TLS
	https string // TCP; WebSocket and host-meta
	quic  string // UDP, same number as https
	admin string
}

// frontPortCount is how many port numbers the front takes from the base on.
const frontPortCount = 4

// planFrontPorts names the listeners' addresses and makes sure that they are
// free, so that a taken port is reported before anything has been started.
func planFrontPorts(ctx context.Context, base int) (frontPorts, error) {
	if base < 1 || base+frontPortCount-1 > 65535 {
		return frontPorts{}, fmt.Errorf("--base-port %d: must be from 1 to %d, since %d ports are used from it on",
			base, 65535-frontPortCount+1, frontPortCount)
	}
	at := func(offset int) string { return net.JoinHostPort(devHost, strconv.Itoa(base+offset)) }
	ports := frontPorts{xmpp: at(0), xmpps: at(1), https: at(2), quic: at(2), admin: at(3)}
	for _, addr := range []string{ports.xmpp, ports.xmpps, ports.https, ports.admin} {
		if err := probeTCP(ctx, addr); err != nil {
			return frontPorts{}, portError(addr, "TCP", err)
		}
	}
	if err := probeUDP(ctx, ports.quic); err != nil {
		return frontPorts{}, portError(ports.quic, "UDP", err)
	}
	return ports, nil
}

func portError(addr, network string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s port %s is in use by another program: stop that, or choose others with --base-port", network, addr)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s port %s may not be opened by this user: choose 1024 or above with --base-port", network, addr)
	default:
		return fmt.Errorf("%s port %s: %w", network, addr, err)
	}
}

func probeTCP(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

func probeUDP(ctx context.Context, addr string) error {
	var lc net.ListenConfig
	c, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// The ports of the nodes lie below those that systems give to outgoing connections
// (from 32768 on in Linux), so that none is taken between being found free and
// being listened on, nor by a client of the port that a killed node has left.
const (
	firstNodePort = 15000
	lastNodePort  = 31000
)

// freePorts returns n loopback addresses on which nobody listens now and which the
// front does not need: neighbours, so that two clusters that start at once hardly ever
// find the same.
func freePorts(ctx context.Context, n int, front frontPorts) ([]string, error) {
	taken := []string{front.xmpp, front.xmpps, front.https, front.admin}
	addrs := make([]string, 0, n)
	const all = lastNodePort - firstNodePort
	first := rand.IntN(all) //nolint:gosec // Nothing secret about it.
	for i := range 100 * n {
		port := firstNodePort + (first+i)%all
		addr := net.JoinHostPort(devHost, strconv.Itoa(port))
		if slices.Contains(taken, addr) || probeTCP(ctx, addr) != nil {
			continue
		}
		taken = append(taken, addr)
		if addrs = append(addrs, addr); len(addrs) == n {
			return addrs, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports from %d to %d: too few are free", n, firstNodePort, lastNodePort)
}
