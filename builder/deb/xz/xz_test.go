package xz

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	other "github.com/therootcompany/xz"
	writer "github.com/ulikunitz/xz"
)

const testDict = 64 << 20

func unpack(packed []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(packed), testDict)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func pack(t testing.TB, config writer.WriterConfig, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := config.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// samples are contents of very different kinds.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 80_000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	var text strings.Builder
	for text.Len() < 100_000 {
		text.WriteString([]string{"Package: ", "Depends: libc6", " (>= 2.", "\n", "amd64 ", "x", "0", "-1+deb13u1 "}[r.IntN(8)])
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	program = program[:300_000]
	mixed := bytes.Join([][]byte{random[:70_000], []byte(text.String()[:70_000]), make([]byte, 70_000), random[:70_000]}, nil)
	return map[string][]byte{
		"empty": {}, "one byte": {7}, "zeros": make([]byte, 2_500_000), "random": random,
		"text": []byte(text.String()), "program": program, "mixed": mixed,
	}
}

func TestReader(t *testing.T) {
	for name, plain := range samples(t) {
		for _, config := range []writer.WriterConfig{
			{}, {CheckSum: writer.SHA256, DictCap: 1 << 16, BlockSize: 100_000}, {NoCheckSum: true},
		} {
			got, err := unpack(pack(t, config, plain))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s with %+v: %d bytes of %d, %v", name, config, len(got), len(plain), err)
			}
		}
	}
}

// TestReaderAgainstXZ unpacks what the reference implementation packs in many ways.
func TestReaderAgainstXZ(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("xz is not installed: nothing to compare with")
	}
	all := samples(t)
	for _, name := range []string{"empty", "program", "mixed"} {
		plain := all[name]
		for _, options := range []string{
			"-0", "-6e", "--check=none", "--check=crc32 --lzma2=dict=1MiB", "--check=sha256", "-T2 --block-size=50000",
			"--lzma2=dict=4KiB", "--lzma2=preset=6,lc=0,lp=4,pb=0", "--lzma2=preset=6,lc=4,lp=0,pb=4", "--lzma2=preset=1,lc=1,lp=2,pb=1", "--flush-timeout=1",
		} {
			command := exec.Command("xz", append(strings.Fields(options), "-c")...)
			command.Stdin = bytes.NewReader(plain)
			packed, err := command.Output()
			if err != nil {
				t.Fatalf("%s %s: %v", name, options, err)
			}
			got, err := unpack(packed)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %s: %d bytes of %d, %v", name, options, len(got), len(plain), err)
			}
		}
	}
}

// TestReaderInterfaces reads in all the ways that callers do.
func TestReaderInterfaces(t *testing.T) {
	plain := samples(t)["mixed"]
	packed := pack(t, writer.WriterConfig{DictCap: 1 << 16, BlockSize: 90_000}, plain)
	for name, source := range map[string]io.Reader{
		"bytes": bytes.NewReader(packed), "one byte at a time": iotest.OneByteReader(bytes.NewReader(packed)),
		"buffered": bufio.NewReaderSize(bytes.NewReader(packed), 16), "error with data": iotest.DataErrReader(bytes.NewReader(packed)),
	} {
		r, err := NewReader(source, testDict)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, plain); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := NewReader(bytes.NewReader(packed), testDict)
	if err != nil {
		t.Fatal(err)
	}
	var head [1000]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	if n, err := r.WriteTo(&rest); err != nil || n != int64(rest.Len()) || !bytes.Equal(append(head[:], rest.Bytes()...), plain) {
		t.Errorf("WriteTo after Read: %d bytes, %v", n, err)
	}
	broken := errors.New("broken")
	r, err = NewReader(io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken)), testDict)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, broken) {
		t.Errorf("an error of the source becomes %v", err)
	}
}

func TestReaderStreams(t *testing.T) {
	a, b := pack(t, writer.WriterConfig{}, []byte("first ")), pack(t, writer.WriterConfig{CheckSum: writer.SHA256}, []byte("second"))
	zeros := make([]byte, 8)
	for name, packed := range map[string][]byte{
		"two": bytes.Join([][]byte{a, b}, nil), "padding between": bytes.Join([][]byte{a, zeros, b}, nil), "padding after": bytes.Join([][]byte{a, b, zeros}, nil),
	} {
		if got, err := unpack(packed); err != nil || string(got) != "first second" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, packed := range map[string][]byte{
		"odd padding": append(bytes.Clone(a), 0, 0, 0), "garbage": append(bytes.Clone(a), "garbage garbage"...), "half a header": append(bytes.Clone(a), b[:7]...),
	} {
		if got, err := unpack(packed); err == nil {
			t.Errorf("%s: %q without error", name, got)
		}
	}
}

// TestReaderDamaged flips every bit and cuts at every byte of a small file.
func TestReaderDamaged(t *testing.T) {
	plain := samples(t)["text"][:2000]
	packed := pack(t, writer.WriterConfig{CheckSum: writer.CRC32, BlockSize: 1000}, plain)
	for at := range packed {
		if got, err := unpack(packed[:at]); err == nil {
			t.Fatalf("cut to %d of %d bytes it unpacks to %d bytes without error", at, len(packed), len(got))
		}
		for bit := range 8 {
			damaged := bytes.Clone(packed)
			damaged[at] ^= 1 << bit
			if got, err := unpack(damaged); err == nil {
				t.Fatalf("with bit %d of byte %d flipped it unpacks to %d bytes without error", bit, at, len(got))
			}
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	big := pack(t, writer.WriterConfig{DictCap: 2 << 20}, []byte("x"))
	if _, err := NewReader(bytes.NewReader(big), 1<<20); err != nil {
		t.Fatal(err)
	}
	r, _ := NewReader(bytes.NewReader(big), 1<<20)
	if _, err := io.ReadAll(r); err == nil || err.Error() != "cannot read xz: it needs a dictionary of 2097152 bytes, more than the limit of 1048576" {
		t.Errorf("error %v", err)
	}
	if _, err := NewReader(strings.NewReader("not xz at all"), testDict); err == nil || err.Error() != "cannot read xz: it does not begin as xz does" {
		t.Errorf("error %v", err)
	}
	if _, err := NewReader(strings.NewReader(headerMagic), testDict); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
}

// TestReaderMemory unpacks far more than the dictionary, and far less.
func TestReaderMemory(t *testing.T) {
	plain := bytes.Repeat(samples(t)["mixed"], 9)
	r, err := NewReader(bytes.NewReader(pack(t, writer.WriterConfig{DictCap: 1 << 16}, plain)), testDict)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%d bytes of %d, %v", len(got), len(plain), err)
	}
	if limit := 2*(1<<16) + maxChunk + slack; len(r.window) > limit {
		t.Errorf("a dictionary of 64 KiB took a window of %d bytes", len(r.window))
	}
	r, err = NewReader(bytes.NewReader(pack(t, writer.WriterConfig{DictCap: 32 << 20}, plain[:1000])), testDict)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil || len(r.window) > 64<<10 {
		t.Errorf("1000 bytes took a window of %d bytes, %v", len(r.window), err)
	}
}

// FuzzReader compares with an independent implementation. Ours may be stricter, never laxer or different.
func FuzzReader(f *testing.F) {
	for _, config := range []writer.WriterConfig{{CheckSum: writer.CRC32}, {NoCheckSum: true, BlockSize: 300}, {NoCheckSum: true, DictCap: 4096}} {
		f.Add(pack(f, config, []byte(strings.Repeat("Package: hello ", 30)+strings.Repeat("abcabx", 60))))
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		const limit = 1 << 20
		r, err := NewReader(bytes.NewReader(packed), 1<<20)
		if err != nil {
			return
		}
		ours, err := io.ReadAll(io.LimitReader(r, limit))
		if err != nil || len(ours) == limit {
			return
		}
		o, err := other.NewReader(bytes.NewReader(packed), 1<<20)
		if err != nil {
			t.Fatalf("the other implementation refuses it: %v", err)
		}
		if theirs, err := io.ReadAll(o); err != nil || !bytes.Equal(ours, theirs) {
			t.Fatalf("we read %d bytes, the other implementation %d, %v", len(ours), len(theirs), err)
		}
	})
}

// BenchmarkDecoders compares on a real program: machine code, tables and text.
func BenchmarkDecoders(b *testing.B) {
	plain := samples(b)["program"]
	packed := pack(b, writer.WriterConfig{}, plain)
	for name, open := range map[string]func(io.Reader) (io.Reader, error){
		"roost":          func(r io.Reader) (io.Reader, error) { return NewReader(r, testDict) },
		"therootcompany": func(r io.Reader) (io.Reader, error) { return other.NewReader(r, testDict) },
		"ulikunitz":      func(r io.Reader) (io.Reader, error) { return writer.NewReader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				r, err := open(bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(plain)) {
					b.Fatal(n, err)
				}
			}
		})
	}
}
