package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
)

// Hasher computes the hash tree of a root image that is written to it, on all processors. It keeps the tree in memory: 0.8 %
// of the image.
type Hasher struct {
	salt    []byte
	uuid    [16]byte
	pending []byte // at most one chunk
	leaves  []*[blockSize]byte
	size    int64
	slots   chan struct{} // one for each chunk being hashed
	free    sync.Pool
	work    sync.WaitGroup
}

// NewHasher returns a Hasher. salt has at most 256 bytes; salt and uuid are put into the superblock.
func NewHasher(salt []byte, uuid [16]byte) *Hasher {
	return &Hasher{salt: salt, uuid: uuid, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
}

// Write takes the next bytes of the image. It never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	n := len(p)
	h.size += int64(n)
	for len(p) > 0 {
		if h.pending == nil {
			h.pending = h.buffer()
		}
		take := min(len(p), chunkSize-len(h.pending))
		h.pending = append(h.pending, p[:take]...)
		p = p[take:]
		if len(h.pending) == chunkSize {
			h.dispatch()
		}
	}
	return n, nil
}

func (h *Hasher) buffer() []byte {
	if b, ok := h.free.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, chunkSize)
}

// dispatch hands the pending chunk to a processor. Its digests make exactly one leaf block.
func (h *Hasher) dispatch() {
	chunk, leaf := h.pending, new([blockSize]byte)
	h.pending, h.leaves = nil, append(h.leaves, leaf)
	h.slots <- struct{}{}
	h.work.Go(func() {
		hashBlocks(newBlockHash(h.salt), chunk, leaf[:])
		h.free.Put(&chunk)
		<-h.slots
	})
}

// Tree is the finished hash tree of a root image.
type Tree struct {
	Superblock
	root   [digestSize]byte
	levels [][]byte // leaves first
}

// Tree waits for the hashing to end and returns the tree. The image must have a whole number of blocks, at least two. The
// Hasher is used up.
func (h *Hasher) Tree() (*Tree, error) {
	if len(h.pending) > 0 {
		h.dispatch()
	}
	h.work.Wait()
	if h.size%blockSize != 0 || h.size < 2*blockSize {
		return nil, fmt.Errorf("cannot hash root image: %d bytes are not two or more whole blocks", h.size)
	}
	if len(h.salt) > maxSalt {
		return nil, errors.New("cannot hash root image: salt is longer than 256 bytes")
	}
	level := make([]byte, 0, len(h.leaves)*blockSize)
	for _, leaf := range h.leaves {
		level = append(level, leaf[:]...)
	}
	t := &Tree{Superblock: Superblock{UUID: h.uuid, DataBlocks: h.size / blockSize, Salt: h.salt}}
	b := newBlockHash(h.salt)
	for {
		t.levels = append(t.levels, level)
		if len(level) == blockSize {
			break
		}
		blocks := len(level) / blockSize
		above := make([]byte, (blocks+perBlock-1)/perBlock*blockSize)
		hashBlocks(b, level, above)
		level = above
	}
	hashBlocks(b, level, t.root[:])
	return t, nil
}

// RootHash returns the digest that stands for the whole image, in lower-case hexadecimal.
func (t *Tree) RootHash() string { return hex.EncodeToString(t.root[:]) }

// WriteTo writes the verity data: superblock, then the tree from the top.
func (t *Tree) WriteTo(w io.Writer) (int64, error) {
	super := make([]byte, blockSize)
	copy(super, t.encode())
	n, err := w.Write(super)
	written := int64(n)
	for i := len(t.levels) - 1; i >= 0 && err == nil; i-- {
		n, err = w.Write(t.levels[i])
		written += int64(n)
	}
	return written, err
}

// blockHash hashes blocks one after the other.
type blockHash struct {
	hash.Hash
	salt []byte
}

func newBlockHash(salt []byte) blockHash { return blockHash{sha256.New(), salt} }

// sum appends the digest of one block to out.
func (h blockHash) sum(block, out []byte) []byte {
	h.Reset()
	h.Write(h.salt)
	h.Write(block)
	return h.Sum(out)
}

// hashBlocks puts the digest of each block of data into out, which is long enough.
func hashBlocks(h blockHash, data, out []byte) {
	out = out[:0]
	for len(data) > 0 {
		n := min(blockSize, len(data))
		out = h.sum(data[:n], out)
		data = data[n:]
	}
}
