package linux

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
)

// Journal returns the last n lines of a boot's journal, oldest first, and the id of that boot. boot is the kernel's boot id;
// empty means the last boot before this one that left a journal. The journal has no reader in Go that follows its format's changes, so journalctl is asked.
func (m Machine) Journal(ctx context.Context, boot string, n int) (lines []string, id string, err error) {
	if boot == "" {
		boot = "-1"
	}
	command := exec.CommandContext(ctx, "journalctl", "--boot="+boot, "--lines="+strconv.Itoa(n), "--output=json", "--no-pager", "--quiet")
	var errs bytes.Buffer
	command.Stderr = &errs
	out, err := command.Output()
	if err != nil {
		return nil, "", fmt.Errorf("cannot read journal of boot %s: %w: %s", boot, err, strings.TrimSpace(errs.String()))
	}
	return parseJournal(bytes.NewReader(out))
}

// parseJournal reads journalctl's JSON, one entry a line (systemd.journal-fields(7)). MESSAGE is a string, an array of
// bytes when it is not UTF-8, or null when it is too long.
func parseJournal(r io.Reader) (lines []string, id string, err error) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 0, 64<<10), 16<<20)
	for scanner.Scan() {
		if len(bytes.TrimSpace(scanner.Bytes())) == 0 {
			continue
		}
		entry := map[string]json.RawMessage{}
		if err := json.Unmarshal(scanner.Bytes(), &entry); err != nil {
			return lines, id, fmt.Errorf("cannot read journal: %w", err)
		}
		id = text(entry["_BOOT_ID"])
		source := text(entry["SYSLOG_IDENTIFIER"])
		if source == "" {
			source = text(entry["_COMM"])
		}
		lines = append(lines, source+": "+text(entry["MESSAGE"]))
	}
	if err := scanner.Err(); err != nil {
		return lines, id, fmt.Errorf("cannot read journal: %w", err)
	}
	return lines, id, nil
}

func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var numbers []int
	if json.Unmarshal(raw, &numbers) != nil {
		return ""
	}
	b := make([]byte, 0, len(numbers))
	for _, n := range numbers {
		b = append(b, byte(n))
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
