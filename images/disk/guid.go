package disk

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is a GUID as a GPT stores it: the first three groups little-endian, the rest as written (UEFI 2.10, appendix A).
type GUID [16]byte

// ParseGUID reads the usual text form, 36 characters with dashes, in either case.
func ParseGUID(s string) (GUID, error) {
	digits := strings.ReplaceAll(s, "-", "")
	raw, err := hex.DecodeString(digits)
	if err != nil || len(s) != 36 || len(raw) != 16 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return GUID{}, fmt.Errorf("cannot parse GUID %q: want xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	return swap([16]byte(raw)), nil
}

// String returns the lower-case text form, as Linux prints PARTUUID.
func (g GUID) String() string {
	b := swap(g)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// IsZero reports whether g is the GUID of an unused entry.
func (g GUID) IsZero() bool { return g == GUID{} }

// swap turns text order into stored order and back.
func swap(b [16]byte) GUID {
	return GUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

// SlotGUIDs returns the partition GUIDs of a root image with this root hash: the first half names the root partition, the
// second half its verity partition (UAPI.2), so whoever knows the root hash finds both.
func SlotGUIDs(rootHash string) (root, verity GUID, err error) {
	raw, err := hex.DecodeString(rootHash)
	if err != nil || len(raw) != 32 {
		return GUID{}, GUID{}, fmt.Errorf("cannot name slot: root hash %q is not 64 hexadecimal digits", rootHash)
	}
	return swap([16]byte(raw[:16])), swap([16]byte(raw[16:])), nil
}
