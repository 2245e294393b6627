//! The sharding ILP: one 0-1 variable per (node, candidate), one continuous variable per (edge, pair of candidates).
//!
//! Minimise the prices of candidates and of travel, subject to: one candidate per node; the pairs of an edge agree with
//! the candidates at both ends (`sum_b y[a][b] = x[a]`, `sum_a y[a][b] >= x'[b]`: the local polytope, tight on trees);
//! weights and the activations of every node within each device's RAM and flash.

use good_lp::{
    Expression, ProblemVariables, Solution, SolverModel, Variable, WithInitialSolution, WithTimeLimit, variable,
};

#[cfg(feature = "highs")]
use good_lp::solvers::highs::highs as solver;
#[cfg(not(feature = "highs"))]
use good_lp::solvers::microlp::microlp as solver;

use super::network::Network;

/// What the solver found.
pub struct Solved {
    /// Candidate of each node.
    pub assignment: Vec<usize>,
    /// Whether it proved that none is better.
    pub proven: bool,
}

/// Largest number of variables that is tried: microlp is quick with some thousand, HiGHS with many more.
const MAX_VARIABLES: usize = if cfg!(feature = "highs") { 20_000 } else { 1_200 };

/// Work per pair of variables, in table entries.
const ENTRIES_PER_PAIR: usize = 60;

/// When the solver gives up. Problems of the size above seldom come near.
const MAX_SECONDS: f64 = 10.0;

/// Variables of the problem restricted to the candidates `kept[node]`.
fn variables(network: &Network<'_>, kept: &[Vec<usize>]) -> usize {
    let size = |node: Option<usize>| node.map_or(1, |node| kept[node].len());
    let pairs: usize =
        network.edges.iter().map(|edge| size(edge.producer) * size(edge.consumer.map(|(node, _)| node))).sum();
    pairs + kept.iter().map(Vec::len).sum::<usize>()
}

/// What [`solve`] costs in table entries of the elimination, roughly; 0 if it would refuse.
pub fn work(network: &Network<'_>, kept: &[Vec<usize>]) -> u64 {
    let variables = variables(network, kept);
    if variables > MAX_VARIABLES { 0 } else { (variables * variables * ENTRIES_PER_PAIR) as u64 }
}

/// Solves the problem restricted to the candidates `kept[node]`. `None` if it is too large, infeasible, or out of time
/// without an answer.
///
/// `node_prices` and `travel_prices` are those of the objective; `start` is a known solution, for a warm start.
#[expect(clippy::too_many_lines, reason = "variables, then rows, then the objective: one program")]
pub fn solve(
    network: &Network<'_>,
    kept: &[Vec<usize>],
    node_prices: &[Vec<f64>],
    travel_prices: &[f64],
    start: Option<&[usize]>,
) -> Option<Solved> {
    if variables(network, kept) > MAX_VARIABLES {
        return None;
    }
    let scale = 1.0 / node_prices.iter().flatten().copied().filter(|price| price.is_finite()).fold(1e-12, f64::max);
    let mut variables = ProblemVariables::new();
    let x: Vec<Vec<Variable>> =
        kept.iter().map(|node| node.iter().map(|_| variables.add(variable().binary())).collect()).collect();
    let mut total = Expression::from(0.0);
    for (node, (choices, row)) in kept.iter().zip(&x).enumerate() {
        for (choice, x) in choices.iter().zip(row) {
            total += node_prices[node][*choice] * scale * *x;
        }
    }
    // Rows agree with the producer exactly; that columns cover the consumer then suffices, and keeps the equations
    // independent of each other.
    let mut equalities: Vec<Expression> = Vec::new();
    let mut covers: Vec<Expression> = Vec::new();
    let mut initial: Vec<(Variable, f64)> = Vec::new();
    for edge in &network.edges {
        let rows = edge.producer.map_or(vec![0], |node| kept[node].clone());
        let columns = edge.consumer.map_or(vec![0], |(node, _)| kept[node].clone());
        let mut by_column: Vec<Expression> = columns.iter().map(|_| Expression::from(0.0)).collect();
        for (row_at, row) in rows.iter().enumerate() {
            let mut by_row = Expression::from(0.0);
            for (column_at, column) in columns.iter().enumerate() {
                let Some(price) = travel_prices.get(edge.table[row * edge.columns + column] as usize) else { continue };
                let y = variables.add(variable().min(0.0).max(1.0));
                total += *price * edge.reach * scale * y;
                by_row += y;
                by_column[column_at] += y;
                if let Some(start) = start {
                    let chosen = edge.producer.is_none_or(|node| start[node] == *row)
                        && edge.consumer.is_none_or(|(node, _)| start[node] == *column);
                    initial.push((y, f64::from(u8::from(chosen))));
                }
            }
            let chosen = edge.producer.map_or(Expression::from(1.0), |node| x[node][row_at].into());
            equalities.push(by_row - chosen);
        }
        for (column_at, by_column) in by_column.into_iter().enumerate() {
            let chosen = edge.consumer.map_or(Expression::from(1.0), |(node, _)| x[node][column_at].into());
            covers.push(by_column - chosen);
        }
    }
    if let Some(start) = start {
        for (node, (choices, row)) in kept.iter().zip(&x).enumerate() {
            initial
                .extend(choices.iter().zip(row).map(|(choice, x)| (*x, f64::from(u8::from(start[node] == *choice)))));
        }
    }
    let mut model = variables.minimise(total).using(solver).with_time_limit(MAX_SECONDS);
    for row in &x {
        model = model.with(row.iter().sum::<Expression>().eq(1.0));
    }
    for equality in equalities {
        model = model.with(equality.eq(0.0));
    }
    for cover in covers {
        model = model.with(cover.geq(0.0));
    }
    for device in 0..network.ram.len() {
        let mut weights = Expression::from(0.0);
        let mut activations: Vec<Expression> = Vec::new();
        for (node, (choices, row)) in kept.iter().zip(&x).enumerate() {
            let mut activation = Expression::from(0.0);
            for (choice, x) in choices.iter().zip(row) {
                let candidate = &network.candidates[node][*choice];
                weights += candidate.weights_bytes[device] as f64 * 1e-6 * *x;
                activation += candidate.activation_bytes[device] as f64 * 1e-6 * *x;
            }
            activations.push(activation);
        }
        model = model.with(weights.clone().leq(network.flash[device] as f64 * 1e-6));
        let held = if network.weights_in_ram(device) { weights } else { Expression::from(0.0) };
        for activation in activations {
            model = model.with((held.clone() + activation).leq(network.ram[device] as f64 * 1e-6));
        }
    }
    if !initial.is_empty() {
        model = model.with_initial_solution(initial);
    }
    let solution = model.solve().ok()?;
    let assignment = kept
        .iter()
        .zip(&x)
        .map(|(choices, row)| {
            choices.iter().zip(row).find(|(_, x)| solution.value(**x) > 0.5).map(|(choice, _)| *choice)
        })
        .collect::<Option<Vec<usize>>>()?;
    let proven = matches!(solution.status(), good_lp::SolutionStatus::Optimal);
    Some(Solved { assignment, proven })
}
