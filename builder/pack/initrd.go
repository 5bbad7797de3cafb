package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Prepare packs those parts of the initrd that in tells enough for: the modules when it has Tree and Kernel, which need not
// hold anything else; /init when it has Init. Image then finds them in the cache.
func Prepare(ctx context.Context, in Input) error {
	if in.Log == nil {
		in.Log = slog.New(slog.DiscardHandler)
	}
	s := stages{cache: in.Cache, log: in.Log}
	make := func() (err error) {
		if in.Kernel.Version != "" {
			_, err = packModules(ctx, s, in)
		}
		if in.Init != "" && err == nil {
			_, err = packInit(ctx, s, in)
		}
		return err
	}
	if in.Cores == nil {
		return make()
	}
	return in.Cores.Do(ctx, make)
}

// makeInitrd packs the initrd: three archives, one behind the other, as the kernel takes them. The first, plain one holds
// what differs between releases; the second /init; the third the chosen kernel modules as they are loaded and their indexes
// under /lib/modules/RELEASE. So a change costs the compression of what changed.
func makeInitrd(ctx context.Context, s stages, in Input) (File, error) {
	if in.Prepared != nil {
		if err := in.Prepared(); err != nil {
			return File{}, fmt.Errorf("initrd: %w", err)
		}
	}
	modules, err := packModules(ctx, s, in)
	if err != nil {
		return File{}, fmt.Errorf("initrd: %w", err)
	}
	program, err := packInit(ctx, s, in)
	if err != nil {
		return File{}, fmt.Errorf("initrd: %w", err)
	}
	osRelease, err := osReleaseOf(in)
	if err != nil {
		return File{}, fmt.Errorf("initrd: %w", err)
	}
	// os-release(5) names this file; ROOST_CREATED is where a clock that lost its battery starts from.
	text := strings.TrimRight(osRelease, "\n") + fmt.Sprintf("\nROOST_CREATED=%d\n", in.Created.Unix())
	return s.one(ctx, "initrd", keyOf("initrd 4", string(program.Digest), string(modules.Digest), text), func(w io.Writer) error {
		var head bytes.Buffer
		a := &cpio{w: &head, dirs: map[string]bool{}}
		if err := errors.Join(a.file("etc/initrd-release", 0o644, []byte(text)), a.end()); err != nil {
			return err
		}
		head.Write(make([]byte, (512-head.Len()%512)%512)) // the next archive starts at a multiple of 4
		if _, err := w.Write(head.Bytes()); err != nil {
			return err
		}
		return errors.Join(appendFile(w, program.Path), appendFile(w, modules.Path))
	})
}

func appendFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}

// packInit packs /init, and what the kernel must find before anything is mounted.
func packInit(ctx context.Context, s stages, in Input) (File, error) {
	digest, err := digestFile(in.Init)
	if err != nil {
		return File{}, err
	}
	return packArchive(ctx, s, "init", keyOf("init archive 2", string(digest)), func(a *cpio) error {
		for _, dir := range []string{"dev", "proc", "run", "sys"} {
			if err := a.directory(dir); err != nil {
				return err
			}
		}
		if err := a.entry(cpioHeader{name: "dev/console", mode: 0o020600, major: 5, minor: 1}, nil); err != nil {
			return err
		}
		program, err := os.ReadFile(in.Init)
		if err != nil {
			return err
		}
		return a.file("init", 0o755, program)
	})
}

// packModules packs the chosen kernel modules and their indexes.
func packModules(ctx context.Context, s stages, in Input) (File, error) {
	modules, err := chooseModules(in)
	if err != nil {
		return File{}, err
	}
	inputs := []string{"module archive 2", in.Kernel.Version, string(modules.dep), string(modules.alias), string(modules.softdep)}
	for _, e := range modules.files {
		inputs = append(inputs, e.Path, string(e.Blob))
	}
	return packArchive(ctx, s, "initrd modules", keyOf(inputs...), func(a *cpio) error {
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
		return nil
	})
}

// packArchive packs one archive into one zstd frame, since the kernel takes each frame for an archive of its own.
func packArchive(ctx context.Context, s stages, name, key string, write func(a *cpio) error) (File, error) {
	return s.one(ctx, name, key, func(w io.Writer) error {
		// The best level takes ten times as long for a tenth of the size.
		encoder, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
		if err != nil {
			return err
		}
		a := &cpio{w: io.MultiWriter(encoder, contextWriter{ctx}), dirs: map[string]bool{}}
		err = write(a)
		if err == nil {
			err = a.end()
		}
		return errors.Join(err, encoder.Close())
	})
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
