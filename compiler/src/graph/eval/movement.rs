//! Operators that move elements, for every element type.

use partita_rt::kernels::{self, PadFill};

use super::{EvalError, wrong_type};
use crate::graph::op::{Op, PadMode};
use crate::graph::types::{Data, TensorType, Value};

/// Runs the same expression for whichever element type a value has.
macro_rules! for_each_type {
    ($data:expr, $elements:ident => $body:expr) => {
        match $data {
            Data::F32($elements) => Data::F32($body),
            Data::I64($elements) => Data::I64($body),
            Data::I32($elements) => Data::I32($body),
            Data::I8($elements) => Data::I8($body),
            Data::U8($elements) => Data::U8($body),
            Data::Bool($elements) => Data::Bool($body),
        }
    };
}

pub(super) fn evaluate(op: &Op, inputs: &[&Value], output: &TensorType) -> Result<Data, EvalError> {
    let x = inputs[0];
    let shape = &x.shape;
    let count = output.element_count();
    Ok(match op {
        Op::Identity | Op::Reshape { .. } => x.data.clone(),
        Op::Concat { axis } => return concat(op, inputs, *axis, output),
        Op::Slice { starts, steps, .. } => for_each_type!(&x.data, elements => {
            let mut y = vec![Default::default(); count];
            kernels::slice(elements, shape, &mut y, &output.shape, starts, steps);
            y
        }),
        Op::Transpose { permutation } => for_each_type!(&x.data, elements => {
            let mut y = vec![Default::default(); count];
            kernels::transpose(elements, shape, &mut y, &output.shape, permutation);
            y
        }),
        Op::Expand { .. } => for_each_type!(&x.data, elements => {
            let mut y = vec![Default::default(); count];
            kernels::expand(elements, shape, &mut y, &output.shape);
            y
        }),
        Op::Pad { mode, begin, .. } => match (&x.data, mode) {
            (Data::F32(elements), _) => {
                let mut y = vec![0.0; count];
                kernels::pad(elements, shape, &mut y, &output.shape, begin, pad_fill(*mode));
                Data::F32(y)
            }
            (Data::I64(elements), mode) => {
                let fill = match mode {
                    PadMode::Constant(value) => PadFill::Constant(*value as i64),
                    PadMode::Reflect => PadFill::Reflect,
                    PadMode::Edge => PadFill::Edge,
                };
                let mut y = vec![0; count];
                kernels::pad(elements, shape, &mut y, &output.shape, begin, fill);
                Data::I64(y)
            }
            _ => return Err(wrong_type(op, inputs)),
        },
        Op::Gather { axis } => {
            let indices: Vec<i64> = match &inputs[1].data {
                Data::I64(indices) => indices.clone(),
                Data::I32(indices) => indices.iter().map(|index| i64::from(*index)).collect(),
                _ => return Err(wrong_type(op, inputs)),
            };
            let extent = shape[*axis];
            if let Some(index) = indices.iter().find(|i| **i >= extent as i64 || **i < -(extent as i64)) {
                return Err(EvalError::Index { index: *index, extent });
            }
            let inner = shape[axis + 1..].iter().product();
            for_each_type!(&x.data, elements => {
                let mut y = vec![Default::default(); count];
                kernels::gather(elements, &indices, &mut y, extent, inner);
                y
            })
        }
        Op::SpaceToDepth { block } => {
            let shape = four(op, inputs)?;
            for_each_type!(&x.data, elements => {
                let mut y = vec![Default::default(); count];
                kernels::space_to_depth(elements, &shape, &mut y, *block);
                y
            })
        }
        Op::DepthToSpace { block, column_row_depth } => {
            let shape = four(op, inputs)?;
            for_each_type!(&x.data, elements => {
                let mut y = vec![Default::default(); count];
                kernels::depth_to_space(elements, &shape, &mut y, *block, *column_row_depth);
                y
            })
        }
        _ => return Err(wrong_type(op, inputs)),
    })
}

/// The fill of `f32` padding.
pub fn pad_fill(mode: PadMode) -> PadFill<f32> {
    match mode {
        PadMode::Constant(value) => PadFill::Constant(value),
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
    macro_rules! join {
        ($variant:ident) => {{
            let mut y = vec![Default::default(); output.element_count()];
            let mut first = 0;
            for input in inputs {
                let Data::$variant(elements) = &input.data else { return Err(wrong_type(op, inputs)) };
                kernels::concat_part(elements, &mut y, inner, first, input.shape[axis], total);
                first += input.shape[axis];
            }
            Ok(Data::$variant(y))
        }};
    }
    match &inputs[0].data {
        Data::F32(_) => join!(F32),
        Data::I64(_) => join!(I64),
        Data::I32(_) => join!(I32),
        Data::I8(_) => join!(I8),
        Data::U8(_) => join!(U8),
        Data::Bool(_) => join!(Bool),
    }
}

pub(super) fn split(x: &Value, axis: usize, sizes: &[usize], outputs: &[TensorType]) -> Result<Vec<Value>, EvalError> {
    let inner: usize = x.shape[axis + 1..].iter().product();
    let total = x.shape[axis];
    let mut first = 0;
    let mut values = Vec::with_capacity(sizes.len());
    for (size, output) in sizes.iter().zip(outputs) {
        let data = for_each_type!(&x.data, elements => {
            let mut y = vec![Default::default(); output.element_count()];
            kernels::split_part(elements, &mut y, inner, first, *size, total);
            y
        });
        values.push(Value { shape: output.shape.clone(), data });
        first += size;
    }
    Ok(values)
}
