package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of one line and one paragraph. The largest paragraph of trixie's main index has under 100 kB.
const (
	maxLine      = 1 << 20
	maxParagraph = 8 << 20
	maxFields    = 1000
)

// Field is one field of a paragraph. Value keeps continuation lines as they stand: each on its own line with its leading
// blank, so that what was read can be written again.
type Field struct {
	Name  string
	Value string
}

// Paragraph is one block of fields in the order of the file (deb822(5)).
type Paragraph []Field

// Get returns the value of the named field, or "". Names compare without regard to case.
func (p Paragraph) Get(name string) string {
	for _, f := range p {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Lines returns the non-empty lines of a multi-line field, without their surrounding blanks.
func (p Paragraph) Lines(name string) []string {
	var lines []string
	for line := range strings.Lines(p.Get(name)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// With returns a copy of p in which the named field has the given value; a new field goes to the end.
func (p Paragraph) With(name, value string) Paragraph {
	q := append(Paragraph(nil), p...)
	for i := range q {
		if strings.EqualFold(q[i].Name, name) {
			q[i].Value = value
			return q
		}
	}
	return append(q, Field{name, value})
}

// String returns the paragraph as it stands in a file, with a final line end and without the separating empty line.
func (p Paragraph) String() string {
	var b strings.Builder
	for _, f := range p {
		b.WriteString(f.Name)
		b.WriteByte(':')
		if f.Value != "" && f.Value[0] != '\n' {
			b.WriteByte(' ')
		}
		b.WriteString(f.Value)
		b.WriteByte('\n')
	}
	return b.String()
}

// ParseParagraph parses a file that holds exactly one paragraph, as a package's control file does.
func ParseParagraph(text []byte) (Paragraph, error) {
	all, err := ParseParagraphs(text)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("cannot parse control file: it has %d paragraphs, want 1", len(all))
	}
	return all[0], nil
}

// ParseParagraphs parses all paragraphs of text. Lines that start with '#' are comments.
func ParseParagraphs(text []byte) ([]Paragraph, error) {
	var all []Paragraph
	s := newLineScanner(bytes.NewReader(text))
	var p paragraphBuilder
	for {
		line, err := s.next()
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("cannot parse paragraphs: %w", err)
		}
		if err == io.EOF || len(bytes.TrimRight(line, " \t")) == 0 {
			if done := p.finish(); len(done) > 0 {
				all = append(all, done)
			}
			if err == io.EOF {
				return all, nil
			}
			continue
		}
		if err := p.add(line); err != nil {
			return nil, fmt.Errorf("cannot parse paragraphs: line %d: %w", s.line, err)
		}
	}
}

// paragraphBuilder collects lines. The value of the last field is kept apart while it grows: release files have fields of
// thousands of lines.
type paragraphBuilder struct {
	fields Paragraph
	value  []byte
}

func (b *paragraphBuilder) add(line []byte) error {
	switch line[0] {
	case '#':
		return nil
	case ' ', '\t':
		if len(b.fields) == 0 {
			return errors.New("a continuation line with no field before it")
		}
		b.value = append(append(b.value, '\n'), bytes.TrimRight(line, " \t")...)
		if len(b.value) > maxParagraph {
			return fmt.Errorf("field %s is larger than %d bytes", b.fields[len(b.fields)-1].Name, maxParagraph)
		}
		return nil
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !isFieldName(name) {
		return fmt.Errorf("%.60q is not \"Name: value\"", line)
	}
	if len(b.fields) == maxFields {
		return fmt.Errorf("more than %d fields", maxFields)
	}
	for _, f := range b.fields {
		if strings.EqualFold(f.Name, string(name)) {
			return fmt.Errorf("field %s appears twice", f.Name)
		}
	}
	b.closeField()
	b.fields = append(b.fields, Field{Name: string(name)})
	b.value = append(b.value, bytes.Trim(value, " \t")...)
	return nil
}

func (b *paragraphBuilder) closeField() {
	if n := len(b.fields); n > 0 {
		b.fields[n-1].Value = string(b.value)
	}
	b.value = b.value[:0]
}

// finish returns the paragraph and starts the next one.
func (b *paragraphBuilder) finish() Paragraph {
	b.closeField()
	p := b.fields
	b.fields = nil
	return p
}

// isFieldName accepts printable ASCII other than space and colon, not starting with '-' or '#' (Debian policy 5.1).
func isFieldName(name []byte) bool {
	if len(name) == 0 || name[0] == '-' || name[0] == '#' {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c == ':' || c > '~' {
			return false
		}
	}
	return true
}

// lineScanner yields lines without their ends. A line stays valid until the next call.
type lineScanner struct {
	r    *bufio.Reader
	line int
	long []byte
}

func newLineScanner(r io.Reader) *lineScanner {
	return &lineScanner{r: bufio.NewReaderSize(r, 256<<10)}
}

// next returns io.EOF after the last line.
func (s *lineScanner) next() ([]byte, error) {
	s.line++
	line, err := s.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		line, err = s.nextLong(line)
	}
	switch {
	case err == io.EOF && len(line) == 0:
		return nil, io.EOF
	case err != nil && err != io.EOF:
		return nil, err
	}
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

func (s *lineScanner) nextLong(head []byte) ([]byte, error) {
	s.long = append(s.long[:0], head...)
	for {
		more, err := s.r.ReadSlice('\n')
		s.long = append(s.long, more...)
		if len(s.long) > maxLine {
			return nil, fmt.Errorf("line %d is longer than %d bytes", s.line, maxLine)
		}
		if err != bufio.ErrBufferFull {
			return s.long, err
		}
	}
}
