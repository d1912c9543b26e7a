package appliance

import (
	"io"
	"net"
	"testing"
	"time"
)

func TestOneAddressCantTakeAllConnections(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := bounded(plain, 3, 2)
	defer ln.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func(from string) (theirs net.Conn, ours net.Conn) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		closed := make(chan struct{})
		go func() {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.Copy(io.Discard, c)
			close(closed)
		}()
		select {
		case s := <-accepted:
			return c, s
		case <-closed:
			return c, nil
		}
	}
	_, a := dial("127.0.0.1")
	_, b := dial("127.0.0.1")
	if a == nil || b == nil {
		t.Fatal("two of one address were not let in")
	}
	if _, c := dial("127.0.0.1"); c != nil {
		t.Fatal("a third of one address was let in")
	}
	_, other := dial("127.0.0.2")
	if other == nil {
		t.Fatal("another address was kept out by the first")
	}
	if _, c := dial("127.0.0.3"); c != nil {
		t.Fatal("more than all were let in")
	}
	a.Close()
	a.Close() // twice counts once
	if _, c := dial("127.0.0.1"); c == nil {
		t.Fatal("a place that was left is not given again")
	}
	if _, c := dial("127.0.0.2"); c != nil {
		t.Fatal("closing twice made room for two")
	}
}
