//! A Pad with zeros around the spatial dimensions becomes part of the window that reads it.
//!
//! Convolutions see padded elements as zeros. An average that counts its pads sees them as zeros too, if the pads it
//! had itself are counted. A maximum ignores its pads, so only padding with minus infinity could merge, or zeros where
//! nothing is negative, which is not known here.

use super::PassError;
use super::pattern::{in_order, producer, rewrite};
use partita_ir::graph::op::{PadMode, PoolKind};
use partita_ir::graph::{Graph, Op};

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        if !graph.contains(id) {
            continue;
        }
        let node = graph.node(id);
        let Some(&input) = node.inputs.first() else { continue };
        let Some((_, pad)) = producer(graph, input) else { continue };
        let Op::Pad { mode: PadMode::Constant(fill), begin, end } = &pad.op else { continue };
        if begin.len() < 3 || begin[..2] != [0, 0] || end[..2] != [0, 0] {
            continue;
        }
        let mut op = node.op.clone();
        match &mut op {
            Op::Conv(conv) if *fill == 0.0 => {
                add(&mut conv.window.pad_begin, &begin[2..]);
                add(&mut conv.window.pad_end, &end[2..]);
            }
            Op::Pool(pool) if pool.kind == PoolKind::Max && *fill == f32::NEG_INFINITY => {
                add(&mut pool.window.pad_begin, &begin[2..]);
                add(&mut pool.window.pad_end, &end[2..]);
                add(&mut pool.declared_pad_end, &end[2..]);
            }
            Op::Pool(pool)
                if pool.kind == PoolKind::Average
                    && *fill == 0.0
                    && (pool.count_include_pad
                        || pool.window.pad_begin.iter().chain(&pool.declared_pad_end).all(|pad| *pad == 0))
                    && pool.window.pad_end == pool.declared_pad_end =>
            {
                add(&mut pool.window.pad_begin, &begin[2..]);
                add(&mut pool.window.pad_end, &end[2..]);
                add(&mut pool.declared_pad_end, &end[2..]);
                pool.count_include_pad = true;
            }
            _ => continue,
        }
        let source = pad.inputs[0];
        let mut inputs = node.inputs.clone();
        inputs[0] = source;
        rewrite(graph, id, op, inputs);
    }
    Ok(())
}

fn add(pads: &mut [usize], more: &[usize]) {
    pads.iter_mut().zip(more).for_each(|(pad, more)| *pad += more);
}
