//! How much arithmetic an operator is, from its shapes alone: what is evaluated while compiling is limited before it begins.

use crate::graph::op::{Op, ResizeMode};
use crate::graph::types::TensorType;
use crate::space::{Arithmetic, AxisKind, iteration_space};

/// What a function of an element takes, in multiply-adds.
const OF_AN_ELEMENT: u64 = 8;

/// About so many multiply-adds the reference kernel does for operands and results of these types, whatever the operator.
pub fn operations(op: &Op, inputs: &[&TensorType], outputs: &[TensorType]) -> u64 {
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| &input.shape[..]).collect();
    if shapes.is_empty() {
        return 0;
    }
    let space = iteration_space(op, &shapes);
    let read = inputs.iter().map(|input| input.element_count() as u64).max().unwrap_or(0);
    let made: u64 = outputs.iter().map(|output| output.element_count() as u64).sum();
    let over = |kinds: &[AxisKind]| -> u64 {
        let axes = space.axes.iter().filter(|axis| kinds.contains(&axis.kind));
        axes.fold(1, |product, axis| product.saturating_mul(axis.extent as u64))
    };
    if space.arithmetic == Arithmetic::MultiplyAdd {
        return space.axes.iter().fold(1u64, |product, axis| product.saturating_mul(axis.extent as u64));
    }
    if let (Op::NonMaxSuppression(_), [_, scores]) = (op, inputs) {
        // Every box may be looked for among all, and compared with all.
        let boxes = scores.shape.last().map_or(1, |boxes| *boxes as u64);
        return (scores.element_count() as u64).saturating_mul(boxes).saturating_mul(OF_AN_ELEMENT);
    }
    if let (Op::TreeEnsemble(_), [x, nodes, _, roots, ..]) = (op, inputs) {
        // A row may pass all nodes of each tree.
        let extents = [x, roots, nodes].map(|table| table.shape.first().map_or(1, |extent| *extent as u64));
        return extents.into_iter().fold(OF_AN_ELEMENT, u64::saturating_mul);
    }
    // How many elements are read for each that is made.
    let each = if let Op::RoiAlign(align) = op {
        let samples = |axis: usize| match align.ratio {
            0 => 2 * (inputs[0].shape.get(axis).map_or(0, |extent| *extent as u64) + 3),
            ratio => ratio as u64,
        };
        samples(2).saturating_mul(samples(3)).saturating_mul(4)
    } else if let Op::Lrn { size, .. } = op {
        inputs[0].shape.get(1).map_or(1, |channels| *size.min(channels)) as u64
    } else if let Op::Resize { mode: ResizeMode::Linear, .. } = op {
        1 << inputs[0].shape.len()
    } else if let Op::Einsum(_) = op {
        // A diagonal, or a sum of some axes.
        over(&[AxisKind::Sum, AxisKind::Reduction])
    } else {
        over(&[AxisKind::Tap])
    };
    made.saturating_mul(each).max(read).saturating_mul(OF_AN_ELEMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::infer::infer;
    use crate::graph::op::Einsum;
    use crate::graph::types::ElementType;

    fn of(op: &Op, shapes: &[&[usize]]) -> u64 {
        let inputs: Vec<TensorType> =
            shapes.iter().map(|shape| TensorType::new(ElementType::F32, shape.to_vec())).collect();
        let inputs: Vec<&TensorType> = inputs.iter().collect();
        operations(op, &inputs, &infer(op, &inputs).expect("it fits"))
    }

    #[test]
    fn what_is_read_for_each_element_counts() {
        assert_eq!(of(&Op::MatMul, &[&[4096, 4096], &[4096, 4096]]), 1 << 36);
        let lrn = |size| Op::Lrn { alpha: 1.0, beta: 1.0, bias: 1.0, size };
        assert_eq!(of(&lrn(100_000), &[&[1, 1000, 10, 10]]), 8 * 100_000 * 1000);
        let einsum = Einsum { terms: vec![vec![0, 1], vec![2, 3]], result: Vec::new() };
        assert_eq!(of(&Op::Einsum(einsum), &[&[10, 20], &[30, 40]]), 10 * 20 * 30 * 40);
        assert_eq!(of(&Op::Reshape { shape: vec![6] }, &[&[2, 3]]), 8 * 6);
    }
}
