//! The integer program: one 0-1 variable per (segment, device), one continuous variable per (boundary, from, to) that a
//! change of device forces to 1.
//!
//! Minimise the objective subject to: every segment on exactly one device; a device's segments are one run; transfers
//! only over links; weights and the largest arena within RAM and flash. With consecutive runs the product of two
//! neighbouring assignment variables is linearised as `t >= x[s][a] + x[s+1][b] - 1`.

use good_lp::{Expression, ProblemVariables, Solution, SolverModel, Variable, microlp, variable};

use super::problem::Problem;
use crate::partition::Objective;

/// Device of each segment, or `None` if nothing satisfies the constraints. With `every_device`
/// each must have something to multiply.
pub fn solve(problem: &Problem, objective: Objective, every_device: bool) -> Option<Vec<usize>> {
    let (segments, devices) = (problem.segment_count(), problem.device_count());
    let mut variables = ProblemVariables::new();
    let x: Vec<Vec<Variable>> =
        (0..segments).map(|_| (0..devices).map(|_| variables.add(variable().binary())).collect()).collect();
    // starts[s][d]: device d begins its run at segment s.
    let starts: Vec<Vec<Variable>> =
        (0..segments).map(|_| (0..devices).map(|_| variables.add(variable().min(0.0).max(1.0))).collect()).collect();
    let mut moves = Vec::new();
    for boundary in 1..segments {
        for from in 0..devices {
            for to in (0..devices).filter(|to| *to != from) {
                moves.push((boundary, from, to, variables.add(variable().min(0.0).max(1.0))));
            }
        }
    }
    let bound = variables.add(variable().min(0.0));
    // Scaled so that the solver sees numbers around 1.
    let scale = scale(problem, objective);
    let per_device = device_terms(problem, objective, &x, &moves, scale);
    let whole: Expression = match objective {
        // A small share of the total breaks ties towards less work everywhere.
        Objective::Throughput | Objective::Memory => Expression::from(bound),
        Objective::Latency | Objective::Traffic | Objective::Energy | Objective::Weighted(_) => {
            per_device.iter().cloned().fold(Expression::from(0.0), |sum, term| sum + term)
        }
    };
    let mut model = variables.minimise(whole).using(microlp);
    for row in &x {
        let all: Expression = row.iter().sum();
        model = model.with(all.eq(1.0));
    }
    for device in 0..devices {
        for segment in 0..segments {
            let before: Expression = if segment > 0 { x[segment - 1][device].into() } else { 0.0.into() };
            model = model.with((starts[segment][device] - x[segment][device] + before).geq(0.0));
        }
        let runs: Expression = starts.iter().map(|row| row[device]).sum();
        model = model.with(runs.leq(1.0));
        if every_device {
            let real = x.iter().zip(&problem.multiplies).filter(|(_, multiplies)| **multiplies);
            let mine: Expression = real.map(|(row, _)| row[device]).sum();
            model = model.with(mine.geq(1.0));
        }
        let unreachable = |boundary: usize, from: usize, to: usize| problem.transfer[boundary][from][to].is_none();
        if unreachable(0, problem.input, device) {
            model = model.with(Expression::from(x[0][device]).leq(0.0));
        }
        if unreachable(segments, device, problem.output) {
            model = model.with(Expression::from(x[segments - 1][device]).leq(0.0));
        }
        let weights: Expression = (0..segments).map(|s| problem.weights[s] as f64 * 1e-6 * x[s][device]).sum();
        model = model.with(weights.clone().leq(problem.flash[device] as f64 * 1e-6));
        for (row, arena_bytes) in x.iter().zip(&problem.arena) {
            let arena = *arena_bytes as f64 * 1e-6 * row[device];
            let used = if problem.weights_in_ram[device] { weights.clone() + arena } else { arena };
            model = model.with(used.clone().leq(problem.ram[device] as f64 * 1e-6));
            if objective == Objective::Memory {
                model = model.with((used * scale * 1e6 - bound).leq(0.0));
            }
        }
        if objective == Objective::Throughput {
            model = model.with((per_device[device].clone() - bound).leq(0.0));
        }
    }
    for (boundary, from, to, moved) in &moves {
        let both = Expression::from(x[boundary - 1][*from]) + x[*boundary][*to];
        model = if problem.transfer[*boundary][*from][*to].is_some() {
            model.with((both - *moved).leq(1.0))
        } else {
            model.with(both.leq(1.0))
        };
    }
    let solution = model.solve().ok()?;
    (0..segments).map(|segment| (0..devices).find(|device| solution.value(x[segment][*device]) > 0.5)).collect()
}

/// Brings the objective to the order of 1.
fn scale(problem: &Problem, objective: Objective) -> f64 {
    let largest = (0..problem.device_count())
        .map(|device| problem.objective(&vec![device; problem.segment_count()], objective))
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max);
    if largest > 0.0 { 1.0 / largest } else { 1.0 }
}

/// What each device contributes to the objective; a transfer is charged to both ends for throughput, once otherwise.
fn device_terms(
    problem: &Problem,
    objective: Objective,
    x: &[Vec<Variable>],
    moves: &[(usize, usize, usize, Variable)],
    scale: f64,
) -> Vec<Expression> {
    let segments = problem.segment_count();
    let transfer = |boundary: usize, from: usize, to: usize| match objective {
        Objective::Latency | Objective::Throughput => problem.transfer[boundary][from][to].unwrap_or(0.0),
        Objective::Traffic if from != to => problem.boundary_bytes[boundary] as f64,
        Objective::Energy if from != to => problem.transfer_joules[boundary][from][to],
        Objective::Weighted(weights) if from != to => weights.cost(
            problem.transfer[boundary][from][to].unwrap_or(0.0),
            problem.boundary_bytes[boundary] as f64,
            problem.transfer_joules[boundary][from][to],
        ),
        Objective::Traffic | Objective::Energy | Objective::Memory | Objective::Weighted(_) => 0.0,
    };
    let own = |segment: usize, device: usize| match objective {
        Objective::Latency | Objective::Throughput => problem.seconds[segment][device],
        Objective::Energy => problem.joules[segment][device],
        Objective::Weighted(weights) => {
            weights.cost(problem.seconds[segment][device], 0.0, problem.joules[segment][device])
        }
        Objective::Traffic | Objective::Memory => 0.0,
    };
    let both_ends = objective == Objective::Throughput;
    let mut terms: Vec<Expression> = (0..problem.device_count())
        .map(|device| (0..segments).map(|segment| own(segment, device) * scale * x[segment][device]).sum())
        .collect();
    let mut charge = |from: usize, to: usize, amount: f64, moved: Variable| {
        if from != to {
            terms[from] += amount * scale * moved;
            if both_ends {
                terms[to] += amount * scale * moved;
            }
        }
    };
    for (boundary, from, to, moved) in moves {
        charge(*from, *to, transfer(*boundary, *from, *to), *moved);
    }
    for (device, (first, last)) in x[0].iter().zip(&x[segments - 1]).enumerate() {
        charge(problem.input, device, transfer(0, problem.input, device), *first);
        charge(device, problem.output, transfer(segments, device, problem.output), *last);
    }
    terms
}
