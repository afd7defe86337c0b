package snapshot

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/continuity/fs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// oracleCopy does with real directories and fsutil's copy what BuildKit's
// copy action does.
func oracleCopy(src, dest string, a *pb.FileActionCopy, owner *Owner) error {
	if !a.CreateDestPath {
		p, err := fs.RootPath(dest, filepath.Join("/", a.Dest))
		if err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Dir(p)); err != nil {
			return err
		}
	}
	paths := []string{cleanPath(a.Src)}
	if a.AllowWildcard {
		var err error
		if paths, err = fscopy.ResolveWildcards(src, paths[0], a.FollowSymlink); err != nil {
			return err
		}
		if len(paths) == 0 && !a.AllowEmptyWildcard {
			return errors.New("not found")
		}
	}
	for _, p := range paths {
		if err := fscopy.Copy(context.Background(), src, p, dest, cleanPath(a.Dest), oracleOptions(a, owner)); err != nil {
			return err
		}
	}
	return nil
}

func oracleOptions(a *pb.FileActionCopy, owner *Owner) fscopy.Opt {
	return func(ci *fscopy.CopyInfo) {
		ci.IncludePatterns, ci.ExcludePatterns = a.IncludePatterns, a.ExcludePatterns
		ci.Chown = func(old *fscopy.User) (*fscopy.User, error) {
			if owner != nil {
				return &fscopy.User{UID: owner.UID, GID: owner.GID}, nil
			}
			return old, nil
		}
		if a.Timestamp != -1 {
			tm := time.Unix(0, a.Timestamp)
			ci.Utime = &tm
		}
		if a.ModeStr != "" {
			ci.ModeStr = a.ModeStr
		} else if m := int(a.Mode); m != -1 {
			ci.Mode = &m
		}
		ci.CopyDirContents, ci.FollowLinks = a.DirCopyContents, a.FollowSymlink
		ci.AlwaysReplaceExistingDestPaths = a.AlwaysReplaceExistingDestPaths
	}
}

// copyCase is one copy: what is there, what is copied, and how.
type copyCase struct {
	name     string
	from, to string
	opt      func(*pb.FileActionCopy)
	owner    *Owner
	err      string // part of the error
}

func (c *copyCase) action() *pb.FileActionCopy {
	a := &pb.FileActionCopy{Src: c.from, Dest: c.to, Mode: -1, Timestamp: -1, CreateDestPath: true}
	if c.opt != nil {
		c.opt(a)
	}
	return a
}

// dockerfile sets what the Dockerfile frontend sets for COPY.
func dockerfile(a *pb.FileActionCopy) {
	a.FollowSymlink, a.DirCopyContents, a.AllowWildcard, a.AllowEmptyWildcard = true, true, true, true
}

const srcTree = `
f a.txt A 640 5:6
f b.txt BB
d dir 750 7:8
f dir/x X 4755
f dir/y Y
d dir/sub 700 1:1
f dir/sub/z Z
d dir/empty 711
l dir/link x
l dir/abs /a.txt
l toabs /dir
l todir dir
l tofile dir/x
l dangling nowhere
f hard H
h hard2 hard
h dir/hard3 hard
p fifo
c dev 1 3
x a.txt user.color red
x dir user.shape round
f deep/a/b/c.go go
f deep/a/b/c.txt txt
f deep/a/d.go go2
f deep/e.txt e
`

const destTree = `
d app 700 3:3
f app/x old 600 9:9
d app/sub 755 4:4
f app/sub/keep keep
x app/sub user.old 1
d app/dir 711 2:2
f app/dir/x older
f file F
l applink app
l abslink /app
d data
l data/loop loop
l data/up ../../../app
d setgid 2775 0:50
d conflict
f conflict/sub plain
d conflict2/x
l conflict3/sub app
`

var copyCases = []copyCase{
	{name: "file to new name", from: "/a.txt", to: "/new"},
	{name: "file to new directory", from: "/a.txt", to: "/new/"},
	{name: "file to deep path", from: "/a.txt", to: "/n/e/w"},
	{name: "file into existing directory", from: "/a.txt", to: "/app"},
	{name: "file into existing directory with slash", from: "/a.txt", to: "/app/"},
	{name: "file to root", from: "/a.txt", to: "/"},
	{name: "file over file", from: "/a.txt", to: "/file"},
	{name: "file over file with slash", from: "/a.txt", to: "/file/", err: "not a directory"},
	{name: "file below file", from: "/a.txt", to: "/file/x", err: "not a directory"},
	{name: "file through link", from: "/a.txt", to: "/applink/"},
	{name: "file through absolute link", from: "/a.txt", to: "/abslink/n"},
	{name: "file through escaping link", from: "/a.txt", to: "/data/up/n"},
	{name: "file through loop", from: "/a.txt", to: "/data/loop/n", err: "too many"},
	{name: "file over directory", from: "/dir/x", to: "/conflict2", err: "cannot replace to directory"},
	{name: "file over directory replaced", from: "/dir/x", to: "/conflict2", opt: func(a *pb.FileActionCopy) { a.AlwaysReplaceExistingDestPaths = true }},
	{name: "directory to new name", from: "/dir", to: "/new"},
	{name: "directory to new name with slash", from: "/dir", to: "/new/"},
	{name: "directory into existing", from: "/dir", to: "/app"},
	{name: "directory into existing with slash", from: "/dir/", to: "/app/"},
	{name: "directory with dot", from: "/dir/.", to: "/app"},
	{name: "contents to new", from: "/dir", to: "/new", opt: dockerfile},
	{name: "contents to existing", from: "/dir", to: "/app", opt: dockerfile},
	{name: "contents to deep new", from: "/dir/", to: "/n/e/w/", opt: dockerfile},
	{name: "contents to root", from: "/dir", to: "/", opt: dockerfile},
	{name: "all to root", from: "/", to: "/", opt: dockerfile},
	{name: "all to new", from: "/", to: "/all", opt: dockerfile},
	{name: "root directory itself", from: "/", to: "/all"},
	{name: "contents over file", from: "/dir", to: "/file", opt: dockerfile, err: "cannot copy to non-directory: /file"},
	{name: "directory over file", from: "/dir", to: "/file", err: "not a directory"},
	{name: "subdirectory over file", from: "/dir", to: "/conflict", opt: dockerfile, err: "cannot copy to non-directory: "},
	{name: "subdirectory over link", from: "/dir", to: "/conflict3", opt: dockerfile, err: "cannot copy to non-directory: "},
	{name: "subdirectory over file replaced", from: "/dir", to: "/conflict", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.AlwaysReplaceExistingDestPaths = true
	}},
	{name: "subdirectory over link replaced", from: "/dir", to: "/conflict3", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.AlwaysReplaceExistingDestPaths = true
	}},
	{name: "link itself", from: "/tofile", to: "/new"},
	{name: "link followed", from: "/tofile", to: "/new", opt: dockerfile},
	{name: "link followed into directory", from: "/tofile", to: "/app", opt: dockerfile},
	{name: "directory link followed", from: "/todir", to: "/new", opt: dockerfile},
	{name: "absolute directory link followed", from: "/toabs", to: "/app", opt: dockerfile},
	{name: "directory link itself", from: "/todir", to: "/app"},
	{name: "through directory link", from: "/todir/sub/z", to: "/app/"},
	{name: "dangling link itself", from: "/dangling", to: "/new"},
	{name: "dangling link followed", from: "/dangling", to: "/new", opt: dockerfile, err: "not found"},
	{name: "missing", from: "/missing", to: "/new", err: `"/missing": not found`},
	{name: "missing with wildcards allowed", from: "/missing", to: "/new", opt: dockerfile, err: `"/missing": not found`},
	{name: "below a file", from: "/a.txt/x", to: "/new", err: `"/a.txt/x": not found`},
	{name: "wildcard files", from: "/*.txt", to: "/app/", opt: dockerfile},
	{name: "wildcard to new directory", from: "/*.txt", to: "/n/", opt: dockerfile},
	{name: "wildcard to new name", from: "/*.txt", to: "/n", opt: dockerfile},
	{name: "wildcard everything", from: "/*", to: "/app/", opt: func(a *pb.FileActionCopy) { a.AllowWildcard = true }},
	{name: "wildcard directories", from: "/d*", to: "/app/", opt: func(a *pb.FileActionCopy) { a.AllowWildcard, a.DirCopyContents = true, true }},
	{name: "wildcard matches a dangling link", from: "/*", to: "/app/", opt: dockerfile, err: `"/dangling": not found`},
	{name: "wildcard deep", from: "/*/sub/*", to: "/app/", opt: dockerfile},
	{name: "wildcard class", from: "/[ab].txt", to: "/app/", opt: dockerfile},
	{name: "wildcard class slash", from: "/dir[^q]x", to: "/app/", opt: dockerfile},
	{name: "wildcard below link", from: "/todir/?", to: "/app/", opt: dockerfile},
	{name: "wildcard below link not followed", from: "/todir/?", to: "/app/", opt: func(a *pb.FileActionCopy) {
		a.AllowWildcard, a.AllowEmptyWildcard = true, true
	}},
	{name: "wildcard without match", from: "/*.zip", to: "/app/", opt: dockerfile},
	{name: "wildcard needs match", from: "/*.zip", to: "/app/", opt: func(a *pb.FileActionCopy) { a.AllowWildcard = true }, err: "/*.zip not found"},
	{name: "wildcard in missing directory", from: "/none/*", to: "/app/", opt: dockerfile, err: "no such file"},
	{name: "include", from: "/", to: "/new", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.IncludePatterns = []string{"**/*.go", "dir/sub"}
	}},
	{name: "include into existing", from: "/", to: "/app", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.IncludePatterns = []string{"dir/x", "deep/a/b/*.go"}
	}},
	{name: "include with exceptions", from: "/deep", to: "/app", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.IncludePatterns = []string{"a", "!a/b"}
	}},
	{name: "exclude", from: "/", to: "/new", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.ExcludePatterns = []string{"dir/sub", "**/*.txt"}
	}},
	{name: "exclude with exceptions", from: "/", to: "/new", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.ExcludePatterns = []string{"deep", "dir", "!deep/a/b/c.go", "!dir/empty"}
	}},
	{name: "include and exclude", from: "/", to: "/new", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.IncludePatterns, a.ExcludePatterns = []string{"deep"}, []string{"deep/a/b"}
	}},
	{name: "required path", from: "/", to: "/new", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.IncludePatterns, a.RequiredPaths = []string{"deep/a/b/c.go"}, []string{"/deep/a/b/c.go"}
	}},
	{name: "owner", from: "/dir", to: "/n/m", opt: dockerfile, owner: &Owner{33, 44}},
	{name: "owner into existing", from: "/dir", to: "/app", opt: dockerfile, owner: &Owner{33, 44}},
	{name: "mode", from: "/dir", to: "/n/m", opt: func(a *pb.FileActionCopy) { dockerfile(a); a.Mode = 0o4711 }},
	{name: "mode of existing", from: "/dir", to: "/app", opt: func(a *pb.FileActionCopy) { dockerfile(a); a.Mode = 0o1750 }},
	{name: "symbolic mode", from: "/", to: "/n", opt: func(a *pb.FileActionCopy) { dockerfile(a); a.ModeStr = "u=rwX,go=rX" }},
	{name: "symbolic mode adds", from: "/dir", to: "/n", opt: func(a *pb.FileActionCopy) { dockerfile(a); a.ModeStr = "+s,g+t,o-rwx" }},
	{name: "timestamp", from: "/dir", to: "/n/m", opt: func(a *pb.FileActionCopy) { dockerfile(a); a.Timestamp = 1234567890123456789 }},
	{name: "into setgid directory", from: "/dir", to: "/setgid/n/m", opt: dockerfile},
	{name: "file into setgid directory", from: "/a.txt", to: "/setgid/n/", opt: dockerfile},
	{name: "destination must exist", from: "/a.txt", to: "/no/where", opt: func(a *pb.FileActionCopy) { a.CreateDestPath = false }, err: "failed to stat /no/where"},
	{name: "destination exists", from: "/a.txt", to: "/app/n", opt: func(a *pb.FileActionCopy) { a.CreateDestPath = false }},
	{name: "special files", from: "/", to: "/n", opt: func(a *pb.FileActionCopy) {
		dockerfile(a)
		a.IncludePatterns = []string{"fifo", "dev"}
	}},
	{name: "relative paths", from: "dir/../dir/./x", to: "app/../app/"},
	{name: "parent of the root", from: "../../dir", to: "../../new"},
}

// Copy leaves exactly what BuildKit's copy leaves on a real file system, and
// fails when that fails.
func TestCopyLikeBuildKit(t *testing.T) {
	needRoot(t)
	src, srcDir := dirView(t, srcTree)
	base, _ := dirView(t, destTree)
	for _, tc := range copyCases {
		t.Run(strings.ReplaceAll(tc.name, " ", "_"), func(t *testing.T) {
			real := t.TempDir()
			makeTree(t, real, destTree)
			wantErr := oracleCopy(srcDir, real, tc.action(), tc.owner)
			e := NewEditor(base)
			err := e.Copy(t.Context(), src, tc.action(), tc.owner)
			if (err != nil) != (wantErr != nil) || err != nil && (tc.err == "" || !strings.Contains(err.Error(), tc.err)) {
				t.Fatalf("error %v, want one with %q; BuildKit's is %v", err, tc.err, wantErr)
			}
			if err != nil {
				return
			}
			want := describe(t, Walk(NewView(DirLayer(real)), "."), true)
			if diff := cmp.Diff(want, describe(t, Walk(e, "."), true)); diff != "" {
				t.Errorf("tree (-BuildKit +got):\n%s", diff)
			}
			checkLayer(t, base, e)
		})
	}
}

// randomTree makes files of few names, with links inside and out of the tree.
func randomTree(t *testing.T, dir string, r *rand.Rand) {
	var files []string
	for range 2 + r.IntN(16) {
		p := dir
		for range r.IntN(3) {
			p = filepath.Join(p, name(r))
		}
		if rel, _ := filepath.Rel(dir, p); strings.HasPrefix(rel, "..") || os.MkdirAll(p, 0o755) != nil {
			continue
		}
		if real, err := filepath.EvalSymlinks(p); err != nil || !strings.HasPrefix(real, dir) {
			continue
		}
		files = randomFile(filepath.Join(p, name(r)), files, 7, r)
	}
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if p != dir {
			os.Lchown(p, r.IntN(3), r.IntN(3))
		}
		if d.IsDir() {
			os.Chmod(p, os.FileMode(0o700+r.IntN(0o100)))
		}
		return err
	})
	setTimes(t, dir)
}

func randomAction(r *rand.Rand) *pb.FileActionCopy {
	paths := []string{"/", "/a", "/b", "/c/a", "/a/b", "/b/", "/c/.", "/*", "/*/*", "/a/*", "/[ab]/?", "/d/../a"}
	pick := func() string { return paths[r.IntN(len(paths))] }
	coin := func() bool { return r.IntN(2) == 0 }
	patterns := func() (ps []string) {
		for range r.IntN(3) {
			ps = append(ps, []string{"a", "b", "**/a", "a/b", "*/c", "!a/b", "!**/d", "c/**"}[r.IntN(8)])
		}
		return ps
	}
	a := &pb.FileActionCopy{
		Src: pick(), Dest: strings.NewReplacer("*", "a", "[ab]", "b", "?", "d").Replace(pick()), Mode: -1, Timestamp: -1,
		FollowSymlink: coin(), DirCopyContents: coin(), CreateDestPath: r.IntN(8) > 0,
		AllowWildcard: coin(), AllowEmptyWildcard: coin(), AlwaysReplaceExistingDestPaths: coin(),
	}
	if coin() {
		a.IncludePatterns, a.ExcludePatterns = patterns(), patterns()
	}
	switch r.IntN(5) {
	case 0:
		a.Mode = r.Int32N(0o10000)
	case 1:
		a.ModeStr = []string{"u+x", "go=", "a=rX", "u=g,o+t"}[r.IntN(4)]
	case 2:
		a.Timestamp = r.Int64N(1e18)
	}
	return a
}

// What holds for the table holds for random trees and actions: the same files
// as BuildKit's, from the same layer that a build would use, and an error
// whenever BuildKit has one.
func TestCopyRandomLikeBuildKit(t *testing.T) {
	needRoot(t)
	failed := 0
	for seed := range uint64(120) {
		r := rand.New(rand.NewPCG(seed, 2))
		tmp := t.TempDir()
		src, dest, real := filepath.Join(tmp, "src"), filepath.Join(tmp, "dest"), filepath.Join(tmp, "real")
		destSeed := r.Uint64()
		for _, dir := range []string{src, dest, real} {
			os.Mkdir(dir, 0o755)
		}
		randomTree(t, src, r)
		randomTree(t, dest, rand.New(rand.NewPCG(destSeed, 3)))
		randomTree(t, real, rand.New(rand.NewPCG(destSeed, 3)))
		a := randomAction(r)
		var owner *Owner
		if r.IntN(3) == 0 {
			owner = &Owner{r.IntN(9), r.IntN(9)}
		}
		wantErr := oracleCopy(src, real, a, owner)
		base := NewView(DirLayer(dest))
		e := NewEditor(base)
		err := e.Copy(t.Context(), NewView(DirLayer(src)), a, owner)
		// BuildKit also fails on directories that it would not copy, when a
		// file is where they would be.
		stumbled := wantErr != nil && strings.HasPrefix(wantErr.Error(), "failed to stat ") && strings.HasSuffix(wantErr.Error(), "not a directory")
		if (err != nil) != (wantErr != nil) && !stumbled {
			t.Errorf("seed %d: %v: error %v, BuildKit's is %v", seed, a, err, wantErr)
		}
		if err != nil || wantErr != nil {
			failed++
			continue
		}
		want := describe(t, Walk(NewView(DirLayer(real)), "."), true)
		if diff := cmp.Diff(want, describe(t, Walk(e, "."), true)); diff != "" {
			t.Errorf("seed %d: %v (-BuildKit +got):\n%s", seed, a, diff)
		}
		checkLayer(t, base, e)
		if t.Failed() {
			return
		}
	}
	if failed > 90 {
		t.Errorf("%d of 120 copies failed: the test says little", failed)
	}
}
