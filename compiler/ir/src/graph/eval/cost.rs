//! How much arithmetic an operator is, from its shapes alone: what is evaluated while compiling is limited before it begins.

use crate::graph::op::Op;
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
    // How many elements are read for each that is made; sums and reductions read each once.
    let each = over(&[AxisKind::Tap, AxisKind::Sum, AxisKind::Reduction]);
    space.steps.unwrap_or(made.saturating_mul(each)).max(read).saturating_mul(OF_AN_ELEMENT)
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
