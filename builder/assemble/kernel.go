package assemble

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"roost/builder/recipe"
	"roost/builder/tree"
	"roost/images"
)

// modulesHome is where kernel modules are, by kernel release.
const modulesHome = "/usr/lib/modules"

// Kernel is the kernel of a tree.
type Kernel struct {
	Version string        `json:"version"` // as uname -r prints it
	Image   images.Digest `json:"image"`   // content of vmlinuz, in the tree store
	Size    int64         `json:"size"`
}

// FindKernel returns the kernel that packages put in /boot, and false if there is none. Two kernels are an error: an image
// boots exactly one. A finished image has no kernel any more, as the UKI carries it; see [Result].
func FindKernel(t tree.Tree) (Kernel, bool, error) {
	var found []Kernel
	for _, e := range t.Under("/boot") {
		version, ok := strings.CutPrefix(path.Base(e.Path), "vmlinuz-")
		if ok && e.Type == tree.File {
			found = append(found, Kernel{version, e.Blob, e.Size})
		}
	}
	switch len(found) {
	case 0:
		return Kernel{}, false, nil
	case 1:
		return found[0], true, nil
	}
	return Kernel{}, false, fmt.Errorf("cannot choose a kernel: the packages bring %s and %s", found[0].Version, found[1].Version)
}

// isModule tells whether p is a kernel module in the tree, compressed or not.
func isModule(p string) bool {
	return strings.HasPrefix(p, modulesHome+"/") && strings.Contains(path.Base(p), ".ko") && plainModule(p) != ""
}

// plainModule is the name of module file p when decompressed, "" if it is none.
func plainModule(p string) string {
	for _, suffix := range []string{"", ".xz", ".zst", ".gz"} {
		if plain, ok := strings.CutSuffix(p, suffix); ok && strings.HasSuffix(plain, ".ko") {
			return plain
		}
	}
	return ""
}

// moduleName is the kernel's name of the module in file p.
func moduleName(p string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(plainModule(p)), ".ko"), "-", "_")
}

// modules returns t with the kernel modules that rules keep, and those they depend on, decompressed, and the indexes that
// modprobe reads made anew by the tree's own depmod. Decompressed modules give small updates between releases.
func (a *assembly) modules(ctx context.Context, t tree.Tree, kernel Kernel) (tree.Tree, error) {
	version, rules := kernel.Version, a.Recipe.Kernel.Modules
	home := modulesHome + "/" + version
	depmod, ok := t.Lookup("/usr/bin/kmod")
	if !ok {
		return tree.Tree{}, fmt.Errorf("cannot index modules of kernel %s: the image has no kmod; add the package", version)
	}
	parts := []string{"modules 3", version, fmt.Sprint(rules), string(depmod.Blob)}
	for _, dir := range []string{home, "/usr/lib/depmod.d", "/etc/depmod.d"} {
		parts = append(parts, string(subtree(t, dir).Digest()))
	}
	key := keyOf(parts...)
	done, ok, err := a.Store.LoadTree(ctx, key)
	if err != nil {
		return tree.Tree{}, err
	}
	if !ok {
		started := time.Now()
		if done, err = a.makeModules(ctx, t, home, rules); err != nil {
			return tree.Tree{}, fmt.Errorf("cannot prepare modules of kernel %s: %w", version, err)
		}
		if err := a.Store.SaveTree(key, done); err != nil {
			return tree.Tree{}, err
		}
		a.Log.Info("kernel modules prepared", "kernel", version, "files", done.Len(), "bytes", done.Size(), "took", time.Since(started).Round(time.Millisecond))
	}
	if a.Modules != nil {
		a.Modules(done, kernel)
	}
	d := t.Draft()
	d.Empty(home)
	for _, e := range done.Under(home) {
		if err := d.Put(e); err != nil {
			return tree.Tree{}, err
		}
	}
	return d.Tree()
}

// subtree is t with nothing but dir, what is in it, and the directories that lead there.
func subtree(t tree.Tree, dir string) tree.Tree {
	return t.Remove(func(p string) bool { return p != dir && !strings.HasPrefix(p, dir+"/") })
}

func (a *assembly) makeModules(ctx context.Context, t tree.Tree, home string, rules []recipe.Rule) (tree.Tree, error) {
	files := map[string]tree.Entry{} // by name of the module
	wanted := []string{}
	for _, e := range t.Under(home) {
		if e.Type != tree.File || !isModule(e.Path) {
			continue
		}
		name := moduleName(e.Path)
		files[name] = e
		if recipe.DecideModule(rules, strings.TrimPrefix(e.Path, home+"/"), true) {
			wanted = append(wanted, name)
		}
	}
	kept, err := a.keepModules(ctx, files, wanted)
	if err != nil {
		return tree.Tree{}, err
	}
	d := t.Draft()
	for _, e := range files {
		d.Remove(e.Path)
	}
	for _, e := range kept {
		if err := d.Put(e); err != nil {
			return tree.Tree{}, err
		}
	}
	removeEmpty(d, home)
	pruned, err := d.Tree()
	if err != nil {
		return tree.Tree{}, err
	}
	var indexed tree.Tree
	err = a.Cores.Do(ctx, func() (err error) {
		indexed, err = a.run(ctx, depmodTree(pruned, home), job{name: "run depmod", script: "depmod " + path.Base(home) + "\n"})
		return err
	})
	if err != nil {
		return tree.Tree{}, err
	}
	return subtree(indexed, home), nil
}

// keepModules decompresses the wanted modules and, round by round, those they depend on.
func (a *assembly) keepModules(ctx context.Context, files map[string]tree.Entry, wanted []string) ([]tree.Entry, error) {
	var kept []tree.Entry
	seen := map[string]bool{}
	for len(wanted) > 0 {
		var round []tree.Entry
		for _, name := range wanted {
			if e, ok := files[name]; ok && !seen[name] {
				seen[name] = true
				round = append(round, e)
			}
		}
		plain := make([]tree.Entry, len(round))
		needs := make([][]string, len(round))
		g, ctx := errgroup.WithContext(ctx)
		for i, e := range round {
			a.Cores.Go(ctx, g, func() (err error) {
				plain[i], needs[i], err = a.decompressModule(ctx, e)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		kept = append(kept, plain...)
		wanted = slices.Concat(needs...)
	}
	return kept, nil
}

// decompressModule returns the module as a plain file, from the cache if it was decompressed before, and the names of the
// modules it depends on.
func (a *assembly) decompressModule(ctx context.Context, e tree.Entry) (tree.Entry, []string, error) {
	if err := ctx.Err(); err != nil {
		return e, nil, err
	}
	content, err := a.Store.ReadFile(e.Blob)
	if err != nil {
		return e, nil, err
	}
	if plain := plainModule(e.Path); plain != e.Path {
		buffer, ok := a.plain.Get().(*bytes.Buffer)
		if !ok {
			buffer = new(bytes.Buffer)
		}
		defer a.plain.Put(buffer)
		buffer.Reset()
		if content, err = a.decompress(buffer, content); err != nil {
			return e, nil, fmt.Errorf("%s: %w", e.Path, err)
		}
		e.Path = plain
		if e.Blob, err = a.Store.PutBytes(content); err != nil {
			return e, nil, err
		}
		e.Size = int64(len(content))
	}
	needs, err := moduleDepends(content)
	if err != nil {
		return e, nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	return e, needs, nil
}

// maxModule bounds a decompressed module; the largest of Debian 13 (nouveau, amdgpu) have tens of megabytes.
const maxModule = 512 << 20

// decompress returns the content of b in buffer's memory.
func (a *assembly) decompress(buffer *bytes.Buffer, b []byte) ([]byte, error) {
	r, err := a.memory.Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if n, err := buffer.ReadFrom(io.LimitReader(r, maxModule+1)); err != nil || n > maxModule {
		return nil, cmp.Or(err, fmt.Errorf("more than %d bytes", maxModule))
	}
	return buffer.Bytes(), nil
}

// moduleDepends reads the depends= line of a module's .modinfo section.
func moduleDepends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for line := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(strings.ReplaceAll(string(list), "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// removeEmpty removes directories below dir that hold nothing.
func removeEmpty(d *tree.Draft, dir string) {
	full := map[string]bool{}
	for _, p := range slices.Backward(d.Paths()) {
		if e, _ := d.Lookup(p); e.Type == tree.Directory && strings.HasPrefix(p, dir+"/") && !full[p] {
			d.Remove(p)
			continue
		}
		full[path.Dir(p)] = true
	}
}

// depmodTree is the part of t that depmod and the programs around it need.
func depmodTree(t tree.Tree, home string) tree.Tree {
	return t.Remove(func(p string) bool {
		for _, dir := range []string{home, "/usr/bin", "/usr/sbin", "/usr/lib64", "/usr/lib/depmod.d", "/etc/depmod.d", "/etc/ld.so.cache", "/bin", "/sbin", "/lib", "/lib64"} {
			if p == dir || strings.HasPrefix(p, dir+"/") {
				return false
			}
		}
		return !strings.HasPrefix(p, "/usr/lib/") || path.Dir(path.Dir(p)) != "/usr/lib" || !strings.Contains(path.Base(p), ".so")
	})
}
