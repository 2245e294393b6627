//! Pooling and global pooling on channel blocks.

use super::build::{Builder, binary, plus, repeat};
use super::window::{Columns, Window3};
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::graph::TensorType;
use crate::graph::op::{Pool, PoolKind};
use crate::kernel::{Access, Affine, Arithmetic, Expression, Statement};
use crate::program::Layout;

pub(super) fn layouts(machine: &Machine) -> Vec<LayoutChoice> {
    let blocked = Layout::Blocked(machine.instruction_set.lanes());
    vec![LayoutChoice { inputs: vec![blocked], output: blocked }]
}

/// Reciprocals of the numbers of elements that each window averages, one per output position; a single one if all are
/// equal.
fn reciprocals(pool: &Pool, window: &Window3) -> Vec<f32> {
    use crate::graph::eval::spatial::three;
    let declared_end = three(&pool.declared_pad_end, 0);
    let count = |axis: usize, at: usize| {
        let taps = (0..window.kernel[axis]).map(|tap| at * window.stride[axis] + tap * window.dilation[axis]);
        taps.filter(|padded| {
            if pool.count_include_pad {
                *padded < window.input[axis] + window.pad[axis] + declared_end[axis]
            } else {
                (window.pad[axis]..window.pad[axis] + window.input[axis]).contains(padded)
            }
        })
        .count()
    };
    let [out_d, out_h, out_w] = window.output;
    let all: Vec<f32> = (0..out_d * out_h * out_w)
        .map(|index| {
            let counts = count(0, index / (out_h * out_w)) * count(1, index / out_w % out_h) * count(2, index % out_w);
            1.0 / counts.max(1) as f32
        })
        .collect();
    if all.iter().all(|value| *value == all[0]) { vec![all[0]] } else { all }
}

pub(super) fn lower(
    pool: &Pool,
    inputs: &[Operand<'_>],
    output: &TensorType,
    machine: &Machine,
) -> Option<LoweredNode> {
    let x = inputs[0].tensor_type;
    let lanes = machine.instruction_set.lanes() as usize;
    let window = Window3::new(&pool.window, &x.shape, &output.shape);
    let blocks = x.shape[0] * x.shape[1].div_ceil(lanes);
    let average = pool.kind == PoolKind::Average;
    let reciprocals = if average { reciprocals(pool, &window) } else { Vec::new() };
    let mut builder = Builder::new(lanes as u32);
    let x_buffer = builder.buffer("x", Access::Input, blocks * window.input_plane() * lanes);
    let table = (reciprocals.len() > 1).then(|| builder.buffer("reciprocals", Access::Weights, reciprocals.len()));
    let y_buffer = builder.buffer("y", Access::Output, blocks * window.output_plane() * lanes);
    let block = builder.loop_var("block");
    let (depth, row) = (builder.loop_var("depth"), builder.loop_var("row"));
    let [_, in_h, in_w] = window.input;
    let [_, out_h, out_w] = window.output;
    let width = (machine.registers as usize - 2).min(8);
    let mut columns = Vec::new();
    for part in window.column_tiles(width) {
        let Columns { first, count, repeat: times, interior } = part;
        let column = builder.loop_var("column");
        let taps = [builder.loop_var("tap_depth"), builder.loop_var("tap_row")];
        let mut input = Affine::term(block, (window.input_plane() * lanes) as i64);
        for (axis, at, tap, inner) in [(0, depth, taps[0], in_h * in_w * lanes), (1, row, taps[1], in_w * lanes)] {
            input = plus(&input, at, window.stride[axis] * inner);
            input = plus(&input, tap, window.dilation[axis] * inner);
            input = input.plus(-((window.pad[axis] * inner) as i64));
        }
        input = plus(&input, column, window.stride[2] * lanes);
        let mut statements = Vec::new();
        let mut body = Vec::new();
        for pixel in 0..count {
            let sum = builder.variable(&format!("acc_{pixel}"));
            let start = if average { 0.0 } else { f32::NEG_INFINITY };
            statements.push(Statement::Assign(sum, Expression::Constant(start)));
            for tap in (0..window.kernel[2]).filter(|tap| interior || window.column_is_inside(first + pixel, *tap)) {
                let offset =
                    ((first + pixel) * window.stride[2] + tap * window.dilation[2]) as i64 - window.pad[2] as i64;
                let loaded = Expression::Load(x_buffer, input.clone().plus(offset * lanes as i64));
                let value = if average {
                    binary(Arithmetic::Add, Expression::Variable(sum), loaded)
                } else {
                    // The second operand survives if either is NaN, as in the reference kernel.
                    binary(Arithmetic::Max, Expression::Variable(sum), loaded)
                };
                body.push(Statement::Assign(sum, value));
            }
        }
        let (low, high) = window.tap_range(1, row);
        let rows = Statement::For { var: taps[1], low, high, step: 1, unroll: false, body };
        let (low, high) = window.tap_range(0, depth);
        statements.push(Statement::For { var: taps[0], low, high, step: 1, unroll: false, body: vec![rows] });
        let position = plus(&plus(&Affine::term(depth, (out_h * out_w) as i64), row, out_w), column, 1);
        for pixel in 0..count {
            let sum = builder.variable(&format!("acc_{pixel}"));
            let position = position.clone().plus((first + pixel) as i64);
            let mut at =
                Affine::term(block, (window.output_plane() * lanes) as i64).plus(position.constant * lanes as i64);
            for (var, coefficient) in &position.terms {
                at = at.plus_term(*var, coefficient * lanes as i64);
            }
            let value = match (average, table) {
                (false, _) => Expression::Variable(sum),
                (true, Some(table)) => {
                    binary(Arithmetic::Mul, Expression::Variable(sum), Expression::Broadcast(table, position))
                }
                (true, None) => {
                    binary(Arithmetic::Mul, Expression::Variable(sum), Expression::Constant(reciprocals[0]))
                }
            };
            statements.push(Statement::Store(y_buffer, at, value));
        }
        columns.push(repeat(column, count * times, count, statements));
    }
    let rows = repeat(row, out_h, 1, columns);
    let body = vec![repeat(block, blocks, 1, vec![repeat(depth, window.output[0], 1, vec![rows])])];
    let kind = if average { "average" } else { "max" };
    let name = format!(
        "{kind}_pool_{}x{}_s{}_{}x{}x{}",
        window.kernel[1], window.kernel[2], window.stride[2], x.shape[1], in_h, in_w
    );
    let summary = format!("{kind} pooling {:?} of {} channels over {:?}", window.kernel, x.shape[1], window.output);
    let kernel = builder.finish(name, summary, body, 0);
    let mut bindings = vec![Binding::Input(0)];
    bindings.extend(table.map(|_| Binding::Weights { from: 0, elements: reciprocals.clone() }));
    bindings.push(Binding::Output);
    Some(LoweredNode { kernel, bindings, order: None })
}

/// Reduces all spatial elements of each channel.
pub(super) fn lower_global(kind: PoolKind, inputs: &[Operand<'_>], machine: &Machine) -> Option<LoweredNode> {
    let x = inputs[0].tensor_type;
    let lanes = machine.instruction_set.lanes() as usize;
    let blocks = x.shape[0] * x.shape[1].div_ceil(lanes);
    let plane: usize = x.shape[2..].iter().product();
    let mut builder = Builder::new(lanes as u32);
    let x_buffer = builder.buffer("x", Access::Input, blocks * plane * lanes);
    let y_buffer = builder.buffer("y", Access::Output, blocks * lanes);
    let block = builder.loop_var("block");
    // Independent sums hide the latency of an addition.
    let chains = plane.min(4);
    let (start, join) = match kind {
        PoolKind::Average => (0.0, Arithmetic::Add),
        PoolKind::Max => (f32::NEG_INFINITY, Arithmetic::Max),
    };
    let mut statements = Vec::new();
    let mut body = Vec::new();
    let position = builder.loop_var("position");
    for chain in 0..chains {
        let sum = builder.variable(&format!("acc_{chain}"));
        statements.push(Statement::Assign(sum, Expression::Constant(start)));
        let at = plus(&Affine::term(block, (plane * lanes) as i64), position, lanes).plus((chain * lanes) as i64);
        body.push(Statement::Assign(sum, binary(join, Expression::Variable(sum), Expression::Load(x_buffer, at))));
    }
    statements.push(repeat(position, plane / chains * chains, chains, body));
    let total = builder.variable("acc_0");
    for rest in plane / chains * chains..plane {
        let at = Affine::term(block, (plane * lanes) as i64).plus((rest * lanes) as i64);
        let value = binary(join, Expression::Variable(total), Expression::Load(x_buffer, at));
        statements.push(Statement::Assign(total, value));
    }
    for chain in 1..chains {
        let other = builder.variable(&format!("acc_{chain}"));
        let value = binary(join, Expression::Variable(total), Expression::Variable(other));
        statements.push(Statement::Assign(total, value));
    }
    let value = match kind {
        PoolKind::Average => {
            binary(Arithmetic::Mul, Expression::Variable(total), Expression::Constant(1.0 / plane as f32))
        }
        PoolKind::Max => Expression::Variable(total),
    };
    statements.push(Statement::Store(y_buffer, Affine::term(block, lanes as i64), value));
    let body = vec![repeat(block, blocks, 1, statements)];
    let word = if kind == PoolKind::Average { "average" } else { "max" };
    let name = format!("global_{word}_pool_{}x{plane}", x.shape[1]);
    let summary = format!("global {word} pooling of {} channels of {plane} elements", x.shape[1]);
    let kernel = builder.finish(name, summary, body, 0);
    Some(LoweredNode { kernel, bindings: vec![Binding::Input(0), Binding::Output], order: None })
}
