package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// cmdline is what the initrd takes from the kernel's command line. The UKI's signature covers it.
type cmdline struct {
	rootHash string // dm-verity root digest, 64 lower-case hexadecimal digits
}

func readCmdline() (cmdline, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return cmdline{}, fmt.Errorf("cannot read the kernel command line: %v", err)
	}
	return parseCmdline(string(b))
}

// parseCmdline demands exactly one well-formed roothash=. With Secure Boot off a boot loader may append to the command
// line; a second root hash is therefore an attack or an accident, and either way no boot.
func parseCmdline(s string) (cmdline, error) {
	var c cmdline
	for _, word := range strings.Fields(s) {
		value, ok := strings.CutPrefix(word, "roothash=")
		if !ok {
			continue
		}
		if c.rootHash != "" {
			return cmdline{}, fmt.Errorf("cannot accept the command line: it holds two root hashes")
		}
		raw, err := hex.DecodeString(value)
		if err != nil || len(raw) != 32 || strings.ToLower(value) != value {
			return cmdline{}, fmt.Errorf("cannot accept the command line: roothash=%.80s is not 64 lower-case hexadecimal digits", value)
		}
		c.rootHash = value
	}
	if c.rootHash == "" {
		return cmdline{}, fmt.Errorf("cannot accept the command line: it holds no roothash=")
	}
	return c, nil
}
