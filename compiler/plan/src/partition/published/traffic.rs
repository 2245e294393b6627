//! Least traffic by output splitting (LOP), input splitting (LIP) and their fusion in pairs: the communication ILP of
//! DeeperThings (its `decide_fusing.py`), and a dynamic program with the same optimum.
//!
//! Per layer with M input and K output elements on N devices, one of them the hub that holds whole tensors between
//! layers:
//!
//! - LOP: everybody gets the input, M(N-1), and returns its part, K(N-1)/N. If LOP or a fused pair follows, devices keep
//!   their part and the hub sends only what is missing: K(N-1) in all, and the next input costs nothing.
//! - LIP: parts of the input, M(N-1)/N, and partial sums of the whole output, K(N-1).
//! - Fused pair: M(N-1) before the first, K(N-1) after the second, nothing in between.

use good_lp::solvers::microlp::microlp;
use good_lp::{Expression, ProblemVariables, Solution, SolverModel, Variable, variable};

use super::chain::{Layer, LayerKind};

/// How a layer is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerSplit {
    /// By output channels.
    Output,
    /// By input channels.
    Input,
    /// First of a fused pair.
    First,
    /// Second of a fused pair.
    Second,
    /// Not split: the hub has the whole tensor.
    Gathered,
}

/// Elements that travel for these splits; `None` if pairs are torn or a layer that cannot be split is.
pub fn elements(layers: &[Layer], splits: &[LayerSplit], devices: u64) -> Option<f64> {
    let (n, others) = (devices as f64, devices as f64 - 1.0);
    let mut total = 0.0;
    let mut input_is_there = false;
    for (index, (layer, split)) in layers.iter().zip(splits).enumerate() {
        let next = splits.get(index + 1);
        let previous = index.checked_sub(1).map(|index| splits[index]);
        let (input, output) = (layer.input as f64, layer.output as f64);
        if (layer.kind == LayerKind::Other) != (*split == LayerSplit::Gathered)
            || (*split == LayerSplit::Second) != (previous == Some(LayerSplit::First))
            || (*split == LayerSplit::First && next.is_none())
        {
            return None;
        }
        let kept = *split == LayerSplit::Output && matches!(next, Some(LayerSplit::Output | LayerSplit::First));
        total += match split {
            LayerSplit::Output | LayerSplit::First if input_is_there => 0.0,
            LayerSplit::Output | LayerSplit::First => input * others,
            LayerSplit::Input => input * others / n,
            LayerSplit::Second | LayerSplit::Gathered => 0.0,
        };
        total += match split {
            LayerSplit::Output if kept => output * others,
            LayerSplit::Output => output * others / n,
            LayerSplit::Input | LayerSplit::Second => output * others,
            LayerSplit::First | LayerSplit::Gathered => 0.0,
        };
        input_is_there = kept;
    }
    Some(total)
}

/// The traffic of output splitting throughout.
pub fn output_splitting(layers: &[Layer], devices: u64) -> f64 {
    uniform(layers, devices, LayerSplit::Output)
}

/// The traffic of input splitting throughout.
pub fn input_splitting(layers: &[Layer], devices: u64) -> f64 {
    uniform(layers, devices, LayerSplit::Input)
}

fn uniform(layers: &[Layer], devices: u64, split: LayerSplit) -> f64 {
    let of = |layer: &Layer| if layer.kind == LayerKind::Convolution { split } else { LayerSplit::Gathered };
    elements(layers, &layers.iter().map(of).collect::<Vec<_>>(), devices).unwrap_or(f64::INFINITY)
}

/// The integer program: 0-1 variables o, i, f, s (output, input, first, second) per layer and r for kept outputs, with
/// the products linearised. Gives the splits, or `None` if the solver fails.
pub fn least_by_ilp(layers: &[Layer], devices: u64) -> Option<Vec<LayerSplit>> {
    let (n, others) = (devices as f64, devices as f64 - 1.0);
    let mut variables = ProblemVariables::new();
    let mut column = || -> Vec<Variable> { layers.iter().map(|_| variables.add(variable().binary())).collect() };
    let (o, i, f, s) = (column(), column(), column(), column());
    // r[l] = o[l] (o[l+1] + f[l+1]); kept_o[l] = o[l] r[l-1]; kept_f[l] = f[l] r[l-1].
    let (r, kept_o, kept_f) = (column(), column(), column());
    let scale = layers.iter().map(|layer| layer.input.max(layer.output) as f64).fold(1.0, f64::max);
    let mut total = Expression::from(0.0);
    for (l, layer) in layers.iter().enumerate() {
        let (input, output) = (layer.input as f64 / scale, layer.output as f64 / scale);
        total += (input * others + output * others / n) * o[l];
        total += (output * others - output * others / n) * r[l];
        total += -input * others * kept_o[l] - input * others * kept_f[l];
        total += (input * others / n + output * others) * i[l];
        total += input * others * f[l] + output * others * s[l];
    }
    let mut model = variables.minimise(total).using(microlp);
    let last = layers.len().checked_sub(1)?;
    for (l, layer) in layers.iter().enumerate() {
        let all = Expression::from(o[l]) + i[l] + f[l] + s[l];
        model = model.with(all.eq(if layer.kind == LayerKind::Convolution { 1.0 } else { 0.0 }));
        let first_before: Expression = if l > 0 { f[l - 1].into() } else { 0.0.into() };
        model = model.with((Expression::from(s[l]) - first_before).eq(0.0));
        let follows: Expression = if l < last { Expression::from(o[l + 1]) + f[l + 1] } else { 0.0.into() };
        model = model.with((Expression::from(r[l]) - o[l]).leq(0.0));
        model = model.with((Expression::from(r[l]) - follows.clone()).leq(0.0));
        model = model.with((Expression::from(o[l]) + follows - r[l]).leq(1.0));
        let before: Expression = if l > 0 { r[l - 1].into() } else { 0.0.into() };
        for (product, factor) in [(kept_o[l], o[l]), (kept_f[l], f[l])] {
            model = model.with((Expression::from(product) - factor).leq(0.0));
            model = model.with((Expression::from(product) - before.clone()).leq(0.0));
        }
    }
    model = model.with(Expression::from(f[last]).eq(0.0));
    let solution = model.solve().ok()?;
    let chosen = |variable: Variable| solution.value(variable) > 0.5;
    let split = |l: usize| match (chosen(o[l]), chosen(i[l]), chosen(f[l]), chosen(s[l])) {
        (true, ..) => LayerSplit::Output,
        (_, true, ..) => LayerSplit::Input,
        (_, _, true, _) => LayerSplit::First,
        (_, _, _, true) => LayerSplit::Second,
        _ => LayerSplit::Gathered,
    };
    Some((0..layers.len()).map(split).collect())
}

/// The least traffic by dynamic programming over the chain with three states: the hub has the whole tensor, everybody
/// has it, or a pair is open.
pub fn least_by_dynamic_program(layers: &[Layer], devices: u64) -> f64 {
    let (n, others) = (devices as f64, devices as f64 - 1.0);
    let [mut hub, mut everybody, mut open] = [0.0, f64::INFINITY, f64::INFINITY];
    for layer in layers {
        let (input, output) = (layer.input as f64, layer.output as f64);
        if layer.kind == LayerKind::Other {
            // What everybody was sent is of no use: it was kept for a split that does not come.
            (everybody, open) = (f64::INFINITY, f64::INFINITY);
            continue;
        }
        let sent = f64::min(hub + input * others, everybody);
        let to_hub = (sent + output * others / n).min(hub + input * others / n + output * others);
        [hub, everybody, open] = [to_hub.min(open + output * others), sent + output * others, sent];
    }
    hub
}
