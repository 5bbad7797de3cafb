package openstack

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Keystone's keys of tokens change, as keystone-manage fernet_rotate would have it, but for the whole site at once: its store has
// the three newest, each named by the day on which it was made. The newest makes no tokens yet: by the time it does, every
// controller has it. The one before it does, and the third did before: its tokens end long before it goes. Keys of credentials
// stay: with them goes what they encrypt.
const (
	tokenKeys   = "fernet-keys/"
	tokenDay    = time.DateOnly
	tokenPeriod = 30 * 24 * time.Hour // between changes; a token lives for two days, in the hands of services
	tokenSkew   = 24 * time.Hour      // for which a host waits longer: its clock is not the site's
)

// credentialKeys are the names of the keys for credentials in keystone's database.
func credentialKeys() []string { return []string{"credential-keys/0", "credential-keys/1"} }

// fernetFiles are where keystone finds its keys: of those for tokens 0 is next, and the highest makes tokens.
func fernetFiles() []string {
	return append(credentialKeys(), tokenKeys+"0", tokenKeys+"1", tokenKeys+"2")
}

// tokenNames are the names of the keys for tokens among secrets, from the oldest on.
func tokenNames[V any](secrets map[string]V) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		if strings.HasPrefix(name, tokenKeys) {
			list = append(list, name)
		}
	}
	return list
}

// madeOn is the day of which a key is; long ago where its name tells none.
func madeOn(name string) time.Time {
	day, err := time.Parse(tokenDay, path.Base(name))
	if err != nil {
		return time.Time{}
	}
	return day
}

// changeTokenKeys gives secrets a new key with add where it is time, and drops those that made no token for long.
func changeTokenKeys(secrets map[string][]byte, now time.Time, add func(name string)) {
	names := tokenNames(secrets)
	days := []time.Duration{0}
	if len(names) == 0 {
		days = []time.Duration{2, 1, 0} // as if it had been so before
	} else if now.Before(madeOn(names[len(names)-1]).Add(tokenPeriod)) {
		return
	}
	for _, periods := range days {
		add(tokenKeys + now.Add(-periods*tokenPeriod).UTC().Format(tokenDay))
	}
	names = tokenNames(secrets)
	for _, old := range names[:max(0, len(names)-3)] {
		delete(secrets, old)
	}
}

// dated asks whether the newest key for tokens is one of these days.
func (p plan) dated(now time.Time) error {
	names := tokenNames(p.secrets)
	if len(names) < 3 {
		return fmt.Errorf("this host has %d keys for tokens", len(names))
	}
	if made := madeOn(names[len(names)-1]); now.After(made.Add(tokenPeriod + tokenSkew)) {
		return fmt.Errorf("the newest key for tokens is of %s", made.Format(tokenDay))
	}
	return nil
}

// fernetKey is the key of one of keystone's files.
func (p plan) fernetKey(file string) string {
	names := tokenNames(p.secrets)
	if !strings.HasPrefix(file, tokenKeys) || len(names) < 3 {
		return p.secrets[file]
	}
	last := len(names) - 1
	return p.secrets[map[string]string{tokenKeys + "0": names[last], tokenKeys + "1": names[last-2], tokenKeys + "2": names[last-1]}[file]]
}
