//! Exact minimum of a sum of tables over discrete variables, by eliminating one variable after the other.
//!
//! Networks of layers are narrow: eliminating a node joins its few neighbours. The cost is exponential only in that
//! width (chains 1, residual and inception blocks 2). Besides the optimum, [`Elimination::lower_bounds`] gives for
//! every value of every variable the least total with that value: what exceeds a known solution can be left out.

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

/// A network with its variables eliminated.
pub struct Elimination {
    domains: Vec<usize>,
    buckets: Vec<Bucket>,
    /// Sum of what mentions no variable any more.
    total: f64,
}

/// Largest table.
const MAX_TABLE: usize = 8 << 20;

impl Elimination {
    /// Eliminates all variables, those with few neighbours first; `None` if a table would be too large, or a variable has no
    /// value.
    pub fn new(domains: &[usize], factors: Vec<Factor>) -> Option<Elimination> {
        if domains.contains(&0) {
            return None;
        }
        let mut factors: Vec<Option<Factor>> = factors.into_iter().map(Some).collect();
        // Which factors mention each variable.
        let mut mentions: Vec<Vec<usize>> = vec![Vec::new(); domains.len()];
        for (at, factor) in factors.iter().enumerate() {
            factor.iter().flat_map(|factor| &factor.scope).for_each(|variable| mentions[*variable].push(at));
        }
        let size = |factors: &[Option<Factor>], mentions: &[Vec<usize>], variable: usize| -> f64 {
            scope_without(factors, &mentions[variable], variable).iter().map(|v| domains[*v] as f64).product()
        };
        let mut sizes: Vec<f64> = (0..domains.len()).map(|variable| size(&factors, &mentions, variable)).collect();
        let mut left: Vec<usize> = (0..domains.len()).collect();
        let mut buckets = Vec::with_capacity(domains.len());
        while !left.is_empty() {
            let (position, _) =
                left.iter().map(|variable| sizes[*variable]).enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?;
            let variable = left.swap_remove(position);
            let scope = scope_without(&factors, &mentions[variable], variable);
            let entries = scope.iter().try_fold(domains[variable], |product, v| product.checked_mul(domains[*v]))?;
            if entries > MAX_TABLE {
                return None;
            }
            let mine: Vec<Factor> = mentions[variable].iter().filter_map(|at| factors[*at].take()).collect();
            let mut order = scope.clone();
            order.push(variable);
            let joined = join(&order, domains, &mine, entries);
            let message: Vec<f64> =
                joined.chunks(domains[variable]).map(|row| row.iter().copied().fold(f64::INFINITY, f64::min)).collect();
            factors.push(Some(Factor { scope: scope.clone(), table: message.clone() }));
            for neighbour in &scope {
                mentions[*neighbour].retain(|at| factors[*at].is_some());
                mentions[*neighbour].push(factors.len() - 1);
            }
            for neighbour in &scope {
                sizes[*neighbour] = size(&factors, &mentions, *neighbour);
            }
            buckets.push(Bucket { variable, scope, joined, message });
        }
        let total = factors.iter().flatten().map(|factor| factor.table.iter().sum::<f64>()).sum();
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
        for (position, bucket) in self.buckets.iter().enumerate().rev() {
            let parent = self.buckets[position + 1..]
                .iter()
                .position(|other| bucket.scope.contains(&other.variable))
                .map(|offset| position + 1 + offset);
            outside[position] = match parent {
                // Nothing above: the other parts of the network, at their best.
                None => vec![self.total - bucket.message.iter().sum::<f64>(); bucket.message.len()],
                Some(parent) => {
                    let above = &self.buckets[parent];
                    let mut order = above.scope.clone();
                    order.push(above.variable);
                    let mut least = vec![f64::INFINITY; bucket.message.len()];
                    let size = self.domains[above.variable];
                    for_each(&order, &self.domains, |entry, values| {
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

/// Variables that share a factor with one.
fn scope_without(factors: &[Option<Factor>], mentions: &[usize], variable: usize) -> Vec<usize> {
    let mentioning = mentions.iter().filter_map(|at| factors[*at].as_ref());
    let mut scope: Vec<usize> = mentioning.flat_map(|factor| factor.scope.iter().copied()).collect();
    scope.retain(|other| *other != variable);
    scope.sort_unstable();
    scope.dedup();
    scope
}

/// Entry of a table over `scope` for these values.
fn index(scope: &[usize], domains: &[usize], values: &[usize]) -> usize {
    scope.iter().fold(0, |index, variable| index * domains[*variable] + values[*variable])
}

/// Calls for every combination of values of `order`, the last varying fastest.
fn for_each(order: &[usize], domains: &[usize], mut visit: impl FnMut(usize, &[usize])) {
    let entries: usize = order.iter().map(|variable| domains[*variable]).product();
    let mut values = vec![0; domains.len()];
    for entry in 0..entries {
        visit(entry, &values);
        for variable in order.iter().rev() {
            values[*variable] += 1;
            if values[*variable] < domains[*variable] {
                break;
            }
            values[*variable] = 0;
        }
    }
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
            for_each(&all, &domains, |_, values| {
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
}
