package rootfs_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"roost/images/rootfs"
)

const block = 4096

var (
	salt = bytes.Repeat([]byte{0x5a, 0x17}, 16)
	uuid = [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// hashed returns the tree and the verity data of an image that arrives in uneven pieces.
func hashed(t testing.TB, image []byte) (*rootfs.Tree, []byte) {
	t.Helper()
	h := rootfs.NewHasher(salt, uuid)
	random := rand.New(rand.NewPCG(1, 1))
	for rest := image; len(rest) > 0; {
		n := min(len(rest), 1+random.IntN(3<<20))
		h.Write(rest[:n])
		rest = rest[n:]
	}
	tree, err := h.Tree()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := tree.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if int64(out.Len()) != tree.Size() {
		t.Errorf("wrote %d bytes of verity data, Size says %d", out.Len(), tree.Size())
	}
	return tree, out.Bytes()
}

// TestSameAsVeritysetup compares every byte with what the field's own tool writes.
func TestSameAsVeritysetup(t *testing.T) {
	for _, blocks := range []int{2, 127, 128, 129, 1000, 128 * 128, 128*128 + 1} {
		image := noise(byte(blocks), blocks*block)
		tree, got := hashed(t, image)
		dir := t.TempDir()
		data, want := filepath.Join(dir, "data"), filepath.Join(dir, "verity")
		writeFile(t, data, image)
		out := run(t, "veritysetup", "format", "--salt", hex.EncodeToString(salt), "--uuid", "01234567-89ab-cdef-0123-456789abcdef", data, want)
		if !strings.Contains(out, tree.RootHash()) {
			t.Errorf("%d blocks: root hash %s is not veritysetup's:\n%s", blocks, tree.RootHash(), out)
		}
		// veritysetup keeps the UUID's text order, as we do
		if b, err := os.ReadFile(want); err != nil || !bytes.Equal(b, got) {
			t.Errorf("%d blocks: verity data differs from veritysetup's (%v)", blocks, err)
		}
		writeFile(t, want, got)
		run(t, "veritysetup", "verify", data, want, tree.RootHash())
		if err := rootfs.Verify(context.Background(), bytes.NewReader(image), bytes.NewReader(got), tree.RootHash()); err != nil {
			t.Errorf("%d blocks: %v", blocks, err)
		}
	}
}

func TestAnyNumberOfProcessors(t *testing.T) {
	image := noise(9, 3001*block)
	_, want := hashed(t, image)
	for _, n := range []int{1, 2, 7} {
		old := runtime.GOMAXPROCS(n)
		_, got := hashed(t, image)
		runtime.GOMAXPROCS(old)
		if !bytes.Equal(got, want) {
			t.Errorf("%d processors give another tree", n)
		}
	}
}

func TestHasherRefusesOddSizes(t *testing.T) {
	for _, n := range []int{0, 1, block, block + 1, 5*block - 1} {
		h := rootfs.NewHasher(salt, uuid)
		h.Write(make([]byte, n))
		if _, err := h.Tree(); err == nil {
			t.Errorf("an image of %d bytes was hashed", n)
		}
	}
}

// TestVerifyFindsEveryFlip flips one bit in every kind of place.
func TestVerifyFindsEveryFlip(t *testing.T) {
	image := noise(3, 16500*block) // three levels
	tree, verity := hashed(t, image)
	verify := func(image, verity []byte, root string) error {
		return rootfs.Verify(context.Background(), bytes.NewReader(image), bytes.NewReader(verity), root)
	}
	random := rand.New(rand.NewPCG(3, 3))
	check := func(name string, b []byte, at int) {
		t.Helper()
		bit := byte(1) << random.IntN(8)
		b[at] ^= bit
		err := verify(image, verity, tree.RootHash())
		b[at] ^= bit
		if err == nil {
			t.Errorf("a flipped bit in %s at %d went unseen", name, at)
		}
	}
	for range 12 {
		check("the image", image, random.IntN(len(image)))
		check("the tree", verity, block+random.IntN(len(verity)-block))
	}
	check("the image's first byte", image, 0)
	check("the image's last byte", image, len(image)-1)
	check("the top of the tree", verity, block)
	check("the tree's last byte", verity, len(verity)-1)
	for at := 0; at < 512; at += 3 {
		if at >= 16 && at < 32 {
			continue // the UUID is a name only
		}
		check("the superblock", verity, at)
	}
	if err := verify(image, verity, strings.Repeat("0", 64)); !errors.Is(err, rootfs.ErrCorrupt) {
		t.Errorf("another root hash: %v, want ErrCorrupt", err)
	}
	if err := verify(image[:len(image)-1], verity, tree.RootHash()); err == nil {
		t.Error("a truncated image was accepted")
	}
	if err := verify(image, verity[:len(verity)-1], tree.RootHash()); err == nil {
		t.Error("truncated verity data were accepted")
	}
	if err := verify(append(image, noise(1, 9999)...), append(verity, 1), tree.RootHash()); err != nil {
		t.Errorf("a partition larger than the image: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := rootfs.Verify(ctx, bytes.NewReader(image), bytes.NewReader(verity), tree.RootHash()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTarget(t *testing.T) {
	s := rootfs.Superblock{DataBlocks: 1000, Salt: []byte{0xab, 0xcd}}
	root := strings.Repeat("12", 32)
	got, err := s.Target("/dev/vda3", "254:4", root, "panic_on_corruption")
	if err != nil {
		t.Fatal(err)
	}
	want := rootfs.Target{Sectors: 8000, Type: "verity", Params: "1 /dev/vda3 254:4 4096 4096 1000 1 sha256 " + root + " abcd 1 panic_on_corruption"}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, bad := range []string{"", root[1:], root + "00", strings.Replace(root, "1", "g", 1)} {
		if _, err := s.Target("a", "b", bad); err == nil {
			t.Errorf("root hash %q was accepted", bad)
		}
	}
}

func FuzzReadSuperblock(f *testing.F) {
	_, verity := hashed(f, make([]byte, 2*block))
	f.Add(verity[:512])
	f.Add(verity[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := rootfs.ReadSuperblock(bytes.NewReader(b))
		if err != nil {
			return
		}
		if s.DataBlocks < 2 || s.Size() < 2*block || s.DataSize() < 2*block || len(s.Salt) > 256 {
			t.Errorf("accepted %+v", s)
		}
	})
}

func BenchmarkHasher(b *testing.B) {
	image := noise(1, 64<<20)
	b.SetBytes(int64(len(image)))
	for b.Loop() {
		h := rootfs.NewHasher(salt, uuid)
		h.Write(image)
		if _, err := h.Tree(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	image := noise(1, 64<<20)
	tree, verity := hashed(b, image)
	b.SetBytes(int64(len(image)))
	for b.Loop() {
		if err := rootfs.Verify(context.Background(), bytes.NewReader(image), bytes.NewReader(verity), tree.RootHash()); err != nil {
			b.Fatal(err)
		}
	}
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
