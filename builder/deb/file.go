package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Limits of a .deb. They are far above any real package (the largest data archive of trixie unpacks to about 5 GB) and
// exist so that a hostile file ends in an error and not in a full disk.
const (
	maxControlTar  = 64 << 20
	maxControlFile = 16 << 20
	maxControlList = 4096
	maxDataTar     = 32 << 30
	maxDataEntries = 4 << 20
)

// File is an opened .deb (deb(5)): its control part read whole, its data part to be streamed.
type File struct {
	Control Paragraph
	// Members are all files of the control archive by name, "control" included: md5sums, shlibs, symbols, templates …
	Members map[string][]byte
	// Scripts are the maintainer scripts among Members: preinst, postinst, prerm, postrm and config.
	Scripts   map[string][]byte
	Conffiles []Conffile
	Triggers  []Trigger

	Memory *Memory // for the decoder of the data part; nil: its own

	data io.ReaderAt
	size int64
}

// Conffile is a configuration file that dpkg would keep a user's changes of.
type Conffile struct {
	Path            string // absolute
	RemoveOnUpgrade bool   // listed only to be removed
}

// Trigger is one directive of the triggers file (deb-triggers(5)).
type Trigger struct {
	Directive string // interest, interest-await, interest-noawait, activate, activate-await or activate-noawait
	Name      string // a path when it begins with '/', else an explicit trigger
}

// Open reads the control part of a .deb of size bytes.
func Open(r io.ReaderAt, size int64) (*File, error) {
	f := &File{}
	if err := f.read(r, size); err != nil {
		return nil, fmt.Errorf("cannot read .deb: %w", err)
	}
	return f, nil
}

func (f *File) read(r io.ReaderAt, size int64) error {
	members, err := readAr(r, size)
	if err != nil {
		return err
	}
	if len(members) == 0 || members[0].name != "debian-binary" {
		return errors.New("the first member is not debian-binary")
	}
	version := make([]byte, min(members[0].size, 64))
	if _, err := r.ReadAt(version, members[0].offset); err != nil {
		return err
	}
	if !bytes.HasPrefix(version, []byte("2.")) {
		return fmt.Errorf("unknown format version %.16q", version)
	}
	var control, data *arMember
	for i, m := range members[1:] {
		switch {
		case strings.HasPrefix(m.name, "_"): // reserved for other uses, to be ignored
		case control == nil && isTarMember(m.name, "control"):
			control = &members[i+1]
		case control != nil && data == nil && isTarMember(m.name, "data"):
			data = &members[i+1]
		case data == nil:
			return fmt.Errorf("unexpected member %q", m.name)
		}
	}
	if control == nil || data == nil {
		return errors.New("it has no control or no data archive")
	}
	f.data, f.size = io.NewSectionReader(r, data.offset, data.size), data.size
	if err := f.readControl(io.NewSectionReader(r, control.offset, control.size)); err != nil {
		return fmt.Errorf("control archive: %w", err)
	}
	return nil
}

func isTarMember(name, stem string) bool {
	suffix, ok := strings.CutPrefix(name, stem+".tar")
	switch suffix {
	case "", ".gz", ".xz", ".zst", ".bz2":
		return ok
	}
	return false
}

func (f *File) readControl(r io.Reader) error {
	plain, err := Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	f.Members = map[string][]byte{}
	t := tar.NewReader(&boundedReader{r: plain, left: maxControlTar})
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxControlFile || len(f.Members) == maxControlList {
			return fmt.Errorf("%s: %d bytes, or more than %d files", name, h.Size, maxControlList)
		}
		if f.Members[name], err = io.ReadAll(t); err != nil {
			return err
		}
	}
	return f.interpret()
}

// interpret fills the fields that are derived from Members.
func (f *File) interpret() error {
	text, ok := f.Members["control"]
	if !ok {
		return errors.New("it has no control file")
	}
	var err error
	if f.Control, err = ParseParagraph(text); err != nil {
		return err
	}
	for _, need := range []string{"Package", "Version", "Architecture"} {
		if f.Control.Get(need) == "" {
			return fmt.Errorf("the control file has no %s", need)
		}
	}
	f.Scripts = map[string][]byte{}
	for _, name := range []string{"preinst", "postinst", "prerm", "postrm", "config"} {
		if script, ok := f.Members[name]; ok {
			f.Scripts[name] = script
		}
	}
	if f.Conffiles, err = parseConffiles(f.Members["conffiles"]); err != nil {
		return err
	}
	f.Triggers, err = parseTriggers(f.Members["triggers"])
	return err
}

func parseConffiles(text []byte) ([]Conffile, error) {
	var all []Conffile
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, remove := strings.CutPrefix(line, "remove-on-upgrade ")
		name = strings.TrimSpace(name)
		if !path.IsAbs(name) || path.Clean(name) != name {
			return nil, fmt.Errorf("conffile %q is not a clean absolute path", name)
		}
		all = append(all, Conffile{name, remove})
	}
	return all, nil
}

func parseTriggers(text []byte) ([]Trigger, error) {
	var all []Trigger
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		kind := strings.TrimSuffix(strings.TrimSuffix(words[0], "-noawait"), "-await")
		if len(words) != 2 || (kind != "interest" && kind != "activate") {
			return nil, fmt.Errorf("%q is not a trigger directive", strings.TrimSpace(line))
		}
		all = append(all, Trigger{words[0], words[1]})
	}
	return all, nil
}

// DataTar returns the data archive as a plain tar stream, at most 32 GiB. Each call starts anew, so several readers may
// run at once. Names in it are as the package has them; use [File.Data] to walk them safely.
func (f *File) DataTar() (io.ReadCloser, error) {
	memory := f.Memory
	if memory == nil {
		memory = new(Memory)
	}
	plain, err := memory.Decompress(io.NewSectionReader(f.data, 0, f.size))
	if err != nil {
		return nil, fmt.Errorf("cannot read data of %s: %w", f.Control.Get("Package"), err)
	}
	return &boundedReader{r: plain, left: maxDataTar, close: plain.Close}, nil
}

// Data returns the entries of the data archive in the order of the package. The caller closes it.
func (f *File) Data() (*Data, error) {
	plain, err := f.DataTar()
	if err != nil {
		return nil, err
	}
	return &Data{name: f.Control.Get("Package"), plain: plain, tar: tar.NewReader(plain)}, nil
}

// Data walks a data archive. Names are clean and relative to the root ("usr/bin/ls", "." for the root itself), and never
// lead out of it; so are targets of hard links. Targets of symbolic links are as written.
type Data struct {
	name    string
	plain   io.ReadCloser
	tar     *tar.Reader
	entries int
}

// Next moves to the next entry and returns io.EOF after the last.
func (d *Data) Next() (*tar.Header, error) {
	h, err := d.tar.Next()
	if err == io.EOF {
		return nil, io.EOF
	}
	if err == nil {
		err = d.check(h)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read data of %s: %w", d.name, err)
	}
	return h, nil
}

func (d *Data) check(h *tar.Header) (err error) {
	if d.entries++; d.entries > maxDataEntries {
		return fmt.Errorf("more than %d entries", maxDataEntries)
	}
	if h.Name, err = cleanName(h.Name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	case tar.TypeLink:
		if h.Linkname, err = cleanName(h.Linkname); err != nil {
			return fmt.Errorf("hard link %s: %w", h.Name, err)
		}
	default:
		return fmt.Errorf("%s has the unknown type %q", h.Name, h.Typeflag)
	}
	if h.Typeflag == tar.TypeSymlink && (h.Linkname == "" || strings.ContainsRune(h.Linkname, 0)) {
		return fmt.Errorf("symbolic link %s has no usable target", h.Name)
	}
	return nil
}

// Read reads the content of the current entry.
func (d *Data) Read(p []byte) (int, error) { return d.tar.Read(p) }

// Close frees the decoder.
func (d *Data) Close() error { return d.plain.Close() }

// cleanName makes a name of a tar entry relative to the root and refuses one that leads out of it.
func cleanName(name string) (string, error) {
	if name == "" || path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("name %q is empty, absolute or holds a zero byte", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("name %q leads out of the archive", name)
		}
	}
	return path.Clean(name), nil
}

// boundedReader fails, rather than ends, when more than left bytes come.
type boundedReader struct {
	r     io.Reader
	left  int64
	close func() error
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("the archive unpacks to more than its limit")
	}
	return n, err
}

func (b *boundedReader) Close() error { return b.close() }
