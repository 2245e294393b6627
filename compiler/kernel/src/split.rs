//! Kernels for several threads: one loop, or several beside each other, shared out evenly, every thread its range.
//!
//! Which loop is a question of balance; that no element of an output is written by two threads is proven for every split
//! by walking through all stores (`verify` asks again). Loops are shared by what of the result they run over ([`Role`]). What threads leave each other in scratch buffers, between
//! barriers, `eval` watches in tests.

use std::collections::HashSet;

use super::visit::{each_access, each_within};
use super::{Access, Affine, Bound, BufferDeclaration, Expression, Kernel, LoopVar, Role, Statement, Variable, turns};

/// A kernel that does less than this many vector operations is over before a second thread has begun.
const LEAST_OPERATIONS: f64 = 12_000.0;

/// A loop is shared only if no thread does more than this many times its even part.
const MOST_UNEVEN: f64 = 1.5;

/// What an operation takes, and what a thread reads that another one has in its cache.
const CYCLES_PER_OPERATION: f64 = 0.5;
const BYTES_PER_CYCLE: f64 = 20.0;

/// Loops that are tried first: rows of an image stay with the thread that has written them, kernel after kernel.
const FIRST: [Role; 2] = [Role::Row, Role::Column];

/// How a kernel is shared among threads.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Split {
    /// Threads, at least 2.
    pub parts: usize,
    /// Loops of which each thread runs a range; their bounds are constants, none lies inside another.
    pub loops: Vec<LoopVar>,
    /// Has the number of the thread as its value everywhere, in kernels with barriers. Their scratch buffers are for all
    /// threads together; without, each thread has its own.
    pub part: Option<LoopVar>,
}

impl Split {
    /// How many of each scratch buffer there are.
    pub fn scratches(&self) -> usize {
        if self.part.is_some() { 1 } else { self.parts }
    }

    /// The range of iterations (counted from 0) that a part runs, of `count`.
    pub fn range(parts: usize, part: usize, count: usize) -> std::ops::Range<usize> {
        count * part / parts..count * (part + 1) / parts
    }
}

/// Shares a kernel among threads if that is worth it, and it is not shared yet; says in [`Kernel::split`] how.
pub fn split(kernel: &mut Kernel, parts: usize) {
    share(kernel, parts, LEAST_OPERATIONS);
}

/// The same for kernels that do at least so many operations.
pub(super) fn share(kernel: &mut Kernel, parts: usize, least: f64) {
    let all = operations(&kernel.body, None);
    if kernel.split.is_some() || parts < 2 || all < least {
        return;
    }
    let mut best: Option<(f64, Split)> = None;
    for role in candidates(kernel) {
        let mut loops = Vec::new();
        if !cut(kernel, &kernel.body, role, &mut loops) {
            continue;
        }
        // Nor may a thread need what another has in its variables.
        if leaks(kernel, &loops) {
            continue;
        }
        // What one loop leaves in a scratch buffer for another would be there in part only.
        if loops.len() > 1 && fills_scratch(kernel, &kernel.body, &loops) {
            continue;
        }
        let split = Split { parts, loops, part: None };
        let work = |part: usize| operations(&kernel.body, Some((&split, part)));
        let most = (0..parts).map(work).fold(0.0, f64::max);
        let cycles = most * CYCLES_PER_OPERATION + bytes_read(kernel, &split) / BYTES_PER_CYCLE;
        let better = best.as_ref().is_none_or(|(known, _)| cycles < known * 0.98);
        if most <= all / parts as f64 * MOST_UNEVEN && better && is_disjoint(kernel, &split) {
            best = Some((cycles, split));
        }
    }
    kernel.split = best.map(|(_, split)| split);
}

/// Roles of loops, outermost first.
fn candidates(kernel: &Kernel) -> Vec<Role> {
    fn collect(kernel: &Kernel, statements: &[Statement], found: &mut Vec<Role>) {
        for statement in statements {
            if let Statement::For { var, body, .. } = statement {
                let role = kernel.loops[var.0 as usize].role;
                found.extend(role.filter(|role| !found.contains(role)));
                collect(kernel, body, found);
            }
        }
    }
    let mut found = Vec::new();
    collect(kernel, &kernel.body, &mut found);
    let rank = |role: &Role| FIRST.iter().position(|first| first == role).unwrap_or(FIRST.len());
    found.sort_by_key(rank);
    found
}

/// Bytes of inputs and weights that one part reads: all of a buffer, unless the shared loops decide what is read of it.
fn bytes_read(kernel: &Kernel, split: &Split) -> f64 {
    let mut decided = vec![false; kernel.buffers.len()];
    each_access(&kernel.body, &mut |buffer, at, _| {
        decided[buffer.0 as usize] |= at.terms.iter().any(|(var, _)| split.loops.contains(var));
    });
    let share = |(buffer, decided): (&BufferDeclaration, &bool)| match buffer.access {
        Access::Input | Access::Weights => {
            buffer.elements as f64 * if *decided { 1.0 / split.parts as f64 } else { 1.0 }
        }
        Access::Scratch | Access::Output => 0.0,
    };
    4.0 * kernel.buffers.iter().zip(&decided).map(share).sum::<f64>()
}

/// Collects the outermost loops of a role; whether every store lies in one of them.
fn cut(kernel: &Kernel, statements: &[Statement], role: Role, loops: &mut Vec<LoopVar>) -> bool {
    statements.iter().all(|statement| match statement {
        Statement::For { var, low: Bound::Constant(_), high: Bound::Constant(_), body, .. }
            if kernel.loops[var.0 as usize].role == Some(role) =>
        {
            let new = !loops.contains(var);
            loops.push(*var);
            new && !uses(body, *var)
        }
        Statement::For { body, .. } => cut(kernel, body, role, loops),
        // Every thread has its own scratch buffers, and fills them for itself.
        Statement::Store(buffer, ..) | Statement::StorePartial(buffer, ..) => {
            kernel.buffers[buffer.0 as usize].access == Access::Scratch
        }
        Statement::Assign(..) | Statement::Prefetch(..) | Statement::Barrier | Statement::Comment(_) => true,
    })
}

/// Whether something is written to a scratch buffer in one of the loops.
fn fills_scratch(kernel: &Kernel, statements: &[Statement], loops: &[LoopVar]) -> bool {
    statements.iter().any(|statement| match statement {
        Statement::For { var, body, .. } if loops.contains(var) => {
            let mut fills = false;
            each_access(body, &mut |buffer, _, writes| {
                fills |= writes && kernel.buffers[buffer.0 as usize].access == Access::Scratch;
            });
            fills
        }
        Statement::For { body, .. } => fills_scratch(kernel, body, loops),
        _ => false,
    })
}

/// Whether variables that are assigned in the loops are read outside of them: sums over all iterations, for example.
fn leaks(kernel: &Kernel, loops: &[LoopVar]) -> bool {
    fn walk(
        statements: &[Statement],
        loops: &[LoopVar],
        within: bool,
        found: &mut (HashSet<Variable>, HashSet<Variable>),
    ) {
        for statement in statements {
            match statement {
                Statement::For { var, body, .. } => walk(body, loops, within || loops.contains(var), found),
                Statement::Assign(variable, value) => {
                    if within {
                        found.0.insert(*variable);
                    } else {
                        read(value, &mut found.1);
                    }
                }
                Statement::Store(.., value) | Statement::StorePartial(.., value) if !within => {
                    read(value, &mut found.1)
                }
                Statement::Store(..)
                | Statement::StorePartial(..)
                | Statement::Prefetch(..)
                | Statement::Barrier
                | Statement::Comment(_) => {}
            }
        }
    }
    fn read(value: &Expression, found: &mut HashSet<Variable>) {
        each_within(value, &mut |part| {
            if let Expression::Variable(variable) | Expression::Lane(variable, _) = part {
                found.insert(*variable);
            }
        });
    }
    let mut found = (HashSet::new(), HashSet::new());
    walk(&kernel.body, loops, false, &mut found);
    !found.0.is_disjoint(&found.1)
}

/// Whether a loop over the variable is among statements.
fn uses(statements: &[Statement], var: LoopVar) -> bool {
    statements.iter().any(|statement| match statement {
        Statement::For { var: other, body, .. } => *other == var || uses(body, var),
        _ => false,
    })
}

/// Vector operations and stores, roughly (clipped ranges count as whole ones): of the whole kernel, or of one part.
fn operations(statements: &[Statement], part: Option<(&Split, usize)>) -> f64 {
    let literal = |bound: &Bound| match bound {
        Bound::Constant(value) | Bound::Max(value, ..) | Bound::Min(value, ..) => *value,
    };
    let count = |statement: &Statement| match statement {
        Statement::For { var, low, high, step, body, .. } => {
            let all = turns(literal(low), literal(high), *step);
            let own = part.filter(|(split, _)| split.loops.contains(var));
            let times = own.map_or(all, |(split, part)| Split::range(split.parts, part, all).len());
            times as f64 * operations(body, part)
        }
        Statement::Assign(_, value) => weight(value),
        Statement::Store(.., value) | Statement::StorePartial(.., value) => 1.0 + weight(value),
        Statement::Prefetch(..) => 1.0,
        Statement::Barrier | Statement::Comment(_) => 0.0,
    };
    statements.iter().map(count).sum()
}

fn weight(value: &Expression) -> f64 {
    match value {
        Expression::Variable(_) | Expression::Constant(_) | Expression::Whole(_) | Expression::Lane(..) => 0.0,
        Expression::Load(..)
        | Expression::LoadPartial(..)
        | Expression::LoadBytes(..)
        | Expression::BroadcastBytes(..)
        | Expression::Broadcast(..) => 1.0,
        Expression::LoadStrided(..) => 8.0,
        Expression::MulAdd(a, b, c) | Expression::DotBytes(_, a, b, c) | Expression::AddProducts(_, a, b, c) => {
            1.0 + weight(a) + weight(b) + weight(c)
        }
        Expression::Binary(_, a, b) | Expression::Join(_, a, b) => 1.0 + weight(a) + weight(b),
        Expression::Unary(_, a) => 1.0 + weight(a),
        Expression::SumLanes(a) | Expression::MaxLanes(a) => 8.0 + weight(a),
    }
}

/// Whether no two parts write the same element of an output.
pub(super) fn is_disjoint(kernel: &Kernel, split: &Split) -> bool {
    let elements = |buffer: &BufferDeclaration| if buffer.access == Access::Output { buffer.elements } else { 0 };
    let mut walk = Walk {
        kernel,
        split,
        part: 0,
        loops: vec![0; kernel.loops.len()],
        owners: kernel.buffers.iter().map(|buffer| vec![u8::MAX; elements(buffer)]).collect(),
        disjoint: true,
    };
    for part in 0..split.parts {
        walk.part = part;
        if let Some(var) = split.part {
            walk.loops[var.0 as usize] = part as i64;
        }
        walk.block(&kernel.body);
    }
    walk.disjoint && split.parts < usize::from(u8::MAX)
}

/// All stores to outputs, one after the other.
struct Walk<'a> {
    kernel: &'a Kernel,
    split: &'a Split,
    part: usize,
    loops: Vec<i64>,
    /// Per buffer and element the part that writes it.
    owners: Vec<Vec<u8>>,
    disjoint: bool,
}

impl Walk<'_> {
    fn block(&mut self, statements: &[Statement]) {
        for statement in statements {
            match statement {
                Statement::For { var, low, high, step, body, .. } if self.stores(body) => {
                    let (low, high) = (low.value(&self.loops), high.value(&self.loops));
                    let count = turns(low, high, *step);
                    let range = match self.split.loops.contains(var) {
                        true => Split::range(self.split.parts, self.part, count),
                        false => 0..count,
                    };
                    for at in range {
                        self.loops[var.0 as usize] = low + at as i64 * step;
                        self.block(body);
                    }
                }
                Statement::Store(buffer, at, _) => self.store(buffer.0 as usize, at, self.kernel.lanes as usize),
                Statement::StorePartial(buffer, at, count, _) => self.store(buffer.0 as usize, at, *count as usize),
                Statement::For { .. }
                | Statement::Assign(..)
                | Statement::Prefetch(..)
                | Statement::Barrier
                | Statement::Comment(_) => {}
            }
        }
    }

    fn stores(&self, statements: &[Statement]) -> bool {
        statements.iter().any(|statement| match statement {
            Statement::For { body, .. } => self.stores(body),
            Statement::Store(buffer, ..) | Statement::StorePartial(buffer, ..) => {
                self.kernel.buffers[buffer.0 as usize].access == Access::Output
            }
            Statement::Assign(..) | Statement::Prefetch(..) | Statement::Barrier | Statement::Comment(_) => false,
        })
    }

    fn store(&mut self, buffer: usize, at: &Affine, count: usize) {
        let first = usize::try_from(at.value(&self.loops)).unwrap_or(usize::MAX);
        let part = self.part as u8;
        for owner in self.owners[buffer].iter_mut().skip(first).take(count) {
            self.disjoint &= *owner == u8::MAX || *owner == part;
            *owner = part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_once() {
        for parts in 1..9 {
            for count in 0..40 {
                let all: Vec<usize> = (0..parts).flat_map(|part| Split::range(parts, part, count)).collect();
                assert_eq!(all, (0..count).collect::<Vec<usize>>());
            }
        }
    }
}
