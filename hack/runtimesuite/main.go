//go:build linux

// Command runtimesuite runs the runtime-spec's validation suite over bk's OCI
// runtime and over others of this machine, and prints what each makes of it.
//
//	suite (hack/runtimetools) -> one program per test -> each runtime -> TAP -> table
//
// Every program has a mount namespace of its own, a runtime with a state
// directory of its own, and a minute. It fails when a test that runc passes
// fails with bk.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("runtimesuite: ")
	bk := flag.String("bk", "bin/bk", "the bk to judge")
	run := flag.String("run", "", "only tests whose name matches this regular expression")
	only := flag.String("only", "", "only this runtime (runc, crun, bk)")
	record := flag.String("record", "", "write the column of runc to this `file`")
	verbose := flag.Bool("v", false, "print the output of bk's failed tests")
	jobs := flag.Int("j", 4, "tests at a time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	re, err := regexp.Compile(*run)
	if err != nil {
		log.Fatal(err)
	}
	s, err := newSuite(ctx, ".", re)
	if err != nil {
		log.Fatal(err)
	}
	columns := map[string]map[string]outcome{}
	for _, name := range []string{"runc", "crun", "bk"} {
		if *only != "" && name != *only {
			continue
		}
		program := *bk
		if name != "bk" {
			program = "/usr/bin/" + name
		}
		if program, err = filepath.Abs(program); err != nil {
			log.Fatal(err)
		}
		if columns[name], err = s.column(ctx, name, program, *jobs); err != nil {
			log.Fatal(err)
		}
	}
	if *record != "" {
		if err := writeColumn(*record, columns["runc"]); err != nil {
			log.Fatal(err)
		}
	}
	if !s.print(columns, *verbose) {
		os.Exit(1)
	}
}

// print writes the table and says whether bk passes all that runc passes.
func (s *suite) print(columns map[string]map[string]outcome, verbose bool) bool {
	good := true
	row := func(name string, cell func(string) string) {
		fmt.Printf("%-34s %-12s %-12s %-12s\n", name, cell("runc"), cell("crun"), cell("bk"))
	}
	row("ok/not ok", func(runtime string) string { return runtime })
	passed := map[string]int{}
	for _, name := range s.tests {
		row(name, func(runtime string) string {
			o, ran := columns[runtime][name]
			if !ran {
				return "-"
			}
			if o.passed() {
				passed[runtime]++
			}
			return o.String()
		})
		bk, ran := columns["bk"][name]
		if ran && columns["runc"][name].passed() && !bk.passed() {
			good = false
			fmt.Println("  bk fails what runc passes")
		}
		if ran && verbose && !bk.passed() {
			fmt.Println(strings.TrimSpace(bk.output))
		}
	}
	row("passed", func(runtime string) string { return fmt.Sprint(passed[runtime]) })
	fmt.Println("\nwhy tests don't pass here, or aren't run:")
	for _, n := range notes() {
		fmt.Printf("  %s: %s\n", n.test, n.reason)
	}
	return good
}
