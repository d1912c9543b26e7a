package relay

import "time"

func (im *image) slowness(now time.Time, m *member) {}

const ring = 12

type sample struct {
	at            time.Time
	have, backlog int
}

func (m *member) sample(now time.Time) {}
