package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// engine is one way to bring the image to PCs.
type engine struct {
	name  string
	tool  string // that must be installed; empty: ours
	lacks string // what it doesn't do of what ours does
	file  bool   // it brings a file into the PC's memory, nothing is written to its disk
	holes bool   // it leaves frames of zeroes as they were
	fresh bool   // it would find the image on a disk that had it before
	blind bool   // it brings no image at all
	ours  bool   // it says when it is ready, and a last word
	serve func(b *bench, n int) string
	line  func(b *bench, p *picture, i int) string // for the PC's shell; i from 0
}

const server = "http://" + applianceIP

// own is the product: agent/exchange and agent/imaging on a real disk.
func own(name string, share bool) engine {
	return engine{name: name, ours: true, line: func(b *bench, p *picture, i int) string {
		args := []string{"exec", b.pc,
			"-manifest", p.manifest, "-frames", server + "/images/" + p.root + "/frames",
			"-disk", b.drives[i].path, "-job", fmt.Sprint("pc", i+1), "-memory", fmt.Sprint(b.memory), "-streams", fmt.Sprint(b.streams)}
		if b.profile != "" {
			args = append(args, "-profile", b.profile)
		}
		if share {
			args = append(args, "-share", server+"/v1/share", "-listen", b.lan.pcs[i].ip+":0", "-mbit", fmt.Sprint(b.now.mbit))
		}
		return strings.Join(args, " ")
	}}
}

var (
	refurb  = own("refurb", true)
	unicast = own("refurb-unicast", false)
)

// others are the peers, as their own documentation says to use them.
var others = []engine{
	{name: "curl-zstd-dd", tool: "zstd", lacks: "checks nothing, reads nothing back, one stream from the server for each PC",
		line: func(b *bench, _ *picture, i int) string {
			return fmt.Sprintf("read go; curl -sf %s/files/%s | zstd -qdc | dd of=%s bs=4M iflag=fullblock oflag=direct conv=fsync",
				server, streamFile, b.drives[i].path)
		}},
	{name: "bmaptool", tool: "bmaptool", holes: true, lacks: "checks its input only, reads nothing back, one stream from the server for each PC; leaves unmapped blocks as they were",
		line: func(b *bench, _ *picture, i int) string {
			return fmt.Sprintf("read go; exec bmaptool -q copy --bmap %[1]s/files/%[2]s %[1]s/files/%[3]s %[4]s", server, blockMap, streamFile, b.drives[i].path)
		}},
	{name: "udpcast", tool: "udp-sender", file: true, lacks: "brings the compressed file only: decodes, checks, writes and reads back nothing; in lock-step, its slowest receiver paces all, nobody joins late",
		serve: func(b *bench, n int) string {
			return fmt.Sprintf("exec udp-sender --full-duplex --nokbd --interface eth0 --min-receivers %d --file %s", n, b.picture.frames)
		},
		line: func(b *bench, _ *picture, i int) string {
			return "read go; exec udp-receiver --nokbd --interface eth0 --file " + b.got(i)
		}},
	{name: "aria2-bittorrent", tool: "aria2c", file: true, lacks: "brings the compressed file only: decodes, writes and reads back nothing; its pieces are checked (SHA-1)",
		serve: func(b *bench, _ int) string {
			return aria + "--bt-seed-unverified=true --check-integrity=false --seed-ratio=0.0 --dir=" + b.files() + " " + b.torrent
		},
		line: func(b *bench, _ *picture, i int) string {
			return "read go; " + aria + "--seed-ratio=0.0 --on-bt-download-complete=" + b.hook + " --dir=" + b.folder(i) + " " + b.torrent
		}},
	{name: "casync", tool: "casync", fresh: true, lacks: "one request for each chunk, one stream from the server for each PC, reads nothing back",
		line: func(b *bench, _ *picture, i int) string {
			return fmt.Sprintf("read go; casync extract --store=%[1]s/files/chunks %[1]s/files/%[2]s %[3]s && sync %[3]s", server, chunkIndex, b.drives[i].path)
		}},
	{name: "desync", tool: "desync", fresh: true, lacks: "one stream from the server for each PC; re-reads only what it copied",
		line: func(b *bench, _ *picture, i int) string {
			return fmt.Sprintf("read go; desync extract -s %[1]s/files/desync %[1]s/files/%[2]s %[3]s && sync %[3]s", server, desyncIndex, b.drives[i].path)
		}},
}

const aria = "exec aria2c --quiet --enable-dht=false --enable-dht6=false --enable-peer-exchange=true --bt-enable-lpd=false" +
	" --file-allocation=none --bt-max-peers=0 --bt-request-peer-speed-limit=100M --summary-interval=0 --follow-torrent=false "

// peers are the tools of others that are installed.
type peers map[string]bool

func findPeers() peers {
	p := peers{}
	for _, e := range others {
		_, err := exec.LookPath(e.tool)
		p[e.tool] = err == nil
	}
	return p
}

func (p peers) has(tool string) bool { return tool == "" || p[tool] }

func byName(name string) engine {
	for _, e := range append([]engine{refurb, unicast}, others...) {
		if e.name == name {
			return e
		}
	}
	panic("no engine " + name)
}
