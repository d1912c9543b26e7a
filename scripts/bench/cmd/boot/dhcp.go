package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// perfdhcp, of Kea, loads DHCP servers as a relay does: its PCs lie in a network
// behind the cable's far end, and the answers go there.
const (
	relayNet, relayIP   = "10.88.0.0/16", "10.88.0.1"
	relayFrom, relayTo  = "10.88.1.0", "10.88.250.254"
	known               = 1000 // PCs that come again and again
	gentle              = 200  // handshakes per second of PCs that are new
	slowest             = 250
	doublings, halvings = 7, 3
	stepTime            = 2 * time.Second
	settleTime          = 2 * time.Second
)

// rates measures handshakes: how many are lost of a house full of new PCs, and
// how many per second of known ones the server bears without a loss.
func rates(ctx context.Context, o options) error {
	if _, err := exec.LookPath("perfdhcp"); err != nil {
		return errors.New("perfdhcp is not here: it is in Debian's package kea-admin")
	}
	servers := []struct {
		name         string
		start        func(*room, options) error
		fastest, low []float64
	}{{name: "", start: (*room).appliance}, {name: "dnsmasq_", start: (*room).dnsmasq}}
	for range o.runs {
		for i := range servers {
			s := &servers[i]
			err := func() error {
				r, err := newRoom(0)
				if err != nil {
					return err
				}
				defer r.close()
				if err := s.start(r, o); err != nil {
					return err
				}
				l, err := r.perfdhcp(ctx, gentle, known/gentle*time.Second)
				if err != nil {
					return err
				}
				s.low = append(s.low, float64(l.lost))
				rate, err := fastest(func(rate int) (load, error) { return r.perfdhcp(ctx, rate, stepTime) })
				s.fastest = append(s.fastest, rate)
				return err
			}()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				fmt.Printf("# dhcp, %sserver: %v\n", s.name, err)
			}
		}
	}
	for _, s := range servers {
		figure(s.name+"dhcp_4way_per_s", s.fastest, "1/s")
		figure(s.name+"dhcp_drops", s.low, "packets")
	}
	fmt.Printf("# dhcp_drops: of %d new PCs at %d/s; dhcp_4way_per_s: the highest rate at which all are answered within a second, in %v\n", known, gentle, stepTime)
	return nil
}

// fastest looks for the highest rate at which everything is answered within a
// second: doubled until something isn't, then in between. A rate that fails is tried
// once more, for the machine may have been busy with something else.
func fastest(try func(rate int) (load, error)) (best float64, err error) {
	bears := func(rate int) (bool, error) {
		for range 2 {
			l, err := try(rate)
			if err != nil {
				return false, err
			}
			if got := float64(l.begun) / stepTime.Seconds(); l.lost == 0 && l.slowest < time.Second && got > 0.95*float64(rate) {
				best = max(best, got)
				return true, nil
			}
		}
		return false, nil
	}
	low, high := 0, slowest
	for range doublings {
		ok, err := bears(high)
		if err != nil {
			return best, err
		}
		if !ok {
			break
		}
		low, high = high, 2*high
	}
	for range halvings {
		middle := (low + high) / 2
		ok, err := bears(middle)
		if err != nil {
			return best, err
		}
		if ok {
			low = middle
		} else {
			high = middle
		}
	}
	return best, nil
}

// load is what perfdhcp says of one rate.
type load struct {
	begun   int           // handshakes
	lost    int           // packets without an answer
	slowest time.Duration // answer
}

var (
	sentLine  = regexp.MustCompile(`(?m)^sent packets: (\d+)$`)
	dropLine  = regexp.MustCompile(`(?m)^drops: (\d+)$`)
	delayLine = regexp.MustCompile(`(?m)^max delay: ([0-9.e+-]+) ms$`)
)

// readLoad reads it; all comes twice, of DISCOVER and of REQUEST.
func readLoad(said string) (l load, err error) {
	sent, drops, delays := sentLine.FindAllStringSubmatch(said, -1), dropLine.FindAllStringSubmatch(said, -1), delayLine.FindAllStringSubmatch(said, -1)
	if len(sent) != 2 || len(drops) != 2 {
		return l, fmt.Errorf("perfdhcp says: %.1000s", said)
	}
	l.begun, err = strconv.Atoi(sent[0][1])
	for _, d := range drops {
		n, e := strconv.Atoi(d[1])
		l.lost, err = l.lost+n, errors.Join(err, e)
	}
	for _, d := range delays { // there is none when nothing was answered
		ms, e := strconv.ParseFloat(d[1], 64)
		l.slowest, err = max(l.slowest, time.Duration(ms*float64(time.Millisecond))), errors.Join(err, e)
	}
	return l, err
}

// perfdhcp starts handshakes at a rate, each of the next PC in turn, as UEFI's
// firmware asks, and waits a second for the last answers.
func (r *room) perfdhcp(ctx context.Context, rate int, d time.Duration) (load, error) {
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", r.pcs, "perfdhcp", "-4", "-l", relayIP,
		"-r", strconv.Itoa(rate), "-p", strconv.Itoa(int(d/time.Second)), "-W", "1000000", "-R", strconv.Itoa(known), "-b", "mac=02:52:46:00:00:00",
		"-o", "60,"+hex.EncodeToString([]byte("PXEClient:Arch:00007:UNDI:003001")), "-o", "93,0007", serverIP)
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == 3 {
		err = nil // something was lost
	}
	if err != nil {
		return load{}, fmt.Errorf("perfdhcp: %w: %.1000s", err, strings.TrimSpace(string(out)))
	}
	if os.Getenv("BENCH_DEBUG") != "" {
		fmt.Fprintf(os.Stderr, "%s\n", out)
	}
	l, err := readLoad(string(out))
	if l.lost > 0 {
		time.Sleep(settleTime) // the server has a queue still
	}
	return l, err
}
