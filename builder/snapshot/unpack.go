package snapshot

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"syscall"
	"time"

	"bk.build/bk/layout/layer"
)

// unpack unpacks src into the directory dest when it is a tar, compressed or
// not, and otherwise reports false. As after chroot(2) to dest nothing above
// dest is reached, whatever names and links the archive has.
func (c *copier) unpack(src *layer.Entry, dest string) (bool, error) {
	if ok, err := isArchive(src); !ok {
		return false, err
	}
	if c.e.Temp == "" {
		return false, errors.New("unpack archive: no directory for its contents")
	}
	at, err := c.e.resolve(dest)
	if err != nil {
		return false, err
	}
	if err := c.e.mkdirAll(at, c.e.newEntry(layer.Directory, 0o755, c.owner, c.a.Timestamp), c.owner != nil); err != nil {
		return false, err
	}
	u := &unpacker{copier: c, top: at}
	if u.spool, err = newSpool(c.e.Temp); err != nil {
		return false, err
	}
	err = u.run(src)
	return true, errors.Join(err, u.spool.close())
}

// isArchive reports whether a file is a tar with something in it.
func isArchive(src *layer.Entry) (bool, error) {
	if src.Size == 0 {
		return false, nil
	}
	f, err := openContent(src)
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, err := decompress(f)
	if err == nil {
		defer r.Close()
		_, err = tar.NewReader(r).Next()
	}
	if errors.Is(err, errTooMuchMemory) {
		return false, fmt.Errorf("unpack archive: %w", err)
	}
	return err == nil, nil
}

// unpacker unpacks one archive.
type unpacker struct {
	*copier
	top   string // the directory that takes the archive
	spool *spool
}

func (u *unpacker) run(src *layer.Entry) error {
	f, err := openContent(src)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return err
	}
	defer r.Close()
	members := tar.NewReader(r)
	for {
		hdr, err := members.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack archive: %w", err)
		}
		if err := u.ctx.Err(); err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.member(hdr, members); err != nil {
			return fmt.Errorf("unpack archive: %.200s: %w", hdr.Name, err)
		}
	}
}

// member makes one member of the archive.
func (u *unpacker) member(hdr *tar.Header, data io.Reader) error {
	name := path.Clean(hdr.Name)
	if len(name) > maxPath {
		return syscall.ENAMETOOLONG
	}
	if name == "." {
		return nil
	}
	if clean(name) == "." {
		return u.topMember(hdr)
	}
	dir, err := u.dirOf(name)
	if err != nil {
		return err
	}
	n, err := u.e.pull(dir)
	if err != nil {
		return err
	}
	if !n.isDir() {
		return notDir("create", name)
	}
	p := join(dir, path.Base(clean(name)))
	old, err := u.existing(n, p, path.Base(p))
	if err != nil {
		return err
	}
	if old != nil && (!old.isDir() || hdr.Typeflag != tar.TypeDir) {
		n.remove(path.Base(p))
		old = nil
	}
	if old == nil {
		if old, err = u.create(hdr, data, n, p); err != nil {
			return err
		}
	}
	return u.setInfo(old, hdr)
}

// topMember sets the attributes of the directory that takes the archive; only
// names such as "/" mean it, "." doesn't.
func (u *unpacker) topMember(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return errors.New("something else than a directory can't replace the destination")
	}
	n, err := u.e.pull(u.top)
	if err != nil {
		return err
	}
	return u.setInfo(n, hdr)
}

// dirOf returns the directory that a member's name is in, made when missing.
func (u *unpacker) dirOf(name string) (string, error) {
	tree := unlocked{u.e}
	dir := path.Dir(path.Join("/", name))
	_, err := resolveBelow(tree, u.top, dir, NoFollow)
	if err == nil {
		return resolveBelow(tree, u.top, dir, 0)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	at, err := resolveBelow(tree, u.top, dir, AllowMissing)
	if err != nil {
		return "", err
	}
	return at, u.e.mkdirAll(at, u.e.newEntry(layer.Directory, 0o755, nil, -1), true)
}

// create makes the file of a member, without its attributes, at p in n.
func (u *unpacker) create(hdr *tar.Header, data io.Reader, n *node, p string) (*node, error) {
	k := &node{own: true}
	ent := layer.Entry{}
	switch hdr.Typeflag {
	case tar.TypeReg:
		ent.Type = layer.Regular
		content, size, err := u.spool.add(u.ctx, data)
		if err != nil {
			return nil, err
		}
		if size > 0 {
			ent.Size, ent.Content = size, content
		}
	case tar.TypeDir:
		ent.Type = layer.Directory
	case tar.TypeSymlink:
		ent.Type, ent.Link = layer.Symlink, hdr.Linkname
		if err := checkLink(hdr.Linkname); err != nil {
			return nil, fmt.Errorf("symlink: %w", err)
		}
	case tar.TypeFifo:
		ent.Type = layer.Fifo
	case tar.TypeChar, tar.TypeBlock:
		ent.Type = layer.Type(hdr.Typeflag)
		if err := setDevice(&ent, hdr); err != nil {
			return nil, err
		}
	case tar.TypeLink:
		f, err := u.link(hdr)
		if err != nil {
			return nil, err
		}
		k.file = f
	default:
		return nil, fmt.Errorf("unhandled tar header type %d", hdr.Typeflag)
	}
	if k.file == nil {
		k.file = newFile(&ent)
	}
	return k, n.putNode(p, k)
}

func setDevice(ent *layer.Entry, hdr *tar.Header) error {
	if hdr.Devmajor < 0 || hdr.Devminor < 0 || hdr.Devmajor > math.MaxUint32 || hdr.Devminor > math.MaxUint32 {
		return fmt.Errorf("device number %d:%d out of range", hdr.Devmajor, hdr.Devminor)
	}
	ent.DevMajor, ent.DevMinor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	if ent.Type == layer.Char && ent.DevMajor == 0 && ent.DevMinor == 0 {
		return errors.New("character device 0:0 stands for a removed file in layers")
	}
	return nil
}

// link returns the file that a hard link leads to.
func (u *unpacker) link(hdr *tar.Header) (*file, error) {
	p, err := resolveBelow(unlocked{u.e}, u.top, path.Join("/", hdr.Linkname), NoFollow)
	if err != nil {
		return nil, err
	}
	n, err := u.e.pull(p)
	if err != nil {
		return nil, err
	}
	if n.isDir() {
		return nil, &fs.PathError{Op: "link", Path: display(hdr.Linkname), Err: syscall.EPERM}
	}
	n.own = true
	n.names++
	return n.file, nil
}

// setInfo gives a member's attributes to its node.
func (u *unpacker) setInfo(n *node, hdr *tar.Header) error {
	const maxID = math.MaxUint32 - 1 // -1 is no id
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid > maxID || hdr.Gid > maxID {
		return fmt.Errorf("owner %d:%d out of range", hdr.Uid, hdr.Gid)
	}
	n.own = true
	n.ent.UID, n.ent.GID = hdr.Uid, hdr.Gid
	if u.owner != nil {
		n.ent.UID, n.ent.GID = u.owner.UID, u.owner.GID
	}
	n.ent.Xattrs = union(n.ent.Xattrs, ownXattrs(tarXattrs(hdr)))
	if n.ent.Type == layer.Symlink {
		n.ent.Mode = 0o777
		if hdr.Typeflag == tar.TypeLink {
			return nil
		}
	} else {
		n.ent.Mode = uint32(hdr.Mode) & perms
	}
	n.ent.ModTime = boundTime(hdr.ModTime)
	return nil
}

// boundTime returns t, or 1970 when t is out of what file systems hold.
func boundTime(t time.Time) time.Time {
	if epoch := time.Unix(0, 0); t.Before(epoch) || t.After(time.Unix(0, math.MaxInt64)) {
		return epoch
	}
	return t
}

func tarXattrs(hdr *tar.Header) map[string]string {
	var xattrs map[string]string
	for key, value := range hdr.PAXRecords {
		if key, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			xattrs = union(xattrs, map[string]string{key: value})
		}
	}
	return xattrs
}
