package policy_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"roost/images/depot"
	"roost/images/depot/depottest"
	"roost/images/depot/policy"
	"roost/images/imagestest"
	"roost/images/release/releasetest"
)

// TestCheck proves that containers/image accepts our signature from a registry, and nothing else.
func TestCheck(t *testing.T) {
	g, err := depot.NewRegistry(filepath.Join(t.TempDir(), "registry"), depot.RegistryConfig{Allow: func(*http.Request, bool, string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	defer server.Close()
	ref := "docker://" + strings.TrimPrefix(server.URL, "http://")
	key, other := releasetest.Key(t), releasetest.Key(t)
	signed := depottest.Publish(t, ref, imagestest.Release("edge", "1"), key)
	depottest.Publish(t, ref, imagestest.Release("edge", "2~rc1"), other)
	depottest.Publish(t, ref, imagestest.Release("edge", "3"), nil)
	depottest.Publish(t, ref+"/site/roost", imagestest.Release("edge", "1"), key)
	trusted, foreign := releasetest.PEM(t, &key.PublicKey), releasetest.PEM(t, &other.PublicKey)
	for _, c := range []struct {
		what, ref string
		keys      []byte
		name      string
		accepted  bool
	}{
		{"by tag", ref + "/edge:1", trusted, "edge", true},
		{"by digest", ref + "/edge@" + string(signed.Manifest.Digest), trusted, "edge", true},
		{"one of two keys", ref + "/edge:1", slices.Concat(foreign, trusted), "edge", true},
		{"copied to another repository", ref + "/site/roost:1", trusted, "edge", true},
		{"tag of a pre-release", ref + "/edge:2~rc1", foreign, "edge", true},
		{"wrong key", ref + "/edge:1", foreign, "edge", false},
		{"wrong signer", ref + "/edge:2~rc1", trusted, "edge", false},
		{"unsigned", ref + "/edge:3", trusted, "edge", false},
		{"wrong name", ref + "/edge:1", trusted, "core", false},
	} {
		err := policy.Check(context.Background(), c.ref, c.keys, c.name, policy.Options{})
		if c.accepted && err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if !c.accepted && !errors.Is(err, policy.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", c.what, err)
		}
	}
	for what, ref := range map[string]string{
		"missing": ref + "/edge:9", "no release named": ref + "/edge", "layout": "oci:" + t.TempDir(), "nobody there": "docker://127.0.0.1:1/edge:1",
	} {
		if err := policy.Check(context.Background(), ref, trusted, "edge", policy.Options{}); err == nil || errors.Is(err, policy.ErrRefused) {
			t.Errorf("%s: got %v, want an error that is no verdict", what, err)
		}
	}
	if err := policy.Check(context.Background(), ref+"/edge:1", nil, "edge", policy.Options{}); err == nil {
		t.Error("accepted without keys")
	}
}
