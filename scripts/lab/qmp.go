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
