package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"refurb/appliance"
	"refurb/appliance/audit"
)

type backupCmd struct {
	dataFlag
	To       string `required:"" help:"File to write, or a folder for a file named after the time." type:"path"`
	WithKeys bool   `help:"Put the secret keys in: whoever holds the file can sign in this appliance's name."`
}

func (c *backupCmd) Run(ctx context.Context) error {
	r, _, err := openRecords(c.Data)
	if err != nil {
		return err
	}
	defer r.Close()
	file, err := r.Backup(ctx, c.To, c.WithKeys)
	if err != nil {
		return err
	}
	fmt.Println(file)
	if sameDisk(file, c.Data) {
		fmt.Println("It lies on the same disk as the records, and would be lost with them: copy it to another one.")
	}
	if c.WithKeys {
		fmt.Println("The secret keys are in it: lock it away.")
	} else {
		fmt.Println("The secret keys are not in it: keep a copy of the folder keys elsewhere, or use --with-keys once.")
	}
	return nil
}

// sameDisk says that two files are known to share a file system.
func sameDisk(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}

type restoreCmd struct {
	dataFlag
	File string `arg:"" help:"A backup." type:"existingfile"`
}

func (c *restoreCmd) Run(ctx context.Context) error {
	done, err := appliance.Restore(ctx, c.Data, c.File)
	// Also when it ends badly: the service must be able to read what is there.
	if err = errors.Join(err, appliance.HandOver(c.Data)); err != nil {
		return err
	}
	fmt.Printf("the records of %s are back\n", done.Time.Format(time.RFC3339))
	if done.Aside != "" {
		fmt.Printf("those that were there are now %s\n", done.Aside)
	}
	if done.Keys {
		fmt.Println("the keys are back too; build the boot files again with `sudo build/refurb payload build`")
	}
	if len(done.Found) == 0 {
		return nil
	}
	return fmt.Errorf("but beside the checkpoints of this house, %w", &appliance.Damaged{Found: done.Found})
}

type keyCmd struct {
	Rotate keyRotateCmd `cmd:"" help:"Change a key; the appliance must be stopped."`
}

type keyRotateCmd struct {
	dataFlag
	TLS bool `name:"tls" help:"Change the key of the agents' API instead, which signs nothing."`
}

func (c *keyRotateCmd) Run(ctx context.Context) error {
	if c.TLS {
		if err := appliance.RotateTLS(c.Data); err != nil {
			return err
		}
		fmt.Println("the agents' API has a new key. Build the boot files again with `sudo build/refurb payload build`.")
		return nil
	}
	keys, n, err := appliance.RotateKey(ctx, c.Data, actorConsole)
	if err != nil {
		return err
	}
	fmt.Printf("the signing key is now %s\n", audit.KeyText(keys.Signing.Public().(ed25519.PublicKey)))
	fmt.Printf("%d images were signed again. Build the boot files again with `sudo build/refurb payload build`, publish the new key and the newest checkpoints, and make a backup with the keys.\n", n)
	return nil
}
