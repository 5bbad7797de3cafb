// Package assemble turns locked packages and a recipe's edits into the tree of a root image. It is the only place that
// knows how packages become files.
package assemble

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"runtime"

	"roost/builder/tree"
	"roost/images"
)

// Package is one package of the lock.
type Package struct {
	Name         string
	Version      string
	Architecture string
	Digest       images.Digest // of the .deb
}

// Group is a set of packages that are configured together on top of the groups before.
type Group struct {
	Name     string
	Packages []Package
}

// Config says what to assemble.
type Config struct {
	Store        *tree.Store
	Deb          func(images.Digest) (path string, err error) // where the fetched .deb with this digest is
	Architecture string                                       // Debian's name
	Groups       []Group                                      // lowest first
	IDs          IDs
	Workers      int // how many packages to unpack at a time; 0: one per processor
	Log          *slog.Logger
}

// assembly is one run of Tree.
type assembly struct {
	Config
}

func (a *assembly) workers() int {
	if a.Workers > 0 {
		return a.Workers
	}
	return runtime.GOMAXPROCS(0)
}

// Tree assembles.
func Tree(ctx context.Context, c Config) (tree.Tree, error) {
	a := &assembly{c}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	return a.groups(ctx)
}

// keyOf names a list of strings: a digest that no other list has.
func keyOf(parts ...string) images.Digest {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return images.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}
