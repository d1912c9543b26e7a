package dashboard

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// StoryLine is one step of a device's history in plain words.
type StoryLine struct {
	Look
	When time.Time
	What Say
	Who  Say
	Why  Say
}

// doubtWords are why a PC that was new may be one that was not.
var doubtWords = map[workshop.DoubtKind]string{
	workshop.DoubtPartly: "story.doubt.partly", workshop.DoubtEqual: "story.doubt.equal", workshop.DoubtNobody: "story.doubt.nobody",
}

// storyOf tells a history, newest first. Steps that say nothing to people stay
// in the exports. people maps ids to names.
func storyOf(events []workshop.Event, people map[string]string) []StoryLine {
	var lines []StoryLine
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		if e.Kind == "payload" || e.Kind == "job" && e.To == string(workshop.Reported) {
			continue // the latter is the report's shadow
		}
		l := StoryLine{Look: lookNone, When: e.Time, What: Say{Text: clean(e.Kind, maxLine)}, Who: actorOf(e.Actor, people), Why: english(e.Reason)}
		l.Icon = "dash"
		switch e.Kind {
		case "job":
			l.What = Say{Text: clean(e.From+" → "+e.To, maxLine)}
			if look, ok := looks[workshop.JobState(e.To)]; ok {
				l.Look, l.What = look, Say{ID: "story.job." + e.To}
			}
			switch {
			case e.To == string(workshop.Approved) && e.Params["job"] == "erase":
				l.What = Say{ID: "story.job.approved_erase"}
			case e.To == string(workshop.JobFailed) && e.Result == string(wire.Unknown):
				l.Icon, l.What = "ask", Say{ID: "story.job.unknown"}
			}
		case "report":
			l.Tone, l.Icon, l.What = toneIdle, "search", Say{ID: "story.report"}
		case "device_created":
			l.Tone, l.Icon, l.What = toneIdle, "plus", Say{ID: "story.device_created"}
			if id, ok := doubtWords[workshop.DoubtKind(e.Params["doubt"])]; ok {
				l.Why = Say{ID: id}
			}
		case "lot_joined":
			l.Tone, l.Icon, l.What = toneIdle, "plus", Say{ID: "story.lot_joined"}
		case "hold":
			l.Tone, l.Icon, l.What = toneHold, "hand", Say{ID: "story.hold"}
		case "image_again":
			l.Tone, l.Icon, l.What = toneRun, "again", Say{ID: "story.image_again"}
		case "image_again_forgotten", "hold_at_start_forgotten":
			l.Tone, l.Icon, l.What = toneIdle, "dash", Say{ID: "story.forgotten"}
		case "hold_at_start":
			l.Tone, l.Icon, l.What = toneHold, "hand", Say{ID: "story.hold_at_start"}
		case "rescue_chosen":
			l.Tone, l.Icon, l.What, l.Why = toneRun, "pulse", Say{ID: "story.rescue_chosen"}, Say{ID: rescueWords[workshop.Rescue(e.To)].Word}
		case "rescue_started":
			l.Tone, l.Icon, l.What, l.Why = toneRun, "play", Say{ID: "story.rescue_started"}, Say{ID: rescueWords[workshop.Rescue(e.To)].Word}
		case "rescue_forgotten":
			l.Tone, l.Icon, l.What = toneIdle, "dash", Say{ID: "story.forgotten"}
		case "wake":
			l.Tone, l.Icon, l.What = toneIdle, "power", Say{ID: "story.wake"}
			if e.Result == "failed" {
				l.Tone, l.What = toneFail, Say{ID: "story.wake_failed"}
			}
		case "late_outcome":
			l.Tone, l.Icon, l.What = toneIdle, "clock", Say{ID: "story.late_outcome"}
		case "checkin":
			l.Tone, l.Icon, l.What = toneDone, "check2", Say{ID: "story.checkin"}
		case "suspected":
			l.Tone, l.Icon, l.What, l.Why = toneFail, "warn", Say{ID: "story.suspected"}, Say{ID: "suspect.next"}
		case "cleared":
			l.Tone, l.Icon, l.What, l.Why = toneDone, "check", Say{ID: "story.cleared"}, Say{}
		case "merged_from":
			l.Tone, l.Icon, l.What = toneIdle, "chain", numbered("story.merged_from", e.Params["number"])
		case "merged_into":
			l.Tone, l.Icon, l.What = toneIdle, "chain", numbered("story.merged_into", e.Params["number"])
		case "split_off":
			l.Tone, l.Icon, l.What = toneIdle, "chain", numbered("story.split_off", e.Params["number"])
		case "split_from":
			l.Tone, l.Icon, l.What = toneIdle, "chain", numbered("story.split_from", e.Params["from_number"])
		case "kept_apart":
			l.Tone, l.Icon, l.What = toneIdle, "chain", numbered("story.kept_apart", e.Params["number"])
		case "identity_doubt":
			l.Tone, l.Icon, l.What, l.Why = toneHold, "ask", Say{ID: "story.identity_doubt"}, Say{}
		case "doubt_settled":
			l.Tone, l.Icon, l.What = toneIdle, "check", Say{ID: "story.doubt_settled"}
		case "device_moved":
			l.Tone, l.Icon, l.What = toneIdle, "next", Say{ID: "story.moved." + clean(e.To, 32)}
		}
		lines = append(lines, l)
	}
	return lines
}

// numbered says a message about the PC of a number.
func numbered(id, number string) Say {
	n, _ := strconv.Atoi(number) // our own line
	return Say{ID: id, Pairs: []any{"N", n}}
}

// actorOf says who did it.
func actorOf(actor string, people map[string]string) Say {
	switch {
	case actor == "agent" || actor == "system":
		return Say{ID: "who.pc"}
	case actor == "appliance":
		return Say{ID: "who.appliance"}
	case strings.HasPrefix(actor, "lot:"):
		return Say{ID: "who.lot"}
	case people[actor] != "":
		return Say{ID: "who.person", Pairs: []any{"Name", people[actor]}}
	}
	return Say{ID: "who.gone"}
}

// names of the people, by id.
func (d *Dashboard) names(ctx context.Context) (map[string]string, error) {
	users, err := d.cfg.Users.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list of users: %w", err)
	}
	names := map[string]string{}
	for _, u := range users {
		names[u.ID] = clean(u.Name, maxName)
	}
	return names, nil
}
