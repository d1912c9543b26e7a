package dashboard

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"refurb/appliance/workshop"
)

// apiDevices answers with workshop.View as JSON.
func (d *Dashboard) apiDevices(c echo.Context) error {
	v := d.cfg.Registry.View()
	for i := range v.Devices {
		v.Devices[i].Job = withoutSecrets(v.Devices[i].Job)
	}
	return c.JSON(http.StatusOK, v)
}

// apiDevice answers with workshop.DeviceDetail and the device's events.
func (d *Dashboard) apiDevice(c echo.Context) error {
	v, ok := d.cfg.Registry.Device(c.Param("id"))
	if !ok {
		return echo.ErrNotFound
	}
	v.DeviceView.Job = withoutSecrets(v.DeviceView.Job)
	for i := range v.Jobs {
		v.Jobs[i] = *withoutSecrets(&v.Jobs[i])
	}
	events, err := d.cfg.History.Events(c.Request().Context(), v.ID)
	if err != nil {
		return fmt.Errorf("history of device %d: %w", v.Number, err)
	}
	return c.JSON(http.StatusOK, struct {
		workshop.DeviceDetail
		Events []workshop.Event `json:"events"`
	}{v, events})
}

// withoutSecrets leaves out what proves a check-in, even as a hash.
func withoutSecrets(j *workshop.Job) *workshop.Job {
	if j == nil {
		return nil
	}
	v := *j
	v.CheckinHash = ""
	return &v
}
