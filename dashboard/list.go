package dashboard

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"refurb/appliance/sheet"
	"refurb/appliance/workshop"
)

// devicesCSV is the list of all devices for a spreadsheet. Its columns have the
// same names in every language, so that one table of a coordinator's fits all.
func (d *Dashboard) devicesCSV(c echo.Context) error {
	var b bytes.Buffer
	if err := sheet.Write(&b, rowsOf(d.cfg.Registry.View())); err != nil {
		return fmt.Errorf("list of devices: %w", err)
	}
	c.Response().Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", "devices-"+time.Now().Format(time.DateOnly)+".csv"))
	return c.Blob(http.StatusOK, "text/csv; charset=utf-8", b.Bytes())
}

// rowsOf lists all devices by number, under a row of names.
func rowsOf(v workshop.View) [][]string {
	rows := [][]string{{
		"number", "maker", "model", "serial", "donor", "place", "job", "reason", "next", "image",
		"disk", "disk_serial", "disk_gb", "disk_holds", "disk_health", "memory_gb", "processor", "created", "seen",
	}}
	donors := map[string]string{}
	for _, l := range v.Lots {
		donors[l.ID] = clean(l.Donor, maxLine)
	}
	for _, dv := range v.Devices {
		id := dv.Report.Identity
		var job workshop.Job
		if dv.Job != nil {
			job = *dv.Job
		}
		var models, serials, sizes, holds, health []string
		for _, disk := range bounded(dv.Report.Disks, 16) {
			models = append(models, clean(disk.Model, maxLine))
			serials = append(serials, clean(disk.Serial, maxLine))
			sizes = append(sizes, strconv.FormatInt(disk.Bytes/1e9, 10))
			holds = append(holds, clean(string(disk.Class), 24))
			health = append(health, string(workshop.DiskHealth(&disk).State))
		}
		memory := ""
		if n := dv.Report.RAM.Bytes; n > 0 {
			memory = strconv.FormatInt((n+1<<29)>>30, 10)
		}
		reason, next := job.Reason, job.Next
		if no, ok := errors.AsType[*workshop.Refusal](dv.Unfit); ok {
			reason, next = no.Message, no.Next
		}
		join := func(s []string) string { return strings.Join(s, " / ") }
		rows = append(rows, []string{
			strconv.Itoa(dv.Number), clean(id.Manufacturer, maxLine), clean(id.Model, maxLine), serialOf(dv), donors[dv.Lot],
			string(dv.State), string(job.State), clean(reason, maxNote), clean(next, maxNote), clean(job.ImageName, maxLine),
			join(models), join(serials), join(sizes), join(holds), join(health), memory, clean(dv.Report.CPU.Model, maxLine),
			moment(dv.Created), moment(dv.Seen),
		})
	}
	return rows
}

// moment in the form that every spreadsheet takes for a date.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04")
}
