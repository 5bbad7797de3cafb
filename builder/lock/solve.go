package lock

// The solver is conflict-driven clause learning (Marques-Silva and Sakallah, GRASP, 1996; first unique implication
// point). It knows variables and clauses only; what they mean lies in the graph. Occurrence lists are scanned whole
// instead of watching two literals: a resolution has some thousand short clauses, and plain lists let clauses appear
// during the search.

// literal is a variable (a candidate) that is chosen, or, with not, that is not.
type literal int32

func yes(v int) literal           { return literal(v << 1) }
func no(v int) literal            { return literal(v<<1 | 1) }
func (l literal) variable() int   { return int(l >> 1) }
func (l literal) negate() literal { return l ^ 1 }

// value of a variable or literal.
type value int8

const (
	open value = iota
	holds
	fails
)

// clause is satisfied when one of its literals holds.
type clause struct {
	literals []literal
	fact     int   // number of the fact it states; none for a learned clause
	parents  []int // of a learned clause: the clauses it follows from
}

const none = -1

type solver struct {
	expand func(v int) []clause   // clauses that matter once v is chosen; called once per variable
	decide func() (literal, bool) // next decision under the present values; false when all is decided

	clauses  []clause
	occurs   [][]int // by literal, the clauses it stands in
	values   []value // by variable
	levels   []int
	reasons  []int // clause that forced the variable, or none
	expanded []bool
	trail    []literal
	limits   []int // length of the trail at each decision
	head     int   // of the trail, what is propagated
}

// grow makes room for n variables.
func (s *solver) grow(n int) {
	for len(s.values) < n {
		s.values = append(s.values, open)
		s.levels = append(s.levels, 0)
		s.reasons = append(s.reasons, none)
		s.expanded = append(s.expanded, false)
		s.occurs = append(s.occurs, nil, nil)
	}
}

func (s *solver) value(l literal) value {
	v := s.values[l.variable()]
	if v == open || l&1 == 0 {
		return v
	}
	return holds + fails - v
}

// add takes a clause and returns its number.
func (s *solver) add(c clause) int {
	n := len(s.clauses)
	s.clauses = append(s.clauses, c)
	for _, l := range c.literals {
		s.grow(l.variable() + 1)
		s.occurs[l] = append(s.occurs[l], n)
	}
	return n
}

// solve chooses values until decide has no question left. On failure it returns the facts that cannot hold together.
func (s *solver) solve() (core []int, ok bool) {
	for n := range s.clauses { // clauses given beforehand
		if conflict := s.check(n); conflict != none {
			return s.core(conflict), false
		}
	}
	for {
		conflict := s.propagate()
		if conflict == none {
			l, more := s.decide()
			if !more {
				return nil, true
			}
			s.limits = append(s.limits, len(s.trail))
			s.assign(l, none)
			continue
		}
		if len(s.limits) == 0 {
			return s.core(conflict), false
		}
		s.learn(conflict)
	}
}

func (s *solver) assign(l literal, reason int) {
	v := l.variable()
	s.grow(v + 1)
	s.values[v] = holds
	if l&1 == 1 {
		s.values[v] = fails
	}
	s.levels[v], s.reasons[v] = len(s.limits), reason
	s.trail = append(s.trail, l)
}

// propagate draws all consequences and returns a violated clause or none.
func (s *solver) propagate() int {
	for s.head < len(s.trail) {
		l := s.trail[s.head]
		s.head++
		for _, n := range s.occurs[l.negate()] {
			if conflict := s.check(n); conflict != none {
				return conflict
			}
		}
		if v := l.variable(); l&1 == 0 && !s.expanded[v] {
			s.expanded[v] = true
			first := len(s.clauses)
			for _, c := range s.expand(v) {
				s.add(c)
			}
			for n := first; n < len(s.clauses); n++ {
				if conflict := s.check(n); conflict != none {
					return conflict
				}
			}
		}
	}
	return none
}

// check looks at one clause: it returns it when violated, and assigns its last open literal when there is only one.
func (s *solver) check(n int) int {
	last, count := literal(0), 0
	for _, l := range s.clauses[n].literals {
		switch s.value(l) {
		case holds:
			return none
		case open:
			last, count = l, count+1
		}
	}
	switch count {
	case 0:
		return n
	case 1:
		s.assign(last, n)
	}
	return none
}

// learn derives a clause from a conflict, goes back to where it would have forced a value, and lets it force that value.
func (s *solver) learn(conflict int) {
	level := len(s.limits)
	seen := map[int]bool{}
	parents := []int{conflict}
	var learned []literal // of lower levels; the asserting literal is put in front
	back, pending, at := 0, 0, len(s.trail)
	reason := conflict
	var uip literal
	for {
		for _, l := range s.clauses[reason].literals {
			v := l.variable()
			if seen[v] || s.value(l) == holds {
				continue
			}
			seen[v] = true
			switch {
			case s.levels[v] == level:
				pending++
			case s.levels[v] == 0:
				parents = append(parents, s.reasons[v])
			default:
				learned = append(learned, l)
				back = max(back, s.levels[v])
			}
		}
		for at--; !seen[s.trail[at].variable()] || s.levels[s.trail[at].variable()] != level; at-- {
		}
		uip = s.trail[at]
		if pending--; pending == 0 {
			break
		}
		reason = s.reasons[uip.variable()]
		parents = append(parents, reason)
	}
	s.backTo(back)
	n := s.add(clause{append([]literal{uip.negate()}, learned...), none, parents})
	s.assign(uip.negate(), n)
}

// backTo forgets everything decided after a level.
func (s *solver) backTo(level int) {
	for len(s.trail) > s.limits[level] {
		last := len(s.trail) - 1
		s.values[s.trail[last].variable()] = open
		s.trail = s.trail[:last]
	}
	s.limits = s.limits[:level]
	s.head = len(s.trail)
}

// core collects the facts behind a conflict at level 0.
func (s *solver) core(conflict int) []int {
	var core []int
	seen := map[int]bool{}
	queue := []int{conflict}
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		if n == none || seen[n] {
			continue
		}
		seen[n] = true
		if s.clauses[n].fact != none {
			core = append(core, s.clauses[n].fact)
		}
		queue = append(queue, s.clauses[n].parents...)
		for _, l := range s.clauses[n].literals {
			if v := l.variable(); s.values[v] != open && s.levels[v] == 0 {
				queue = append(queue, s.reasons[v])
			}
		}
	}
	return core
}
