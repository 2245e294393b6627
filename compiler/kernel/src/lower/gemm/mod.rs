//! Matrix products on plain tensors: rows of A broadcast or multiplied lane by lane, vectors of B's columns.
//!
//! A constant B is packed `[column tile][depth][vector][lane]`, so it streams once per row tile (once in all for a single
//! row). An activation as B is read where it lies.

mod dot;
mod loop_nest;
mod pack;
mod plan;
mod product;

use super::build::Builder;
use super::fused::{Fused, Joined};
use super::{Binding, LayoutChoice, LoweredNode, Machine, Operand};
use crate::layout::Layout;
use crate::{Access, Role};
use loop_nest::GemmWriter;
use partita_ir::graph::{Op, TensorType};
use plan::Plan;
use product::product;

pub(super) fn layouts(op: &Op, inputs: &[Operand<'_>], output: &TensorType) -> Vec<LayoutChoice> {
    match product(op, inputs, output) {
        Some(product) if product.rows * product.depth * product.columns > 0 => {
            vec![LayoutChoice { inputs: vec![Layout::Plain; inputs.len()], output: Layout::Plain }]
        }
        _ => Vec::new(),
    }
}

pub(super) fn lower(
    op: &Op,
    inputs: &[Operand<'_>],
    output: &TensorType,
    fused: Option<&Fused<'_>>,
    machine: &Machine,
) -> Option<LoweredNode> {
    let plan = Plan::new(op, inputs, output, machine)?;
    let product = &plan.product;
    if let Some(stored) = plan.stored.as_ref().filter(|_| dot::applies(product, machine)) {
        return if fused.is_none() { dot::lower(op, product, inputs, stored, machine) } else { None };
    }
    // Of one row only: everything else is read where no vectors begin.
    if fused.is_some() && product.batch * product.rows != 1 {
        return None;
    }
    let mut builder = Builder::new(plan.lanes as u32);
    let mut bindings = Vec::new();
    let buffers = plan.declare(op, inputs, (&mut builder, &mut bindings))?;
    let kernel = (&mut builder, &mut bindings);
    let behind = Joined::declare_behind(fused, kernel, inputs.len(), output, [plan.width(); 2], machine)?;
    let y = builder.buffer("y", Access::Output, plan.plain(product.batch * product.rows * product.columns));
    bindings.push(Binding::Output);
    let batch = builder.loop_over(Role::Batch, "batch");
    let b_bytes = plan.width() * plan.depth() * plan.storage.size_bytes();
    let mut writer = GemmWriter {
        builder,
        plan: &plan,
        product,
        lanes: plan.lanes,
        ahead_bytes: if buffers.is_packed { product.ahead_bytes(b_bytes, machine) } else { 0 },
        buffers,
        y,
        behind: behind.as_ref(),
        by_lane: machine.instruction_set.multiplies_by_lane() && plan.whole.is_none(),
        in_order: machine.in_order,
        batch,
    };
    let body = writer.body();
    let words = plan.words() + &Fused::words(fused);
    let kernel = product.kernel(writer.builder, "gemm", plan.tile, &words, body);
    Some(LoweredNode { kernel, bindings, order: None })
}
