package deb

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseParagraphs(t *testing.T) {
	text := "# a comment\nPackage: hello\nDescription: greet\n A long\n .\n   story.  \nempty:\n\n\n \nPackage:there\r\nDepends:\n a,\n\tb\n"
	got, err := ParseParagraphs([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Paragraph{
		{{"Package", "hello"}, {"Description", "greet\n A long\n .\n   story."}, {"empty", ""}},
		{{"Package", "there"}, {"Depends", "\n a,\n\tb"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if s := got[1].String(); s != "Package: there\nDepends:\n a,\n\tb\n" {
		t.Errorf("written as %q", s)
	}
	if s := got[0].Get("DESCRIPTION"); !strings.HasPrefix(s, "greet") {
		t.Errorf("Get with other case: %q", s)
	}
	if lines := got[1].Lines("Depends"); !reflect.DeepEqual(lines, []string{"a,", "b"}) {
		t.Errorf("Lines: %q", lines)
	}
	changed := got[0].With("package", "bye").With("New", "1")
	if changed.Get("Package") != "bye" || changed.Get("New") != "1" || got[0].Get("Package") != "hello" || got[0].Get("New") != "" {
		t.Errorf("With changed the original or not the copy: %q, %q", got[0], changed)
	}
}

func TestParseParagraphsErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{" continued\n", "line 1: a continuation line with no field before it"},
		{"A: 1\n\n x\n", "line 3: a continuation line with no field before it"},
		{"A: 1\nB\n", `line 2: "B" is not "Name: value"`},
		{"A: 1\na: 2\n", "line 2: field A appears twice"},
		{": 1\n", "is not"},
		{"A B: 1\n", "is not"},
		{"-A: 1\n", "is not"},
		{"A: 1\nB: " + strings.Repeat("x", maxLine) + "\n", "line 2 is longer than"},
		{"A: 1\n" + strings.Repeat(" "+strings.Repeat("x", 1000)+"\n", maxParagraph/1000), "field A is larger than"},
	} {
		_, err := ParseParagraphs([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: error %v, want %q", c.text, err, c.want)
		}
	}
	for text, want := range map[string]string{"": "has 0 paragraphs", "A: 1\n\nB: 2\n": "has 2 paragraphs"} {
		if _, err := ParseParagraph([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func FuzzParagraphs(f *testing.F) {
	f.Add([]byte("Package: hello\nDescription: greet\n A long\n .\n story\n\nPackage: b\n"))
	f.Add([]byte("#\n\n\n:"))
	f.Add([]byte("A:\n b\n\tc\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := ParseParagraphs(text)
		if err != nil {
			return
		}
		for _, p := range all {
			again, err := ParseParagraph([]byte(p.String()))
			if err != nil {
				t.Fatalf("%q was read and written as %q: %v", text, p.String(), err)
			}
			if !reflect.DeepEqual(again, p) {
				t.Fatalf("%q is read again as %q", p, again)
			}
		}
	})
}
