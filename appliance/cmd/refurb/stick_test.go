package main

import "testing"

func TestFixedAddress(t *testing.T) {
	for s, ok := range map[string]bool{
		"https://10.77.0.1:8443":     true,
		"https://10.77.0.1:8443/":    true,
		"https://[fd00::1]:8443":     true,
		"http://10.77.0.1:8443":      false,
		"https://10.77.0.1":          false,
		"https://refurb.local:8443":  false, // the PC has no name service
		"https://10.77.0.1:8443/v1":  false,
		"https://me@10.77.0.1:8443":  false,
		"10.77.0.1":                  false,
		"https://10.77.0.1:8443?a=b": false,
	} {
		if err := fixedAddress(s); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
}
