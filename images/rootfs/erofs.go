package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Entry is a file, directory or other object of a root image.
type Entry struct {
	Path     string    // slashes, none leading; "." is the root directory
	Mode     uint32    // type and permissions as in stat(2)
	UID, GID uint32    //
	Time     time.Time // last modification, whole nanoseconds kept

	Target string            // of a symbolic link
	Link   string            // path of the entry that this one is another name of; all else but Path is then taken from there
	Major  uint32            // of a device
	Minor  uint32            //
	Xattrs map[string]string // full names, such as security.capability

	Size    int64                         // of a regular file
	Open    func() (io.ReadCloser, error) // yields exactly Size bytes; may be nil when Size is 0
	Content string                        // names the content, for example by digest: files of equal, non-empty Content share blocks
}

// File types in Mode (stat(2)).
const (
	TypeMask      = 0o170000
	TypeRegular   = 0o100000
	TypeDirectory = 0o040000
	TypeSymlink   = 0o120000
	TypeChar      = 0o020000
	TypeBlock     = 0o060000
	TypeFIFO      = 0o010000
	TypeSocket    = 0o140000
)

// Options names an image. Equal entries and options give equal bytes.
type Options struct {
	Label string    // at most 16 bytes
	UUID  [16]byte  // of the file system
	Time  time.Time // when it was built
}

// Layout of EROFS (Linux Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h).
const (
	superOffset     = 1024
	erofsMagic      = 0xe0f5e1e2
	erofsSuper      = 128
	compatChecksum  = 1
	compatMTime     = 2
	unit            = 32 // inodes lie at multiples of it; their number counts it
	inodeSize       = 64 // extended inode
	unitsPerBlock   = blockSize / unit
	rootUnit        = 4 // number of the root directory's inode; 0 means "none" to some tools
	direntSize      = 12
	xattrHeaderSize = 12
	plain           = 0 // all data in blocks
	inline          = 2 // the last, partial block follows the inode
)

// Write writes an EROFS image of the entries, which may come in any order, to w: uncompressed, 4096-byte blocks, the tails
// of files next to their inodes, the blocks of file data first and all metadata behind them. It needs memory for the
// metadata and the tails (about 3 KiB for each entry) and streams the rest. It returns the size of the image in bytes.
func Write(w io.Writer, entries []Entry, o Options) (int64, error) {
	size, err := write(w, entries, o)
	if err != nil {
		return 0, fmt.Errorf("cannot write root image: %w", err)
	}
	return size, nil
}

func write(w io.Writer, entries []Entry, o Options) (int64, error) {
	if len(o.Label) > 16 {
		return 0, fmt.Errorf("label %q is longer than 16 bytes", o.Label)
	}
	inodes, err := treeOf(entries)
	if err != nil {
		return 0, err
	}
	l, err := place(inodes)
	if err != nil {
		return 0, err
	}
	if l.blocks() < 2 || l.blocks() > 1<<32-1 {
		return 0, fmt.Errorf("%d blocks", l.blocks())
	}
	for _, n := range inodes {
		n.encode(l.meta[n.nid*unit:])
	}
	if _, err := w.Write(superblock(l, o, len(inodes))); err != nil {
		return 0, err
	}
	for _, n := range inodes {
		if err := n.stream(w, l); err != nil {
			return 0, fmt.Errorf("%s: %w", n.entry.Path, err)
		}
	}
	for _, n := range inodes { // tails of shared content
		if n.same != nil {
			copy(l.meta[n.tailAt():][:n.tail], l.meta[n.same.tailAt():])
		}
	}
	if _, err := w.Write(l.meta); err != nil {
		return 0, err
	}
	return l.blocks() * blockSize, nil
}

// layout says where things lie.
type layout struct {
	data int64  // blocks of file data, after the superblock's
	meta []byte // the metadata blocks; inodes are numbered from its start
}

func (l *layout) blocks() int64 { return 1 + l.data + int64(len(l.meta)/blockSize) }

// place numbers the inodes and gives data its blocks. The first inode is the root directory: its number must fit 16 bits.
func place(inodes []*inode) (*layout, error) {
	free := make([][]int64, unitsPerBlock+1) // blocks by their free units
	blocks := int64(0)
	shared := map[string]*inode{}
	l := &layout{}
	for i, n := range inodes {
		limit := blockSize
		if i == 0 {
			limit -= rootUnit * unit
		}
		n.split(limit)
		need := (inodeSize + len(n.xattrs) + n.tail + unit - 1) / unit
		if need > unitsPerBlock {
			return nil, fmt.Errorf("%s: %d bytes of extended attributes are too many", n.entry.Path, len(n.xattrs))
		}
		room := need
		for room <= unitsPerBlock && len(free[room]) == 0 {
			room++
		}
		block := blocks
		if room > unitsPerBlock {
			room, blocks = unitsPerBlock, blocks+1
			if i == 0 {
				room -= rootUnit
			}
		} else {
			last := len(free[room]) - 1
			block, free[room] = free[room][last], free[room][:last]
		}
		n.nid = block*unitsPerBlock + int64(unitsPerBlock-room)
		free[room-need] = append(free[room-need], block)

		n.number = i + 1
		if key := n.entry.Content; key != "" && n.full > 0 && n.entry.Mode&TypeMask == TypeRegular {
			key = fmt.Sprint(n.full, n.tail > 0, key)
			if n.same = shared[key]; n.same != nil {
				n.start = n.same.start
				continue
			}
			shared[key] = n
		}
		n.start = 1 + l.data
		l.data += n.full
	}
	l.meta = make([]byte, blocks*blockSize)
	for _, n := range inodes { // all numbers are known
		if n.children != nil {
			n.fixed = n.directory()
		}
	}
	return l, nil
}

// superblock returns the first block.
func superblock(l *layout, o Options, inodes int) []byte {
	b := make([]byte, blockSize)
	s := b[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(s[0:], erofsMagic)
	le.PutUint32(s[8:], compatChecksum|compatMTime)
	s[12] = 12 // log2 of the block size
	le.PutUint16(s[14:], rootUnit)
	le.PutUint64(s[16:], uint64(inodes))
	le.PutUint64(s[24:], uint64(o.Time.Unix()))
	le.PutUint32(s[32:], uint32(o.Time.Nanosecond()))
	le.PutUint32(s[36:], uint32(l.blocks()))
	le.PutUint32(s[40:], uint32(1+l.data)) // metadata
	copy(s[48:64], o.UUID[:])
	copy(s[64:80], o.Label)
	le.PutUint32(s[4:], ^crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli))) // over the rest of the block
	return b
}

// encode writes the inode, its attributes and, unless it is streamed, its tail.
func (n *inode) encode(b []byte) {
	e := n.entry
	le := binary.LittleEndian
	format := uint16(1) // extended
	if n.tail > 0 {
		format |= inline << 1
	}
	le.PutUint16(b[0:], format)
	if len(n.xattrs) > 0 {
		le.PutUint16(b[2:], uint16(1+(len(n.xattrs)-xattrHeaderSize)/4))
	}
	le.PutUint16(b[4:], uint16(e.Mode))
	le.PutUint64(b[8:], uint64(n.size))
	switch e.Mode & TypeMask {
	case TypeChar, TypeBlock:
		le.PutUint32(b[16:], e.Minor&0xff|e.Major<<8|(e.Minor&^0xff)<<12)
	default:
		if n.full > 0 {
			le.PutUint32(b[16:], uint32(n.start))
		}
	}
	le.PutUint32(b[20:], uint32(n.number))
	le.PutUint32(b[24:], e.UID)
	le.PutUint32(b[28:], e.GID)
	le.PutUint64(b[32:], uint64(e.Time.Unix()))
	le.PutUint32(b[40:], uint32(e.Time.Nanosecond()))
	le.PutUint32(b[44:], uint32(n.links))
	copy(b[inodeSize:], n.xattrs)
}

// stream writes the full blocks of n to w and its tail into the metadata.
func (n *inode) stream(w io.Writer, l *layout) error {
	tail := l.meta[n.tailAt():][:n.tail]
	switch {
	case n.same != nil:
		return nil
	case n.fixed != nil:
		body := n.fixed[:len(n.fixed)-n.tail]
		copy(tail, n.fixed[len(body):])
		_, err := w.Write(append(body, make([]byte, n.full*blockSize-int64(len(body)))...))
		return err
	case n.size == 0:
		return nil
	case n.entry.Open == nil:
		return errors.New("no content given")
	}
	r, err := n.entry.Open()
	if err != nil {
		return err
	}
	err = n.copy(w, r, tail)
	return errors.Join(err, r.Close())
}

func (n *inode) copy(w io.Writer, r io.Reader, tail []byte) error {
	body := n.size - int64(len(tail))
	if copied, err := io.CopyN(w, r, body); err != nil {
		return fmt.Errorf("content ends after %d of %d bytes: %w", copied, n.size, err)
	}
	if pad := n.full*blockSize - body; pad > 0 {
		if _, err := w.Write(make([]byte, pad)); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(r, tail); err != nil {
		return fmt.Errorf("content ends before %d bytes: %w", n.size, err)
	}
	if extra, err := r.Read(make([]byte, 1)); extra > 0 || err != nil && err != io.EOF {
		return errors.Join(fmt.Errorf("content is longer than %d bytes", n.size), err)
	}
	return nil
}
