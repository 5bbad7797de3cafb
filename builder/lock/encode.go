package lock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLock bounds a lock file in bytes; one package takes about 400.
const maxLock = 32 << 20

// Encode returns the lock file: JSON in a fixed layout with one suite, package, module and container image a line, so that
// line diffs are package diffs. Equal locks have equal bytes.
func (l *Lock) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n  \"schema\": %d,\n  \"recipe\": %s,\n  \"wants\": %s,\n  \"architecture\": %s,\n  \"epoch\": %d,\n",
		l.Schema, line(l.Recipe), line(l.Wants), line(l.Architecture), l.Epoch)
	if l.Kernel != "" {
		fmt.Fprintf(&b, "  \"kernel\": %s,\n", line(l.Kernel))
	}
	b.WriteString("  \"suites\": ")
	lines(&b, "  ", l.Suites)
	b.WriteString(",\n  \"groups\": [")
	for i, g := range l.Groups {
		fmt.Fprintf(&b, "%s\n    {\"name\": %s, \"packages\": ", comma(i), line(g.Name))
		lines(&b, "    ", g.Packages)
		b.WriteString("}")
	}
	b.WriteString("\n  ],\n  \"programs\": [")
	for i, p := range l.Programs {
		fmt.Fprintf(&b, "%s\n    {\"name\": %s, \"wants\": %s, \"toolchain\": %s, \"go\": %s, \"modules\": ", comma(i), line(p.Name), line(p.Wants), line(p.Toolchain), line(p.Go))
		lines(&b, "    ", p.Modules)
		b.WriteString("}")
	}
	if len(l.Programs) > 0 {
		b.WriteString("\n  ")
	}
	b.WriteString("]")
	if len(l.Containers) > 0 {
		b.WriteString(",\n  \"containers\": ")
		lines(&b, "  ", l.Containers)
	}
	b.WriteString("\n}\n")
	return b.Bytes()
}

// lines writes a list with one element a line.
func lines[T any](b *bytes.Buffer, indent string, list []T) {
	b.WriteString("[")
	for i, e := range list {
		b.WriteString(comma(i) + "\n" + indent + "  ")
		b.Write(line(e))
	}
	if len(list) > 0 {
		b.WriteString("\n" + indent)
	}
	b.WriteString("]")
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// line encodes a plain value on one line.
func line(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("lock: a plain value does not encode: " + err.Error()) // cannot happen: only strings, numbers, dates in range
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Decode reads a lock file. What it returns is complete and safe to build paths and requests from.
func Decode(data []byte) (*Lock, error) {
	if len(data) > maxLock {
		return nil, fmt.Errorf("cannot read lock: it has more than %d bytes", maxLock)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var l Lock
	if err := d.Decode(&l); err != nil {
		return nil, fmt.Errorf("cannot read lock: %w", atLine(data, err))
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("cannot read lock: there is text behind its end")
	}
	if err := l.validate(); err != nil {
		return nil, fmt.Errorf("cannot read lock: %w", err)
	}
	return &l, nil
}

// atLine adds the line to errors that know their offset.
func atLine(data []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	offset := int64(-1)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	}
	if offset < 0 || offset > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}
