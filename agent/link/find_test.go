package link

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestCleanURL(t *testing.T) {
	for s, want := range map[string]string{
		"https://10.77.0.1:8443":             "https://10.77.0.1:8443",
		"https://10.77.0.1:8443/":            "https://10.77.0.1:8443",
		"http://10.77.0.1:8443":              "", // in the clear
		"https://10.77.0.1":                  "",
		"https://refurb.local:8443":          "", // no name service here
		"https://10.77.0.1:0":                "",
		"https://255.255.255.255:8443":       "",
		"https://224.0.0.251:8443":           "",
		"https://0.0.0.0:8443":               "",
		"https://me@10.77.0.1:8443":          "",
		"https://10.77.0.1:8443/v1?x=1":      "",
		"https://10.77.0.1:8443\x1b[2J":      "",
		"https://[fe80::1]:8443":             "",
		string(make([]byte, 300)):            "",
		"https://10.77.0.1:8443#" + "a long": "",
	} {
		if got := cleanURL(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestVendorURL(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"ours":              {[]byte("\x01\x03abc"), "abc"},
		"behind another":    {[]byte("\x02\x01x\x00\x00\x01\x03abc\xff"), "abc"},
		"after the end":     {[]byte("\xff\x01\x03abc"), ""},
		"longer than it is": {[]byte("\x01\x09abc"), ""},
		"cut off":           {[]byte("\x01"), ""},
		"none":              {nil, ""},
		"PXE's":             {[]byte{6, 1, 8, 255}, ""},
	} {
		if got := vendorURL(c.b); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAnswers(t *testing.T) {
	name := dnsmessage.MustNewName
	srv := func(n string, port uint16) dnsmessage.Resource {
		return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name(n), Class: dnsmessage.ClassINET},
			Body: &dnsmessage.SRVResource{Port: port, Target: name("Box.local.")}}
	}
	a := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name("box.local."), Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: [4]byte{10, 77, 0, 9}}}
	from := netip.MustParseAddr("10.77.0.5")
	for _, c := range []struct {
		what string
		m    dnsmessage.Message
		want []string
	}{
		{"an address beside it", dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Answers: []dnsmessage.Resource{srv("x."+service, 8443)}, Additionals: []dnsmessage.Resource{a}}, []string{"https://10.77.0.9:8443"}},
		{"none: who sent it", dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Answers: []dnsmessage.Resource{srv("x."+service, 8443)}}, []string{"https://10.77.0.5:8443"}},
		{"another service", dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Answers: []dnsmessage.Resource{srv("x._ipp._tcp.local.", 631), a}}, nil},
		{"a question", dnsmessage.Message{Answers: []dnsmessage.Resource{srv("x."+service, 8443)}}, nil},
	} {
		b, err := c.m.Pack()
		must(t, err)
		if got := answers(b, from); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// What strangers send is read without harm.
func FuzzFound(f *testing.F) {
	q, err := query()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q)
	f.Add([]byte("\x01\x16https://10.77.0.1:8443\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, u := range append(answers(b, netip.MustParseAddr("10.77.0.5")), vendorURL(b)) {
			if c := cleanURL(u); c != "" && cleanURL(c) != c {
				t.Errorf("%q is cleaned to %q, and that to %q", u, c, cleanURL(c))
			}
		}
	})
}
