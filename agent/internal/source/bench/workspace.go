package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// workspace returns a directory to measure in, and what clears it up. Where that
// is allowed it is a file system of its own, for how fast files are made depends
// on what else happened on one. Nothing in it is deleted before the end: that may
// slow down whoever makes files next.
func workspace(under string) (dir string, done func() error, err error) {
	work, err := os.MkdirTemp(under, "lockstep-bench-")
	if err != nil {
		return "", nil, err
	}
	done = func() error { return os.RemoveAll(work) }
	if under != "" {
		return work, done, nil
	}
	image, mount := filepath.Join(work, "image"), filepath.Join(work, "mount")
	err = func() error {
		f, err := os.Create(image)
		if err == nil {
			err = errors.Join(f.Truncate(6<<30), f.Close())
		}
		if err := errors.Join(err, os.Mkdir(mount, 0o755)); err != nil {
			return err
		}
		if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-N", "400000", image).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if out, err := exec.Command("mount", "-o", "loop", image, mount).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}()
	if err != nil {
		fmt.Printf("source: measured in %s, for a file system of its own cannot be made (%v)\n", work, err)
		return work, done, nil
	}
	return mount, func() error {
		out, err := exec.Command("umount", mount).CombinedOutput()
		if err != nil {
			return fmt.Errorf("cannot unmount %s: %w: %s", mount, err, out)
		}
		return os.RemoveAll(work)
	}, nil
}
