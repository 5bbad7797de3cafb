package lease

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"roost/images/durable"
)

// journal is the log on a medium: files leases-<number>.log, each starting with a snapshot, of which normally one exists.
type journal struct {
	medium durable.Medium
	file   durable.File
	number int64
	size   int64 // bytes of the current file
	live   int64 // bytes of its snapshot
	broken bool  // the tail of the file is in doubt: only a rewrite helps
}

const logName = "leases-%016d.log"

// logs returns the names of the log's files, oldest first.
func (j *journal) logs() ([]string, error) {
	names, err := j.medium.Names()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		var n int64
		_, err := fmt.Sscanf(name, logName, &n)
		return err != nil || name != fmt.Sprintf(logName, n)
	})
	slices.Sort(names)
	return names, nil
}

// read returns the lines of all files, oldest first. An unfinished last line is among them; its checksum tells.
func (j *journal) read() ([][]byte, error) {
	names, err := j.logs()
	if err != nil {
		return nil, err
	}
	var lines [][]byte
	for _, name := range names {
		content, err := j.medium.ReadFile(name)
		if err != nil && !isNotExist(err) {
			return nil, err
		}
		for line := range bytes.SplitSeq(content, []byte("\n")) {
			if len(line) > 0 {
				lines = append(lines, line)
			}
		}
		if _, err := fmt.Sscanf(name, logName, &j.number); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// append makes lines durable at the end of the current file.
func (j *journal) append(lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := j.file.Write(lines)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		j.broken = true
		return fmt.Errorf("cannot append to lease log: %w", err)
	}
	j.size += int64(len(lines))
	return nil
}

// rewrite starts the next file with snapshot and removes the older ones once it is safe.
func (j *journal) rewrite(snapshot []byte) error {
	j.broken = true
	old, err := j.logs()
	if err != nil {
		return fmt.Errorf("cannot list lease logs: %w", err)
	}
	j.number++
	file, err := j.medium.Create(fmt.Sprintf(logName, j.number))
	if err != nil {
		return fmt.Errorf("cannot create lease log: %w", err)
	}
	if _, err = file.Write(snapshot); err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = j.medium.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot write lease log: %w", err), file.Close())
	}
	for _, name := range old {
		if err := j.medium.Remove(name); err != nil && !isNotExist(err) {
			return errors.Join(fmt.Errorf("cannot remove old lease log: %w", err), file.Close())
		}
	}
	// The names need no second sync: a file that comes back holds older facts and is read first.
	err = j.close()
	j.file, j.size, j.live, j.broken = file, int64(len(snapshot)), int64(len(snapshot)), false
	return err
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	file := j.file
	j.file = nil
	return file.Close()
}
