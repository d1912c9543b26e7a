package dashboard

import (
	"github.com/labstack/echo/v4"

	"refurb/appliance/workshop"
)

// nextStart says what a person chose for a PC's next start; empty: nothing.
func nextStart(k workshop.Rescue) Say {
	switch k {
	case workshop.RescueShell:
		return Say{ID: "rescue.shell.next"}
	case workshop.RescueMemory:
		return Say{ID: "rescue.memtest.next"}
	case workshop.RescueDisk:
		return Say{ID: "rescue.local.next"}
	}
	return Say{}
}

// mayRescue reports whether a choice for the next start would be taken.
func mayRescue(v workshop.DeviceDetail) bool {
	switch jobState(v.Job) {
	case workshop.Approved, workshop.Imaging, workshop.Verifying, workshop.Erasing:
		return false
	}
	return inWork(v.State)
}

// rescue chooses what harms nobody: the memory test, or the PC's own disk.
func (d *Dashboard) rescue(c echo.Context) error {
	kind := workshop.Rescue(c.FormValue("start"))
	if kind == workshop.RescueShell {
		kind = "" // that has an address, and a role, of its own
	}
	err := d.cfg.Registry.ChooseRescue(c.Request().Context(), actor(c), c.Param("id"), kind)
	return d.done(c, err, d.back(c), "rescue.done")
}

// rescueShell is root on the PC, with whatever its disks hold.
func (d *Dashboard) rescueShell(c echo.Context) error {
	err := d.cfg.Registry.ChooseRescue(c.Request().Context(), actor(c), c.Param("id"), workshop.RescueShell)
	return d.done(c, err, d.back(c), "rescue.done")
}

func (d *Dashboard) forgetRescue(c echo.Context) error {
	err := d.cfg.Registry.ForgetRescue(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, d.back(c), "rescue.forgotten")
}

// wake switches a PC on.
func (d *Dashboard) wake(c echo.Context) error {
	err := d.cfg.Registry.Wake(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, d.back(c), "wake.done")
}

// wakeLot switches on all PCs of a lot for which something waits.
func (d *Dashboard) wakeLot(c echo.Context) error {
	err := d.cfg.Registry.WakeLot(c.Request().Context(), actor(c), c.Param("id"))
	return d.done(c, err, "/lots/"+c.Param("id"), "wake.done")
}
