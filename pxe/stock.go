package pxe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"roost/images"
	"roost/images/depot"
)

// Stock is a Shelf of plain files: releases are copied out of a depot of any kind, each part checked against its digest on the
// way, so that serving needs no registry, no archive and no further check, and goes out by sendfile.
type Stock struct {
	dir string

	mu     sync.Mutex
	offers map[images.Digest]*Offer
}

// NewStock keeps its files in dir, which is made if missing. Files of an earlier life are used again when their digest holds.
func NewStock(dir string) (*Stock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make stock: %w", err)
	}
	return &Stock{dir: dir, offers: map[images.Digest]*Offer{}}, nil
}

// Add copies a release into the stock and returns how it will be offered. The caller has verified its signature.
func (s *Stock) Add(ctx context.Context, r *depot.Release) (*Offer, error) {
	d := r.Document
	o := &Offer{Release: r.Manifest.Digest, Name: d.Name, Version: d.Version, Architecture: d.Architecture, RootHash: d.RootHash, Created: d.Created}
	for kind, file := range map[images.Kind]*File{images.KindUKI: &o.UKI, images.KindRoot: &o.Root, images.KindVerity: &o.Verity} {
		part, err := s.fetch(ctx, r, kind)
		if err != nil {
			return nil, fmt.Errorf("cannot stock release %s %s: %w", d.Name, d.Version, err)
		}
		*file = part
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers[o.Release] = o
	return o, nil
}

// Offer describes a release that was added.
func (s *Stock) Offer(_ context.Context, release images.Digest) (*Offer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.offers[release]; o != nil {
		return o, nil
	}
	return nil, errors.New("release is not in stock")
}

func (s *Stock) fetch(ctx context.Context, r *depot.Release, kind images.Kind) (File, error) {
	body, x, err := r.Part(ctx, kind)
	if err != nil {
		return File{}, err
	}
	defer body.Close() // read to its end, which is where errors show
	path := filepath.Join(s.dir, x.Digest.Hex())
	file := File{Digest: x.Digest, Size: x.Size, Open: func() (io.ReadSeekCloser, error) { return os.Open(path) }}
	if holds(path, x.Digest) {
		return file, nil
	}
	temporary, err := os.CreateTemp(s.dir, "part-*")
	if err != nil {
		return File{}, err
	}
	defer os.Remove(temporary.Name()) // gone when all went well
	_, err = io.Copy(temporary, body)
	if err := errors.Join(err, temporary.Close()); err != nil {
		return File{}, fmt.Errorf("cannot copy %s: %w", kind, err)
	}
	return file, os.Rename(temporary.Name(), path)
}

// holds reports whether the file at path has the content that digest names.
func holds(path string, digest images.Digest) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() // opened for reading
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == digest.Hex()
}
