package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"

	"refurb/agent"
	"refurb/agent/link"
	"refurb/agent/wire"
)

// configure reads what the appliance gave this boot: address and token from the
// kernel's command line, keys from the boot files. A stick's command line knows no
// token, and an address only if an operator has fixed one.
func configure(cmdline, file string) (agent.Config, error) {
	var cfg agent.Config
	line, err := os.ReadFile(cmdline)
	if err != nil {
		return cfg, broken("the kernel's command line can't be read: %v", err)
	}
	args := parseArgs(string(line))
	cfg.URL, cfg.Token, cfg.Stick = args["refurb.url"], args["refurb.token"], args["refurb.stick"]
	find := has(args, "refurb.find") && cfg.Token == ""
	if find && cfg.URL == "" {
		// The network is asked.
	} else if u, err := url.Parse(cfg.URL); err != nil || u.Scheme != "https" || u.Host == "" {
		return cfg, broken("the boot script gave no address of the appliance: refurb.url is %.60q", cfg.URL)
	}
	if cfg.Token == "" && !find {
		return cfg, broken("the boot script gave no token: refurb.token is missing")
	}
	if cfg.MAC = link.ParseMAC(args["refurb.mac"]); cfg.MAC == nil {
		cfg.MAC = link.ParseMAC(args["BOOTIF"])
	}

	b, err := os.ReadFile(file)
	if err != nil {
		return cfg, broken("the boot files hold no configuration: %v", err)
	}
	var f struct{ Pin, Key, Version string }
	if err := json.Unmarshal(b, &f); err != nil {
		return cfg, broken("the boot files' configuration %s makes no sense: %v", file, err)
	}
	pin, err := base64.StdEncoding.DecodeString(f.Pin)
	if err != nil || len(pin) != len(cfg.Pin) {
		return cfg, broken("the boot files hold no key of the appliance: pin in %s", file)
	}
	key, err := base64.StdEncoding.DecodeString(f.Key)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return cfg, broken("the boot files hold no key for images: key in %s", file)
	}
	cfg.Pin, cfg.Key, cfg.Version = [32]byte(pin), key, f.Version
	return cfg, nil
}

func broken(format string, a ...any) error {
	return &wire.Error{Message: fmt.Sprintf(format, a...),
		Next: "start this PC again from the network; if it happens again, build the boot files anew on the appliance"}
}

// parseArgs splits a kernel command line. Of an argument that is there twice,
// the last one holds.
func parseArgs(line string) map[string]string {
	args := map[string]string{}
	for _, f := range strings.Fields(line) {
		k, v, _ := strings.Cut(f, "=")
		args[k] = strings.Trim(v, `"`)
	}
	return args
}

func has(args map[string]string, key string) bool { _, ok := args[key]; return ok }
