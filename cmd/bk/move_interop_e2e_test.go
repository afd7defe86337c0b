//go:build linux

package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"bk.build/bk/hack/images"
	"bk.build/bk/hack/registry"
)

// Every kind of image that bk pushes is read by every other program that can
// read it at all; and what they push then, to another kind of registry, bk reads:
//
//	layout -bk-> distribution -peer-> Debian's registry -bk-> layout, the same
func TestMovePeers(t *testing.T) {
	src, made := corpus(t)
	first := registry.Start(t)
	second := debianRegistry(t)
	w := newPeerWorld(t)
	s := newSite(t, noContext)
	s.env = w.env
	for _, kind := range images.Names {
		s.must("copy", "-q", "oci:"+src.Path()+":"+kind, "docker://"+first+"/bk/"+repoOf(kind))
	}
	for _, p := range append(peers(t), peer{name: "bk", program: "bk"}) {
		t.Run(p.name, func(t *testing.T) {
			if err := p.there(); err != nil {
				t.Skip(err)
			}
			t.Parallel()
			for _, kind := range images.Names {
				t.Run(kind, func(t *testing.T) {
					if why := p.cannot[kind]; why != "" {
						t.Skip(why)
					}
					s := s.with(t)
					from, to := first+"/bk/"+repoOf(kind), second+"/"+p.name+"/"+repoOf(kind)
					if p.commands == nil {
						s.must("copy", "-q", from, to)
					} else if err := w.run(t, p.commands(w, from, to)); err != nil {
						t.Fatal(err)
					}
					out := filepath.Join(t.TempDir(), "out")
					s.must("copy", "-q", "docker://"+to, "oci:"+out+":v1")
					w.same(t, out, "v1", src, made[kind], p.rewrites)
				})
			}
		})
	}
}

// repoOf is the repository and tag of a kind of image. What refers to an image is
// in the image's repository.
func repoOf(kind string) string {
	if kind == "referrer" {
		return "oci:referrer"
	}
	return kind + ":v1"
}

// debianRegistry starts Debian's registry, or the pinned one when it is not
// installed.
func debianRegistry(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		return registry.Start(t)
	}
	return registry.StartWith(t, registry.Options{Program: "docker-registry"})
}

// Layouts are read by other programs too, and what they write as layout is read.
func TestMovePeersLayouts(t *testing.T) {
	src, made := corpus(t)
	w := newPeerWorld(t)
	addr := registry.Start(t)
	s := newSite(t, noContext)
	s.env = w.env
	for _, kind := range []string{"oci", "index", "zstd"} {
		want := made[kind]
		s.must("copy", "-q", "oci:"+src.Path()+":"+kind, "oci:"+s.path("bk")+":"+kind)
		for _, p := range peers(t) {
			reads, writes := layoutCommands(p, s.path("bk"), s.path(p.name), kind, addr)
			if reads == nil || p.there() != nil {
				continue
			}
			if err := w.run(t, reads); err != nil {
				t.Error(err)
				continue
			}
			out := s.path("from-" + p.name)
			s.must("copy", "-q", addr+"/layout/"+p.name+":"+kind, "oci:"+out+":"+kind)
			w.same(t, out, kind, src, want, false)
			if err := w.run(t, writes); err != nil {
				t.Error(err)
				continue
			}
			s.must("copy", "-q", "oci:"+s.path(p.name)+":"+kind, "oci:"+out+":again-"+kind)
			w.same(t, out, "again-"+kind, src, want, false)
		}
	}
}

// layoutCommands are what pushes an image of a layout to addr/layout/NAME:kind,
// and what writes it from there to another layout; nil: the peer has no layouts
// with names.
func layoutCommands(p peer, from, to, kind, addr string) (reads, writes [][]string) {
	ref := addr + "/layout/" + p.name + ":" + kind
	switch p.name {
	case "skopeo":
		skopeo := []string{"skopeo", "--insecure-policy", "copy", "-q", "--all", "--preserve-digests"}
		return [][]string{append(skopeo[:len(skopeo):len(skopeo)], "--dest-tls-verify=false", "oci:"+from+":"+kind, "docker://"+ref)},
			[][]string{append(skopeo[:len(skopeo):len(skopeo)], "--src-tls-verify=false", "docker://"+ref, "oci:"+to+":"+kind)}
	case "oras":
		oras := []string{p.program, "copy", "--no-tty"}
		return [][]string{append(oras[:3:3], "--from-oci-layout", "--to-plain-http", from+":"+kind, ref)},
			[][]string{append(oras[:3:3], "--from-plain-http", "--to-oci-layout", ref, to+":"+kind)}
	}
	return nil, nil
}
