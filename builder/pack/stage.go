package pack

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"roost/builder/archive"
	"roost/images"
)

// Section of the cache that holds what packing made.
const Section = "artifacts"

// stages runs the steps of packing, or finds their results.
type stages struct {
	cache *archive.Cache
	log   *slog.Logger
}

// record is what a step leaves: its files, and a word about them.
type record struct {
	Files map[string]images.Part `json:"files"`
	Note  string                 `json:"note,omitempty"`
}

// put writes one output of a step into the cache.
type put func(output string, write func(w io.Writer) error) error

// run returns the outputs of a step whose inputs have this key: from the cache, or made by make.
func (s stages) run(ctx context.Context, name, key string, make func(put put) (note string, err error)) (map[string]File, string, error) {
	if files, note, err := s.find(key); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return files, note, err
	}
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	started := time.Now()
	r := record{Files: map[string]images.Part{}}
	note, err := make(func(output string, write func(w io.Writer) error) error {
		counter := newCounter()
		if err := s.cache.PutEntry(Section, key+"."+output, func(w io.Writer) error {
			b := bufio.NewWriterSize(io.MultiWriter(w, counter), 1<<20)
			if err := write(b); err != nil {
				return err
			}
			return b.Flush()
		}); err != nil {
			return err
		}
		r.Files[output] = counter.part()
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	r.Note = note
	text, err := json.Marshal(r)
	if err != nil {
		return nil, "", err
	}
	if err := s.cache.PutEntry(Section, key+".json", func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
		return nil, "", err
	}
	s.log.Info("packed", "step", name, "took", time.Since(started).Round(time.Millisecond))
	return s.find(key)
}

// find looks a step's outputs up. All must be there, as long as they were made; else it is fs.ErrNotExist.
func (s stages) find(key string) (map[string]File, string, error) {
	at, err := s.cache.Entry(Section, key+".json")
	if err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(at)
	if err != nil {
		return nil, "", err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, "", fs.ErrNotExist // damaged: make it again
	}
	files := map[string]File{}
	for output, part := range r.Files {
		path, err := s.cache.Entry(Section, key+"."+output)
		if err != nil {
			return nil, "", err
		}
		if info, err := os.Stat(path); err != nil || info.Size() != part.Size {
			return nil, "", fs.ErrNotExist
		}
		files[output] = File{Path: path, Digest: part.Digest, Size: part.Size}
	}
	return files, r.Note, nil
}

// one runs a step with a single output.
func (s stages) one(ctx context.Context, name, key string, write func(w io.Writer) error) (File, error) {
	const output = "out"
	files, _, err := s.run(ctx, name, key, func(put put) (string, error) { return "", put(output, write) })
	return files[output], err
}

// keyOf names a step by its inputs. The first names the step and its version: it changes with what the step does.
func keyOf(inputs ...string) string {
	h := sha256.New()
	for _, in := range inputs {
		h.Write(binary.AppendUvarint(nil, uint64(len(in))))
		io.WriteString(h, in)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// counter takes the digest and size of what passes.
type counter struct {
	hash.Hash
	n int64
}

func newCounter() *counter { return &counter{Hash: sha256.New()} }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}

func (c *counter) part() images.Part {
	return images.Part{Digest: images.Digest("sha256:" + hex.EncodeToString(c.Sum(nil))), Size: c.n}
}

// digestFile returns the digest of a file on the host.
func digestFile(path string) (images.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	c := newCounter()
	if _, err := io.Copy(c, f); err != nil {
		return "", err
	}
	return c.part().Digest, nil
}
