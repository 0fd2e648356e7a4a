package main

import (
	"fmt"
	"go/types"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// exported prints, for each package below internal, how many of its exported symbols no other package uses. Test
// packages count as users: what only tests use may stay exported. Methods are left out, since an interface may need
// them.
func exported(out io.Writer) error {
	loaded, err := packages.Load(&packages.Config{Tests: true,
		Mode: packages.NeedName | packages.NeedTypes | packages.NeedTypesInfo |
			packages.NeedSyntax | packages.NeedImports | packages.NeedDeps}, "./...")
	if err != nil {
		return err
	}
	if packages.PrintErrors(loaded) > 0 {
		return fmt.Errorf("the packages do not compile")
	}
	used := usedElsewhere(loaded)
	fmt.Fprintf(out, "exported symbols that no other package uses\n")
	for _, name := range slices.Sorted(maps.Keys(used.all)) {
		idle := slices.DeleteFunc(slices.Clone(used.all[name]), func(s string) bool { return used.by[name+"."+s] })
		if len(idle) > 0 {
			fmt.Fprintf(out, "  %-28s %3d of %3d: %s\n", name, len(idle), len(used.all[name]), strings.Join(idle, " "))
		}
	}
	return nil
}

type symbols struct {
	all map[string][]string // by package: its exported symbols
	by  map[string]bool     // "package.Symbol" that another package uses
}

func usedElsewhere(loaded []*packages.Package) symbols {
	s := symbols{all: map[string][]string{}, by: map[string]bool{}}
	for _, p := range loaded {
		path := strings.TrimSuffix(p.PkgPath, "_test")
		if _, known := s.all[path]; !known && strings.Contains(path, "/internal/") && p.ID == p.PkgPath {
			s.all[path] = exportedOf(p.Types.Scope())
		}
		for _, object := range p.TypesInfo.Uses {
			if object.Pkg() != nil && object.Exported() && object.Pkg().Path() != p.PkgPath {
				s.by[object.Pkg().Path()+"."+object.Name()] = true
			}
		}
	}
	return s
}

func exportedOf(scope *types.Scope) []string {
	return slices.DeleteFunc(scope.Names(), func(name string) bool { return !scope.Lookup(name).Exported() })
}
