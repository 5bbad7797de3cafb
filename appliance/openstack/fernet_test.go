package openstack

import (
	"slices"
	"testing"
	"time"

	"roost/appliance/service"
	"roost/appliance/service/servicetest"
)

// TestTokenKeys has a key for tokens be next for a month, then make them, and be read for one more.
func TestTokenKeys(t *testing.T) {
	a, have, now := Authority{Signer: servicetest.NewSigner(t)}, service.Secrets{}, time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	files := func() (next, makes, made string) {
		t.Helper()
		if _, err := a.Found(have, site(), now); err != nil {
			t.Fatal(err)
		}
		p := plan{secrets: map[string]string{}}
		for name, secret := range have {
			p.secrets[name] = string(secret)
		}
		if err := p.dated(now); err != nil {
			t.Error(err)
		}
		return p.fernetKey("fernet-keys/0"), p.fernetKey("fernet-keys/2"), p.fernetKey("fernet-keys/1")
	}
	next, makes, made := files()
	if want := []string{"fernet-keys/2026-09-23", "fernet-keys/2026-10-23", "fernet-keys/2026-11-22"}; !slices.Equal(tokenNames(have), want) {
		t.Errorf("got %q, want %q", tokenNames(have), want)
	}
	for range 3 {
		now = now.Add(tokenPeriod - 24*time.Hour)
		if a, b, c := files(); a != next || b != makes || c != made {
			t.Error("keys change too early")
		}
		now = now.Add(24 * time.Hour)
		a, b, c := files()
		if b != next || c != makes || a == next || a == makes || a == made || len(tokenNames(have)) != 3 {
			t.Errorf("keys did not move on: %q", tokenNames(have))
		}
		next, makes, made = a, b, c
	}
	// A site of before keys had days.
	have = service.Secrets{"fernet-keys/0": []byte("next"), "fernet-keys/1": []byte("makes")}
	if _, makes, made := files(); makes != "makes" || made != "next" {
		t.Errorf("tokens are made with %s, and were with %s", makes, made)
	}
}

// TestDated asks for newer keys when those at hand are too old, but not because this host's clock is ahead.
func TestDated(t *testing.T) {
	p := plan{secrets: map[string]string{}}
	day := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	if p.dated(day) == nil {
		t.Error("content without keys")
	}
	for _, name := range []string{"2026-09-23", "2026-10-23", "2026-11-22"} {
		p.secrets[tokenKeys+name] = "key"
	}
	for later, want := range map[time.Duration]bool{0: true, -time.Hour: true, tokenPeriod + time.Hour: true, tokenPeriod + 25*time.Hour: false} {
		if err := p.dated(day.Add(later)); (err == nil) != want {
			t.Errorf("after %s: %v", later, err)
		}
	}
}
