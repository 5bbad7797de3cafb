package recipe

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// source reads what a files entry brings from beside the recipe: one file, or every file below a directory. The execute
// bit is taken over, other permissions are not: they are accidents of a checkout.
func (w *walk) source(d *decoder, name string, s fileSource) []File {
	if s.source == "" {
		return []File{s.File}
	}
	refuse := func(err error) []File {
		d.faultAt(s.At, fmt.Sprintf("cannot read source %q: %v", s.source, plainCause(err)), "paths are relative to the file that names them")
		return nil
	}
	fsys, root, err := w.loader.locate(beside(name, s.source))
	if err != nil {
		return refuse(err)
	}
	info, err := fs.Stat(fsys, root)
	if err != nil {
		return refuse(err)
	}
	if !info.IsDir() {
		f, err := w.sourceFile(fsys, root, info, s.Path, s)
		if err != nil {
			return refuse(err)
		}
		return []File{f}
	}
	var list []File
	err = fs.WalkDir(fsys, root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := path.Join(s.Path, strings.TrimPrefix(strings.TrimPrefix(file, root), "/"))
		f, err := w.sourceFile(fsys, file, info, target, s)
		if err != nil {
			return fmt.Errorf("%s: %w", file, plainCause(err))
		}
		list = append(list, f)
		return nil
	})
	if err != nil {
		return refuse(err)
	}
	return list
}

// sourceFile reads one entry. Symbolic links below a source directory stay links.
func (w *walk) sourceFile(fsys fs.FS, file string, info fs.FileInfo, target string, s fileSource) (File, error) {
	f := s.File
	f.Path, f.Content = target, nil
	if w.count++; w.count > maxSourceCount {
		return f, fmt.Errorf("more than %d files come by source", maxSourceCount)
	}
	switch kind := info.Mode().Type(); kind {
	case fs.ModeDir:
		f.Directory, f.Mode = true, defaultMode(true)
		return f, nil
	case fs.ModeSymlink:
		link, err := fs.ReadLink(fsys, file)
		f.Link, f.Mode = link, 0
		return f, err
	case 0:
	default:
		return f, fmt.Errorf("it is neither file, directory nor symbolic link")
	}
	w.bytes += info.Size()
	if info.Size() > maxSource || w.bytes > maxSourceTotal {
		return f, fmt.Errorf("it is too large: at most %s a file and %s in all come by source", Size(maxSource), Size(maxSourceTotal))
	}
	if !s.mode {
		f.Mode = defaultMode(info.Mode()&0o111 != 0)
	}
	content, err := fs.ReadFile(fsys, file)
	f.Content = content
	return f, err
}
