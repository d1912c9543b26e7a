package appliance

import (
	"context"
	"log/slog"

	"golang.org/x/time/rate"
)

// seldom is a log of what anybody on the workshop's network can have it say as often
// as they like: a roomful of PCs at once, then a line a second. The rest is there for
// whoever asks for all (debug).
type seldom struct {
	log  *slog.Logger
	most *rate.Limiter
}

func newSeldom(log *slog.Logger) *seldom { return &seldom{log, rate.NewLimiter(1, 200)} }

func (s *seldom) say(level slog.Level, what string, args ...any) {
	if level > slog.LevelDebug && !s.most.Allow() {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, what, args...)
}
