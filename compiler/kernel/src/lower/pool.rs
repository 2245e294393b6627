//! Pooling and global pooling on channel blocks.

use super::build::{Builder, CHAIN, add_in_blocks, binary, plus, repeat};
use super::window::{Columns, Window3};
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::layout::Layout;
use crate::{Access, Affine, Arithmetic, Bound, Buffer, Expression, Role, Statement, Variable};
use partita_ir::graph::TensorType;
use partita_ir::graph::op::{Pool, PoolKind};

/// Most taps of a window across, and in depth and height together: those across are written out, and the sums of rows are
/// added one after the other. The portable kernel does larger ones.
const MOST_TAPS: [usize; 2] = [256, 1024];

/// Whether a window is small enough for a kernel.
pub(super) fn fits(pool: &Pool) -> bool {
    let (across, others) = pool.window.kernel.split_last().unwrap_or((&1, &[]));
    *across <= MOST_TAPS[0] && others.iter().product::<usize>() <= MOST_TAPS[1]
}

pub(super) fn layouts(pool: Option<&Pool>, machine: &Machine) -> Vec<LayoutChoice> {
    if pool.is_some_and(|pool| !fits(pool)) {
        return Vec::new();
    }
    let blocked = Layout::Blocked(machine.instruction_set.lanes());
    vec![LayoutChoice { inputs: vec![blocked], output: blocked }]
}

/// Most output positions for which what each window averages is kept in a table.
const MOST_RECIPROCALS: usize = 1 << 18;

/// Whether there is no table of [`reciprocals`], or one of reasonable size.
pub(super) fn has_small_table(pool: &Pool, inputs: &[Operand<'_>], output: &TensorType) -> bool {
    let window = Window3::new(&pool.window, &inputs[0].tensor_type.shape, &output.shape);
    pool.kind == PoolKind::Max || window.output_plane() <= MOST_RECIPROCALS || equal(&counts(pool, &window))
}

/// How many elements each window averages along each axis, per output index.
fn counts(pool: &Pool, window: &Window3) -> [Vec<usize>; 3] {
    use partita_ir::graph::call::three;
    let declared_end = three(&pool.declared_pad_end, 0);
    std::array::from_fn(|axis| {
        let (pad, input) = (window.pad[axis], window.input[axis]);
        let counted = match pool.count_include_pad {
            true => 0..input + pad + declared_end[axis],
            false => pad..pad + input,
        };
        (0..window.output[axis]).map(|at| window.taps_within(axis, at, &counted).len()).collect()
    })
}

fn equal(counts: &[Vec<usize>; 3]) -> bool {
    counts.iter().all(|counts| counts.windows(2).all(|pair| pair[0] == pair[1]))
}

/// Reciprocals of the numbers of elements that each window averages, one per output position; a single one if all are
/// equal.
pub(super) fn reciprocals(pool: &Pool, window: &Window3) -> Vec<f32> {
    let counts = counts(pool, window);
    let [out_d, out_h, out_w] = if equal(&counts) { [1; 3] } else { window.output };
    let at = |index: usize| [index / (out_h * out_w), index / out_w % out_h, index % out_w];
    let count = |index: usize| counts.iter().zip(at(index)).map(|(counts, at)| counts[at]).product::<usize>();
    (0..out_d * out_h * out_w).map(|index| 1.0 / count(index).max(1) as f32).collect()
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
    let block = builder.loop_over(Role::Channels, "block");
    let (depth, row) = (builder.loop_over(Role::Depth, "depth"), builder.loop_over(Role::Row, "row"));
    let [_, in_h, in_w] = window.input;
    let [_, out_h, out_w] = window.output;
    let mut input = Affine::term(block, (window.input_plane() * lanes) as i64);
    let tap_steps = [in_h * in_w * lanes, in_w * lanes];
    for (axis, at) in [(0, depth), (1, row)] {
        input = plus(&input, at, window.stride[axis] * tap_steps[axis]);
        input = input.plus(-((window.pad[axis] * tap_steps[axis]) as i64));
    }
    let position = plus(&Affine::term(depth, (out_h * out_w) as i64), row, out_w);
    let output = Affine::term(block, (window.output_plane() * lanes) as i64).plus_affine(&position, lanes as i64);
    let scale = match (table, reciprocals.first()) {
        (Some(table), _) => Scale::Each(table, position),
        (None, Some(reciprocal)) => Scale::All(*reciprocal),
        (None, None) => Scale::One,
    };
    let taps = [(0, depth), (1, row)].map(|(axis, at)| window.tap_range(axis, &Affine::term(at, 1)));
    let pooled = PooledRow {
        window: &window,
        kind: pool.kind,
        lanes,
        width: columns_together(machine),
        from: x_buffer,
        input,
        tap_steps,
        taps,
        to: y_buffer,
        output,
        scale,
    };
    let rows = repeat(row, out_h, 1, pooled.statements(&mut builder));
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

/// Columns whose sums are in registers together.
pub(super) fn columns_together(machine: &Machine) -> usize {
    (machine.registers as usize - 2).min(8)
}

/// What the sums of an average are multiplied with.
pub(super) enum Scale {
    /// Nothing; of a maximum.
    One,
    /// The same everywhere.
    All(f32),
    /// A number per output position, from that of the row's first column on.
    Each(Buffer, Affine),
}

/// One row of a pool's output, of one block of channels.
pub(super) struct PooledRow<'a> {
    pub window: &'a Window3,
    pub kind: PoolKind,
    pub lanes: usize,
    /// Most columns that are computed together.
    pub width: usize,
    pub from: Buffer,
    /// Element of the first tap (inside the input or not) in input column 0.
    pub input: Affine,
    /// Elements between neighbouring rows of the input, in depth and height.
    pub tap_steps: [usize; 2],
    /// Taps inside the input, in depth and height.
    pub taps: [(Bound, Bound); 2],
    pub to: Buffer,
    /// Element of the row's first column.
    pub output: Affine,
    pub scale: Scale,
}

impl PooledRow<'_> {
    pub(super) fn statements(&self, builder: &mut Builder) -> Vec<Statement> {
        self.window.column_tiles(self.width).into_iter().map(|part| self.columns(builder, part)).collect()
    }

    /// A tile of columns, or several equal ones.
    fn columns(&self, builder: &mut Builder, part: Columns) -> Statement {
        let Columns { first, count, repeat: times, interior } = part;
        let (window, lanes) = (self.window, self.lanes);
        let column = builder.loop_over(Role::Column, "column");
        let taps = [builder.loop_var("tap_depth"), builder.loop_var("tap_row")];
        let mut input = plus(&self.input, column, window.stride[2] * lanes);
        for (axis, tap) in taps.into_iter().enumerate() {
            input = plus(&input, tap, window.dilation[axis] * self.tap_steps[axis]);
        }
        let (start, join) = match self.kind {
            PoolKind::Average => (0.0, Arithmetic::Add),
            PoolKind::Max => (f32::NEG_INFINITY, Arithmetic::Max),
        };
        // In large windows the taps of a row are added apart.
        let by_rows = self.kind == PoolKind::Average && window.kernel.iter().product::<usize>() > CHAIN;
        let mut statements = Vec::new();
        let mut body = Vec::new();
        for pixel in 0..count {
            let all = builder.variable(&format!("acc_{pixel}"));
            statements.push(Statement::Assign(all, Expression::Constant(start)));
            let sum = if by_rows { builder.variable(&format!("row_{pixel}")) } else { all };
            if by_rows {
                body.push(Statement::Assign(sum, Expression::Constant(start)));
            }
            for tap in (0..window.kernel[2]).filter(|tap| interior || window.column_is_inside(first + pixel, *tap)) {
                let offset =
                    ((first + pixel) * window.stride[2] + tap * window.dilation[2]) as i64 - window.pad[2] as i64;
                let loaded = Expression::Load(self.from, input.clone().plus(offset * lanes as i64));
                body.push(Statement::Assign(sum, joined(join, sum, loaded)));
            }
            if by_rows {
                body.push(Statement::Assign(all, joined(join, all, Expression::Variable(sum))));
            }
        }
        for (tap, (low, high)) in taps.into_iter().zip(&self.taps).rev() {
            let (low, high) = (low.clone(), high.clone());
            body = vec![Statement::For { var: tap, low, high, step: 1, unroll: false, body }];
        }
        statements.append(&mut body);
        for pixel in 0..count {
            let sum = Expression::Variable(builder.variable(&format!("acc_{pixel}")));
            let here = |row: &Affine, each: usize| plus(row, column, each).plus(((first + pixel) * each) as i64);
            let value = match &self.scale {
                Scale::One => sum,
                Scale::All(reciprocal) => binary(Arithmetic::Mul, sum, Expression::Constant(*reciprocal)),
                Scale::Each(table, position) => {
                    binary(Arithmetic::Mul, sum, Expression::Broadcast(*table, here(position, 1)))
                }
            };
            statements.push(Statement::Store(self.to, here(&self.output, lanes), value));
        }
        repeat(column, count * times, count, statements)
    }
}

/// What a chain has come to, joined with the next value.
fn joined(join: Arithmetic, chain: Variable, value: Expression) -> Expression {
    match join {
        // A maximum wants the chain second.
        Arithmetic::Max => binary(join, value, Expression::Variable(chain)),
        _ => binary(join, Expression::Variable(chain), value),
    }
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
    let block = builder.loop_over(Role::Channels, "block");
    // Independent sums hide the latency of an addition.
    let chains = plane.min(4);
    let (start, join) = match kind {
        PoolKind::Average => (0.0, Arithmetic::Add),
        PoolKind::Max => (f32::NEG_INFINITY, Arithmetic::Max),
    };
    let sums: Vec<Variable> = (0..chains).map(|chain| builder.variable(&format!("acc_{chain}"))).collect();
    let begin = |sum: &Variable| Statement::Assign(*sum, Expression::Constant(start));
    let mut statements: Vec<Statement> = sums.iter().map(begin).collect();
    let mut body = |_: &mut Builder, turn: &Affine, sums: &[Variable]| -> Vec<Statement> {
        let each = |(chain, sum): (usize, &Variable)| {
            let at = Affine::term(block, (plane * lanes) as i64).plus_affine(turn, (chains * lanes) as i64);
            let loaded = Expression::Load(x_buffer, at.plus((chain * lanes) as i64));
            Statement::Assign(*sum, joined(join, *sum, loaded))
        };
        sums.iter().enumerate().map(each).collect()
    };
    let turns = plane / chains.max(1);
    match kind {
        PoolKind::Average => statements.extend(add_in_blocks(&mut builder, turns, &sums, &mut body)),
        PoolKind::Max => {
            let turn = builder.loop_var("turn");
            let body = body(&mut builder, &Affine::term(turn, 1), &sums);
            statements.push(repeat(turn, turns, 1, body));
        }
    }
    let total = builder.variable("acc_0");
    for rest in plane / chains * chains..plane {
        let at = Affine::term(block, (plane * lanes) as i64).plus((rest * lanes) as i64);
        statements.push(Statement::Assign(total, joined(join, total, Expression::Load(x_buffer, at))));
    }
    for chain in 1..chains {
        let other = builder.variable(&format!("acc_{chain}"));
        statements.push(Statement::Assign(total, joined(join, total, Expression::Variable(other))));
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
