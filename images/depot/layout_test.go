package depot

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"roost/images"
	"roost/images/release"
)

// TestPartialFileOfAnother meets the file of a blob that another process is filling, and one that it finished after we had
// opened it.
func TestPartialFileOfAnother(t *testing.T) {
	l, err := openLayout(filepath.Join(t.TempDir(), "layout"), true)
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("content of a blob")
	d := release.Descriptor{Digest: images.DigestOf(data), Size: int64(len(data))}
	theirs, sum, _, err := l.partial(d)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	late, err := os.OpenFile(theirs.Name(), os.O_RDWR, 0) // opened, not yet locked
	if err != nil {
		t.Fatal(err)
	}

	// Under way: we fill a file of our own, and a failure leaves nothing of it.
	broken := func(context.Context, int64) (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF }
	if err := l.putBlob(context.Background(), "", d, broken); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if names, err := os.ReadDir(l.at(partialDirectory)); err != nil || len(names) != 1 {
		t.Errorf("partial files: %v, %v; want theirs only", names, err)
	}
	if err := l.putBlob(context.Background(), "", d, openBytes(data)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(l.blobPath(d.Digest))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("blob: %v, %v", info, err)
	}

	// Finished: the file that we hold is a blob now.
	if _, err := io.MultiWriter(theirs, sum).Write(data); err != nil {
		t.Fatal(err)
	}
	if err := l.commit(theirs.Name(), sum, d); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err := own(late); !errors.Is(err, errMoved) {
		t.Errorf("owned a blob: %v, %v", f, err)
	}
}
