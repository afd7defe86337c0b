package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// No package compiles regular expressions when the program starts: all of them
// together cost more than many a command does. sync.OnceValue compiles one when it
// is needed first.
func TestStartCompilesNothing(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"builder", "cmd", "dockerfile", "layout", "runner"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, at := range compiledAtStart(f) {
				t.Errorf("%s: a regular expression is compiled at start", files.Position(at))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// compiledAtStart finds calls of regexp.MustCompile in the variables of a package.
func compiledAtStart(f *ast.File) (found []token.Pos) {
	for _, decl := range f.Decls {
		vars, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		ast.Inspect(vars, func(n ast.Node) bool {
			if _, later := n.(*ast.FuncLit); later {
				return false
			}
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
					if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "regexp" {
						found = append(found, call.Pos())
					}
				}
			}
			return true
		})
	}
	return found
}
