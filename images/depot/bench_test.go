package depot_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"roost/images"
	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
)

const benchSize = 128 << 20

// largeRelease returns a publication whose root image has benchSize bytes, half of which compress.
func largeRelease(b *testing.B) depot.Publication {
	b.Helper()
	r := imagestest.Release("edge", "1")
	p := depottest.Publication(b, r, nil)
	root := make([]byte, benchSize)
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(root); i += 8192 {
		for j := range 4096 {
			root[i+j] = byte(random.Uint32())
		}
	}
	r.Root = images.Part{Digest: images.DigestOf(root), Size: benchSize}
	r.Needs.Slot, r.Needs.Disk = 1<<30, 4<<30
	f, err := os.Create(p.Parts[images.KindRoot])
	if err != nil {
		b.Fatal(err)
	}
	w, err := zstd.NewWriter(f)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := w.Write(root); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return p
}

// drain reads r to its end.
func drain(b *testing.B, r io.ReadCloser) {
	b.Helper()
	if _, err := io.Copy(io.Discard, r); err != nil {
		b.Fatal(err)
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkRegistry(b *testing.B) {
	p := largeRelease(b)
	dir := b.TempDir()
	g, err := depot.NewRegistry(filepath.Join(dir, "registry"), depot.RegistryConfig{Allow: allowAll})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewUnstartedServer(g)
	server.EnableHTTP2 = true // TLS and HTTP/2, as the daemon speaks them
	server.StartTLS()
	defer server.Close()
	ref := "docker://" + strings.TrimPrefix(server.URL, "https://")
	ctx := context.Background()
	d, err := depot.Open(ctx, ref, depot.Options{Transport: server.Client().Transport})
	if err != nil {
		b.Fatal(err)
	}
	r, err := d.Publish(ctx, p)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("pull", func(b *testing.B) {
		b.SetBytes(r.Manifest.Parts[images.KindRoot].Size)
		for b.Loop() {
			body, _, err := r.Part(ctx, images.KindRoot)
			if err != nil {
				b.Fatal(err)
			}
			drain(b, body)
		}
	})
	b.Run("content", func(b *testing.B) {
		b.SetBytes(benchSize)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for b.Loop() {
			body, _, err := r.Content(ctx, images.KindRoot)
			if err != nil {
				b.Fatal(err)
			}
			drain(b, body)
		}
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/(1<<20), "MiB-alloc/op")
	})
	b.Run("push", func(b *testing.B) {
		b.SetBytes(r.Manifest.Parts[images.KindRoot].Size)
		for b.Loop() {
			if err := os.Remove(filepath.Join(dir, "registry/blobs/sha256", r.Manifest.Parts[images.KindRoot].Digest.Hex())); err != nil {
				b.Fatal(err)
			}
			if _, err := d.Publish(ctx, p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("push again", func(b *testing.B) {
		for b.Loop() {
			if _, err := d.Publish(ctx, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}
