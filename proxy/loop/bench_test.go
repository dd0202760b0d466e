package loop_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// echo answers what comes until the listener is closed.
func echo(t testing.TB, ln net.Listener) net.Addr {
	t.Helper()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 4<<10)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if _, err := conn.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr()
}

// copying is a proxy with a goroutine for each direction.
func copying(t testing.TB, to net.Addr) net.Addr {
	t.Helper()
	ln := listenTCP(t)
	go func() {
		for {
			client, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				conn, err := net.Dial("tcp", to.String())
				if err != nil {
					return
				}
				defer conn.Close()
				node := conn.(*net.TCPConn)
				together(
					func() { io.Copy(node, client); node.CloseWrite() },
					func() { io.Copy(client, node); client.CloseWrite() },
				)
			}()
		}
	}()
	return ln.Addr()
}

// paths are the ways to a node that are compared.
func paths(b *testing.B, f func(b *testing.B, via func(net.Addr) net.Addr)) {
	b.Run("direct", func(b *testing.B) { f(b, func(to net.Addr) net.Addr { return to }) })
	b.Run("copy", func(b *testing.B) { f(b, func(to net.Addr) net.Addr { return copying(b, to) }) })
	b.Run("relay", func(b *testing.B) {
		g := newGroup(b, loop.Options{})
		f(b, func(to net.Addr) net.Addr { return newFront(b, g, to, nil).Addr() })
	})
}

// cpu is what the process has used. It includes both peers.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, conns := range []int{1, 64} {
		b.Run(fmt.Sprint(conns), func(b *testing.B) {
			paths(b, func(b *testing.B, via func(net.Addr) net.Addr) {
				roundTrips(b, conns, via(echo(b, listenTCP(b))))
			})
		})
	}
}

func roundTrips(b *testing.B, conns int, addr net.Addr) {
	var left atomic.Int64
	left.Store(int64(b.N))
	clients := make([]net.Conn, conns)
	for i := range clients {
		clients[i] = dialTCP(b, addr)
		clients[i].SetDeadline(time.Now().Add(time.Hour))
	}
	start := cpu()
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, conn := range clients {
		wg.Go(func() {
			p := pattern(64)
			for left.Add(-1) >= 0 {
				conn.Write(p)
				if _, err := io.ReadFull(conn, p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func BenchmarkConnectRequestClose(b *testing.B) {
	paths(b, func(b *testing.B, via func(net.Addr) net.Addr) {
		addr := via(echo(b, listenTCP(b))).String()
		start := cpu()
		p := pattern(64)
		b.ResetTimer()
		for range b.N {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			conn.Write(p)
			if _, err := io.ReadFull(conn, p); err != nil {
				b.Fatal(err)
			}
			conn.Close()
		}
		b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
	})
}

func BenchmarkBulk(b *testing.B) {
	paths(b, func(b *testing.B, via func(net.Addr) net.Addr) {
		ln := listenTCP(b)
		got := make(chan int64, 1)
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 256<<10)
			var sum int64
			for {
				n, err := conn.Read(buf)
				sum += int64(n)
				if err != nil {
					got <- sum
					return
				}
			}
		}()
		conn := dialTCP(b, via(ln.Addr()))
		conn.SetDeadline(time.Now().Add(time.Hour))
		p := make([]byte, 256<<10)
		b.SetBytes(int64(len(p)))
		start := cpu()
		b.ResetTimer()
		for range b.N {
			if _, err := conn.Write(p); err != nil {
				b.Fatal(err)
			}
		}
		conn.CloseWrite()
		if sum := <-got; sum != int64(b.N)*int64(len(p)) {
			b.Fatal(errors.New("bytes are missing"), sum)
		}
		b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
	})
}

// BenchmarkIdle holds sessions, and tells what each costs in the process.
func BenchmarkIdle(b *testing.B) {
	const sessions = 4000 // four descriptors each, in one process
	for range b.N {
		g := newGroup(b, loop.Options{})
		ln := listenTCP(b)
		f := newFront(b, g, ln.Addr(), func(cfg *loop.RelayConfig) {
			cfg.Limits = &loop.Limits{Idle: time.Hour, ClientStall: time.Minute, NodeStall: time.Minute}
		})
		var conns []int
		before, routines := heap(), runtime.NumGoroutine()
		for range sessions {
			conns = append(conns, rawDial(b, f.Addr()), rawAccept(b, ln))
			<-f.relays
		}
		b.ReportMetric(float64(heap()-before)/sessions, "B/session")
		b.ReportMetric(float64(runtime.NumGoroutine()-routines)/sessions, "goroutines/session")
		for _, fd := range conns {
			syscall.Close(fd)
		}
		g.Close()
	}
}

// heap returns what is in use, stacks included.
func heap() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// rawDial connects without any of the memory that package net would use.
func rawDial(b *testing.B, addr net.Addr) int {
	b.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: addr.(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		b.Fatal(err)
	}
	return fd
}

// rawAccept accepts and keeps but a descriptor.
func rawAccept(b *testing.B, ln *net.TCPListener) int {
	b.Helper()
	conn, err := ln.AcceptTCP()
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	fd := -1
	raw.Control(func(old uintptr) { fd, err = syscall.Dup(int(old)) })
	if err != nil {
		b.Fatal(err)
	}
	return fd
}
