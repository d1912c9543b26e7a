package dashboard

import (
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Network is who gives the PCs their addresses.
type Network struct {
	Mode   string    `json:"mode"`  // "full": this server; "proxy": another one
	Fixed  bool      `json:"fixed"` // by the configuration
	Why    string    `json:"why"`   // looking, nolink, alone, beside, silent, kept, clash, nobody
	Since  time.Time `json:"since"`
	Own    string    `json:"own"`    // this server's address there
	Givers []string  `json:"givers"` // others that give addresses
	Boots  []string  `json:"boots"`  // others that give boot files
	Apart  bool      `json:"apart"`  // PCs get addresses from which they don't reach this server
	Moves  bool      `json:"moves"`  // this server takes another address once no PC is here
	Twin   bool      `json:"twin"`   // another machine has this server's address
	Needs  bool      `json:"needs"`  // a person should see to it
	Text   string    `json:"text"`   // all of it, in English
}

// netLine is what the bench says of it; nothing of it is written by a PC.
type netLine struct {
	Needs bool
	Says  []Say
}

var netWords = map[string]string{
	"looking": "net.looking",
	"nolink":  "net.nolink",
	"alone":   "net.alone",
	"beside":  "net.beside",
	"silent":  "net.silent",
	"kept":    "net.kept",
	"clash":   "net.clash",
	"nobody":  "net.nobody",
}

func netOf(n Network, ok bool) *netLine {
	if !ok {
		return nil
	}
	l := &netLine{Needs: n.Needs}
	say := func(id string, pairs ...any) { l.Says = append(l.Says, Say{ID: id, Pairs: pairs}) }
	id, known := netWords[n.Why]
	if !known {
		l.Says = append(l.Says, Say{Text: n.Text})
		return l
	}
	if n.Moves && n.Why == "kept" {
		id = "net.kept.moves"
	}
	several := len(n.Givers) > 1 && n.Why != "clash"
	if several {
		say("net.several", "Others", n.Givers)
	}
	if !several || n.Why != "beside" {
		say(id, "Others", n.Givers)
	}
	switch {
	case several && !n.Moves: // first things first: which one stays decides about the rest
	case n.Apart && n.Moves:
		say("net.apart.moves", "Others", n.Givers, "Own", n.Own)
	case n.Apart:
		say("net.apart", "Others", n.Givers, "Own", n.Own)
	}
	if n.Twin {
		say("net.twin", "Own", n.Own)
	}
	if len(n.Boots) > 0 {
		say("net.boots", "Others", n.Boots)
	}
	return l
}

func (d *Dashboard) network() (Network, bool) {
	if d.cfg.Network == nil {
		return Network{}, false
	}
	return d.cfg.Network()
}

// apiNetwork answers with the Network as JSON.
func (d *Dashboard) apiNetwork(c echo.Context) error {
	n, ok := d.network()
	if !ok {
		return fmt.Errorf("the network isn't served yet: %w", echo.ErrNotFound)
	}
	return c.JSON(http.StatusOK, n)
}
