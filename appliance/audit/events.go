package audit

import "refurb/appliance/workshop"

// Events checks a history and returns what its lines say; of a damaged one,
// nothing.
func Events(device string, entries []Entry) ([]workshop.Event, error) {
	head := Start
	if n := len(entries); n > 0 {
		head = entries[n-1].Hash
	}
	lines, trouble := check(device, entries, int64(len(entries)), head, 0)
	if trouble != nil {
		return nil, trouble
	}
	events := make([]workshop.Event, len(lines))
	for i, l := range lines {
		events[i] = l.Event
	}
	return events, nil
}
