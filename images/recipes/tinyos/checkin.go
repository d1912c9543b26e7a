package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"refurb/agent/wire"
)

const attempts = 5

// post checks in. Only the pinned key is believed; the certificate's dates are
// not, for a donated PC's clock may be years off.
// pause is the first wait between attempts.
func post(ctx context.Context, c wire.Checkin, first wire.FirstBoot, pause time.Duration) error {
	body, err := json.Marshal(first)
	if err != nil {
		return err
	}
	client := &http.Client{
		Timeout: 15 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, VerifyConnection: pinned(c.Pin)},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for i := range attempts {
		if i > 0 {
			select {
			case <-ctx.Done():
				return errors.Join(ctx.Err(), err)
			case <-time.After(time.Duration(i) * pause):
			}
		}
		var final bool
		if final, err = send(ctx, client, c, body); err == nil || final {
			return err
		}
	}
	return fmt.Errorf("gave up after %d attempts: %w", attempts, err)
}

// send posts once; final says that trying again is of no use.
func send(ctx context.Context, client *http.Client, c wire.Checkin, body []byte) (final bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return true, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return errors.Is(err, errPin), err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, wire.MaxText))
	switch {
	case resp.StatusCode/100 == 2:
		return true, nil
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout:
		// Not yet: the outcome may still be on its way into the records.
	case resp.StatusCode/100 == 4:
		return true, fmt.Errorf("the appliance refused: %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return false, fmt.Errorf("the appliance answered %s", resp.Status)
}

var errPin = errors.New("another server answered: its key is not the one that this drive was given")

// pinned compares the server's key with pin. TLS itself proves that the server
// holds the private half.
func pinned(pin string) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errPin
		}
		sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare([]byte(base64.StdEncoding.EncodeToString(sum[:])), []byte(pin)) != 1 {
			return errPin
		}
		return nil
	}
}
