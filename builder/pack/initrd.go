package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// makeInitrd packs the initrd: two archives, one behind the other, as the kernel takes them. The first, plain one holds
// what differs between releases; the second, compressed one holds /init, the chosen kernel modules as they are loaded, and
// their indexes under /lib/modules/RELEASE. So a new version with an old kernel need not compress it again.
func makeInitrd(ctx context.Context, s stages, in Input) (File, error) {
	main, err := makeMainInitrd(ctx, s, in)
	if err != nil {
		return File{}, fmt.Errorf("initrd: %w", err)
	}
	osRelease, err := osReleaseOf(in)
	if err != nil {
		return File{}, fmt.Errorf("initrd: %w", err)
	}
	// os-release(5) names this file; ROOST_CREATED is where a clock that lost its battery starts from.
	text := strings.TrimRight(osRelease, "\n") + fmt.Sprintf("\nROOST_CREATED=%d\n", in.Created.Unix())
	return s.one(ctx, "initrd", keyOf("initrd 2", string(main.Digest), text), func(w io.Writer) error {
		var head bytes.Buffer
		a := &cpio{w: &head, dirs: map[string]bool{}}
		if err := errors.Join(a.file("etc/initrd-release", 0o644, []byte(text)), a.end()); err != nil {
			return err
		}
		head.Write(make([]byte, (512-head.Len()%512)%512)) // the next archive starts at a multiple of 4
		if _, err := w.Write(head.Bytes()); err != nil {
			return err
		}
		f, err := os.Open(main.Path)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		return errors.Join(err, f.Close())
	})
}

// makeMainInitrd packs what does not differ between releases with one kernel. One zstd frame, since the kernel takes each
// frame for an archive of its own.
func makeMainInitrd(ctx context.Context, s stages, in Input) (File, error) {
	modules, err := chooseModules(in)
	if err != nil {
		return File{}, err
	}
	program, err := digestFile(in.Init)
	if err != nil {
		return File{}, err
	}
	inputs := []string{"main initrd 1", string(program), in.Kernel.Version, string(modules.dep), string(modules.alias), string(modules.softdep)}
	for _, e := range modules.files {
		inputs = append(inputs, e.Path, string(e.Blob))
	}
	return s.one(ctx, "drivers of the initrd", keyOf(inputs...), func(w io.Writer) error {
		encoder, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
		if err != nil {
			return err
		}
		a := &cpio{w: io.MultiWriter(encoder, contextWriter{ctx}), dirs: map[string]bool{}}
		return errors.Join(writeInitrd(a, in, modules), encoder.Close())
	})
}

func writeInitrd(a *cpio, in Input, modules *moduleSet) error {
	for _, dir := range []string{"dev", "proc", "run", "sys"} {
		if err := a.directory(dir); err != nil {
			return err
		}
	}
	// The kernel opens it for init before anything is mounted.
	if err := a.entry(cpioHeader{name: "dev/console", mode: 0o020600, major: 5, minor: 1}, nil); err != nil {
		return err
	}
	program, err := os.ReadFile(in.Init)
	if err != nil {
		return err
	}
	if err := a.file("init", 0o755, program); err != nil {
		return err
	}
	home := strings.TrimPrefix(modules.home, "/usr/")
	for _, index := range []struct {
		name string
		text []byte
	}{{"modules.alias", modules.alias}, {"modules.dep", modules.dep}, {"modules.softdep", modules.softdep}} {
		if err := a.file(path.Join(home, index.name), 0o644, index.text); err != nil {
			return err
		}
	}
	for _, e := range modules.files {
		content, err := in.Store.ReadFile(e.Blob)
		if err != nil {
			return err
		}
		if err := a.file(strings.TrimPrefix(e.Path, "/usr/"), 0o644, content); err != nil {
			return err
		}
	}
	return a.end()
}

// cpio writes a newc archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst) in which everything is of
// 1970: nobody looks.
type cpio struct {
	w     io.Writer
	inode int
	dirs  map[string]bool
}

type cpioHeader struct {
	name         string
	mode         uint32
	major, minor uint32
}

// directory adds a directory and those above it, once.
func (a *cpio) directory(name string) error {
	if name == "." || a.dirs[name] {
		return nil
	}
	a.dirs[name] = true
	if err := a.directory(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(cpioHeader{name: name, mode: 0o040755}, nil)
}

func (a *cpio) file(name string, mode uint32, content []byte) error {
	if err := a.directory(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(cpioHeader{name: name, mode: 0o100000 | mode}, content)
}

func (a *cpio) end() error { return a.entry(cpioHeader{name: "TRAILER!!!"}, nil) }

func (a *cpio) entry(h cpioHeader, content []byte) error {
	a.inode++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, h.mode, 0, 0, 1, 0, len(content), 0, 0, h.major, h.minor, len(h.name)+1, 0, h.name)
	for _, part := range [][]byte{[]byte(head), content} {
		if _, err := a.w.Write(part); err != nil {
			return err
		}
		if _, err := a.w.Write(make([]byte, (4-len(part)%4)%4)); err != nil {
			return err
		}
	}
	return nil
}
