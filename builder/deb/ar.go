package deb

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// arMember is one member of an ar archive: where its bytes are.
type arMember struct {
	name   string
	offset int64
	size   int64
}

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	maxArMembers = 64
)

// readAr lists the members of an ar archive of size bytes in the variant that dpkg writes: names of at most 15 bytes in
// the header itself (deb(5)). GNU and BSD long names are refused.
func readAr(r io.ReaderAt, size int64) ([]arMember, error) {
	head := make([]byte, arHeaderSize)
	if _, err := r.ReadAt(head[:len(arMagic)], 0); err != nil || string(head[:len(arMagic)]) != arMagic {
		return nil, errors.New("it is not an ar archive")
	}
	var members []arMember
	for at := int64(len(arMagic)); at < size; {
		if len(members) == maxArMembers {
			return nil, fmt.Errorf("more than %d members", maxArMembers)
		}
		if _, err := r.ReadAt(head, at); err != nil {
			return nil, fmt.Errorf("the member header at %d is cut short", at)
		}
		m, err := parseArHeader(head)
		if err != nil {
			return nil, fmt.Errorf("member header at %d: %w", at, err)
		}
		m.offset = at + arHeaderSize
		if m.size > size-m.offset {
			return nil, fmt.Errorf("member %s is cut short: %d of %d bytes", m.name, size-m.offset, m.size)
		}
		members = append(members, m)
		at = m.offset + m.size + m.size&1
	}
	return members, nil
}

func parseArHeader(head []byte) (arMember, error) {
	if head[58] != '`' || head[59] != '\n' {
		return arMember{}, errors.New("it does not end as an ar header does")
	}
	name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
	if name == "" || strings.HasPrefix(name, "#1/") || strings.ContainsAny(name, "/\x00") {
		return arMember{}, fmt.Errorf("unusable name %q", name)
	}
	text := strings.TrimRight(string(head[48:58]), " ")
	if !isNumber(text) {
		return arMember{}, fmt.Errorf("%q is not a size", text)
	}
	size, err := parseSize(text)
	return arMember{name: name, size: size}, err
}
