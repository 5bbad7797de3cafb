package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// ErrCorrupt is in every error of Verify that says the bytes are not those the root hash stands for.
var ErrCorrupt = errors.New("corrupt")

// Verify reads a root image and its verity data and checks every block against the root hash, on all processors. It
// reads whole blocks at block offsets into page-aligned memory, so both may be devices opened for direct I/O, and it may
// be longer than what the superblock says. Memory stays below 2 MiB and 1/16,000 of the image.
func Verify(ctx context.Context, data, verity io.ReaderAt, rootHash string) error {
	root, err := parseRootHash(rootHash)
	if err != nil {
		return err
	}
	s, err := ReadSuperblock(verity)
	if err != nil {
		return err
	}
	leaves, err := verifyTree(ctx, s, verity, root)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for worker := range workers {
		group.Go(func() error {
			v := verifier{s: s, data: data, verity: verity, hash: newBlockHash(s.Salt), leaf: make([]byte, blockSize), chunk: make([]byte, chunkSize)}
			for i := int64(worker); i < int64(len(leaves)/digestSize); i += int64(workers) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := v.verify(i, leaves[i*digestSize:][:digestSize]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// verifyTree checks all levels above the leaves and returns the digests that the leaf blocks must have.
func verifyTree(ctx context.Context, s Superblock, verity io.ReaderAt, root [digestSize]byte) ([]byte, error) {
	levels := s.levels()
	want := root[:]
	hash, block := newBlockHash(s.Salt), make([]byte, blockSize)
	for level := len(levels) - 1; level > 0; level-- {
		start := s.start(level)
		below := make([]byte, 0, levels[level]*blockSize)
		for i := range levels[level] {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := readBlocks(verity, block, start+i); err != nil {
				return nil, fmt.Errorf("cannot read verity block %d: %w", start+i, err)
			}
			if !bytes.Equal(hash.sum(block, nil), want[i*digestSize:][:digestSize]) {
				return nil, fmt.Errorf("cannot trust verity block %d: %w", start+i, ErrCorrupt)
			}
			below = append(below, block...)
		}
		used := levels[level-1] * digestSize
		if !isZero(below[used:]) {
			return nil, fmt.Errorf("cannot trust verity superblock: the tree is of a longer image: %w", ErrCorrupt)
		}
		want = below[:used]
	}
	return want, nil
}

// verifier checks one leaf block and the data under it after the other.
type verifier struct {
	s            Superblock
	data, verity io.ReaderAt
	hash         blockHash
	leaf, chunk  []byte
}

func (v *verifier) verify(i int64, want []byte) error {
	at := v.s.start(0) + i
	if err := readBlocks(v.verity, v.leaf, at); err != nil {
		return fmt.Errorf("cannot read verity block %d: %w", at, err)
	}
	if !bytes.Equal(v.hash.sum(v.leaf, nil), want) {
		return fmt.Errorf("cannot trust verity block %d: %w", at, ErrCorrupt)
	}
	first := i * perBlock
	blocks := min(perBlock, v.s.DataBlocks-first)
	chunk := v.chunk[:blocks*blockSize]
	if err := readBlocks(v.data, chunk, first); err != nil {
		return fmt.Errorf("cannot read root image at block %d: %w", first, err)
	}
	if !isZero(v.leaf[blocks*digestSize:]) {
		return fmt.Errorf("cannot trust verity superblock: the tree is of a longer image: %w", ErrCorrupt)
	}
	var sum [digestSize]byte
	for b := range blocks {
		if !bytes.Equal(v.hash.sum(chunk[b*blockSize:][:blockSize], sum[:0]), v.leaf[b*digestSize:][:digestSize]) {
			return fmt.Errorf("cannot trust root image block %d: %w", first+b, ErrCorrupt)
		}
	}
	return nil
}

// isZero tells whether the unused end of a hash block is. The superblock's number of data blocks is under no hash; that the
// tree has digests for exactly so many proves it.
func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

func readBlocks(r io.ReaderAt, p []byte, block int64) error {
	n, err := r.ReadAt(p, block*blockSize)
	if n == len(p) {
		return nil
	}
	return cmpError(err, io.ErrUnexpectedEOF)
}
