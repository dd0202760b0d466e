//go:build linux || darwin

package loop_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// scarce is set in the process that has few descriptors.
const scarce = "IMLB_LOOP_TEST_SCARCE"

// TestListenerWithoutDescriptors runs a process out of descriptors. It waits, not
// all the time asking, and goes on when there are some.
func TestListenerWithoutDescriptors(t *testing.T) {
	if os.Getenv(scarce) != "" {
		serveScarce(t)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestListenerWithoutDescriptors$", "-test.v")
	cmd.Env = append(os.Environ(), scarce+"=1")
	in, _ := cmd.StdinPipe()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	lines := bufio.NewScanner(out)
	want := func(prefix string) string {
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), prefix); ok {
				return text
			}
		}
		t.Fatalf("the process ended without %q", prefix)
		return ""
	}
	addr := want("address ")
	var conns []net.Conn
	for range 40 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	want("warning")
	want("warning")
	for _, conn := range conns[:20] {
		conn.Close()
	}
	// The last one was not accepted before.
	last := conns[len(conns)-1]
	last.SetDeadline(time.Now().Add(patience))
	mustWrite(t, last, []byte("x"))
	wantRead(t, last, []byte("x"))
	fmt.Fprintln(in, "done")
	var used time.Duration
	fmt.Sscan(want("cpu "), (*int64)(&used))
	if used > 2*time.Second {
		t.Errorf("the process used %v of CPU", used)
	}
}

// serveScarce echoes in a process with few descriptors.
func serveScarce(t *testing.T) {
	g := newGroup(t, loop.Options{})
	inner := listenTCP(t)
	limit := syscall.Rlimit{Cur: uint64(openFDs(t) + 20), Max: uint64(openFDs(t) + 20)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	ln, err := g.Listen(inner, func(c *loop.Conn, _ netip.AddrPort) {
		c.SetHandler(handler{ready: func(c *loop.Conn) {
			for {
				n, err := c.Read(c.Loop().Scratch())
				if errors.Is(err, loop.ErrAgain) {
					return
				}
				if err != nil {
					c.Close()
					return
				}
				c.Write(c.Loop().Scratch()[:n])
			}
		}})
	}, func(err error, _ time.Duration) {
		if errors.Is(err, syscall.EMFILE) {
			fmt.Println("warning")
		} else {
			fmt.Println("error", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("address", ln.Addr())
	bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Println("cpu", int64(cpu()))
}
