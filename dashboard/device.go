package dashboard

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"refurb/agent/wire"
	"refurb/appliance/workshop"
)

// Devices is the list of all devices that ever came.
type Devices struct {
	Find  string
	Cards []DeviceLine
	More  int
	All   int
}

// DeviceLine is one line of that list.
type DeviceLine struct {
	Card
	Place  workshop.DeviceState
	Donor  string
	Serial string
}

const maxLines = 200

// devicesOf lists what matches, newest first.
func devicesOf(v workshop.View, find string) Devices {
	d := Devices{Find: clean(find, maxLine), All: len(v.Devices)}
	want := strings.ToLower(d.Find)
	donors := map[string]string{}
	for _, l := range v.Lots {
		donors[l.ID] = clean(l.Donor, maxLine)
	}
	for i := len(v.Devices) - 1; i >= 0; i-- {
		dv := v.Devices[i]
		if want != "" && !matches(dv, donors[dv.Lot], want) {
			continue
		}
		if len(d.Cards) == maxLines {
			d.More++
			continue
		}
		d.Cards = append(d.Cards, DeviceLine{cardOf(dv), dv.State, donors[dv.Lot], serialOf(dv)})
	}
	return d
}

// matches looks for text where people look: on the sticker, the case, the disk.
func matches(v workshop.DeviceView, donor, want string) bool {
	for _, n := range append([]int{v.Number}, v.Numbers...) {
		if strconv.Itoa(n) == strings.TrimLeft(want, "#0 ") {
			return true
		}
	}
	id := v.Report.Identity
	in := []string{id.Manufacturer + " " + id.Model, id.SystemSerial, id.BoardSerial, id.ChassisSerial, donor}
	in = append(in, v.MACs...)
	for _, disk := range v.Report.Disks {
		in = append(in, disk.Serial)
	}
	for _, s := range in {
		if len(want) > 1 && strings.Contains(strings.ToLower(s), want) {
			return true
		}
	}
	return false
}

// serialOf is the number on the case, unless nobody filled it in.
func serialOf(v workshop.DeviceView) string {
	id := v.Report.Identity
	for _, p := range id.Placeholders {
		if p == "system_serial" {
			return ""
		}
	}
	return clean(id.SystemSerial, maxLine)
}

func (d *Dashboard) devices(c echo.Context) error {
	body := devicesOf(d.cfg.Registry.View(), c.QueryParam("q"))
	return d.render(c, http.StatusOK, "devices", page{Title: "nav.devices", Nav: "devices", Body: body})
}

// DevicePage is a device and its history.
type DevicePage struct {
	Detail
	Story    []StoryLine
	Starts   []StartCard // its last ones
	Papers   []paperLink
	NoPapers bool // its history is damaged
	Ties     Ties
}

// look collects what the page of one device shows.
func (d *Dashboard) look(c echo.Context) (DevicePage, error) {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return DevicePage{}, echo.ErrNotFound
	}
	ctx := c.Request().Context()
	p := DevicePage{Detail: detailOf(v, can(c, Lead)), Starts: d.deviceStarts(v.ID, v.MACs)}
	p.Worker = can(c, Volunteer)
	events, err := d.cfg.History.Events(ctx, v.ID)
	if err != nil {
		return p, fmt.Errorf("history of device %d: %w", v.Number, err)
	}
	people, err := d.names(ctx)
	if err != nil {
		return p, err
	}
	p.Story = storyOf(events, people)
	p.Ties = tiesOf(d.langs.of(c.Request()), v, can(c, Lead))
	p.Papers, err = d.papersOf(ctx, v.ID)
	for _, r := range v.Records {
		if err == nil {
			var more []paperLink
			more, err = d.papersOf(ctx, r.ID)
			p.Papers = append(p.Papers, more...)
		}
	}
	slices.SortStableFunc(p.Papers, func(a, b paperLink) int { return b.Time.Compare(a.Time) })
	if err != nil {
		// The page is needed at the bench all the same.
		d.cfg.Log.Error("papers", "device", v.Number, "err", err)
		p.NoPapers = true
	}
	if p.Lead && p.CanAsk {
		images, err := d.cfg.Images.List(ctx)
		if err != nil {
			return p, fmt.Errorf("list of images: %w", err)
		}
		p.Images = usable(images)
	}
	return p, nil
}

func (d *Dashboard) device(c echo.Context) error {
	p, err := d.look(c)
	if err != nil {
		return err
	}
	if p.ID != c.Param("id") { // the number that it had leads to the one it has
		return c.Redirect(http.StatusSeeOther, "/devices/"+p.ID)
	}
	w := d.langs.of(c.Request())
	return d.render(c, http.StatusOK, "device", page{Head: w.T("device.number", "N", p.Number), Nav: "devices", Live: true, Body: p})
}

// deviceStream replaces the parts of a device's page that change. A part comes
// only when it differs, so that nothing is lost from a form being filled in.
func (d *Dashboard) deviceStream(c echo.Context) error {
	id := c.Param("id")
	v, ok := d.cfg.Registry.Device(id)
	if !ok {
		return echo.ErrNotFound
	}
	id = v.ID
	w := d.langs.of(c.Request())
	parts := []string{"device-hero", "device-now", "device-ask", "device-erase", "device-act", "device-power", "device-ties", "device-in", "device-log", "device-papers", "device-starts"}
	seen := map[string]string{}
	return d.follow(c, func(u *workshop.Update) (string, error) {
		if u != nil && !touches(u, id) {
			return "", nil
		}
		parts := parts
		var p DevicePage
		var err error
		if u == nil && len(seen) > 0 { // only its starts may have changed
			v, _ := d.cfg.Registry.Device(id)
			parts, p.Starts = parts[len(parts)-1:], d.deviceStarts(id, v.MACs)
		} else if p, err = d.look(c); err != nil {
			return "", err
		}
		var changed strings.Builder
		for _, name := range parts {
			var b strings.Builder
			if err := d.pages.write(&b, w, name, p); err != nil {
				return "", err
			}
			// What the page came with is newer than the stream's first word by no
			// more than a blink, except where a form may be under somebody's hands.
			if html := b.String(); seen[name] != html {
				seen[name] = html
				changed.WriteString(html)
			}
		}
		return changed.String(), nil
	}, d.traceWakes(c.Request().Context(), startTick))
}

func touches(u *workshop.Update, id string) bool {
	for _, v := range u.Devices {
		if v.ID == id {
			return true
		}
	}
	return false
}

func (d *Dashboard) back(c echo.Context) string { return "/devices/" + c.Param("id") }

func actor(c echo.Context) string { u, _ := userOf(c); return u.ID }

func (d *Dashboard) approve(c echo.Context) error {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return echo.ErrNotFound
	}
	if v.Job == nil || v.Job.ID != c.FormValue("job") {
		return d.done(c, &refused{http.StatusConflict, "approve.old", "approve.old.next"}, d.back(c), "")
	}
	err := d.cfg.Registry.Approve(c.Request().Context(), actor(c), v.Job.ID, c.FormValue("disk"), strings.TrimSpace(c.FormValue("serial")))
	return d.done(c, err, d.back(c), "approve.done")
}

func (d *Dashboard) again(c echo.Context) error {
	err := d.cfg.Registry.ImageAgain(c.Request().Context(), actor(c), c.Param("id"), clean(c.FormValue("image"), maxLine))
	return d.done(c, err, d.back(c), "again.done")
}

// wait has a PC wait at its next start: to be erased, or looked at.
func (d *Dashboard) wait(c echo.Context) error {
	err := d.cfg.Registry.HoldAtStart(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, d.back(c), "again.done")
}

// forgetAgain takes back what was asked for at the next start.
func (d *Dashboard) forgetAgain(c echo.Context) error {
	err := d.cfg.Registry.ForgetAgain(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, d.back(c), "again.forgotten")
}

// erase has a disk erased that a lead has named by its serial number.
func (d *Dashboard) erase(c echo.Context) error {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return echo.ErrNotFound
	}
	wish := workshop.EraseWish{Check: wire.CheckKind(c.FormValue("check")), Install: c.FormValue("install") == "yes"}
	var err error
	switch {
	case v.Job == nil || v.Job.ID != c.FormValue("job"):
		err = &refused{http.StatusConflict, "approve.old", "approve.old.next"}
	case c.FormValue("disk") == "":
		err = &refused{http.StatusBadRequest, "erase.nodisk", "erase.nodisk.next"}
	case wish.Check != wire.CheckFull && wish.Check != wire.CheckSample:
		err = &refused{http.StatusBadRequest, "erase.nocheck", "erase.nocheck.next"}
	default:
		err = d.cfg.Registry.Erase(c.Request().Context(), actor(c), v.ID, c.FormValue("disk"), strings.TrimSpace(c.FormValue("serial")), wish)
	}
	return d.done(c, err, d.back(c), "erase.done")
}

func (d *Dashboard) cancel(c echo.Context) error {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return echo.ErrNotFound
	}
	if v.Job == nil || v.Job.ID != c.FormValue("job") {
		return d.done(c, &refused{http.StatusConflict, "approve.old", "approve.old.next"}, d.back(c), "")
	}
	err := d.cfg.Registry.Cancel(c.Request().Context(), actor(c), v.Job.ID, clean(c.FormValue("reason"), maxLine))
	return d.done(c, err, d.back(c), "cancel.done")
}

func (d *Dashboard) move(c echo.Context) error {
	to := workshop.DeviceState(clean(c.FormValue("to"), maxLine))
	err := d.cfg.Registry.MoveDevice(c.Request().Context(), actor(c), c.Param("id"), to, clean(c.FormValue("reason"), maxLine))
	return d.done(c, err, d.back(c), "move.done")
}

// export hands out a device's history as a file; the printable one as a page.
func (d *Dashboard) export(c echo.Context) error {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return echo.ErrNotFound
	}
	id, number := v.ID, v.Number
	for _, r := range v.Records { // a merged one has a history of its own
		if r.ID == c.Param("id") {
			id, number = r.ID, r.Number
		}
	}
	format := c.Param("format")
	types := map[string]string{FormatJSONL: "application/jsonl; charset=utf-8", FormatCSV: "text/csv; charset=utf-8", FormatHTML: "text/html; charset=utf-8"}
	kind, ok := types[format]
	if !ok {
		return echo.ErrNotFound
	}
	// It is made whole before a byte of it goes out: a history that doesn't hold
	// together must not look like one.
	var b strings.Builder
	if err := d.cfg.History.Export(c.Request().Context(), &b, id, format); err != nil {
		return fmt.Errorf("export of device %d: %w", number, err)
	}
	where := "attachment"
	if format == FormatHTML {
		where = "inline"
		// The page brings its own style; scripts stay shut out.
		c.Response().Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'")
	}
	c.Response().Header().Set("Content-Disposition", fmt.Sprintf("%s; filename=%q", where, fmt.Sprintf("device-%d.%s", number, format)))
	return c.Blob(http.StatusOK, kind, []byte(b.String()))
}
