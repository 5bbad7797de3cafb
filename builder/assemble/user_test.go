package assemble

import (
	"strings"
	"testing"
)

func TestHasIDs(t *testing.T) {
	for subuid, want := range map[string]bool{
		"":                              false,
		"op:100000:65536\n":             true,
		"a:1:65536\nop:165536:65536\n":  true,
		"1000:100000:65536\n":           true,
		"op:100000:1000\n":              false,
		"op2:100000:65536\n":            false,
		"op:100000\nop\n:::\nop:x:y\n":  false,
		"op:100000:1\nop:200000:131072": true,
	} {
		if got := hasIDs(strings.NewReader(subuid), "op", "1000"); got != want {
			t.Errorf("hasIDs(%q) = %v", subuid, got)
		}
	}
}

func TestCheckIDs(t *testing.T) {
	for uidMap, want := range map[string]string{
		"         0          0 4294967295\n": "",
		"0 1000 1\n1 100000 65536\n":         "",
		"0 1000 1\n1 100000 65535\n":         "",
		"0 1000 1\n":                         "it has 1 user ids of the 65536",
		"0 1000 x\n":                         "cannot read the map",
		"":                                   "it has 0 user ids",
		"0 1000 1\n1 100000 1000\n1001 200000 64535\n": "",
	} {
		err := checkIDs(uidMap)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("checkIDs(%q) = %v, want %q", uidMap, err, want)
		}
	}
}
