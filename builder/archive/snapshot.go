package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"roost/builder/deb"
	"roost/images"
)

// Request says which part of the archive a snapshot covers.
type Request struct {
	Suites       []string // codenames: trixie, trixie-updates, trixie-security
	Components   []string // main, contrib, non-free-firmware, …
	Architecture string   // Debian's name; packages for all architectures are included
	Keyring      *deb.Keyring
}

// Snapshot is the state of some suites at one moment, verified.
type Snapshot struct{ Suites []Suite }

// Suite is one suite of a snapshot.
type Suite struct {
	Name      string // as asked for
	Release   *deb.Release
	InRelease images.Digest // of the signed file, which the cache has as a blob
	Signers   []deb.Signer
	FromCache bool          // the mirror could not be reached or was behind: this is the newest state seen before
	Packages  []deb.Package // of all components, in the order of the indexes
}

// maxInRelease bounds what is read before its signature can be checked. Debian's largest has 200 kB.
const maxInRelease = 16 << 20

// Snapshot fetches and verifies the suites. When the mirror cannot be reached, the newest InRelease that the cache holds for
// it is verified anew and used, and FromCache says so.
func (s *Source) Snapshot(ctx context.Context, r Request) (*Snapshot, error) {
	run := s.start()
	defer run.close()
	defer run.meter.finish()
	if r.Keyring == nil {
		return nil, errors.New("cannot take snapshot: no keyring to verify it with")
	}
	result := &Snapshot{Suites: make([]Suite, len(r.Suites))}
	group, ctx := errgroup.WithContext(ctx)
	for i, name := range r.Suites {
		group.Go(func() (err error) {
			if result.Suites[i], err = run.suite(ctx, r, name); err != nil {
				return fmt.Errorf("cannot take snapshot of %s: %w", name, err)
			}
			return nil
		})
	}
	return result, group.Wait()
}

// suite fetches one suite. A mirror that is just being updated can serve an InRelease whose indexes are gone a moment
// later; then the second InRelease is the one to trust.
func (s *session) suite(ctx context.Context, r Request, name string) (Suite, error) {
	for again := false; ; again = true {
		suite, err := s.release(ctx, r, name)
		if err != nil {
			return Suite{}, err
		}
		suite.Packages, err = s.packages(ctx, r, &suite)
		var refused *refusal
		if err == nil || again || suite.FromCache || !errors.As(err, &refused) {
			return suite, err
		}
		s.Log.Warn("indexes do not fit the release file, reading both again", "suite", name, "cause", err)
	}
}

// release fetches and verifies InRelease, or takes the newest one seen before.
func (s *session) release(ctx context.Context, r Request, name string) (Suite, error) {
	if s.Offline {
		return s.newestRelease(r, name)
	}
	key := s.releaseKey(name)
	old, oldErr := s.cachedRelease(r, name, key)
	tries := s.Tries
	if oldErr == nil {
		tries = min(tries, 2) // there is something to fall back on, so do not keep people without network waiting
	}
	text, err := s.fetchSmall(ctx, name, path.Join("dists", name, "InRelease"), tries)
	if err != nil {
		if ctx.Err() != nil || isGone(err) || oldErr != nil {
			return Suite{}, err
		}
		s.Log.Warn("mirror cannot be reached, using what the cache has", "suite", name, "date", old.Release.Date, "cause", err)
		return old, nil
	}
	suite, err := s.openRelease(r, name, text)
	if err != nil {
		return Suite{}, fmt.Errorf("%w; nothing of it is used: try another mirror with --mirror, or a newer roost where the archive's keys have changed", err)
	}
	if oldErr == nil && suite.Release.Date.Before(old.Release.Date) {
		s.Log.Warn("mirror serves an older state than before, using what the cache has", "suite", name,
			"date", old.Release.Date, "mirror", suite.Release.Date)
		return old, nil
	}
	if err := s.Cache.AddBlob(suite.InRelease, bytes.NewReader(text)); err != nil {
		return Suite{}, err
	}
	return suite, s.Cache.PutEntry(SectionReleases, key, func(w io.Writer) error { _, err := w.Write(text); return err })
}

// releaseKey names a suite on a mirror, so that changing to an older mirror on purpose is possible.
func (s *session) releaseKey(name string) string {
	h := sha256.New()
	for _, base := range s.Mirror.Bases(name) {
		fmt.Fprintf(h, "%s\n", base.Redacted())
	}
	return name + "@" + hex.EncodeToString(h.Sum(nil))[:16]
}

// newestRelease returns the newest state of a suite that the cache has of any mirror.
func (s *session) newestRelease(r Request, name string) (newest Suite, err error) {
	keys, err := s.Cache.keys(SectionReleases)
	if err != nil {
		return Suite{}, err
	}
	var unusable []error
	for _, key := range keys {
		if !strings.HasPrefix(key, name+"@") {
			continue
		}
		suite, err := s.cachedRelease(r, name, key)
		if err != nil {
			unusable = append(unusable, err)
		} else if newest.Release == nil || newest.Release.Date.Before(suite.Release.Date) {
			newest = suite
		}
	}
	switch {
	case newest.Release != nil:
		return newest, nil
	case len(unusable) > 0:
		return Suite{}, errors.Join(unusable...)
	}
	return Suite{}, errors.New("the cache has no state of it to work offline with")
}

func (s *session) cachedRelease(r Request, name, key string) (Suite, error) {
	path, err := s.Cache.Entry(SectionReleases, key)
	if err != nil {
		return Suite{}, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Suite{}, err
	}
	suite, err := s.openRelease(r, name, text)
	suite.FromCache = true
	return suite, err
}

// openRelease verifies the signature, and that the file is of the suite asked for: all suites are signed by the same keys.
func (s *session) openRelease(r Request, name string, text []byte) (Suite, error) {
	release, signers, err := r.Keyring.OpenInRelease(text, s.Now())
	if err != nil {
		return Suite{}, err
	}
	if release.Codename != name && release.Suite != name {
		return Suite{}, fmt.Errorf("the release file is that of %s (%s)", release.Codename, release.Suite)
	}
	if !slices.Contains(release.Architectures, r.Architecture) {
		return Suite{}, fmt.Errorf("it has no architecture %q, only %s", r.Architecture, strings.Join(release.Architectures, " "))
	}
	return Suite{Name: name, Release: release, InRelease: images.DigestOf(text), Signers: signers}, nil
}

// fetchSmall reads a file whose digest is not known in advance.
func (s *session) fetchSmall(ctx context.Context, suite, name string, tries int) (text []byte, err error) {
	var urls []*url.URL
	for _, base := range s.Mirror.Bases(suite) {
		urls = append(urls, base.JoinPath(name))
	}
	if len(urls) == 0 {
		return nil, errors.New("no mirror is known")
	}
	err = s.retry(ctx, urls, tries, func(u *url.URL) (bool, error) {
		return false, s.get(ctx, u, 0, func(response *http.Response, body io.Reader) (err error) {
			if text, err = io.ReadAll(io.LimitReader(body, maxInRelease+1)); err == nil && len(text) > maxInRelease {
				return &refusal{fmt.Errorf("it is larger than %d bytes", maxInRelease)}
			}
			return err
		})
	})
	return text, err
}

// packages fetches and parses the indexes of all components of a suite.
func (s *session) packages(ctx context.Context, r Request, suite *Suite) ([]deb.Package, error) {
	var indexes []deb.IndexFile
	for _, component := range r.Components {
		index, err := chooseIndex(suite.Release, component, r.Architecture)
		if err != nil {
			return nil, err
		}
		indexes = append(indexes, index)
	}
	var mu sync.Mutex
	parsed := map[images.Digest][]deb.Package{}
	group, ctx := errgroup.WithContext(ctx)
	for _, index := range indexes {
		group.Go(func() error {
			list, err := s.index(ctx, r, suite, index)
			mu.Lock()
			defer mu.Unlock()
			parsed[index.SHA256] = list
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []deb.Package
	for _, index := range indexes {
		all = append(all, parsed[index.SHA256]...)
	}
	for i := range all {
		all[i].Suite, all[i].Origin = suite.Name, suite.Release.Origin
	}
	return all, nil
}

// chooseIndex prefers the smallest form. It parses slowest, but only once: the result is cached.
func chooseIndex(release *deb.Release, component, architecture string) (deb.IndexFile, error) {
	// Security suites list their components as "updates/main" and have the indexes under "main".
	stem := path.Join(path.Base(component), "binary-"+architecture, "Packages")
	if strings.Contains(component, "/") {
		stem = path.Join(component, "binary-"+architecture, "Packages")
	}
	for _, suffix := range []string{".xz", ".zst", ".gz", ""} {
		if index, ok := release.Indexes[stem+suffix]; ok {
			return index, nil
		}
	}
	return deb.IndexFile{}, fmt.Errorf("it has no component %q for %s, only %s", component, architecture, strings.Join(release.Components, " "))
}

// index returns the packages of one index, from the parsed cache if it can.
func (s *session) index(ctx context.Context, r Request, suite *Suite, index deb.IndexFile) ([]deb.Package, error) {
	if list, err := s.Cache.loadParsed(index.SHA256); err == nil {
		return list, nil
	} else if !isMissing(err) {
		s.Log.Warn("parsed index is damaged, parsing again", "index", index.Path, "cause", err)
	}
	blob, err := s.fetchIndex(ctx, r, suite, index)
	if err != nil {
		return nil, err
	}
	list, err := parseIndex(blob)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", index.Path, err)
	}
	if err := s.Cache.storeParsed(index.SHA256, list); err != nil {
		s.Log.Warn("cannot keep parsed index", "index", index.Path, "cause", err)
	}
	return list, nil
}

// fetchIndex brings the index into the cache, by hash where the archive offers that, since the plain name may meanwhile
// mean a newer file.
func (s *session) fetchIndex(ctx context.Context, r Request, suite *Suite, index deb.IndexFile) (string, error) {
	base := path.Join("dists", suite.Name)
	item := Item{Suite: suite.Name, Path: path.Join(base, index.Path), Size: index.Size, SHA256: index.SHA256}
	plain := s.transfer(item)
	t := plain
	if suite.Release.ByHash {
		item.Path = path.Join(base, path.Dir(index.Path), "by-hash", "SHA256", index.SHA256.Hex())
		t = s.transfer(item)
		t.name = plain.name
	}
	err := s.fetchAll(ctx, []*transfer{t})
	if t != plain && isGone(err) {
		err = s.fetchAll(ctx, []*transfer{plain})
	}
	if err != nil {
		return "", err
	}
	return s.Cache.Blob(index.SHA256)
}

func parseIndex(blob string) ([]deb.Package, error) {
	f, err := os.Open(blob)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, err := deb.Decompress(f)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	var list []deb.Package
	for p, err := range deb.Packages(plain) {
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}
