package rootfs

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

const (
	blockSize     = 4096
	digestSize    = 32
	perBlock      = blockSize / digestSize // digests in a hash block
	chunkSize     = perBlock * blockSize   // data that one leaf hash block covers
	superSize     = 512
	verityMagic   = "verity\x00\x00"
	maxSalt       = 256
	maxDataBlocks = 1 << 40 // 4 PiB: beyond it something is wrong, and arithmetic stays far from overflow
)

// Superblock is the head of verity data: what veritysetup (format version 1) writes at its start and a machine must know
// to read the tree. Hash and block sizes are fixed: SHA-256, 4096 and 4096.
type Superblock struct {
	UUID       [16]byte
	DataBlocks int64  // 4096-byte blocks of the root image
	Salt       []byte // put before each block when it is hashed; at most 256 bytes
}

// ReadSuperblock reads the superblock at the start of verity data. Everything that Encode would not have written is refused.
func ReadSuperblock(r io.ReaderAt) (Superblock, error) {
	b := make([]byte, blockSize) // a whole block, so that a device opened for direct I/O can be read
	if n, err := r.ReadAt(b, 0); n < superSize {
		return Superblock{}, fmt.Errorf("cannot read verity superblock: %w", cmpError(err, io.ErrUnexpectedEOF))
	}
	s, err := parseSuperblock(b[:superSize])
	if err != nil {
		return Superblock{}, fmt.Errorf("cannot read verity superblock: %w", err)
	}
	return s, nil
}

func cmpError(err, otherwise error) error {
	if err == nil || err == io.EOF {
		return otherwise
	}
	return err
}

func parseSuperblock(b []byte) (Superblock, error) {
	if !bytes.HasPrefix(b, []byte(verityMagic)) {
		return Superblock{}, errors.New("no signature")
	}
	le := binary.LittleEndian
	saltSize := le.Uint16(b[80:])
	blocks := le.Uint64(b[72:])
	if saltSize > maxSalt || blocks < 2 || blocks > maxDataBlocks {
		return Superblock{}, fmt.Errorf("%d bytes of salt and %d data blocks are out of range", saltSize, blocks)
	}
	s := Superblock{UUID: [16]byte(b[16:32]), DataBlocks: int64(blocks), Salt: bytes.Clone(b[88 : 88+int(saltSize)])}
	if !bytes.Equal(s.encode(), b) {
		return Superblock{}, errors.New("parameters other than version 1, SHA-256 and 4096-byte blocks")
	}
	return s, nil
}

// encode returns the superblock as stored (cryptsetup's on-disk format 1).
func (s Superblock) encode() []byte {
	b := make([]byte, superSize)
	le := binary.LittleEndian
	copy(b, verityMagic)
	le.PutUint32(b[8:], 1)  // superblock version
	le.PutUint32(b[12:], 1) // hash type: salt first
	copy(b[16:], s.UUID[:])
	copy(b[32:64], "sha256")
	le.PutUint32(b[64:], blockSize)
	le.PutUint32(b[68:], blockSize)
	le.PutUint64(b[72:], uint64(s.DataBlocks))
	le.PutUint16(b[80:], uint16(len(s.Salt)))
	copy(b[88:], s.Salt)
	return b
}

// DataSize returns the bytes of the root image.
func (s Superblock) DataSize() int64 { return s.DataBlocks * blockSize }

// Size returns the bytes of the verity data: superblock and tree.
func (s Superblock) Size() int64 {
	blocks := int64(1)
	for _, n := range s.levels() {
		blocks += n
	}
	return blocks * blockSize
}

// levels returns the number of hash blocks on each level, leaves first; the last is 1.
func (s Superblock) levels() []int64 {
	var levels []int64
	for n := s.DataBlocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		levels = append(levels, n)
	}
	return levels
}

// start returns the block in the verity data at which a level starts: the topmost comes first, after the superblock.
func (s Superblock) start(level int) int64 {
	levels := s.levels()
	at := int64(1)
	for i := len(levels) - 1; i > level; i-- {
		at += levels[i]
	}
	return at
}

// Target is one row of a device-mapper table.
type Target struct {
	Sectors int64 // 512-byte sectors the device will have
	Type    string
	Params  string
}

// Target returns the device-mapper row that makes a verified device of dataDevice and hashDevice, each a path or
// major:minor, for this root hash. options are dm-verity's optional parameters, such as "panic_on_corruption".
func (s Superblock) Target(dataDevice, hashDevice, rootHash string, options ...string) (Target, error) {
	if _, err := parseRootHash(rootHash); err != nil {
		return Target{}, err
	}
	salt := "-"
	if len(s.Salt) > 0 {
		salt = hex.EncodeToString(s.Salt)
	}
	params := fmt.Sprintf("1 %s %s %d %d %d 1 sha256 %s %s", dataDevice, hashDevice, blockSize, blockSize, s.DataBlocks, rootHash, salt)
	if len(options) > 0 {
		params += fmt.Sprintf(" %d", len(options))
		for _, o := range options {
			params += " " + o
		}
	}
	return Target{Sectors: s.DataSize() / 512, Type: "verity", Params: params}, nil
}

func parseRootHash(s string) ([digestSize]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != digestSize {
		return [digestSize]byte{}, fmt.Errorf("cannot use root hash %q: want 64 hexadecimal digits", s)
	}
	return [digestSize]byte(b), nil
}
