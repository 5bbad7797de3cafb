package lock

import (
	"cmp"
	"context"
	"slices"

	"roost/builder/deb"
	"roost/builder/recipe"
)

// graph gives the solver's variables and clauses their meaning, and makes its decisions as apt would.
type graph struct {
	universe *universe
	solver   solver
	packages []*deb.Package // by variable
	number   map[*deb.Package]int
	needs    map[int][][]int // by chosen variable: for each dependency the variables that satisfy it, best first
	facts    []fact
	roots    []int // the wishes, in their order
	err      error // met while reading a package's fields
}

// fact is what a clause states, kept for the explanation of a conflict. Exactly one of its forms is set.
type fact struct {
	literals []literal
	wish     *wish       // somebody wants a package
	subject  int         // the package that has the dependency or the clash
	needs    *dependency // subject needs one of these
	clash    *clash      // subject cannot stand this
}

// wish is a package that must be there.
type wish struct {
	pkg   *deb.Package
	layer int             // index in the recipe's layers, or layerBase, layerKernel
	at    recipe.Position // zero for the base
}

const (
	layerBase   = -2
	layerKernel = -1
)

func newGraph(u *universe) *graph {
	g := &graph{universe: u, number: map[*deb.Package]int{}, needs: map[int][][]int{}}
	g.solver.expand, g.solver.decide = g.expand, g.decide
	return g
}

func (g *graph) variable(p *deb.Package) int {
	v, ok := g.number[p]
	if !ok {
		v = len(g.packages)
		g.number[p], g.packages = v, append(g.packages, p)
		g.solver.grow(v + 1)
	}
	return v
}

// state records a fact and returns its clause.
func (g *graph) state(f fact) clause {
	g.facts = append(g.facts, f)
	return clause{literals: f.literals, fact: len(g.facts) - 1}
}

// resolve returns all packages that fulfil the wishes. Their order matters where Debian leaves a choice, as on apt's
// command line.
func (g *graph) resolve(ctx context.Context, wishes []wish) ([]*deb.Package, error) {
	g.want(wishes)
	core, ok := g.solver.solve()
	switch {
	case g.err != nil:
		return nil, g.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok:
		return nil, g.conflict(minimal(g.facts, core))
	}
	var chosen []*deb.Package
	for _, v := range g.walk().reached {
		chosen = append(chosen, g.packages[v])
	}
	return chosen, nil
}

func (g *graph) want(wishes []wish) {
	for i := range wishes {
		v := g.variable(wishes[i].pkg)
		g.solver.add(g.state(fact{literals: []literal{yes(v)}, wish: &wishes[i]}))
		if !slices.Contains(g.roots, v) {
			g.roots = append(g.roots, v)
		}
	}
}

// expand states what a chosen package needs and what it cannot stand.
func (g *graph) expand(v int) []clause {
	p := g.packages[v]
	needs, err := g.universe.dependencies(p)
	if err != nil {
		g.err = cmp.Or(g.err, err)
	}
	clashes, err := g.universe.clashes(p)
	if err != nil {
		g.err = cmp.Or(g.err, err)
	}
	var clauses []clause
	for i := range needs {
		d := &needs[i]
		var solutions []int
		literals := []literal{no(v)}
		for _, s := range d.solutions {
			n := g.variable(s)
			solutions, literals = append(solutions, n), append(literals, yes(n))
		}
		if slices.Contains(solutions, v) {
			continue // a package that provides what it depends on
		}
		g.needs[v] = append(g.needs[v], solutions)
		clauses = append(clauses, g.state(fact{literals: literals, subject: v, needs: d}))
	}
	for i := range clashes {
		c := &clashes[i]
		clauses = append(clauses, g.state(fact{literals: []literal{no(v), no(g.variable(c.victim))}, subject: v, clash: c}))
	}
	return clauses
}

// decide takes the next alternative on apt's way.
func (g *graph) decide() (literal, bool) {
	if g.err != nil {
		return 0, false
	}
	w := g.walk()
	return yes(w.question), w.question != none
}

// walk is one pass of apt's depth-first search over what is chosen so far.
type walk struct {
	graph    *graph
	seen     map[int]bool
	reached  []int
	question int // the package to decide on, or none when every dependency is met by a reached package
}

// walk starts at the wishes, all of which count as chosen from the beginning, and follows every dependency that nothing
// reached so far meets to its first alternative that is not ruled out.
func (g *graph) walk() *walk {
	w := &walk{graph: g, seen: make(map[int]bool, len(g.packages)), question: none}
	for _, v := range g.roots {
		w.seen[v] = true
	}
	for _, v := range g.roots {
		if !w.visit(v) {
			break
		}
	}
	return w
}

func (w *walk) visit(v int) bool {
	w.reached = append(w.reached, v)
	for _, solutions := range w.graph.needs[v] {
		if slices.ContainsFunc(solutions, func(s int) bool { return w.seen[s] }) {
			continue
		}
		for _, s := range solutions {
			value := w.graph.solver.values[s]
			if value == fails {
				continue
			}
			if value == open {
				w.question = s
				return false
			}
			w.seen[s] = true
			if !w.visit(s) {
				return false
			}
			break
		}
	}
	return true
}

// minimal drops facts from a core as long as the rest still cannot hold together.
func minimal(facts []fact, core []int) []int {
	slices.Sort(core)
	for i := len(core) - 1; i >= 0; i-- {
		if rest := slices.Delete(slices.Clone(core), i, i+1); !satisfiable(facts, rest) {
			core = rest
		}
	}
	return core
}

// satisfiable reports whether some facts can hold together, whatever apt would prefer.
func satisfiable(facts []fact, some []int) bool {
	s := &solver{expand: func(int) []clause { return nil }}
	var variables []int
	for _, n := range some {
		s.add(clause{literals: facts[n].literals, fact: n})
		for _, l := range facts[n].literals {
			variables = append(variables, l.variable())
		}
	}
	s.decide = func() (literal, bool) {
		for _, v := range variables {
			if s.values[v] == open {
				return no(v), true
			}
		}
		return 0, false
	}
	_, ok := s.solve()
	return ok
}
