package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"
)

const (
	efivars = "/sys/firmware/efi/efivars"
	// loaderVendor is the vendor GUID of the Boot Loader Interface (systemd.io/BOOT_LOADER_INTERFACE).
	loaderVendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// loaderPartition returns the GUID of the partition the firmware loaded the boot loader, or else the UKI itself, from.
// It is os.ErrNotExist when the firmware did not start us from a partition.
func loaderPartition() (string, error) {
	for _, name := range []string{"LoaderDevicePartUUID", "StubDevicePartUUID"} {
		value, err := readLoaderVariable(efivars, name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		return strings.ToLower(value), nil
	}
	return "", os.ErrNotExist
}

// bootIsCounted reports whether systemd-boot counts this boot (UAPI.1 boot assessment): a trial.
func bootIsCounted() bool {
	_, err := os.Stat(filepath.Join(efivars, "LoaderBootCountPath-"+loaderVendor))
	return err == nil
}

func readLoaderVariable(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name+"-"+loaderVendor))
	if err != nil {
		return "", err
	}
	s, err := decodeVariable(b)
	if err != nil {
		return "", fmt.Errorf("cannot read EFI variable %s: %v", name, err)
	}
	return s, nil
}

// decodeVariable decodes what efivarfs gives for a string variable: 4 bytes of attributes, then UTF-16LE ending in NUL.
func decodeVariable(b []byte) (string, error) {
	if len(b) < 4 || len(b)%2 != 0 || len(b) > 4096 {
		return "", fmt.Errorf("%d bytes are no string variable", len(b))
	}
	b = b[4:]
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units)), nil
}
