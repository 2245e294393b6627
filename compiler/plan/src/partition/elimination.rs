//! Exact minimum of a sum of tables over discrete variables, by eliminating one variable after the other.
//!
//! Networks of layers are narrow: eliminating a node joins its few neighbours. The cost is exponential only in that
//! width (chains 1, residual and inception blocks 2). Besides the optimum, [`Elimination::lower_bounds`] gives for
//! every value of every variable the least total with that value: what exceeds a known solution can be left out.

use std::collections::{BTreeSet, HashMap};

/// A table over some variables, the last of `scope` varying fastest.
#[derive(Clone, Debug)]
pub struct Factor {
    /// Variables, ascending.
    pub scope: Vec<usize>,
    /// One entry per combination of their values.
    pub table: Vec<f64>,
}

/// One eliminated variable.
struct Bucket {
    variable: usize,
    /// Variables that remain when it goes.
    scope: Vec<usize>,
    /// Everything that mentions the variable, over `variable` and `scope` (the variable varying fastest).
    joined: Vec<f64>,
    /// Minimum over the variable.
    message: Vec<f64>,
}

/// Factors while variables are eliminated. Those over the same variables are one, so that a variable which many others
/// meet is mentioned by few factors in the end.
struct Pool {
    factors: Vec<Option<Factor>>,
    /// By variables.
    known: HashMap<Vec<usize>, usize>,
    /// Which factors mention each variable.
    mentions: Vec<BTreeSet<usize>>,
}

impl Pool {
    fn add(&mut self, factor: Factor) {
        if let Some(at) = self.known.get(&factor.scope)
            && let Some(sum) = &mut self.factors[*at]
        {
            sum.table.iter_mut().zip(&factor.table).for_each(|(sum, price)| *sum += price);
            return;
        }
        let at = self.factors.len();
        for variable in &factor.scope {
            self.mentions[*variable].insert(at);
        }
        self.known.insert(factor.scope.clone(), at);
        self.factors.push(Some(factor));
    }

    /// Takes all factors that mention a variable.
    fn take(&mut self, variable: usize) -> Vec<Factor> {
        let taken: Vec<Factor> = std::mem::take(&mut self.mentions[variable])
            .into_iter()
            .filter_map(|at| {
                let factor = self.factors[at].take()?;
                for other in &factor.scope {
                    self.mentions[*other].remove(&at);
                }
                Some(factor)
            })
            .collect();
        for factor in &taken {
            self.known.remove(&factor.scope);
        }
        taken
    }

    /// Variables that share a factor with one.
    fn neighbours(&self, variable: usize) -> Vec<usize> {
        let mentioning = self.mentions[variable].iter().filter_map(|at| self.factors[*at].as_ref());
        let mut scope: Vec<usize> = mentioning.flat_map(|factor| factor.scope.iter().copied()).collect();
        scope.retain(|other| *other != variable);
        scope.sort_unstable();
        scope.dedup();
        scope
    }

    /// Entries of the table that eliminating a variable would make, without its own. What surely is too large is not
    /// looked at closely.
    fn size(&self, domains: &[usize], variable: usize) -> f64 {
        if self.mentions[variable].len() > MAX_NEIGHBOURS {
            return f64::INFINITY;
        }
        self.neighbours(variable).iter().map(|v| domains[*v] as f64).product()
    }
}

/// A network with its variables eliminated.
pub struct Elimination {
    domains: Vec<usize>,
    buckets: Vec<Bucket>,
    /// Sum of what mentions no variable any more.
    total: f64,
}

/// Largest table.
const MAX_TABLE: usize = 8 << 20;

/// Factors that mention a variable from which on its table is taken to be too large: each has variables of its own, with two
/// values or more.
const MAX_NEIGHBOURS: usize = 4096;

impl Elimination {
    /// Eliminates all variables, those with few neighbours first; `None` if a table would be too large, or a variable has no
    /// value.
    pub fn new(domains: &[usize], factors: Vec<Factor>) -> Option<Elimination> {
        if domains.contains(&0) {
            return None;
        }
        let mut pool =
            Pool { factors: Vec::new(), known: HashMap::new(), mentions: vec![BTreeSet::new(); domains.len()] };
        for mut factor in factors {
            // Where there is no choice, a variable joins nothing: its neighbours do not have to be looked at together.
            factor.scope.retain(|variable| domains[*variable] > 1);
            pool.add(factor);
        }
        let mut sizes: Vec<f64> = (0..domains.len()).map(|variable| pool.size(domains, variable)).collect();
        let mut left: Vec<usize> = (0..domains.len()).collect();
        let mut buckets = Vec::with_capacity(domains.len());
        while !left.is_empty() {
            let variable = left.swap_remove(smallest(&left, &sizes));
            if sizes[variable].is_infinite() {
                return None;
            }
            let scope = pool.neighbours(variable);
            let entries = scope.iter().try_fold(domains[variable], |product, v| product.checked_mul(domains[*v]))?;
            if entries > MAX_TABLE {
                return None;
            }
            let mine = pool.take(variable);
            let mut order = scope.clone();
            order.push(variable);
            let joined = join(&order, domains, &mine, entries);
            let message: Vec<f64> =
                joined.chunks(domains[variable]).map(|row| row.iter().copied().fold(f64::INFINITY, f64::min)).collect();
            pool.add(Factor { scope: scope.clone(), table: message.clone() });
            for neighbour in &scope {
                sizes[*neighbour] = pool.size(domains, *neighbour);
            }
            buckets.push(Bucket { variable, scope, joined, message });
        }
        let total = pool.factors.iter().flatten().map(|factor| factor.table.iter().sum::<f64>()).sum();
        Some(Elimination { domains: domains.to_vec(), buckets, total })
    }

    /// Entries of all tables that were joined.
    pub fn work(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.joined.len() as u64).sum()
    }

    /// Variable that was eliminated as number `position`.
    pub fn variable(&self, position: usize) -> usize {
        self.buckets[position].variable
    }

    /// How much more than the least each value of the variable at `position` costs, given the values of the variables
    /// that were eliminated after it.
    pub fn regrets(&self, position: usize, values: &[usize]) -> Vec<f64> {
        let bucket = &self.buckets[position];
        let row = index(&bucket.scope, &self.domains, values);
        let size = self.domains[bucket.variable];
        let least = bucket.message[row];
        bucket.joined[row * size..(row + 1) * size].iter().map(|total| total - least).collect()
    }

    /// The least sum.
    pub fn minimum(&self) -> f64 {
        self.total
    }

    /// An assignment that reaches it, the first of equals.
    pub fn assignment(&self) -> Vec<usize> {
        let mut values = vec![0; self.domains.len()];
        for bucket in self.buckets.iter().rev() {
            let row = index(&bucket.scope, &self.domains, &values);
            let size = self.domains[bucket.variable];
            let row = &bucket.joined[row * size..(row + 1) * size];
            let best = row.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
            values[bucket.variable] = best.map_or(0, |(value, _)| value);
        }
        values
    }

    /// For every variable and value the least sum with that value.
    pub fn lower_bounds(&self) -> Vec<Vec<f64>> {
        let mut bounds = vec![Vec::new(); self.domains.len()];
        // What the rest of the network adds, over the scope of each bucket.
        let mut outside: Vec<Vec<f64>> = vec![Vec::new(); self.buckets.len()];
        let mut place = vec![0; self.domains.len()];
        self.buckets.iter().enumerate().for_each(|(position, bucket)| place[bucket.variable] = position);
        let mut values = vec![0; self.domains.len()];
        for (position, bucket) in self.buckets.iter().enumerate().rev() {
            // The first of its neighbours to be eliminated.
            let parent = bucket.scope.iter().map(|variable| place[*variable]).min();
            outside[position] = match parent {
                // Nothing above: the other parts of the network, at their best.
                None => vec![self.total - bucket.message.iter().sum::<f64>(); bucket.message.len()],
                Some(parent) => {
                    let above = &self.buckets[parent];
                    let mut order = above.scope.clone();
                    order.push(above.variable);
                    let mut least = vec![f64::INFINITY; bucket.message.len()];
                    let size = self.domains[above.variable];
                    for_each(&order, &self.domains, &mut values, |entry, values| {
                        let at = index(&bucket.scope, &self.domains, values);
                        let whole = above.joined[entry] + outside[parent][entry / size];
                        let rest = if whole.is_infinite() { f64::INFINITY } else { whole - bucket.message[at] };
                        least[at] = least[at].min(rest);
                    });
                    least
                }
            };
            let size = self.domains[bucket.variable];
            let mut least = vec![f64::INFINITY; size];
            for (row, outside) in bucket.joined.chunks(size).zip(&outside[position]) {
                for (slot, inside) in least.iter_mut().zip(row) {
                    *slot = slot.min(inside + outside);
                }
            }
            bounds[bucket.variable] = least;
        }
        bounds
    }
}

/// Entry of a table over `scope` for these values.
fn index(scope: &[usize], domains: &[usize], values: &[usize]) -> usize {
    scope.iter().fold(0, |index, variable| index * domains[*variable] + values[*variable])
}

/// Calls for every combination of values of `order`, the last varying fastest. All `values` are 0 before and after.
fn for_each(order: &[usize], domains: &[usize], values: &mut [usize], mut visit: impl FnMut(usize, &[usize])) {
    let entries: usize = order.iter().map(|variable| domains[*variable]).product();
    for entry in 0..entries {
        visit(entry, values);
        for variable in order.iter().rev() {
            values[*variable] += 1;
            if values[*variable] < domains[*variable] {
                break;
            }
            values[*variable] = 0;
        }
    }
}

/// Position in `left` of the first variable whose table would be smallest. No table has less than one entry, so a chain of
/// nodes without a choice is not looked through for every one of them.
fn smallest(left: &[usize], sizes: &[f64]) -> usize {
    let mut best = 0;
    for (position, variable) in left.iter().enumerate() {
        if sizes[*variable] < sizes[left[best]] {
            best = position;
        }
        if sizes[left[best]] <= 1.0 {
            break;
        }
    }
    best
}

/// The sum of factors over `order`.
fn join(order: &[usize], domains: &[usize], factors: &[Factor], entries: usize) -> Vec<f64> {
    let mut joined = vec![0.0; entries];
    for factor in factors {
        // Distance in the factor's table for a step of each variable of the order.
        let mut strides = vec![0usize; order.len()];
        let mut stride = 1;
        for variable in factor.scope.iter().rev() {
            if let Some(position) = order.iter().position(|other| other == variable) {
                strides[position] = stride;
            }
            stride *= domains[*variable];
        }
        // The last variable varies within a row; the others say where in the table the row begins.
        let Some((last, outer)) = order.split_last() else {
            joined.iter_mut().for_each(|slot| *slot += factor.table[0]);
            continue;
        };
        let (size, step) = (domains[*last], strides[outer.len()]);
        let mut values = vec![0usize; outer.len()];
        let mut at = 0usize;
        for row in joined.chunks_mut(size) {
            match step {
                0 => row.iter_mut().for_each(|slot| *slot += factor.table[at]),
                1 => row.iter_mut().zip(&factor.table[at..at + size]).for_each(|(slot, entry)| *slot += entry),
                _ => {
                    let entries = factor.table[at..].iter().step_by(step);
                    row.iter_mut().zip(entries).for_each(|(slot, entry)| *slot += entry);
                }
            }
            for (position, variable) in outer.iter().enumerate().rev() {
                values[position] += 1;
                at += strides[position];
                if values[position] < domains[*variable] {
                    break;
                }
                at -= strides[position] * domains[*variable];
                values[position] = 0;
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64, bound: u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % bound
    }

    #[test]
    fn optimum_and_bounds_agree_with_exhaustive_search() {
        for seed in 1..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let count = 2 + random(&mut state, 4) as usize;
            let domains: Vec<usize> = (0..count).map(|_| 1 + random(&mut state, 3) as usize).collect();
            let mut factors = Vec::new();
            for a in 0..count {
                let table = (0..domains[a]).map(|_| random(&mut state, 9) as f64).collect();
                factors.push(Factor { scope: vec![a], table });
                for b in a + 1..count {
                    if random(&mut state, 2) == 0 {
                        let entry = |state: &mut u64| match random(state, 8) {
                            0 => f64::INFINITY,
                            cost => cost as f64,
                        };
                        let table = (0..domains[a] * domains[b]).map(|_| entry(&mut state)).collect();
                        factors.push(Factor { scope: vec![a, b], table });
                    }
                }
            }
            let all: Vec<usize> = (0..count).collect();
            let mut best = f64::INFINITY;
            let mut bounds: Vec<Vec<f64>> = domains.iter().map(|size| vec![f64::INFINITY; *size]).collect();
            let sum = |values: &[usize]| -> f64 {
                factors.iter().map(|factor| factor.table[index(&factor.scope, &domains, values)]).sum()
            };
            for_each(&all, &domains, &mut vec![0; count], |_, values| {
                let total = sum(values);
                best = best.min(total);
                for (variable, value) in values.iter().enumerate() {
                    bounds[variable][*value] = bounds[variable][*value].min(total);
                }
            });
            let eliminated = Elimination::new(&domains, factors.clone()).expect("the tables are small");
            assert_eq!(eliminated.minimum(), best, "seed {seed}");
            if best.is_finite() {
                assert_eq!(sum(&eliminated.assignment()), best, "seed {seed}");
                assert_eq!(eliminated.lower_bounds(), bounds, "seed {seed}");
            }
        }
    }

    #[test]
    fn many_that_meet_one_are_no_trouble() {
        // A hub that 20,000 others meet, with and without a choice; and 300 without a choice that all meet each other.
        for hub in [1, 3] {
            let count = 20_001;
            let mut domains = vec![2; count];
            domains[0] = hub;
            let pair = |leaf: usize| Factor {
                scope: vec![0, leaf],
                table: (0..2 * hub).map(|entry| ((entry + leaf) % 5) as f64).collect(),
            };
            let found = Elimination::new(&domains, (1..count).map(pair).collect()).expect("a star is narrow");
            let best = |value: usize| -> f64 {
                let entry = |leaf: usize, other: usize| ((2 * value + other + leaf) % 5) as f64;
                (1..count).map(|leaf| entry(leaf, 0).min(entry(leaf, 1))).sum()
            };
            assert_eq!(found.minimum(), (0..hub).map(best).fold(f64::INFINITY, f64::min));
            assert_eq!(found.lower_bounds()[0], (0..hub).map(best).collect::<Vec<_>>());
        }
        let all = (0..300).flat_map(|a| (a + 1..300).map(move |b| Factor { scope: vec![a, b], table: vec![1.0] }));
        assert_eq!(
            Elimination::new(&[1; 300], all.clone().collect()).expect("no choice").minimum(),
            300.0 * 299.0 / 2.0
        );
        let wide = all.map(|factor| Factor { table: vec![1.0; 4], ..factor }).collect();
        assert!(Elimination::new(&[2; 300], wide).is_none());
    }
}
