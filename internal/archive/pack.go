package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// Pack writes the tree in dir to w as an archive, leaving out what skip (which
// may be nil) is true of. Hard links become files of their own; a tree that holds
// what cannot be packed is a *[BadError], which may come only after most of it
// was written.
func Pack(ctx context.Context, dir string, skip func(path string) bool, w io.Writer) (Summary, error) {
	s, err := pack(ctx, dir, skip, w)
	if err != nil {
		return s, fmt.Errorf("cannot pack %s: %w", dir, err)
	}
	return s, nil
}

func pack(ctx context.Context, dir string, skip func(string) bool, w io.Writer) (Summary, error) {
	z, err := newCompressor(w)
	if err != nil {
		return Summary{}, err
	}
	defer z.stop()
	t := newTally()
	tw := tar.NewWriter(z)
	buf := make([]byte, 256<<10)
	err = each(ctx, dir, skip, func(it *item) error {
		h := tar.Header{Name: it.path, Format: tar.FormatPAX}
		switch it.kind {
		case kindOther:
			return notAFile(it.path)
		case kindLink:
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, it.target, 0o777
			if err := t.link(it.path, it.target); err != nil {
				return err
			}
			return tw.WriteHeader(&h)
		case kindDir:
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
			t.add(it.kind, it.path, nil)
			return tw.WriteHeader(&h)
		case kindProgram:
			h.Mode = 0o755
		default:
			h.Mode = 0o644
		}
		h.Typeflag = tar.TypeReg
		if it.large {
			return packLarge(tw, &h, t, it, filepath.Join(dir, filepath.FromSlash(it.path)), buf)
		}
		h.Size = int64(len(it.data))
		t.bytes += h.Size
		t.add(it.kind, it.path, it.sum[:])
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		_, err := tw.Write(it.data)
		return err
	})
	if err == nil {
		err = t.strays()
	}
	if err == nil {
		err = errors.Join(tw.Close(), z.Close())
	}
	if err != nil {
		if z.stop(); z.err != nil {
			err = z.err // what stopped the rest
		}
		return Summary{}, err
	}
	return Summary{Digest: t.digest(), Files: t.files, Bytes: t.bytes}, nil
}

func packLarge(tw *tar.Writer, h *tar.Header, t *tally, it *item, place string, buf []byte) error {
	f, fi, err := open(place)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", quote(it.path), err)
	}
	defer f.Close()
	h.Size = fi.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(tw, sum)}, io.LimitReader(f, h.Size), buf)
	if err != nil {
		return fmt.Errorf("cannot pack %s: %w", quote(it.path), err)
	}
	if n != h.Size {
		return fmt.Errorf("cannot pack %s: it became shorter while it was read", quote(it.path))
	}
	t.bytes += n
	t.add(it.kind, it.path, sum.Sum(nil))
	return nil
}
