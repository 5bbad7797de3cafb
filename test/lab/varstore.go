package lab

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// variable is one authenticated variable in EDK2's flash variable store.
type variable struct {
	name       string
	vendor     string // GUID in text form
	attributes uint32
	data       []byte
}

// Vendor GUIDs and attributes (UEFI 2.10, 8.2 and 32.6; EDK2 SecurityPkg AuthenticatedVariableFormat.h).
const (
	guidGlobal           = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	guidImageSecurity    = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	guidSecureBootEnable = "f0a30bc7-af08-4556-99c4-001009c93a44"

	attrBoot          = 0x3  // non-volatile, boot services
	attrAuthenticated = 0x27 // non-volatile, boot and run time, time-based authentication

	firmwareVolumeGUID = "fff12b8d-7696-4c8b-a985-2747075b4f50" // EFI_SYSTEM_NV_DATA_FV_GUID
	variableStoreGUID  = "aaf32c78-947b-439a-a180-2e144ec37792" // gEfiAuthenticatedVariableGuid

	storeHeaderSize    = 28
	variableHeaderSize = 60
)

// enrol returns a copy of an empty OVMF variable store with the given Secure Boot keys (EFI signature lists) enrolled
// and Secure Boot on, as if a person had done it in the firmware's menu.
func enrol(template, pk, kek, db []byte) ([]byte, error) {
	return addVariables(template, []variable{
		{"PK", guidGlobal, attrAuthenticated, pk},
		{"KEK", guidGlobal, attrAuthenticated, kek},
		{"db", guidImageSecurity, attrAuthenticated, db},
		{"SecureBootEnable", guidSecureBootEnable, attrBoot, []byte{1}},
	})
}

// VariableStore returns a copy of an empty OVMF variable store that holds variables as the kernel's efivarfs shows them:
// files NAME-GUID of four bytes of attributes and the value.
func VariableStore(template []byte, efivars fs.FS) ([]byte, error) {
	entries, err := fs.ReadDir(efivars, ".")
	if err != nil {
		return nil, fmt.Errorf("cannot list EFI variables: %w", err)
	}
	var vars []variable
	for _, entry := range entries {
		name, vendor, ok := strings.Cut(entry.Name(), "-")
		data, err := fs.ReadFile(efivars, entry.Name())
		if err != nil || !ok || len(data) < 4 {
			return nil, fmt.Errorf("cannot use %s as an EFI variable: %v", entry.Name(), err)
		}
		vars = append(vars, variable{name, vendor, binary.LittleEndian.Uint32(data), data[4:]})
	}
	return addVariables(template, vars)
}

// addVariables appends variables to an EDK2 variable store. The store must hold none: the lab makes fresh machines only.
func addVariables(template []byte, vars []variable) ([]byte, error) {
	start, end, err := storeBounds(template)
	if err != nil {
		return nil, fmt.Errorf("cannot use the firmware's variable store: %v", err)
	}
	out := bytes.Clone(template)
	if !bytes.Equal(out[start:start+variableHeaderSize], bytes.Repeat([]byte{0xff}, variableHeaderSize)) {
		return nil, errors.New("cannot use the firmware's variable store: it already holds variables")
	}
	at := start
	for _, v := range vars {
		b, err := v.encode()
		if err != nil {
			return nil, err
		}
		if at+len(b) > end {
			return nil, fmt.Errorf("cannot enrol %s: the variable store is full", v.name)
		}
		copy(out[at:], b)
		at = (at + len(b) + 3) &^ 3
	}
	return out, nil
}

// storeBounds returns where variables begin and end. The firmware volume header (PI 1.7, vol. 3, 3.2.1) comes first.
func storeBounds(b []byte) (start, end int, err error) {
	if len(b) < 0x48+storeHeaderSize+variableHeaderSize {
		return 0, 0, errors.New("it is too short")
	}
	if !bytes.Equal(b[16:32], mustGUID(firmwareVolumeGUID)) || string(b[40:44]) != "_FVH" {
		return 0, 0, errors.New("it is no firmware volume")
	}
	header := int(binary.LittleEndian.Uint16(b[48:]))
	if header+storeHeaderSize+variableHeaderSize > len(b) {
		return 0, 0, errors.New("its header is too long")
	}
	store := b[header:]
	if !bytes.Equal(store[:16], mustGUID(variableStoreGUID)) {
		return 0, 0, errors.New("it is no authenticated variable store")
	}
	size := int(binary.LittleEndian.Uint32(store[16:]))
	if size < storeHeaderSize+variableHeaderSize || header+size > len(b) {
		return 0, 0, errors.New("its size is wrong")
	}
	return header + storeHeaderSize, header + size, nil
}

func (v variable) encode() ([]byte, error) {
	vendor, err := parseGUID(v.vendor)
	if err != nil {
		return nil, err
	}
	name := utf16.Encode([]rune(v.name + "\x00"))
	le := binary.LittleEndian
	b := le.AppendUint16(nil, 0x55aa) // start
	b = append(b, 0x3f, 0)            // state: added; reserved
	b = le.AppendUint32(b, v.attributes)
	b = le.AppendUint64(b, 0) // monotonic count
	b = append(b, efiTime(v.attributes)...)
	b = le.AppendUint32(b, 0) // public key index
	b = le.AppendUint32(b, uint32(2*len(name)))
	b = le.AppendUint32(b, uint32(len(v.data)))
	b = append(b, vendor...)
	for _, u := range name {
		b = le.AppendUint16(b, u)
	}
	return append(b, v.data...), nil
}

// efiTime is the time stamp of an authenticated variable: fixed and early, so that any later signed update is newer.
func efiTime(attributes uint32) []byte {
	t := make([]byte, 16)
	if attributes&0x20 != 0 {
		binary.LittleEndian.PutUint16(t, 2020)
		t[2], t[3] = 1, 1
	}
	return t
}

// parseGUID encodes a GUID's text form as UEFI stores it: three little-endian fields, then eight bytes.
func parseGUID(s string) ([]byte, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != 16 {
		return nil, fmt.Errorf("cannot parse GUID %q", s)
	}
	raw[0], raw[1], raw[2], raw[3] = raw[3], raw[2], raw[1], raw[0]
	raw[4], raw[5] = raw[5], raw[4]
	raw[6], raw[7] = raw[7], raw[6]
	return raw, nil
}

// mustGUID is parseGUID for the constants above.
func mustGUID(s string) []byte {
	b, err := parseGUID(s)
	if err != nil {
		panic(err) // a constant of this file is wrong
	}
	return b
}
