//go:build linux

// Command conformance builds every case of testdata/corpus with bk and with a
// real buildkitd and compares what comes out: image config, history, and the
// flattened file tree with modes, owners, content, links, extended attributes
// and device numbers. Times are not compared.
//
//	case (txtar) -> context on disk -> bk       -> OCI layout -> result --+
//	                                -> buildkitd -> OCI layout -> result --+-> differences
//
// Where bk differs on purpose, testdata/corpus/differences says why. Without
// -bk, buildkitd is compared with itself, which shows that the corpus builds and
// that its results don't vary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// flags are the command line.
type flags struct {
	bk, corpus, bases, tools, run string
	jobs                          int
	record, verbose, keep         bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("conformance: ")
	var f flags
	flag.StringVar(&f.bk, "bk", "", "the bk to judge (empty: compare buildkitd with itself)")
	flag.StringVar(&f.corpus, "corpus", "testdata/corpus", "directory of the cases")
	flag.StringVar(&f.bases, "bases", ".cache/bases", "directory of the base images")
	flag.StringVar(&f.tools, "tools", ".cache/tools/bin", "directory of buildkitd, buildctl, registry and crane")
	flag.StringVar(&f.run, "run", "", "only cases whose name matches this regular expression")
	flag.IntVar(&f.jobs, "j", 2, "cases at a time")
	flag.BoolVar(&f.record, "record", false, "write what buildkitd makes to the corpus, for the test that has no buildkitd")
	flag.BoolVar(&f.verbose, "v", false, "print the output of builds that should have succeeded, or failed otherwise")
	flag.BoolVar(&f.keep, "keep", false, "keep the working directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, f)
	if err != nil {
		log.Fatal(err)
	}
	if !ok {
		os.Exit(1)
	}
}

// run judges all cases and says whether every one passed.
func run(ctx context.Context, f flags) (bool, error) {
	cases, err := loadCorpus(f.corpus, f.run)
	if err != nil {
		return false, err
	}
	known, err := loadDifferences(filepath.Join(f.corpus, "differences"))
	if err != nil {
		return false, err
	}
	work, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return false, err
	}
	if f.keep {
		log.Println("keeping", work)
	} else {
		defer os.RemoveAll(work)
	}
	bench, err := newBench(ctx, f, work)
	if err != nil {
		return false, err
	}
	defer bench.close()
	return bench.judgeAll(ctx, cases, known), ctx.Err()
}

// A bench holds the two builders and what they share.
type bench struct {
	flags
	work      string
	bases     map[string]string // name -> docker-image:// reference in the test registry
	known     *baseImages
	reference builder
	subject   builder
	closers   []func()
}

func (b *bench) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

// newBench starts the registry with the bases, and buildkitd.
func newBench(ctx context.Context, f flags, work string) (_ *bench, err error) {
	b := &bench{flags: f, work: work, bases: map[string]string{}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.known, err = loadBases(f.bases); err != nil {
		return nil, err
	}
	if err := b.startRegistry(ctx); err != nil {
		return nil, err
	}
	d, err := startBuildkitd(ctx, f.tools, filepath.Join(work, "buildkitd"))
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, d.stop)
	b.reference = d
	again := *d
	again.noCache = true
	b.subject = &again
	if f.bk != "" {
		exe, err := filepath.Abs(f.bk)
		if err != nil {
			return nil, err
		}
		b.subject = &bk{exe: exe, root: filepath.Join(work, "bk-root")}
	}
	return b, nil
}

// A verdict is what a case came to.
type verdict struct {
	name        string
	took        [2]time.Duration // reference, subject
	known       []string         // differences with a reason
	differences []string
	log         string // of the subject's build
}

func (b *bench) judgeAll(ctx context.Context, cases []*testCase, known []difference) bool {
	verdicts := make([]verdict, len(cases))
	next := make(chan int)
	var wg sync.WaitGroup
	for range max(1, b.jobs) {
		wg.Go(func() {
			for i := range next {
				verdicts[i] = b.judge(ctx, cases[i], known)
				b.print(verdicts[i])
			}
		})
	}
	for i := range cases {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	return summarize(verdicts)
}

// judge builds one case with both builders and compares.
func (b *bench) judge(ctx context.Context, c *testCase, known []difference) verdict {
	v := verdict{name: c.name}
	dir := filepath.Join(b.work, "cases", c.name)
	if !b.keep {
		defer os.RemoveAll(dir)
	}
	in, err := c.lay(ctx, dir, b.bases)
	if err != nil {
		v.differences = []string{"case: " + err.Error()}
		return v
	}
	var results [2]*result
	for i, builder := range []builder{b.reference, b.subject} {
		start := time.Now()
		in.dest = filepath.Join(dir, fmt.Sprintf("out%d", i))
		output, err := builder.build(ctx, in)
		v.took[i] = time.Since(start)
		v.log = output
		results[i], err = c.outcome(in.dest, output, err, b.known.content)
		if err != nil {
			who := []string{"reference", "subject"}[i]
			v.differences = append(v.differences, fmt.Sprintf("%s: %v", who, err))
		}
	}
	if b.record && results[0] != nil {
		if err := c.record(b.corpus, results[0], b.known); err != nil {
			v.differences = append(v.differences, err.Error())
		}
	}
	if results[0] != nil && results[1] != nil {
		v.differences, v.known = explain(c.name, compare(results[0], results[1]), known)
	}
	return v
}

// outcome checks that the build ended as the case expects and loads its result.
// The result is empty when the case expects an error.
func (c *testCase) outcome(dest, output string, err error, known content) (*result, error) {
	switch {
	case c.wantError == "" && err != nil:
		return nil, fmt.Errorf("%w\n%s", err, tail(output, 12))
	case c.wantError == "":
		return load(dest, known)
	case err == nil:
		return nil, errors.New("succeeds, but should fail with " + c.wantError)
	}
	re, reErr := regexp.Compile(c.wantError)
	if reErr != nil {
		return nil, reErr
	}
	if !re.MatchString(output) {
		return nil, fmt.Errorf("fails without saying %q\n%s", c.wantError, tail(output, 12))
	}
	return &result{}, nil
}
