package pxe_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"roost/images"
	"roost/images/depot/depottest"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
	"roost/pxe"
)

func TestStock(t *testing.T) {
	ctx, release := context.Background(), imagestest.Release("edge", "1")
	found := depottest.Publish(t, filepath.Join(t.TempDir(), "depot"), release, nil)
	dir := t.TempDir()
	for _, life := range []string{"empty", "filled", "damaged"} {
		stock, err := pxe.NewStock(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stock.Offer(ctx, found.Manifest.Digest); err == nil {
			t.Errorf("%s: a release is offered that was not added", life)
		}
		if life == "damaged" {
			if err := os.WriteFile(filepath.Join(dir, found.Manifest.Parts[images.KindRoot].Digest.Hex()), []byte("other"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stock.Add(ctx, found); err != nil {
			t.Fatal(err)
		}
		offer, err := stock.Offer(ctx, found.Manifest.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if offer.Name != "edge" || offer.Version != "1" || offer.RootHash != release.RootHash || !offer.Created.Equal(release.Created) || offer.Architecture != "amd64" {
			t.Errorf("%s: %+v", life, offer)
		}
		for kind, file := range map[images.Kind]pxe.File{images.KindUKI: offer.UKI, images.KindRoot: offer.Root, images.KindVerity: offer.Verity} {
			content, err := file.Open()
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(content)
			_ = content.Close()
			if want := releasetest.Blob(t, release, kind); err != nil || !bytes.Equal(got, want) || file.Size != int64(len(want)) || file.Digest != images.DigestOf(want) {
				t.Errorf("%s: %s is %d bytes, %v", life, kind, len(got), err)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 3 {
			t.Errorf("%s: stock holds %v, %v", life, entries, err)
		}
	}
}

// TestStockRefusesDamage has a depot with one flipped bit.
func TestStockRefusesDamage(t *testing.T) {
	ctx, layout := context.Background(), filepath.Join(t.TempDir(), "depot")
	found := depottest.Publish(t, layout, imagestest.Release("edge", "1"), nil)
	path := filepath.Join(layout, "blobs", "sha256", found.Manifest.Parts[images.KindVerity].Digest.Hex())
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	stock, err := pxe.NewStock(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stock.Add(ctx, found); err == nil {
		t.Error("a damaged part is stocked")
	}
	if _, err := stock.Offer(ctx, found.Manifest.Digest); err == nil {
		t.Error("a damaged release is offered")
	}
}
