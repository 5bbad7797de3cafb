package assemble

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"roost/builder/deb"
	"roost/builder/lock"
	"roost/builder/tree"
	"roost/images"
)

// unpackVersion is part of the key of every unpacked package; it changes when unpack does.
const unpackVersion = "unpack 1"

// controlDir holds a package's control members inside its cached tree; dataDir holds its files. One tree per package keeps
// both under one key.
const (
	controlDir = "/control"
	dataDir    = "/data"
)

// layer is one package, unpacked: its files as a tree, and what dpkg knows about it.
type layer struct {
	lock.Package
	files   tree.Tree                // as the package has them; paths not yet merged into /usr
	members map[string]images.Digest // control members by name, as blobs
	control deb.Paragraph
	scripts []string // names of the maintainer scripts, sorted
	store   *tree.Store
}

// unpacking is the packages of one group on their way to layers.
type unpacking struct {
	group  errgroup.Group
	layers []*layer
}

func (u *unpacking) wait() ([]*layer, error) { return u.layers, u.group.Wait() }

// unpackAll turns the packages of groups into layers: the largest of all first, for the kernel is as much work as the first
// two groups; then group by group, as scripts wait for them, and in each group large ones first. Each package is unpacked once
// ever.
func (a *assembly) unpackAll(ctx context.Context, groups []lock.Group) []*unpacking {
	all := make([]*unpacking, len(groups))
	type job struct {
		group, at int
		size      int64
	}
	var jobs []job
	for i, g := range groups {
		all[i] = &unpacking{layers: make([]*layer, len(g.Packages))}
		for at, p := range g.Packages {
			jobs = append(jobs, job{i, at, p.Size})
		}
	}
	slices.SortStableFunc(jobs, func(x, y job) int { return cmp.Or(cmp.Compare(x.group, y.group), cmp.Compare(y.size, x.size)) })
	if len(jobs) > 0 {
		largest := slices.IndexFunc(jobs, func(x job) bool {
			return !slices.ContainsFunc(jobs, func(y job) bool { return y.size > x.size })
		})
		first := jobs[largest]
		jobs = slices.Insert(slices.Delete(jobs, largest, largest+1), 0, first)
	}
	for _, j := range jobs {
		u := all[j.group]
		a.Cores.Go(ctx, &u.group, func() (err error) {
			u.layers[j.at], err = a.unpack(ctx, groups[j.group].Packages[j.at])
			return err
		})
	}
	return all
}

// unpack returns the layer of one package.
func (a *assembly) unpack(ctx context.Context, p lock.Package) (*layer, error) {
	t, err := a.packageTree(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %s %s: %w", p.Name, p.Version, err)
	}
	l, err := a.splitLayer(p, t)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %s %s: %w", p.Name, p.Version, err)
	}
	return l, nil
}

// packageTree returns the cached form of a package, made now if it was never unpacked before.
func (a *assembly) packageTree(ctx context.Context, p lock.Package) (tree.Tree, error) {
	key := keyOf(unpackVersion, string(p.SHA256))
	t, ok, err := a.Store.LoadTree(ctx, key)
	if err != nil || ok {
		return t, err
	}
	if t, err = a.unpackNew(ctx, p); err != nil {
		return tree.Tree{}, err
	}
	return t, a.Store.SaveTree(key, t)
}

// dataOf returns the files in the cached form of a package.
func dataOf(t tree.Tree) (tree.Tree, error) {
	files := []tree.Entry{}
	if root, ok := t.Lookup(dataDir); ok {
		root.Path = "/"
		files = append(files, root)
	}
	for _, e := range t.Under(dataDir) {
		e.Path = strings.TrimPrefix(e.Path, dataDir)
		files = append(files, e)
	}
	return tree.New(files)
}

// splitLayer reads a cached package tree back.
func (a *assembly) splitLayer(p lock.Package, t tree.Tree) (*layer, error) {
	l := &layer{Package: p, members: map[string]images.Digest{}, store: a.Store}
	for _, e := range t.Under(controlDir) {
		name := path.Base(e.Path)
		l.members[name] = e.Blob
		switch name {
		case "preinst", "postinst", "prerm", "postrm", "config":
			l.scripts = append(l.scripts, name)
		}
	}
	text, err := l.member("control")
	if err != nil {
		return nil, err
	}
	if l.control, err = deb.ParseParagraph(text); err != nil {
		return nil, err
	}
	if got := l.control.Get("Package"); got != p.Name || l.control.Get("Version") != string(p.Version) {
		return nil, fmt.Errorf("the file is %s %s", got, l.control.Get("Version"))
	}
	l.files, err = dataOf(t)
	return l, err
}

// member returns a control member, nil if the package has none of that name.
func (l *layer) member(name string) ([]byte, error) {
	d, ok := l.members[name]
	if !ok {
		return nil, nil
	}
	return l.store.ReadFile(d)
}

// unpackNew reads a .deb into a package tree.
func (a *assembly) unpackNew(ctx context.Context, p lock.Package) (tree.Tree, error) {
	name, err := a.Deb(p.SHA256)
	if err != nil {
		return tree.Tree{}, err
	}
	f, err := os.Open(name)
	if err != nil {
		return tree.Tree{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return tree.Tree{}, err
	}
	archive, err := deb.Open(f, info.Size())
	if err != nil {
		return tree.Tree{}, err
	}
	archive.Memory = &a.memory
	d := tree.NewDraft()
	for name, content := range archive.Members {
		blob, err := a.Store.PutBytes(content)
		if err != nil {
			return tree.Tree{}, err
		}
		if err := d.Put(tree.Entry{Path: controlDir + "/" + name, Type: tree.File, Mode: 0o644, Blob: blob, Size: int64(len(content))}); err != nil {
			return tree.Tree{}, err
		}
	}
	if err := a.unpackData(ctx, archive, d); err != nil {
		return tree.Tree{}, err
	}
	return d.Tree()
}

// unpackData puts the files of a package under dataDir.
func (a *assembly) unpackData(ctx context.Context, archive *deb.File, d *tree.Draft) error {
	data, err := archive.Data()
	if err != nil {
		return err
	}
	defer data.Close()
	for {
		h, err := data.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		e, err := a.entry(h, data, d)
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if err := d.Put(e); err != nil {
			return err
		}
	}
}

// entry makes a tree entry of a tar header, and stores the content that follows it.
func (a *assembly) entry(h *tar.Header, content io.Reader, d *tree.Draft) (tree.Entry, error) {
	e := tree.Entry{Path: path.Join(dataDir, h.Name), Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid)}
	var err error
	switch h.Typeflag {
	case tar.TypeReg:
		e.Type = tree.File
		e.Blob, e.Size, err = a.Store.Put(content)
		if err == nil && e.Size != h.Size {
			err = io.ErrUnexpectedEOF
		}
	case tar.TypeLink:
		target, ok := d.Lookup(path.Join(dataDir, h.Linkname))
		if !ok || target.Type != tree.File {
			return e, fmt.Errorf("hard link to %s, which is no file before it", h.Linkname)
		}
		target.Path = e.Path
		return target, nil
	case tar.TypeDir:
		e.Type = tree.Directory
	case tar.TypeSymlink:
		e.Type, e.Mode, e.Target = tree.Symlink, 0o777, h.Linkname
	case tar.TypeChar:
		e.Type, e.Major, e.Minor = tree.CharDevice, uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeBlock:
		e.Type, e.Major, e.Minor = tree.BlockDevice, uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeFifo:
		e.Type = tree.FIFO
	}
	return e, err
}

// conffiles returns the status field of l's configuration files: path and MD5, as dpkg keeps them (deb-conffiles(5)).
func (l *layer) conffiles() (string, error) {
	text, err := l.member("conffiles")
	if err != nil || len(text) == 0 {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		if name == "" || strings.HasPrefix(name, "remove-on-upgrade ") {
			continue
		}
		e, ok := l.files.Lookup(name)
		if !ok || e.Type != tree.File {
			continue
		}
		content, err := l.store.ReadFile(e.Blob)
		if err != nil {
			return "", err
		}
		sum := md5.Sum(content)
		fmt.Fprintf(&b, "\n %s %s", name, hex.EncodeToString(sum[:]))
	}
	return b.String(), nil
}

// Unpack returns the files of one package, unconfigured, from the cache if it was unpacked before. It is for packages
// whose files are tools or data for the builder itself and not part of an image.
func Unpack(ctx context.Context, store *tree.Store, file string, digest images.Digest) (tree.Tree, error) {
	a := &assembly{Config: Config{Store: store, Deb: func(images.Digest) (string, error) { return file, nil }}}
	t, err := a.packageTree(ctx, lock.Package{SHA256: digest})
	if err != nil {
		return tree.Tree{}, fmt.Errorf("cannot unpack %s: %w", file, err)
	}
	return dataOf(t)
}
