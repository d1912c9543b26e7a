package main

import (
	"testing"
	"time"
)

func TestReadLoad(t *testing.T) {
	const said = `Running: perfdhcp -4 -l 10.88.0.1 -r 200 -p 5 10.77.0.1
Scenario: basic.
***Rate statistics***
Rate: 165.485 4-way exchanges/second, expected rate: 200

***Statistics for: DISCOVER-OFFER***
sent packets: 988
received packets: 957
drops: 31
drops ratio: 3.13765 %

min delay: 0.077 ms
avg delay: 66.007 ms
max delay: 452.503 ms

***Statistics for: REQUEST-ACK***
sent packets: 957
received packets: 865
drops: 92
drops ratio: 9.613 %

min delay: 0.434 ms
avg delay: 45.681 ms
max delay: 1002.5 ms
`
	if l, err := readLoad(said); err != nil || l != (load{988, 123, 1002500 * time.Microsecond}) {
		t.Errorf("%+v %v", l, err)
	}
	if _, err := readLoad("Failed to open socket"); err == nil {
		t.Error("an error is read as figures")
	}
}

// A server that bears 1100 handshakes a second, and loses one now and then.
func TestFastest(t *testing.T) {
	tries := 0
	got, err := fastest(func(rate int) (load, error) {
		tries++
		l := load{begun: rate * 99 / 100 * int(stepTime/time.Second)}
		if rate > 1100 {
			l.lost = 100
		}
		if tries%3 == 1 {
			l.lost++
		}
		return l, nil
	})
	if err != nil || got < 900 || got > 1100 || tries > 2*(doublings+halvings) {
		t.Errorf("%v after %d tries, %v", got, tries, err)
	}
}
