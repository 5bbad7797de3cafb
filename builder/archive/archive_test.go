package archive

import (
	"errors"
	"net/http"
	"os"
	"testing"

	"roost/builder/deb"
)

func testCache(t *testing.T) *Cache {
	t.Helper()
	cache, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	return cache
}

func trixieKeys(t *testing.T) *deb.Keyring {
	t.Helper()
	f, err := os.Open("../../recipes/keys/debian-trixie.asc")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	keyring, err := deb.ReadKeyring(f)
	if err != nil {
		t.Fatal(err)
	}
	return keyring
}

// noNetwork is a machine whose cable is out.
type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("network is unreachable")
}
