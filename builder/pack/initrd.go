package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// makeInitrd packs the initrd: /init, the chosen kernel modules as they are loaded, and their indexes, all under
// /lib/modules/RELEASE. One zstd frame, since the kernel takes each frame for an archive of its own.
func makeInitrd(ctx context.Context, s stages, in Input) (File, error) {
	modules, err := chooseModules(in)
	if err != nil {
		return File{}, fmt.Errorf("initrd: %w", err)
	}
	program, err := digestFile(in.Init)
	if err != nil {
		return File{}, fmt.Errorf("initrd: %w", err)
	}
	inputs := []string{"initrd 1", string(program), in.Kernel.Version, fmt.Sprint(in.Created.Unix()), string(modules.dep), string(modules.alias), string(modules.softdep)}
	for _, e := range modules.files {
		inputs = append(inputs, e.Path, string(e.Blob))
	}
	return s.one(ctx, "initrd", keyOf(inputs...), func(w io.Writer) error {
		encoder, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
		if err != nil {
			return err
		}
		a := &cpio{w: io.MultiWriter(encoder, contextWriter{ctx}), time: in.Created.Unix(), dirs: map[string]bool{}}
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

// cpio writes a newc archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	w     io.Writer
	time  int64
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
	links, inode, time := 1, a.inode, a.time
	if h.mode == 0 { // the trailer
		inode, time = 0, 0
	}
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, h.mode, 0, 0, links, uint32(time), len(content), 0, 0, h.major, h.minor, len(h.name)+1, 0, h.name)
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
