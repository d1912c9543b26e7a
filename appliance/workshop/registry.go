package workshop

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"refurb/agent/wire"
	"refurb/images"
)

// Store keeps what the registry decides. Commit stores a change whole or not at
// all and returns only when it would survive a power cut.
type Store interface {
	Load(ctx context.Context) (State, error)
	Commit(ctx context.Context, c Change) error
}

// Images is the catalogue, as narrow as the registry needs it.
type Images interface {
	Image(root string) (name string, m *images.Manifest, err error)
}

// Config of a Registry. Store and Images are required.
type Config struct {
	Store     Store
	Images    Images
	BaseURL   func() (agentURL, httpURL string) // "https://10.77.0.1:8443", "http://10.77.0.1:8080"
	LostAfter time.Duration                     // silence after which a job is lost; 0: 60 s
	Payload   string                            // digest and names of the boot files, for the log
	PinB64    string                            // base64 of SHA-256 of the agent API's SPKI
	Log       *slog.Logger
	Now       func() time.Time // nil: time.Now
}

// Kind of a Refusal.
type Kind int

const (
	Invalid      Kind = iota // the request is wrong as it stands
	Unauthorized             // the token is not known, or not for this
	NotFound                 // no such device, job or lot
	Conflict                 // not in this state
	Busy                     // too much at once: later
)

// Refusal is an error that people see: what is wrong and what to do about it.
type Refusal struct {
	Kind    Kind
	Message string
	Next    string
}

func (r *Refusal) Error() string {
	if r.Next == "" {
		return r.Message
	}
	return r.Message + " (" + r.Next + ")"
}

// Registry is the only writer of devices, lots and jobs.
type Registry struct{ cfg Config }

var errNotYet = errors.New("not yet")

func Open(ctx context.Context, cfg Config) (*Registry, error) { return &Registry{cfg: cfg}, nil }

func (r *Registry) Boot(ctx context.Context, mac, uuid string) (local bool, token string, err error) {
	return false, "", errNotYet
}
func (r *Registry) Report(ctx context.Context, token string, rep wire.Report) (wire.Plan, error) {
	return wire.Plan{}, errNotYet
}
func (r *Registry) Plan(ctx context.Context, token string, have int64, wait time.Duration) (wire.Plan, error) {
	return wire.Plan{}, errNotYet
}
func (r *Registry) Progress(ctx context.Context, token string, p wire.Progress) (wire.ProgressReply, error) {
	return wire.ProgressReply{}, errNotYet
}
func (r *Registry) Event(ctx context.Context, token string, e wire.Event) error { return errNotYet }
func (r *Registry) Checkin(ctx context.Context, token string, f wire.FirstBoot) error {
	return errNotYet
}
func (r *Registry) OpenLot(ctx context.Context, actor, donor, image string, standing bool) (Lot, error) {
	return Lot{}, errNotYet
}
func (r *Registry) CloseLot(ctx context.Context, actor, id string) error { return errNotYet }
func (r *Registry) Approve(ctx context.Context, actor, jobID, diskPath, serialTail string) error {
	return errNotYet
}
func (r *Registry) ImageAgain(ctx context.Context, actor, deviceID, image string) error {
	return errNotYet
}
func (r *Registry) Cancel(ctx context.Context, actor, jobID, reason string) error { return errNotYet }
func (r *Registry) MoveDevice(ctx context.Context, actor, deviceID string, to DeviceState, reason string) error {
	return errNotYet
}

// Watch returns the state now and a channel of what changes after it, until ctx
// ends; then the channel is closed. Changes that the reader is too slow for are
// merged.
func (r *Registry) Watch(ctx context.Context) (View, <-chan Update) {
	return View{}, make(chan Update)
}
func (r *Registry) View() View                            { return View{} }
func (r *Registry) Device(id string) (DeviceDetail, bool) { return DeviceDetail{}, false }

// Run looks for lost agents and what has expired, until ctx ends.
func (r *Registry) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
