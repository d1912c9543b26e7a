package dashboard

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/appliance/workshop"
)

// Lots is the page of all lots.
type Lots struct {
	Lead   bool
	Open   *LotLine
	Closed []LotLine
	Images []Image
}

// LotLine is one lot with what became of its devices.
type LotLine struct {
	ID, Donor      string
	Image          string // name; empty: none
	Root           string
	Standing       bool
	Opened, Closed time.Time
	By             string
	All            int
	Needs          int
	Work           int
	Done           int
	Waits          int           // are off and have something to do
	Left           time.Duration // until all who work are done; 0: not known
	Intake         workshop.Intake
}

// lotsOf counts each lot's devices.
func lotsOf(v workshop.View, images []Image, people map[string]string) (lines []LotLine) {
	names := map[string]string{}
	for _, i := range images {
		names[i.Root] = i.Name
	}
	at := map[string]int{}
	for _, l := range v.Lots {
		at[l.ID] = len(lines)
		lines = append(lines, LotLine{
			ID: l.ID, Donor: clean(l.Donor, maxLine), Image: names[l.Image], Root: l.Image, Standing: l.Standing,
			Opened: l.Opened, Closed: l.Closed, By: people[l.OpenedBy], Intake: l.Intake,
		})
	}
	cards := map[string][]Card{}
	for _, dv := range v.Devices {
		i, ok := at[dv.Lot]
		if !ok {
			continue
		}
		l, c := &lines[i], cardOf(dv)
		cards[dv.Lot] = append(cards[dv.Lot], c)
		l.All++
		if dv.Waits() {
			l.Waits++
		}
		switch c.Group {
		case groupNeeds:
			l.Needs++
		case groupWork:
			l.Work++
		case groupDone:
			l.Done++
		}
	}
	for id, i := range at {
		lines[i].Left = allDone(cards[id])
	}
	return lines
}

func (d *Dashboard) lotLines(c echo.Context) (workshop.View, []LotLine, []Image, error) {
	ctx := c.Request().Context()
	v := d.cfg.Registry.View()
	images, err := d.cfg.Images.List(ctx)
	if err != nil {
		return v, nil, nil, fmt.Errorf("list of images: %w", err)
	}
	people, err := d.names(ctx)
	if err != nil {
		return v, nil, nil, err
	}
	images = cleanImages(images)
	return v, lotsOf(v, images, people), images, nil
}

func (d *Dashboard) lots(c echo.Context) error {
	_, lines, images, err := d.lotLines(c)
	if err != nil {
		return err
	}
	body := Lots{Lead: can(c, Lead), Images: usable(images)}
	for _, l := range lines {
		if l.Closed.IsZero() && body.Open == nil {
			body.Open = &l
		} else {
			body.Closed = append(body.Closed, l)
		}
	}
	return d.render(c, http.StatusOK, "lots", page{Title: "nav.lots", Nav: "lots", Body: body})
}

// LotPage is one lot and its devices.
type LotPage struct {
	LotLine
	Lead   bool
	Devs   []DeviceLine
	Papers bool
}

func (d *Dashboard) lot(c echo.Context) error {
	v, lines, _, err := d.lotLines(c)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if l.ID != c.Param("id") {
			continue
		}
		body := LotPage{LotLine: l, Lead: can(c, Lead), Papers: d.cfg.Papers != nil}
		for _, dv := range v.Devices {
			if dv.Lot == l.ID {
				body.Devs = append(body.Devs, DeviceLine{cardOf(dv), dv.State, "", serialOf(dv)})
			}
		}
		return d.render(c, http.StatusOK, "lot", page{Head: l.Donor, Nav: "lots", Body: body})
	}
	return echo.ErrNotFound
}

// lotIntake notes what was counted at the door.
func (d *Dashboard) lotIntake(c echo.Context) error {
	var in workshop.Intake
	var err error
	for _, f := range []struct {
		name string
		to   *int
	}{{"promised", &in.Promised}, {"refused", &in.Refused}} {
		if s := strings.TrimSpace(c.FormValue(f.name)); s != "" && err == nil {
			if *f.to, err = strconv.Atoi(s); err != nil {
				err = &refused{http.StatusBadRequest, "lot.nonumber", "lot.nonumber.next"}
			}
		}
	}
	in.RefusedWhy = clean(c.FormValue("why"), maxLine)
	if err == nil {
		err = d.cfg.Registry.SetIntake(c.Request().Context(), actor(c), c.Param("id"), in)
	}
	return d.done(c, err, "/lots/"+c.Param("id"), "user.changed")
}

func (d *Dashboard) openLot(c echo.Context) error {
	donor := clean(c.FormValue("donor"), maxLine)
	if donor == "" {
		return d.done(c, &refused{http.StatusBadRequest, "lot.nodonor", "lot.nodonor.next"}, "/lots", "")
	}
	_, err := d.cfg.Registry.OpenLot(c.Request().Context(), actor(c), donor, clean(c.FormValue("image"), maxLine), c.FormValue("standing") == "yes")
	to := "/"
	if err != nil {
		to = "/lots"
	}
	return d.done(c, err, to, "lot.opened", "Donor", donor)
}

// closeLot wants to hear that it is meant: nothing opens a lot again.
func (d *Dashboard) closeLot(c echo.Context) error {
	if c.FormValue("sure") != "yes" {
		return d.done(c, &refused{http.StatusBadRequest, "lot.unsure", "lot.unsure.next"}, "/lots/"+c.Param("id"), "")
	}
	err := d.cfg.Registry.CloseLot(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, "/lots", "lot.closed")
}
