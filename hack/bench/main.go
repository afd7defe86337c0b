//go:build linux

// Command bench measures bk beside other builders: whole processes, from a
// Dockerfile to an OCI layout on disk. In every round each builder gets a fresh
// file system, builds a scenario's phases there (cold, unchanged, ...), and
// makes room for the next builder:
//
//	scenario -> context ----+
//	registry -> base images-+-> builder on a fresh volume -> OCI layout, checked
//	                                    |
//	                                    +-> wall, CPU, peak memory -> tables
//
// It needs root. All of it runs in a mount and a PID namespace of its own, so
// daemons, mounts, loop devices and emulator registrations end with it, however
// it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// flags are the command line.
type flags struct {
	bk, kaniko, tools, bases, dir, doc string
	only, peers                        string
	n                                  int
	scale                              float64
	keep, write, withKaniko, verbose   bool
}

// workEnv names the directory that the outer process made for the inner one.
const workEnv = "BK_BENCH_DIR"

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	f, err := parse(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	if work := os.Getenv(workEnv); work != "" {
		err = inside(f, work)
	} else {
		err = outside(f)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(1, exit.ExitCode()))
	}
	if err != nil {
		log.Fatal(err)
	}
}

func parse(args []string) (*flags, error) {
	f := &flags{}
	fs := flag.NewFlagSet("bench", flag.ExitOnError)
	fs.IntVar(&f.n, "n", 3, "rounds; short scenarios take a multiple of it")
	fs.StringVar(&f.only, "only", "", "only scenarios whose name matches this regular expression")
	fs.StringVar(&f.peers, "peers", "buildkitd,buildah", "builders beside bk, by commas")
	fs.StringVar(&f.bk, "bk", "bin/bk", "the bk to measure")
	fs.Float64Var(&f.scale, "scale", 1, "multiply sizes and counts, to try the bench itself")
	fs.BoolVar(&f.withKaniko, "with-kaniko", false, "measure kaniko too, where it can take part; builds it from the module proxy when -kaniko is not there")
	fs.StringVar(&f.kaniko, "kaniko", ".cache/tools/bin/kaniko", "kaniko's executor")
	fs.StringVar(&f.tools, "tools", ".cache/tools/bin", "directory of buildkitd, buildctl, registry and crane")
	fs.StringVar(&f.bases, "bases", ".cache/bases", "directory of the base images")
	fs.StringVar(&f.dir, "dir", os.TempDir(), "where the sparse files of the volumes go")
	fs.BoolVar(&f.keep, "keep", false, "keep the volumes")
	fs.BoolVar(&f.write, "write", false, "write the result to -doc")
	fs.StringVar(&f.doc, "doc", "docs/benchmarks.md", "the document of -write")
	fs.BoolVar(&f.verbose, "v", false, "print what the builders print")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return f, f.check()
}

func (f *flags) check() error {
	if _, err := regexp.Compile(f.only); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if f.scale <= 0 || f.scale > 1 || f.n < 1 {
		return errors.New("-scale must be above 0 and at most 1, -n at least 1")
	}
	if f.write && (f.scale != 1 || f.n < 3 || f.only != "") {
		return errors.New("-write is for whole runs: leave -scale and -only, and take -n 3 or more")
	}
	for _, p := range f.peerNames() {
		if !slices.Contains([]string{"buildkitd", "buildah"}, p) {
			return fmt.Errorf("-peers: %q is not buildkitd or buildah", p)
		}
	}
	return nil
}

func (f *flags) peerNames() []string {
	return strings.FieldsFunc(f.peers, func(r rune) bool { return r == ',' })
}

// outside makes the working directory, runs this program again in namespaces,
// passes signals on, and removes the directory.
func outside(f *flags) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for loop mounts and for the other builders")
	}
	work, err := os.MkdirTemp(f.dir, "bench-")
	if err != nil {
		return err
	}
	if f.keep {
		log.Println("keeping", work)
	} else {
		defer os.RemoveAll(work)
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), workEnv+"="+work)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in new namespaces: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may be over
		}
	}()
	return cmd.Wait()
}

// inside measures, as process 1 of its PID namespace.
func inside(f *flags, work string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	if err := os.Unsetenv(workEnv); err != nil {
		return err
	}
	b, err := newBench(ctx, f, work)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.run(ctx); err != nil {
		return err
	}
	return b.report(os.Stdout)
}

// report prints the result, and writes the document when it was asked for.
func (b *bench) report(w io.Writer) error {
	fmt.Fprint(w, "\n", b.tables())
	if !b.write {
		return nil
	}
	tmp := b.doc + ".new"
	if err := os.WriteFile(tmp, []byte(b.document()), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, b.doc)
}
