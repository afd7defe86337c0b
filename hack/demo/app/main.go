// The demo's program: it says what it was built for and what it runs on.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	greeting, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), "greeting"))
	if err != nil {
		greeting = []byte("not yet greeted\n")
	}
	fmt.Printf("hello from %s/%s: %s", runtime.GOOS, runtime.GOARCH, greeting)
}
