package lab

import (
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// QMP runs one command of QEMU's machine protocol on the PC and decodes what it
// returns into out, if that isn't nil.
func (pc *PC) QMP(command string, arguments map[string]any, out any) error {
	conn, err := net.Dial("unix", pc.lab.path(pc.Name+".qmp"))
	if err != nil {
		return fmt.Errorf("%s: %w", pc.Name, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)

	type message struct {
		QMP    json.RawMessage
		Event  string
		Return json.RawMessage
		Error  *struct{ Desc string }
	}
	ask := func(command string, arguments map[string]any) (json.RawMessage, error) {
		req := map[string]any{"execute": command}
		if arguments != nil {
			req["arguments"] = arguments
		}
		if err := enc.Encode(req); err != nil {
			return nil, err
		}
		for {
			var m message
			if err := dec.Decode(&m); err != nil {
				return nil, err
			}
			switch {
			case m.Error != nil:
				return nil, fmt.Errorf("%s: %s: %s", pc.Name, command, m.Error.Desc)
			case m.Return != nil:
				return m.Return, nil
			} // else the greeting or an event
		}
	}
	if _, err := ask("qmp_capabilities", nil); err != nil {
		return err
	}
	ret, err := ask(command, arguments)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(ret, out)
}

// keys that aren't letters or digits, by QEMU's names; a leading + is the shift key.
var keys = map[rune]string{' ': "spc", '-': "minus", '/': "slash", '.': "dot", '>': "+dot", '|': "+backslash", '\n': "ret"}

// Type presses keys on the PC's keyboard, with a breath between them: firmware
// and consoles lose what comes too fast.
func (pc *PC) Type(text string) error {
	for _, r := range text {
		name, shift := keys[r], false
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			name = string(r)
		case r >= 'A' && r <= 'Z':
			name, shift = string(r-'A'+'a'), true
		case name == "":
			return fmt.Errorf("%s has no key for %q", pc.Name, r)
		case name[0] == '+':
			name, shift = name[1:], true
		}
		press := []map[string]any{{"type": "qcode", "data": name}}
		if shift {
			press = append([]map[string]any{{"type": "qcode", "data": "shift"}}, press...)
		}
		if err := pc.QMP("send-key", map[string]any{"keys": press}, nil); err != nil {
			return err
		}
		time.Sleep(150 * time.Millisecond)
	}
	return nil
}
