// Package lock turns a recipe's wishes into exact packages, and keeps them in a file.
//
// [Resolve] takes a recipe and an archive index, and returns a [Lock]: every package with version, architecture,
// SHA-256, size and place in the pool, in the groups in which they are installed. A build reads the lock and resolves
// nothing, so equal locks give equal images whatever the mirror holds that day. The lock file is JSON with one package a
// line, sorted: a review shows one line for each package that changes.
//
// Promises: the result depends only on its arguments. It satisfies every Depends and Pre-Depends and breaks no Conflicts
// and no Breaks. Where Debian leaves a choice, it is the one apt makes without recommends: the candidate version
// (highest version of the suites of highest priority), the first alternative of a dependency, the real package before
// its providers. The tests compare it with apt-get on 437 sets of packages: no difference. One thing is stricter: a wish
// names a real package, also where only one package provides a virtual one. When there is no solution, the error is a
// [Conflict]: facts that cannot hold together, none of them superfluous, beginning at lines of the recipe.
//
// How it works: every candidate is a variable; "A depends on B | C" and "A breaks D" are clauses that appear when A is
// chosen. The search is conflict-driven clause learning whose next decision is always the next alternative that apt's
// depth-first walk would take; so without conflict it follows apt's path, and with one it finds the nearest way around,
// if there is any.
//
// Other versions than the candidate are not tried in silence: an older version may have the hole that a newer one
// closes. The error says which version would do, and a person writes the pin.
//
// Rejected: running apt (the host need not have it, its answer depends on the host's state, and it explains poorly); a
// general SAT or pseudo-Boolean optimiser (finds a smallest set, not the one that Debian tests and users know).
package lock
