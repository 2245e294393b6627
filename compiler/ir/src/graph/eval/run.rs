//! Kernels on values of any element type.

use partita_rt::kernels::Call;

use crate::graph::types::{Data, Element, ElementType, TensorType, Value, on_elements, on_numbers};

/// The results of a kernel, of the element types and shapes that `outputs` say; `None` if operands are missing or of types
/// that it does not take.
#[expect(clippy::too_many_lines, reason = "one arm for each kernel")]
pub(super) fn run(call: &Call<'_>, inputs: &[&Value], outputs: &[TensorType]) -> Option<Vec<Data>> {
    let x = &inputs.first()?.data;
    let output = outputs.first()?;
    let f32s = |index: usize| inputs.get(index)?.as_f32();
    let optional = |index: usize| inputs.get(index).map(|value| value.as_f32());
    // A result of `f32` elements.
    macro_rules! real {
        ($y:ident => $run:expr) => {{
            let mut values = zeros(output);
            let $y = values.as_mut_slice();
            $run;
            Data::F32(values)
        }};
    }
    // A result of the same type as the first operand, which the kernel takes any type of.
    macro_rules! alike {
        ($data:expr, $x:ident, $y:ident => $run:expr) => {
            on_elements!($data, $x => Self({
                let mut values = zeros(output);
                let $y = values.as_mut_slice();
                $run;
                values
            }))
        };
    }
    let result = match call {
        Call::Conv(call) => {
            let residual = optional(3).map_or(Some(None), |residual| residual.map(Some))?;
            real!(y => call.run(f32s(0)?, f32s(1)?, f32s(2)?, residual, y))
        }
        Call::ConvTranspose(call) => real!(y => call.run(f32s(0)?, f32s(1)?, f32s(2)?, y)),
        Call::Gemm(call) => {
            let c = optional(2).map_or(Some(None), |c| c.map(Some))?;
            real!(y => call.run(f32s(0)?, f32s(1)?, c, y))
        }
        Call::MatMul(call) => real!(y => call.run(f32s(0)?, f32s(1)?, y)),
        Call::Einsum(call) => {
            let b = optional(1).map_or(Some(None), |b| b.map(Some))?;
            real!(y => call.run(f32s(0)?, b, y))
        }
        Call::BatchNormalization(call) => {
            real!(y => call.run(f32s(0)?, f32s(1)?, f32s(2)?, f32s(3)?, f32s(4)?, y))
        }
        Call::InstanceNormalization(call) => real!(y => call.run(f32s(0)?, f32s(1)?, f32s(2)?, y)),
        Call::GroupNormalization(call) => real!(y => call.run(f32s(0)?, f32s(1)?, f32s(2)?, y)),
        Call::LayerNormalization(call) => real!(y => call.run(f32s(0)?, f32s(1)?, f32s(2)?, y)),
        Call::Lrn(call) => real!(y => call.run(f32s(0)?, y)),
        Call::PRelu(call) => real!(y => call.run(f32s(0)?, f32s(1)?, y)),
        Call::Pool(call) => real!(y => call.run(f32s(0)?, y)),
        Call::GlobalPool(call) => real!(y => call.run(f32s(0)?, y)),
        Call::Softmax(call) => real!(y => call.run(f32s(0)?, y)),
        Call::LogSoftmax(call) => real!(y => call.run(f32s(0)?, y)),
        Call::ResizeLinear(call) => real!(y => call.run(f32s(0)?, y)),
        // Depends on a threshold, which is not one of its parameters: see `verdict`.
        Call::Decide(_) => return None,
        Call::Unary(call) => alike!(x, x, y => call.run(x, y)),
        Call::Binary(call) => alike!(x, a, y => call.run(a, inputs.get(1)?.data.elements()?, y)),
        Call::Compare(call) => {
            let mut y = zeros(output);
            on_elements!(x, a => call.run(a, inputs.get(1)?.data.elements()?, &mut y));
            Data::Bool(y)
        }
        Call::Where(call) => {
            let condition = x.elements::<bool>()?;
            alike!(&inputs.get(1)?.data, a, y => call.run(condition, a, inputs.get(2)?.data.elements()?, y))
        }
        Call::Cast(_) => x.cast(output.element),
        Call::BitCast(_) => Data::from_bytes(output.element, &x.to_bytes()),
        Call::Reduce(call) => on_numbers!(x, x => Self({
            let mut y = zeros(output);
            call.run(x, &mut y);
            y
        }), return None),
        Call::ArgMax(call) => {
            let mut y = zeros(output);
            on_elements!(x, x => call.run(x, &mut y));
            Data::I64(y)
        }
        Call::Concat(call) => alike!(x, first, y => {
            let parts = inputs.iter().map(|input| of_same_type(first, &input.data)).collect::<Option<Vec<_>>>()?;
            call.run(&parts, y);
        }),
        Call::Split(call) => {
            return Some(on_elements!(x, x => {
                let mut parts: Vec<_> = outputs.iter().map(zeros).collect();
                call.run(x, &mut parts.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
                parts.into_iter().map(Element::data).collect()
            }));
        }
        Call::Slice(call) => alike!(x, x, y => call.run(x, y)),
        Call::Identity(call) => alike!(x, x, y => call.run(x, y)),
        Call::Transpose(call) => alike!(x, x, y => call.run(x, y)),
        Call::Pad(call) => alike!(x, x, y => call.run(x, y)),
        Call::Gather(call) => {
            let Data::I64(indices) = inputs.get(1)?.data.cast(ElementType::I64) else { return None };
            alike!(x, x, y => call.run(x, &indices, y))
        }
        Call::Scatter(call) => {
            let Data::I64(positions) = inputs.get(2)?.data.cast(ElementType::I64) else { return None };
            alike!(x, x, y => call.run(x, inputs.get(1)?.data.elements()?, &positions, y))
        }
        Call::NonMaxSuppression(call) => {
            let mut y = zeros(output);
            call.run(f32s(0)?, f32s(1)?, &mut y);
            Data::I64(y)
        }
        Call::RoiAlign(call) => {
            let Data::I64(images) = inputs.get(2)?.data.cast(ElementType::I64) else { return None };
            real!(y => call.run(f32s(0)?, f32s(1)?, &images, y))
        }
        Call::TreeEnsemble(call) => {
            let whole = |index: usize| inputs.get(index)?.data.elements::<i32>();
            real!(y => call.run(f32s(0)?, whole(1)?, f32s(2)?, whole(3)?, whole(4)?, f32s(5)?, y))
        }
        Call::Expand(call) => alike!(x, x, y => call.run(x, y)),
        Call::ResizeNearest(call) => alike!(x, x, y => call.run(x, y)),
        Call::SpaceToDepth(call) => alike!(x, x, y => call.run(x, y)),
        Call::DepthToSpace(call) => alike!(x, x, y => call.run(x, y)),
    };
    Some(vec![result])
}

fn zeros<T: Element>(tensor: &TensorType) -> Vec<T> {
    vec![T::default(); tensor.element_count()]
}

/// The elements of some data if they are of the type of others.
fn of_same_type<'a, T: Element>(_model: &[T], data: &'a Data) -> Option<&'a [T]> {
    data.elements()
}
