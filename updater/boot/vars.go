package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// Variables is a directory of EFI variables as the kernel's efivarfs shows them: files "NAME-GUID" of four bytes of
// attributes and the value.
type Variables struct {
	Dir string // normally EFIVars
}

// EFIVars is where the kernel shows EFI variables.
const EFIVars = "/sys/firmware/efi/efivars"

const (
	loaderGUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // variables of the Boot Loader Interface
	globalGUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c" // EFI_GLOBAL_VARIABLE
)

// Started says how the running system was started.
type Started struct {
	Entry     Name   // of the UKI; without a loader's variables it is empty
	Trial     bool   // the loader counted this start
	Partition string // UUID of the partition the firmware loaded from, lower case; empty when it was none
	Option    int    // place of the firmware's boot option in its order, 0 first; -1 unknown. Above 0, earlier ones failed.
}

// Started reads how the running system was started. Variables that are missing leave their fields empty.
func (v Variables) Started() (Started, error) {
	s := Started{Option: -1}
	selected, err := v.text("LoaderEntrySelected")
	if err != nil {
		return s, err
	}
	s.Entry, _ = ParseName(selected)
	counted, err := v.text("LoaderBootCountPath")
	if err != nil {
		return s, err
	}
	if name, ok := ParseName(counted[strings.LastIndexByte(counted, '\\')+1:]); ok {
		s.Entry, s.Trial = name, true
	}
	uuid, err := v.text("LoaderDevicePartUUID")
	if err != nil {
		return s, err
	}
	s.Partition = strings.ToLower(uuid)
	current, err := v.numbers("BootCurrent")
	if err != nil {
		return s, err
	}
	order, err := v.numbers("BootOrder")
	if err != nil {
		return s, err
	}
	if len(current) == 1 {
		s.Option = slices.Index(order, current[0])
	}
	return s, nil
}

// read returns the value of a variable; a missing one is empty.
func (v Variables) read(name, guid string) ([]byte, error) {
	data, err := os.ReadFile(v.file(name, guid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read EFI variable %s: %w", name, err)
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("cannot read EFI variable %s: %d bytes, want at least 4", name, len(data))
	}
	return data[4:], nil
}

func (v Variables) file(name, guid string) string { return filepath.Join(v.Dir, name+"-"+guid) }

func (v Variables) text(name string) (string, error) {
	data, err := v.read(name, loaderGUID)
	if err != nil {
		return "", err
	}
	text, err := parseText(data)
	if err != nil {
		return "", fmt.Errorf("cannot read EFI variable %s: %w", name, err)
	}
	return text, nil
}

func (v Variables) numbers(name string) ([]uint16, error) {
	data, err := v.read(name, globalGUID)
	if err != nil {
		return nil, err
	}
	if len(data)%2 != 0 {
		return nil, fmt.Errorf("cannot read EFI variable %s: %d bytes, want pairs", name, len(data))
	}
	numbers := make([]uint16, 0, len(data)/2)
	for i := 0; i < len(data); i += 2 {
		numbers = append(numbers, binary.LittleEndian.Uint16(data[i:]))
	}
	return numbers, nil
}

// parseText reads UTF-16LE up to the first NUL, or the end.
func parseText(data []byte) (string, error) {
	if len(data)%2 != 0 {
		return "", fmt.Errorf("UTF-16 of %d bytes", len(data))
	}
	var units []uint16
	for i := 0; i < len(data); i += 2 {
		unit := binary.LittleEndian.Uint16(data[i:])
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units)), nil
}

// appendText appends UTF-16LE and a NUL.
func appendText(b []byte, text string) []byte {
	for _, unit := range append(utf16.Encode([]rune(text)), 0) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}

// write sets a variable that is kept over resets and seen at boot and run time. A variable of that value is left alone:
// firmware flash wears.
func (v Variables) write(name string, value []byte) error {
	if old, err := v.read(name, globalGUID); err == nil && old != nil && slices.Equal(old, value) {
		return nil
	}
	path := v.file(name, globalGUID)
	v.unlock(path)
	const nonVolatileBootRuntime = 7
	data := append(binary.LittleEndian.AppendUint32(nil, nonVolatileBootRuntime), value...)
	// One write call is one SetVariable; the kernel takes no parts.
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("cannot write EFI variable %s: %w", name, err)
	}
	return nil
}

const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h

// unlock clears the immutable flag that efivarfs puts on variables. Where there is no such flag the write itself will tell.
func (v Variables) unlock(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&immutable != 0 {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
	}
}
