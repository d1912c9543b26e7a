package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sethvargo/go-retry"

	"refurb/agent/wire"
	"refurb/images"
)

const (
	callTime = 20 * time.Second // one call, the long poll's waiting not counted
	pollTime = 25 * time.Second // what a poll asks the appliance to wait
)

// client speaks to one appliance as one boot of this PC. Its calls go on trying
// through network errors and 5xx answers until ctx ends; a refusal (4xx) is
// final and comes back as *wire.Error.
type client struct {
	url, token string
	api        *http.Client
	plain      *http.Client // for manifests, which prove themselves
	lost       func(error)  // told when a call has to be tried again; nil once it went through
}

func newClient(cfg Config, lost func(error)) *client {
	dial := (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	if b := cfg.Bench; b != nil {
		dial = b.Dial
	}
	transport := func() *http.Transport {
		return &http.Transport{DialContext: dial, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 4,
			ResponseHeaderTimeout: pollTime + callTime, IdleConnTimeout: time.Minute}
	}
	api := transport()
	api.TLSClientConfig = pinned(cfg.Pin)
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client{
		url: strings.TrimRight(cfg.URL, "/"), token: cfg.Token, lost: lost,
		api:   &http.Client{Transport: api, CheckRedirect: stay},
		plain: &http.Client{Transport: transport(), CheckRedirect: stay},
	}
}

// pinned accepts one server: the one whose key came with the boot files. Names
// and authorities say nothing on a workshop's network, and dates are not looked
// at because a PC with a dead CMOS battery believes that it is 1970. So Go's own
// check is off and ours, which runs on every connection, resumed ones included,
// takes its place.
func pinned(pin [32]byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errPin
			}
			sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(sum[:], pin[:]) != 1 {
				return errPin
			}
			return nil
		},
	}
}

var errPin = errors.New("the server has another key than the appliance that this PC started from")

func (c *client) report(ctx context.Context, r wire.Report) (p wire.Plan, err error) {
	b, err := json.Marshal(r)
	if err == nil && len(b) > wire.MaxReport {
		err = fmt.Errorf("the report has %d bytes, more than %d", len(b), wire.MaxReport)
	}
	if err != nil {
		return p, err
	}
	return p, c.persist(ctx, http.MethodPost, wire.PathReport, b, &p)
}

// plan waits for a plan other than the one with serial have, or for the
// appliance to say that it is still the same.
func (c *client) plan(ctx context.Context, have int64) (p wire.Plan, err error) {
	path := fmt.Sprintf("%s?have=%d&wait=%d", wire.PathPlan, have, pollTime/time.Second)
	return p, c.persist(ctx, http.MethodGet, path, nil, &p)
}

// progress is sent once; the next one makes up for a lost one.
func (c *client) progress(ctx context.Context, p wire.Progress) (r wire.ProgressReply, err error) {
	b, err := json.Marshal(p)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return r, c.call(ctx, http.MethodPost, wire.PathProgress, b, &r)
}

// event returns nil only when the appliance has stored e.
func (c *client) event(ctx context.Context, e wire.Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return c.persist(ctx, http.MethodPost, wire.PathEvent, b, nil)
}

// manifest fetches and checks the manifest of an image. Unlike the calls, it is
// given up at some time, as the frames are: what can't be read on the appliance
// is answered with 5xx, too, and does not get better by asking.
func (c *client) manifest(ctx context.Context, im *wire.Image, key []byte) (m *images.Manifest, err error) {
	limited, cancel := context.WithTimeout(ctx, manifestTime)
	defer cancel()
	var last error
	err = c.again(limited, func(ctx context.Context) error {
		m, last = c.fetchManifest(ctx, im, key)
		return last
	})
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return nil, &wire.Error{Message: fmt.Sprintf("the image's manifest didn't come in %v: %v", manifestTime, last), Next: checkImage}
	}
	return m, err
}

const (
	manifestTime = 10 * time.Minute
	checkImage   = "check the image on the dashboard"
)

func (c *client) fetchManifest(ctx context.Context, im *wire.Image, key []byte) (*images.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTime/2)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, im.ManifestURL, nil)
	if err != nil {
		return nil, &wire.Error{Message: "the image's address is broken"}
	}
	resp, err := c.plain.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, images.MaxManifest+1))
	if err != nil {
		return nil, err
	}
	m, err := images.Parse(b, key)
	if err != nil {
		return nil, &wire.Error{Message: "the image's manifest is refused: " + err.Error(), Next: checkImage}
	}
	if m.Root.String() != im.Root {
		return nil, &wire.Error{Message: "the appliance sent the manifest of another image", Next: checkImage}
	}
	return m, nil
}

// persist calls until there is an answer.
func (c *client) persist(ctx context.Context, method, path string, body []byte, into any) error {
	return c.again(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, pollTime+callTime)
		defer cancel()
		return c.call(ctx, method, path, body, into)
	})
}

// again tries f until it succeeds, is refused or ctx ends, with pauses of a
// quarter to ten seconds; jitter keeps a room full of PCs from asking at once.
func (c *client) again(ctx context.Context, f func(context.Context) error) error {
	backoff := retry.WithJitterPercent(40, retry.WithCappedDuration(10*time.Second, retry.NewExponential(250*time.Millisecond)))
	err := retry.Do(ctx, backoff, func(ctx context.Context) error {
		err := f(ctx)
		if refused, ok := errors.AsType[*wire.Error](err); ok || err == nil {
			c.lost(nil)
			if ok {
				return refused
			}
			return nil
		}
		if ctx.Err() == nil {
			c.lost(err)
		}
		return retry.RetryableError(err)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *client) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("Refurb-Wire", strconv.Itoa(wire.Version))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.api.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return refusal(resp)
	}
	b, err := bounded(resp.Body)
	if err != nil || into == nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the appliance's answer makes no sense: %w", err)
	}
	return nil
}

func bounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, wire.MaxMessage+1))
	if err == nil && len(b) > wire.MaxMessage {
		err = fmt.Errorf("the appliance's answer has more than %d bytes", wire.MaxMessage)
	}
	return b, err
}

// refusal turns an answer that isn't 2xx into an error: *wire.Error when asking
// again won't help.
func refusal(resp *http.Response) error {
	b, err := bounded(resp.Body)
	if err != nil {
		return err
	}
	e := &wire.Error{}
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e = &wire.Error{Message: "the appliance answered " + resp.Status}
	}
	switch code := resp.StatusCode; {
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return errors.New(e.Error())
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		if e.Next == "" {
			e.Next = "start this PC again from the network"
		}
	}
	return e
}
