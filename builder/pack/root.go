package pack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"roost/builder/tree"
	"roost/images/rootfs"
)

// makeRoot writes the root image; its hash tree and its transport copy while it is being written.
func makeRoot(ctx context.Context, s stages, in Input) (rootImage, error) {
	seed := keyOf("root image 1", in.Name, string(in.Tree.Digest()), fmt.Sprint(in.Created.Unix()))
	files, hash, err := s.run(ctx, "root image", keyOf("root image and transport copy 1", seed), func(put put) (string, error) {
		hasher := rootfs.NewHasher(derive(seed, "salt"), uuid(seed, "verity"))
		entries := entriesOf(in)
		write := func(w io.Writer) error {
			_, err := rootfs.Write(w, entries, rootfs.Options{Label: rootLabel(in.Name), UUID: uuid(seed, "erofs"), Time: in.Created})
			return err
		}
		if err := put("erofs", func(plain io.Writer) error {
			return put("zst", func(packed io.Writer) error {
				frames, err := newFrameWriter(packed)
				if err != nil {
					return err
				}
				err = write(io.MultiWriter(plain, hasher, frames, contextWriter{ctx}))
				if last := frames.Close(); err == nil { // a full disk is named once
					err = last
				}
				return err
			})
		}); err != nil {
			return "", err
		}
		t, err := hasher.Tree()
		if err != nil {
			return "", err
		}
		return t.RootHash(), put("verity", func(w io.Writer) error { _, err := t.WriteTo(w); return err })
	})
	return rootImage{data: files["erofs"], packed: files["zst"], verity: files["verity"], hash: hash}, err
}

// entriesOf converts the tree to what the image writer takes.
func entriesOf(in Input) []rootfs.Entry {
	types := map[tree.Type]uint32{
		tree.File: rootfs.TypeRegular, tree.Directory: rootfs.TypeDirectory, tree.Symlink: rootfs.TypeSymlink,
		tree.CharDevice: rootfs.TypeChar, tree.BlockDevice: rootfs.TypeBlock, tree.FIFO: rootfs.TypeFIFO,
	}
	entries := make([]rootfs.Entry, 0, in.Tree.Len())
	for _, e := range in.Tree.Entries() {
		out := rootfs.Entry{
			Path: strings.TrimPrefix(e.Path, "/"), Mode: types[e.Type] | e.Mode, UID: e.UID, GID: e.GID, Time: in.Created,
			Target: e.Target, Major: e.Major, Minor: e.Minor, Size: e.Size, Content: string(e.Blob),
		}
		if out.Path == "" {
			out.Path = "."
		}
		if e.Type == tree.File {
			out.Open = func() (io.ReadCloser, error) { return in.Store.Open(e.Blob) }
		}
		for _, x := range e.Xattrs {
			if out.Xattrs == nil {
				out.Xattrs = map[string]string{}
			}
			out.Xattrs[x.Name] = string(x.Value)
		}
		entries = append(entries, out)
	}
	return entries
}

// rootLabel is the label of the file system, at most 16 bytes.
func rootLabel(name string) string { return name[:min(len(name), 16)] }

// derive returns 32 bytes that depend on the seed and purpose only.
func derive(seed, purpose string) []byte {
	sum := sha256.Sum256([]byte("roost " + purpose + " " + seed))
	return sum[:]
}

// uuid returns a version 8 UUID (RFC 9562) that depends on the seed and purpose only.
func uuid(seed, purpose string) [16]byte {
	b := [16]byte(derive(seed, purpose))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return b
}

// contextWriter makes a long write end when it is not wanted any more.
type contextWriter struct{ ctx context.Context }

func (w contextWriter) Write(p []byte) (int, error) { return len(p), w.ctx.Err() }
