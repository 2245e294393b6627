//! Operators that move elements, for every element type.

use partita_rt::CastTo;
use partita_rt::kernels::{self, PadFill};

use super::error::{EvalError, wrong_type};
use super::spatial::{resize_coordinates, resize_rounding};
use crate::graph::op::{Op, PadMode, ResizeMode};
use crate::graph::types::{Data, Element, ElementType, TensorType, Value, on_elements};

pub(super) fn evaluate(op: &Op, inputs: &[&Value], output: &TensorType) -> Result<Data, EvalError> {
    let x = inputs[0];
    let shape = &x.shape;
    let count = output.element_count();
    Ok(match op {
        Op::Identity | Op::Reshape { .. } => x.data.clone(),
        Op::Concat { axis } => return concat(op, inputs, *axis, output),
        Op::Slice { starts, steps, .. } => on_elements!(&x.data, elements => Self({
            let mut y = vec![Default::default(); count];
            kernels::slice(elements, shape, &mut y, &output.shape, starts, steps);
            y
        })),
        Op::Transpose { permutation } => on_elements!(&x.data, elements => Self({
            let mut y = vec![Default::default(); count];
            kernels::transpose(elements, shape, &mut y, &output.shape, permutation);
            y
        })),
        Op::Expand { .. } => on_elements!(&x.data, elements => Self({
            let mut y = vec![Default::default(); count];
            kernels::expand(elements, shape, &mut y, &output.shape);
            y
        })),
        Op::Pad { mode, begin, .. } => on_elements!(&x.data, elements => Self({
            let mut y = vec![Default::default(); count];
            kernels::pad(elements, shape, &mut y, &output.shape, begin, pad_fill(*mode));
            y
        })),
        Op::Gather { axis } => {
            let Data::I64(indices) = inputs[1].data.cast(ElementType::I64) else { return Err(wrong_type(op, inputs)) };
            let extent = shape[*axis];
            if let Some(index) = indices.iter().find(|i| **i >= extent as i64 || **i < -(extent as i64)) {
                return Err(EvalError::Index { index: *index, extent });
            }
            let inner = shape[axis + 1..].iter().product();
            on_elements!(&x.data, elements => Self({
                let mut y = vec![Default::default(); count];
                kernels::gather(elements, &indices, &mut y, extent, inner);
                y
            }))
        }
        Op::Resize { mode: ResizeMode::Nearest(rounding), coordinates, scales, .. } => {
            let (coordinates, rounding) = (resize_coordinates(*coordinates), resize_rounding(*rounding));
            on_elements!(&x.data, elements => Self({
                let mut y = vec![Default::default(); count];
                kernels::resize_nearest(elements, shape, &mut y, &output.shape, scales, coordinates, rounding);
                y
            }))
        }
        Op::SpaceToDepth { block } => {
            let shape = four(op, inputs)?;
            on_elements!(&x.data, elements => Self({
                let mut y = vec![Default::default(); count];
                kernels::space_to_depth(elements, &shape, &mut y, *block);
                y
            }))
        }
        Op::DepthToSpace { block, column_row_depth } => {
            let shape = four(op, inputs)?;
            on_elements!(&x.data, elements => Self({
                let mut y = vec![Default::default(); count];
                kernels::depth_to_space(elements, &shape, &mut y, *block, *column_row_depth);
                y
            }))
        }
        _ => return Err(wrong_type(op, inputs)),
    })
}

/// The fill of padding. That the constant is one of the element type was checked at import.
pub fn pad_fill<T>(mode: PadMode) -> PadFill<T>
where
    f32: CastTo<T>,
{
    match mode {
        PadMode::Constant(value) => PadFill::Constant(value.cast()),
        PadMode::Reflect => PadFill::Reflect,
        PadMode::Edge => PadFill::Edge,
    }
}

fn four(op: &Op, inputs: &[&Value]) -> Result<[usize; 4], EvalError> {
    inputs[0].shape.as_slice().try_into().map_err(|_| wrong_type(op, inputs))
}

fn concat(op: &Op, inputs: &[&Value], axis: usize, output: &TensorType) -> Result<Data, EvalError> {
    let inner: usize = output.shape[axis + 1..].iter().product();
    let total = output.shape[axis];
    let mut first = 0;
    Ok(on_elements!(&inputs[0].data, model => Self({
        let mut y = vec![Default::default(); output.element_count()];
        for input in inputs {
            let elements = alike(model, &input.data).ok_or_else(|| wrong_type(op, inputs))?;
            kernels::concat_part(elements, &mut y, inner, first, input.shape[axis], total);
            first += input.shape[axis];
        }
        y
    })))
}

/// The elements of some data if they are of the type of others.
fn alike<'a, T: Element>(_model: &[T], data: &'a Data) -> Option<&'a [T]> {
    data.elements()
}

pub(super) fn split(x: &Value, axis: usize, sizes: &[usize], outputs: &[TensorType]) -> Result<Vec<Value>, EvalError> {
    let inner: usize = x.shape[axis + 1..].iter().product();
    let total = x.shape[axis];
    let mut first = 0;
    let mut values = Vec::with_capacity(sizes.len());
    for (size, output) in sizes.iter().zip(outputs) {
        let data = on_elements!(&x.data, elements => Self({
            let mut y = vec![Default::default(); output.element_count()];
            kernels::split_part(elements, &mut y, inner, first, *size, total);
            y
        }));
        values.push(Value { shape: output.shape.clone(), data });
        first += size;
    }
    Ok(values)
}
