package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/labstack/echo/v4"

	"refurb/images/depot"
)

// appliance is the server's side of the data plane, in a process of its own: the
// depot as the product serves it, its relay, and for the peers plain files and
// a tracker.
func appliance(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("appliance", flag.ContinueOnError)
	dir := fs.String("dir", "", "folder with depot and files")
	listen := fs.String("listen", applianceIP+":80", "where to serve PCs")
	control := fs.String("control", "", "socket that tells what the PCs last said")
	if err := fs.Parse(args); err != nil {
		return err
	}
	d, err := depot.Open(filepath.Join(*dir, "depot"), benchKey())
	if err != nil {
		return err
	}
	e := echo.New()
	d.Register(e)
	e.GET("/files/*", echo.WrapHandler(http.StripPrefix("/files/", http.FileServer(http.Dir(filepath.Join(*dir, "files"))))))
	e.GET("/announce", echo.WrapHandler(&tracker{}))
	desk := newDesk()
	e.POST("/v1/share", desk.share)

	out, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	in, err := net.Listen("unix", *control)
	if err != nil {
		return err
	}
	fail := make(chan error, 2)
	go func() { fail <- http.Serve(in, http.HandlerFunc(desk.tell)) }()
	go func() { fail <- (&http.Server{Handler: e}).Serve(out) }()
	fmt.Println("ready")
	select {
	case err = <-fail:
	case <-ctx.Done():
	}
	return err
}

// heard asks the appliance behind the socket what one PC last said.
func heard(socket, job string) (h hearsay, err error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := c.Get("http://appliance/" + job)
	if err != nil {
		return h, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return h, os.ErrNotExist
	}
	return h, json.NewDecoder(resp.Body).Decode(&h)
}
