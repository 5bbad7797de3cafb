package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleIndex knows the kernel modules in this initrd: which file a name or a hardware alias needs and what must be
// loaded before it. It is read from the text files that depmod writes (kmod, depmod.d(5)).
type moduleIndex struct {
	dir     string
	files   map[string]string   // module name to path below dir
	needs   map[string][]string // module name to names it depends on, nearest first
	soft    map[string][]string // softdep "pre:" names
	aliases []moduleAlias
	loaded  map[string]bool
}

type moduleAlias struct{ pattern, module string }

// readModuleIndex reads modules.dep, modules.alias and modules.softdep in dir. A missing alias or softdep file means no
// entries; a missing modules.dep is an error.
func readModuleIndex(fsys fs.FS, dir string) (*moduleIndex, error) {
	x := &moduleIndex{dir: dir, files: map[string]string{}, needs: map[string][]string{}, soft: map[string][]string{}, loaded: map[string]bool{}}
	dep, err := fs.ReadFile(fsys, "modules.dep")
	if err != nil {
		return nil, fmt.Errorf("cannot read the module index: %v", err)
	}
	x.parseDep(dep)
	for name, parse := range map[string]func([]byte){"modules.alias": x.parseAlias, "modules.softdep": x.parseSoftdep} {
		b, err := fs.ReadFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %v", name, err)
		}
		parse(b)
	}
	return x, nil
}

func (x *moduleIndex) parseDep(b []byte) {
	eachLine(b, func(line string) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		name := moduleName(file)
		x.files[name] = file
		for _, f := range strings.Fields(rest) {
			x.needs[name] = append(x.needs[name], moduleName(f))
		}
	})
}

func (x *moduleIndex) parseAlias(b []byte) {
	eachLine(b, func(line string) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "alias" {
			x.aliases = append(x.aliases, moduleAlias{pattern: f[1], module: canonical(f[2])})
		}
	})
}

func (x *moduleIndex) parseSoftdep(b []byte) {
	eachLine(b, func(line string) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "softdep" {
			return
		}
		pre := false
		for _, word := range f[2:] {
			switch {
			case strings.HasSuffix(word, ":"):
				pre = word == "pre:"
			case pre:
				x.soft[canonical(f[1])] = append(x.soft[canonical(f[1])], canonical(word))
			}
		}
	})
}

func eachLine(b []byte, do func(string)) {
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			do(line)
		}
	}
}

// moduleName turns kernel/drivers/net/virtio_net.ko into virtio_net.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(name)
}

// canonical folds '-' to '_', which the kernel treats alike in module names.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// match returns the modules whose alias pattern matches a device's modalias.
func (x *moduleIndex) match(modalias string) []string {
	var names []string
	for _, a := range x.aliases {
		if matchAlias(a.pattern, modalias) {
			names = append(names, a.module)
		}
	}
	return names
}

// matchAlias matches the shell patterns of modules.alias: '*', '?' and '[...]' (fnmatch(3) without special '/').
func matchAlias(pattern, s string) bool {
	// path.Match gives '/' a special meaning; aliases hold none that matters, so fold it away on both sides.
	fold := func(v string) string { return strings.ReplaceAll(v, "/", "\x01") }
	ok, err := path.Match(fold(pattern), fold(s))
	return err == nil && ok
}

// load loads a module after everything it needs. A module that is not in the index is taken as built in or left out of
// this image on purpose.
func (x *moduleIndex) load(name string) error { return x.loadWith(name, insertModule) }

// loadWith is load with the step that inserts one module file.
func (x *moduleIndex) loadWith(name string, insert func(file string) error) error {
	name = canonical(name)
	file, known := x.files[name]
	if !known || x.loaded[name] {
		return nil
	}
	x.loaded[name] = true
	for _, pre := range x.soft[name] {
		if err := x.loadWith(pre, insert); err != nil {
			return err
		}
	}
	// modules.dep lists the nearest dependency first: the last one must go in first.
	for i := len(x.needs[name]) - 1; i >= 0; i-- {
		if err := x.loadWith(x.needs[name][i], insert); err != nil {
			return err
		}
	}
	return insert(filepath.Join(x.dir, file))
}

func insertModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot load kernel module: %v", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return fmt.Errorf("cannot load kernel module %s: %v", filepath.Base(file), err)
	}
	return nil
}

// loadDrivers loads what keeps evidence of a crash first, then a driver for every device present, then what opening
// the root needs. A device driver that fails is reported and passed over: the device may not matter.
func (m *machine) loadDrivers() error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("cannot read the kernel's version: %v", err)
	}
	dir := "/lib/modules/" + unix.ByteSliceToString(uts.Release[:])
	index, err := readModuleIndex(os.DirFS(dir), dir)
	if err != nil {
		return err
	}
	m.modules = index
	for _, name := range []string{"efi_pstore", "efivarfs"} {
		if err := index.load(name); err != nil {
			m.con.warn("%v", err)
		}
	}
	if err := mountVariables(); err != nil {
		return err
	}
	m.loadForDevices()
	for _, name := range []string{"loop", "dm_mod", "dm_verity", "erofs", "overlay", "ext4"} {
		if err := index.load(name); err != nil {
			return err
		}
	}
	return nil
}

// loadForDevices loads drivers until no new device appears: a bus driver may bring devices that need drivers.
func (m *machine) loadForDevices() {
	seen := map[string]bool{}
	for {
		fresh := false
		for _, alias := range deviceAliases("/sys/devices") {
			if seen[alias] {
				continue
			}
			seen[alias], fresh = true, true
			for _, name := range m.modules.match(alias) {
				if err := m.modules.load(name); err != nil {
					m.con.warn("%v", err)
				}
			}
		}
		if !fresh {
			return
		}
	}
}

// deviceAliases returns the modalias of every device below root.
func deviceAliases(root string) []string {
	var aliases []string
	walk := func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" || d.IsDir() {
			return nil // devices come and go while we walk
		}
		if b, err := os.ReadFile(p); err == nil {
			aliases = append(aliases, strings.TrimSpace(string(b)))
		}
		return nil
	}
	if err := filepath.WalkDir(root, walk); err != nil {
		return nil
	}
	return aliases
}
