//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// document is the Markdown of -write.
func (b *bench) document() string {
	var versions strings.Builder
	for _, builder := range b.builders {
		fmt.Fprintf(&versions, "- %s: %s\n", builder.name(), builder.version())
	}
	return fmt.Sprintf(intro, machine(), time.Now().UTC().Format("2 January 2006"), versions.String(), b.n) +
		b.tables() + "\n## Remarks\n\n" + b.remarks() + remarks
}

const intro = `# Benchmarks

Written by ` + "`go run ./hack/bench -write`" + `; ` + "`make bench`" + ` measures without writing.

Machine: %s. Date: %s.

%s
## Method

- A run is whole processes: from the start of the command to its end, with an
  OCI layout in a directory as the result. For buildah it is two commands,
  ` + "`build`" + ` and ` + "`push`" + `. buildkitd is running before the clock starts.
- The builders take turns, one round after the other, %d rounds (short scenarios
  more). The tables show medians.
- In every round each builder has a fresh ext4 file system in a loop file, with
  its state, its temporary files and its output. Cold is the first build there;
  the next phases build again from what the one before left, into a new output.
- Contexts and base images are the same in every round, and in the page cache.
  Base images come from a registry on the loopback interface.
- Every output is checked: number of images and layers, compression, the same
  layers when nothing changed and others when something did.
- CPU time is that of all processes, buildkitd's included, in steps of 10 ms
  there. Peak memory is that of the largest process; buildkitd's peak is reset
  before each build.
- An image is moved from a registry to a layout, from there to the registry under
  another name, to a second registry, and to another name in the first, where
  nothing need be read; then the digest must be the same.
- From the end of the last step until the image is pushed: a layer of 1 GB is
  built and pushed to the registry. The clock starts when the builder's own
  events say that the last instruction ended, and stops when the command ends.
  CPU time and memory are those of the whole build.
- The ratio is to whom the target names, or to the fastest other builder that
  runs its steps in containers.

## Results

`

// remarks says what of this run a reader should know: what failed, and where a
// target was missed.
func (b *bench) remarks() string {
	var s strings.Builder
	for _, sc := range b.scenarios {
		for _, p := range sc.phases {
			for _, builder := range b.builders {
				if r := b.results[key{sc.name, p.name, builder.name()}]; r != nil && r.err != nil {
					first, _, _ := strings.Cut(r.err.Error(), "\n")
					fmt.Fprintf(&s, "- %s, %s: %s has no result: %s\n", sc.title, p.name, builder.name(), first)
				}
			}
			if ratio, reached := b.verdict(sc, p); reached == "no" {
				fmt.Fprintf(&s, "- %s, %s: bk misses its target (%s; the ratio is %s).\n", sc.title, p.name, p.target, ratio)
			}
			if b.least(sc, p) == "no" {
				fmt.Fprintf(&s, "- %s, %s: another builder needs no more memory than bk.\n", sc.title, p.name)
			}
		}
	}
	return s.String()
}

const remarks = `- One machine, few cores, a virtual disk: ratios travel better than times.
- buildkitd and buildah share the network of the host with their steps and use
  runc; bk runs with its defaults. buildah caches layers as the others do
  (` + "`--layers`" + `) and gets as many jobs as the scenario can use.
- bk and its store are on the same file system as the output, as they are for
  the others; where a builder links or clones files into its output, that is
  part of what is measured.
- For the emulated platform buildkitd and buildah need a handler in the host's
  binfmt_misc, registered around their runs only; bk runs without one.
- kaniko, where it is measured, runs steps without isolation, so ratios are not
  against it.
- The emulated steps and those that write a small file measure the builder; what
  a real step does costs the same everywhere.
`
