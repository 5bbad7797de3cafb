package depot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"roost/images"
	"roost/images/durable"
	"roost/images/release"
)

// archive is a tar of a layout directory, read in place.
type archive struct {
	f     *os.File
	index release.Index
	blobs map[images.Digest]section
}

// section is where a file lies in the archive.
type section struct{ offset, size int64 }

// maxArchiveFiles bounds how many members an archive may have.
const maxArchiveFiles = 1 << 20

func openArchive(name string) (*archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	a := &archive{f: f, blobs: map[images.Digest]section{}}
	if err := a.scan(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// scan reads the headers, seeking over the content.
func (a *archive) scan() error {
	info, err := a.f.Stat()
	if err != nil {
		return err
	}
	documents := map[string][]byte{}
	r := tar.NewReader(a.f)
	for n := 0; ; n++ {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read archive after %d members (is it whole?): %w", n, err)
		}
		if n >= maxArchiveFiles {
			return fmt.Errorf("cannot read archive: more than %d members", maxArchiveFiles)
		}
		if err := a.member(r, h, info.Size(), documents); err != nil {
			return fmt.Errorf("cannot read archive member %q: %w", h.Name, err)
		}
	}
	if documents[layoutFile] == nil || documents[indexFile] == nil {
		return fmt.Errorf("it is no archive of an OCI layout: %s or %s is missing", layoutFile, indexFile)
	}
	if err := checkLayout(documents[layoutFile]); err != nil {
		return err
	}
	if a.index, err = release.ParseIndex(documents[indexFile]); err != nil {
		return err
	}
	for _, m := range a.index.Manifests {
		if s, ok := a.blobs[m.Digest]; !ok || s.size != m.Size {
			return fmt.Errorf("archive is not whole: manifest %s is missing or has another size: %w", m.Digest, ErrCorrupt)
		}
	}
	return nil
}

func (a *archive) member(r *tar.Reader, h *tar.Header, total int64, documents map[string][]byte) error {
	if h.Typeflag != tar.TypeReg {
		return nil // directories; links have no place in a layout
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == layoutFile || name == indexFile {
		data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
		if err == nil && len(data) > maxManifest {
			err = fmt.Errorf("more than %d bytes", maxManifest)
		}
		documents[name] = data
		return err
	}
	digits, ok := strings.CutPrefix(name, blobDirectory+"/")
	if !ok {
		return nil
	}
	digest, err := images.ParseDigest("sha256:" + digits)
	if err != nil {
		return nil
	}
	offset, err := a.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if offset+h.Size > total {
		return fmt.Errorf("the archive ends %d bytes early: %w", offset+h.Size-total, ErrCorrupt)
	}
	a.blobs[digest] = section{offset, h.Size}
	return nil
}

func (a *archive) Close() error { return a.f.Close() }

func (a *archive) tags(context.Context) ([]place, error) { return placesIn(a.index), nil }

func (a *archive) manifest(ctx context.Context, repository, reference string) ([]byte, error) {
	m, err := lookUp(a.index, repository, reference)
	if err != nil {
		return nil, err
	}
	if m.Size > maxManifest {
		return nil, fmt.Errorf("manifest %s has %d bytes, limit %d", m.Digest, m.Size, maxManifest)
	}
	body, err := a.blob(ctx, repository, m, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if got := images.DigestOf(data); got != m.Digest {
		return nil, fmt.Errorf("got %s instead of %s: %w", got, m.Digest, ErrCorrupt)
	}
	return data, nil
}

func (a *archive) blob(_ context.Context, _ string, d release.Descriptor, offset int64) (io.ReadCloser, error) {
	s, ok := a.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s is missing: %w (%w)", d.Digest, ErrNotFound, ErrIncomplete)
	}
	if s.size != d.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, s.size, d.Size, ErrCorrupt)
	}
	return io.NopCloser(io.NewSectionReader(a.f, s.offset+offset, s.size-offset)), nil
}

// Export writes releases with all that is attached to them into one file, which appears whole or not at all. Equal
// releases give equal bytes.
func Export(ctx context.Context, file string, o CopyOptions, releases ...*Release) error {
	if err := export(ctx, file, o, releases); err != nil {
		return fmt.Errorf("cannot export to %s: %w", file, err)
	}
	return nil
}

func export(ctx context.Context, file string, o CopyOptions, releases []*Release) error {
	if len(releases) == 0 {
		return errors.New("no release given")
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the move there is nothing to remove
	w := &archiveWriter{tar: tar.NewWriter(f), done: map[images.Digest]bool{}}
	if err = errors.Join(w.write(ctx, o, releases), f.Chmod(0o644), f.Close()); err != nil {
		return noSpace(err)
	}
	return noSpace(durable.Move(f.Name(), file))
}

// archiveWriter is a shelf that is written once, front to back.
type archiveWriter struct {
	tar   *tar.Writer
	index release.Index
	done  map[images.Digest]bool
}

func (w *archiveWriter) header(name string, size int64) error {
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatPAX})
}

func (w *archiveWriter) file(name string, data []byte) error {
	err := w.header(name, int64(len(data)))
	if err == nil {
		_, err = w.tar.Write(data)
	}
	return err
}

func (w *archiveWriter) write(ctx context.Context, o CopyOptions, releases []*Release) error {
	if err := w.file(layoutFile, []byte(layoutContent)); err != nil {
		return err
	}
	for _, r := range releases {
		c := copying{from: r, w: w, repository: r.Document.Name}
		if err := c.run(ctx, o); err != nil {
			return err
		}
	}
	index, err := w.index.Encode()
	if err == nil {
		err = w.file(indexFile, index)
	}
	return errors.Join(err, w.tar.Close())
}

func (w *archiveWriter) hasBlob(_ context.Context, _ string, d release.Descriptor) (bool, error) {
	return w.done[d.Digest], nil
}

func (w *archiveWriter) putBlob(ctx context.Context, _ string, d release.Descriptor, open opener) error {
	if w.done[d.Digest] {
		return nil
	}
	if err := w.header(blobDirectory+"/"+d.Digest.Hex(), d.Size); err != nil {
		return err
	}
	source, err := open(ctx, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(w.tar, source)
	w.done[d.Digest] = err == nil
	return errors.Join(err, source.Close())
}

func (w *archiveWriter) putManifest(ctx context.Context, repository, reference, mediaType string, data []byte) error {
	d := release.Descriptor{MediaType: mediaType, Digest: images.DigestOf(data), Size: int64(len(data)), ArtifactType: artifactType(data)}
	enter(&w.index, d, repository, reference)
	return w.putBlob(ctx, repository, d, openBytes(data))
}
