package main

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
)

const pieceSize = 256 << 10

// torrent describes one file for BitTorrent (BEP 3): bencoded, keys in order.
func torrent(path, name, announce string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var pieces []byte
	var size int
	b := make([]byte, pieceSize)
	for {
		n, err := io.ReadFull(f, b)
		if n > 0 {
			h := sha1.Sum(b[:n])
			pieces, size = append(pieces, h[:]...), size+n
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return fmt.Appendf(nil, "d8:announce%d:%s4:infod6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:%see",
		len(announce), announce, size, len(name), name, pieceSize, len(pieces), pieces), nil
}

// tracker tells everybody of everybody (BEP 23): one file, one lab.
type tracker struct {
	mu    sync.Mutex
	peers map[string]bool // 4 bytes of address, 2 of port
}

func (t *tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	ip := net.ParseIP(host).To4()
	if err != nil || ip == nil {
		http.Error(w, "no port", http.StatusBadRequest)
		return
	}
	key := string(binary.BigEndian.AppendUint16(ip, uint16(port)))
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers == nil {
		t.peers = map[string]bool{}
	}
	if r.URL.Query().Get("event") == "stopped" {
		delete(t.peers, key)
	} else {
		t.peers[key] = true
	}
	var all []byte
	for p := range t.peers {
		if p != key {
			all = append(all, p...)
		}
	}
	// Asked again soon, so that those who came early hear of those who came later.
	fmt.Fprintf(w, "d8:intervali5e12:min intervali2e5:peers%d:%se", len(all), all)
}
