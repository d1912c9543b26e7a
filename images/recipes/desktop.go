package recipes

import (
	"context"
	"errors"
	"os"
)

func buildDesktop(ctx context.Context, o Options, out *os.File) error {
	return errors.New("not written yet")
}
