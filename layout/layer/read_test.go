package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tarOf writes a tar of foreign headers; a regular file's content is as long as
// its Size says.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%q: %v", h.Name, err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// summary is one line per entry: type, path, link, "opaque".
func summary(entries Entries) (lines []string, err error) {
	for e, err := range entries {
		if err != nil {
			return lines, err
		}
		line := string(rune(e.Type)) + " " + e.Path
		if e.Link != "" {
			line += " -> " + e.Link
		}
		if e.Opaque {
			line += " opaque"
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// Names are made relative and clean, markers become what they mean, and what
// means nothing in a layer is left out.
func TestReadNormalizes(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
	for _, c := range []struct {
		what string
		in   []tar.Header
		want []string
	}{
		{"names", []tar.Header{dir("./"), dir("./etc/"), {Name: "/etc/a"}, {Name: "etc/./x/../b"}},
			[]string{"5 .", "5 etc", "0 etc/a", "0 etc/b"}},
		{"links", []tar.Header{{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/../a//b"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "./x/y"}},
			[]string{"2 s -> /../a//b", "1 h -> x/y"}},
		{"whiteouts", []tar.Header{{Name: "a/.wh.b"}, {Name: ".wh.c", Size: 3}},
			[]string{"w a/b", "w c"}},
		{"opaque after its directory", []tar.Header{dir("a/"), {Name: "a/.wh..wh..opq"}, {Name: "a/f"}},
			[]string{"5 a opaque", "0 a/f"}},
		{"opaque later", []tar.Header{dir("a/"), {Name: "a/f", Size: 5}, {Name: "a/.wh..wh..opq"}},
			[]string{"5 a", "0 a/f", "w a opaque"}},
		{"opaque alone", []tar.Header{dir("b/"), {Name: "a/.wh..wh..opq"}},
			[]string{"5 b", "w a opaque"}},
		{"opaque root", []tar.Header{dir("./"), {Name: ".wh..wh..opq"}},
			[]string{"5 . opaque"}},
		{"files of AUFS", []tar.Header{{Name: ".wh..wh.aufs"}, dir(".wh..wh.plnk/"), {Name: ".wh..wh.plnk/1.2"}, {Name: "d/.wh..wh.orph/x"}, {Name: "f"}},
			[]string{"0 f"}},
		{"devices 0/0", []tar.Header{{Name: "d", Typeflag: tar.TypeChar}, {Name: "e", Typeflag: tar.TypeChar, Devminor: 1}},
			[]string{"3 e"}},
		{"other types", []tar.Header{{Name: "c", Typeflag: tar.TypeCont, Size: 2}, {Name: "p", Typeflag: tar.TypeFifo}, {Name: "b", Typeflag: tar.TypeBlock, Devmajor: 8}},
			[]string{"0 c", "6 p", "4 b"}},
		{"global header", []tar.Header{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}, {Name: "f"}},
			[]string{"0 f"}},
		{"a path twice", []tar.Header{{Name: "f"}, {Name: "./f"}},
			[]string{"0 f", "0 f"}},
		{"nothing", nil, nil},
	} {
		got, err := summary(Read(bytes.NewReader(tarOf(t, c.in...)), Limits{}))
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
}

// What would write outside of the layer, mean two things or exceed a limit is
// refused, with the entry's name.
func TestReadRefuses(t *testing.T) {
	lim := Limits{Path: 300, Depth: 20, Entries: 50, Size: 1 << 20}
	many := make([]tar.Header, 51)
	for i := range many {
		many[i].Name = fmt.Sprint("f", i)
	}
	for what, in := range map[string][]tar.Header{
		"climbing":             {{Name: "../f"}},
		"climbing inside":      {{Name: "a/../../f"}},
		"absolute climbing":    {{Name: "/../f"}},
		"just dots":            {{Name: ".."}},
		"climbing hard link":   {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}},
		"empty hard link":      {{Name: "h", Typeflag: tar.TypeLink}},
		"empty symlink":        {{Name: "s", Typeflag: tar.TypeSymlink}},
		"long symlink":         {{Name: "s", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x", 301)}},
		"root as a symlink":    {{Name: ".", Typeflag: tar.TypeSymlink, Linkname: "/"}},
		"root as a file":       {{Name: "./."}},
		"marker of nothing":    {{Name: "a/.wh."}},
		"marker of dot":        {{Name: "a/.wh.."}},
		"marker of dots":       {{Name: "a/.wh..."}},
		"marker as a parent":   {{Name: ".wh.a/b"}},
		"long name":            {{Name: strings.Repeat("n", 301)}},
		"deep name":            {{Name: strings.Repeat("d/", 20) + "f"}},
		"entries":              many,
		"owner too large":      {{Name: "f", Uid: 1<<32 - 1}},
		"negative owner":       {{Name: "f", Gid: -1, Format: tar.FormatGNU}},
		"unknown type":         {{Name: "f", Typeflag: 'Z'}},
		"size over the limit":  {{Name: "f", Size: 1<<20 + 1}},
		"xattr without a name": {{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.": "x"}}},
		"large xattr":          {{Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 65<<10)}}},
	} {
		_, err := summary(Read(bytes.NewReader(tarOf(t, in...)), lim))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", what, err)
		}
	}
}

// What isn't a tar, or not all of one, is an error.
func TestReadBroken(t *testing.T) {
	whole := tarOf(t, tar.Header{Name: "a", Size: 5000}, tar.Header{Name: "b", Size: 3})
	for what, b := range map[string][]byte{
		"garbage":           bytes.Repeat([]byte("garbage"), 500),
		"cut in content":    whole[:3000],
		"cut in a header":   whole[:100],
		"broken checksum":   append(append([]byte("z"), whole[1:512]...), whole[512:]...),
		"PAX header bomb":   paxBomb(),
		"PAX record broken": paxHeader("99 path=x\n"),
	} {
		if _, err := summary(Read(bytes.NewReader(b), Limits{})); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", what, err)
		}
	}
}

// paxHeader is a tar that begins with a PAX header of the given records.
func paxHeader(records string) []byte {
	h := tarHeader{name: "x", typ: 'x', size: int64(len(records))}
	b := append(h.appendBlock(nil), records...)
	b = appendZeros(b, padding(int64(len(records))))
	return (&tarHeader{name: "f", typ: '0'}).appendBlock(b)
}

func paxBomb() []byte {
	return paxHeader(string(appendRecord(nil, "comment", strings.Repeat("x", 4<<20))))
}

// Extended attributes are kept exactly, but those that overlayfs would act on.
func TestReadXattrs(t *testing.T) {
	b := tarOf(t, tar.Header{Name: "f", PAXRecords: map[string]string{
		"SCHILY.xattr.user.a":                 "1\x002",
		"SCHILY.xattr.security.capability":    "cap",
		"SCHILY.xattr.trusted.overlay.opaque": "y",
		"SCHILY.xattr.user.overlay.redirect":  "/etc",
		"VENDOR.other":                        "x",
	}})
	for e, err := range Read(bytes.NewReader(b), Limits{}) {
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"user.a": "1\x002", "security.capability": "cap"}
		if diff := cmp.Diff(want, e.Xattrs); diff != "" {
			t.Errorf("xattrs (-want +got):\n%s", diff)
		}
	}
}

// The content of an entry can't be taken for that of the next one.
func TestReadContentExpires(t *testing.T) {
	b := tarOf(t, tar.Header{Name: "a", Size: 10}, tar.Header{Name: "b", Size: 10}, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "e", Size: 7})
	var last Content
	for e, err := range Read(bytes.NewReader(b), Limits{}) {
		if err != nil {
			t.Fatal(err)
		}
		if last != nil {
			if _, err := readAll(last); err == nil {
				t.Errorf("at %s: the content before it can still be read", e.Path)
			}
		}
		if last = e.Content; last == nil {
			continue
		}
		if data, err := readAll(last); err != nil || int64(len(data)) != e.Size {
			t.Errorf("%s: %d bytes, %v, want %d", e.Path, len(data), err, e.Size)
		}
	}
}

func readAll(c Content) ([]byte, error) {
	r, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Packed data is told by its first bytes; more data after it, or less, or a
// window that takes too much memory, is an error.
func TestDecompress(t *testing.T) {
	for _, kind := range []string{Gzip, Zstd, Uncompressed} {
		b, _ := pack(t, everyType(), packed(kind))
		if _, err := decompressAll(b); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if kind == Uncompressed {
			continue
		}
		if _, err := decompressAll(b[:len(b)-6]); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, cut: error %v, want ErrInvalid", kind, err)
		}
		if _, err := decompressAll(append(b, "garbage after the end"...)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, garbage after it: error %v, want ErrInvalid", kind, err)
		}
		b[len(b)/2] ^= 0x55
		if _, err := decompressAll(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, damaged: error %v, want ErrInvalid", kind, err)
		}
	}
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0} // 2 TiB, one empty block
	if _, err := decompressAll(window); !errors.Is(err, ErrInvalid) {
		t.Errorf("zstd with a huge window: error %v, want ErrInvalid", err)
	}
}

func decompressAll(b []byte) ([]byte, error) {
	r, err := Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// mended is a tar with right checksums in its headers, so that what a fuzzer
// changed elsewhere is read and not refused.
func mended(data []byte) []byte {
	b := bytes.Clone(data)
	for at := 0; at+blockSize <= len(b); {
		h := b[at : at+blockSize]
		if bytes.Count(h, []byte{0}) < blockSize {
			copy(h[257:265], "ustar\x0000")
			copy(h[148:156], "        ")
			sum := int64(0)
			for _, c := range h {
				sum += int64(c)
			}
			octal(h[148:155], sum)
			h[154] = 0
		}
		size, err := strconv.ParseInt(strings.Trim(string(h[124:136]), " \x00"), 8, 32)
		if err != nil || size < 0 {
			size = 0
		}
		at += blockSize + int(size) + padding(size)
	}
	return b
}

// No input makes Read yield an entry that Pack refuses, but for names that a
// layer can't have; and what Pack writes of it reads back the same.
func FuzzRead(f *testing.F) {
	b := new(bytes.Buffer)
	if _, err := Pack(context.Background(), b, stream(everyType()), packed(Uncompressed)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(tarOf(f, tar.Header{Name: "a/.wh..wh..opq"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "a"}))
	f.Add(tarOf(f, tar.Header{Name: "é/" + strings.Repeat("x", 120), Format: tar.FormatGNU}))
	f.Add(paxHeader("12 uid=9999\n13 size=100\n"))
	lim := Limits{Entries: 100, Size: 1 << 20}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = mended(data)
		first, err := summary(Read(bytes.NewReader(data), lim))
		if err != nil {
			return
		}
		var out bytes.Buffer
		_, err = Pack(context.Background(), &out, Read(bytes.NewReader(data), lim), PackOptions{Root: true, Compression: Compression{Type: Uncompressed}})
		if err != nil {
			if strings.Contains(err.Error(), "extended attribute") {
				return
			}
			t.Fatalf("Pack of what was read: %v", err)
		}
		second, err := summary(Read(&out, Limits{}))
		if err != nil {
			t.Fatalf("Read of what was packed: %v", err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("packed and read back (-want +got):\n%s", diff)
		}
	})
}
