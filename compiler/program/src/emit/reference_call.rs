//! Calls of portable reference kernels as Rust text, every shape a literal.

use partita_rt::kernels;

use super::expressions::float;
use partita_ir::graph::elements;
use partita_ir::graph::eval::elementwise::{binary_function, comparison, logic};
use partita_ir::graph::eval::spatial::{activation, conv_parameters, matmul_shapes, three};
use partita_ir::graph::op::{
    Activation, ExitRule, NearestRounding, Op, PadMode, PoolKind, ReduceKind, ResizeCoordinates, ResizeMode, UnaryOp,
    Window,
};
use partita_ir::graph::types::{ElementType, TensorType};

/// An operand of a call.
pub struct CallOperand {
    /// A Rust expression of type `&[T]` or `&mut [T]`.
    pub expression: String,
    /// Element type and shape.
    pub tensor_type: TensorType,
}

const KERNELS: &str = "partita_rt::kernels";

/// The expression that computes an operator with its portable kernel; `None` for element types or forms that have none.
pub fn reference_call(op: &Op, inputs: &[CallOperand], outputs: &[CallOperand]) -> Option<String> {
    let values = inputs.get(elements::values(op, inputs.len()))?;
    if !values.iter().all(|value| elements::takes(op, value.tensor_type.element)) {
        return None;
    }
    let x = inputs.first()?;
    let y = outputs.first()?;
    let (x_shape, y_shape) = (list(&x.tensor_type.shape), list(&y.tensor_type.shape));
    let text = |index: usize| inputs.get(index).map(|input| input.expression.clone());
    let call = |name: &str, arguments: &[String]| Some(format!("{KERNELS}::{name}({})", arguments.join(", ")));
    let (from, to) = (x.expression.clone(), y.expression.clone());
    let line = |axis: usize| {
        let shape = &x.tensor_type.shape;
        [shape[axis].to_string(), shape[axis + 1..].iter().product::<usize>().to_string()]
    };
    let is_f32 = x.tensor_type.element == ElementType::F32;
    match op {
        Op::Conv(conv) => {
            let residual = if conv.residual { format!("Some({})", text(3)?) } else { "None".to_string() };
            let parameters = conv_text(&conv.window, conv.groups, conv.activation);
            call("conv", &[from, x_shape, text(1)?, text(2)?, residual, to, y_shape, parameters])
        }
        Op::ConvTranspose(conv) => {
            let parameters = conv_text(&conv.window, conv.groups, conv.activation);
            call("conv_transpose", &[from, x_shape, text(1)?, text(2)?, to, y_shape, parameters])
        }
        Op::Gemm(gemm) => {
            let c = match inputs.get(2) {
                Some(c) => format!("Some(({}, {}))", c.expression, list(&c.tensor_type.shape)),
                None => "None".to_string(),
            };
            let depth = x.tensor_type.shape[usize::from(!gemm.transpose_a)];
            let parameters = format!(
                "&{KERNELS}::GemmParameters {{ transpose_a: {}, transpose_b: {}, alpha: {}, beta: {}, activation: {} }}",
                gemm.transpose_a,
                gemm.transpose_b,
                float(gemm.alpha),
                float(gemm.beta),
                graph_activation_text(gemm.activation)
            );
            let [rows, columns] = y.tensor_type.shape[..] else { return None };
            call("gemm", &[from, text(1)?, c, to, rows.to_string(), depth.to_string(), columns.to_string(), parameters])
        }
        Op::MatMul => {
            let shapes = matmul_shapes(&x.tensor_type.shape, &inputs.get(1)?.tensor_type.shape, &y.tensor_type.shape);
            call("matmul", &[from, list(&shapes[0]), text(1)?, list(&shapes[1]), to, list(&shapes[2])])
        }
        Op::BatchNormalization { epsilon } => {
            call("batch_normalization", &[from, x_shape, text(1)?, text(2)?, text(3)?, text(4)?, to, float(*epsilon)])
        }
        Op::InstanceNormalization { epsilon } => {
            call("instance_normalization", &[from, x_shape, text(1)?, text(2)?, to, float(*epsilon)])
        }
        Op::LayerNormalization { epsilon, .. } => {
            call("layer_normalization", &[from, text(1)?, text(2)?, to, float(*epsilon)])
        }
        Op::Lrn { alpha, beta, bias, size } => {
            call("lrn", &[from, x_shape, to, float(*alpha), float(*beta), float(*bias), size.to_string()])
        }
        Op::Unary(UnaryOp::Not) => call("not", &[from, to]),
        Op::Unary(function) => call(if is_f32 { "unary" } else { "map" }, &[from, to, unary_text(*function)?]),
        Op::Binary(function, last) => {
            let b = inputs.get(1)?;
            let (b, b_shape) = (b.expression.clone(), list(&b.tensor_type.shape));
            let operands = [from, x_shape, b, b_shape, to, y_shape];
            let (name, further) = match (comparison(*function), logic(*function), binary_function(*function)) {
                (Some(comparison), _, _) => ("compare", vec![format!("{KERNELS}::Comparison::{comparison:?}")]),
                (_, Some(logic), _) => ("logic", vec![format!("{KERNELS}::Logic::{logic:?}")]),
                (_, _, function) => {
                    let function = format!("{KERNELS}::BinaryFunction::{:?}", function?);
                    match is_f32 {
                        true => ("binary", vec![function, graph_activation_text(*last)]),
                        false => ("combine", vec![function]),
                    }
                }
            };
            call(name, &[&operands[..], &further].concat())
        }
        Op::PRelu => {
            let slope = inputs.get(1)?;
            call("p_relu", &[from, slope.expression.clone(), list(&slope.tensor_type.shape), to, y_shape])
        }
        Op::Where => {
            let (a, b) = (inputs.get(1)?, inputs.get(2)?);
            let (a_shape, b_shape) = (list(&a.tensor_type.shape), list(&b.tensor_type.shape));
            call("select", &[from, x_shape, a.expression.clone(), a_shape, b.expression.clone(), b_shape, to, y_shape])
        }
        Op::Pool(pool) => {
            let parameters = format!(
                "&{KERNELS}::PoolParameters {{ kernel: {:?}, stride: {:?}, dilation: {:?}, pad_begin: {:?}, pad_end: {:?}, count_include_pad: {} }}",
                three(&pool.window.kernel, 1),
                three(&pool.window.stride, 1),
                three(&pool.window.dilation, 1),
                three(&pool.window.pad_begin, 0),
                three(&pool.declared_pad_end, 0),
                pool.count_include_pad
            );
            let name = if pool.kind == PoolKind::Max { "max_pool" } else { "average_pool" };
            call(name, &[from, x_shape, to, y_shape, parameters])
        }
        Op::GlobalPool(kind) => {
            let plane: usize = x.tensor_type.shape[2..].iter().product();
            let name = if *kind == PoolKind::Max { "global_max_pool" } else { "global_average_pool" };
            call(name, &[from, to, plane.to_string()])
        }
        Op::Softmax { axis } => {
            let [extent, inner] = line(*axis);
            call("softmax", &[from, to, extent, inner])
        }
        Op::LogSoftmax { axis } => {
            let [extent, inner] = line(*axis);
            call("log_softmax", &[from, to, extent, inner])
        }
        Op::Reduce { kind, axes, .. } => {
            let flags: Vec<bool> = (0..x.tensor_type.rank()).map(|axis| axes.contains(&axis)).collect();
            let kind = match kind {
                ReduceKind::Mean => "Mean",
                ReduceKind::Sum => "Sum",
                ReduceKind::Max => "Max",
                ReduceKind::Min => "Min",
            };
            let name = if is_f32 { "reduce" } else { "reduce_numbers" };
            call(name, &[from, x_shape, to, format!("&{flags:?}"), format!("{KERNELS}::Reduction::{kind}")])
        }
        Op::Decide(decide) => {
            let rule = match decide.rule {
                ExitRule::Probability => "Probability",
                ExitRule::Margin => "Margin",
                ExitRule::Entropy => "Entropy",
            };
            let temperature = match decide.logits {
                true => format!("Some({})", float(decide.temperature)),
                false => "None".to_string(),
            };
            // The threshold is the model's, so that it can be moved while the program runs.
            let threshold = format!("self.thresholds[{}]", decide.exit);
            let patience = decide.patience.map_or("None".to_string(), |patience| {
                let (runs, doubt) = (patience.runs, float(patience.doubt));
                let steady = format!("&mut self.steady[{}]", decide.exit);
                format!("Some(({KERNELS}::Patience {{ runs: {runs}, doubt: {doubt} }}, {steady}))")
            });
            call("decide", &[from, to, format!("{KERNELS}::Confidence::{rule}"), temperature, threshold, patience])
        }
        Op::ArgMax { axis, select_last, .. } => {
            let [extent, inner] = line(*axis);
            let name = if is_f32 { "arg_max" } else { "arg_max_numbers" };
            call(name, &[from, to, extent, inner, select_last.to_string()])
        }
        Op::Concat { axis } => {
            let inner: usize = y.tensor_type.shape[axis + 1..].iter().product();
            let total = y.tensor_type.shape[*axis];
            let mut first = 0;
            let parts: Vec<String> = inputs
                .iter()
                .map(|input| {
                    let extent = input.tensor_type.shape[*axis];
                    let part = format!(
                        "{KERNELS}::concat_part({}, &mut *joined, {inner}, {first}, {extent}, {total});",
                        input.expression
                    );
                    first += extent;
                    part
                })
                .collect();
            Some(format!("let joined = {to}; {}", parts.join(" ")))
        }
        Op::Split { axis, sizes } => {
            let inner: usize = x.tensor_type.shape[axis + 1..].iter().product();
            let total = x.tensor_type.shape[*axis];
            let mut first = 0;
            let parts: Vec<String> = outputs
                .iter()
                .zip(sizes)
                .map(|(output, size)| {
                    let part = format!(
                        "{KERNELS}::split_part({from}, {}, {inner}, {first}, {size}, {total});",
                        output.expression
                    );
                    first += size;
                    part
                })
                .collect();
            Some(parts.join(" "))
        }
        Op::Slice { starts, steps, .. } => {
            call("slice", &[from, x_shape, to, y_shape, list(starts), format!("&{steps:?}")])
        }
        Op::Reshape { .. } | Op::Identity => Some(format!("{to}.copy_from_slice({from})")),
        Op::Transpose { permutation } => call("transpose", &[from, x_shape, to, y_shape, list(permutation)]),
        Op::Pad { mode, begin, .. } => {
            let fill = match mode {
                PadMode::Constant(value) => {
                    format!("Constant(<f32 as partita_rt::CastTo<_>>::cast({}))", float(*value))
                }
                PadMode::Reflect => "Reflect".to_string(),
                PadMode::Edge => "Edge".to_string(),
            };
            call("pad", &[from, x_shape, to, y_shape, list(begin), format!("{KERNELS}::PadFill::{fill}")])
        }
        Op::Gather { axis } => {
            let [extent, inner] = line(*axis);
            call("gather", &[from, text(1)?, to, extent, inner])
        }
        Op::Expand { .. } => call("expand", &[from, x_shape, to, y_shape]),
        Op::Cast { .. } => call("cast", &[from, to]),
        Op::Resize { mode, coordinates, scales, .. } => resize_text(x, y, *mode, *coordinates, scales),
        Op::SpaceToDepth { block } => call("space_to_depth", &[from, x_shape, to, block.to_string()]),
        Op::DepthToSpace { block, column_row_depth } => {
            call("depth_to_space", &[from, x_shape, to, block.to_string(), column_row_depth.to_string()])
        }
    }
}

fn list(values: &[usize]) -> String {
    format!("&{values:?}")
}

fn floats(values: &[f32]) -> String {
    let values: Vec<String> = values.iter().map(|value| float(*value)).collect();
    format!("&[{}]", values.join(", "))
}

fn conv_text(window: &Window, groups: usize, activation: Activation) -> String {
    let parameters = conv_parameters(window, groups, activation);
    format!(
        "&{KERNELS}::ConvParameters {{ kernel: {:?}, stride: {:?}, dilation: {:?}, pad_begin: {:?}, groups: {groups}, activation: {} }}",
        parameters.kernel,
        parameters.stride,
        parameters.dilation,
        parameters.pad_begin,
        graph_activation_text(activation)
    )
}

fn graph_activation_text(last: Activation) -> String {
    activation_text(activation(last))
}

/// An activation as the run time spells it.
pub(super) fn activation_text(activation: kernels::Activation) -> String {
    use kernels::Activation;
    let variant = match activation {
        Activation::None => "None".to_string(),
        Activation::Relu => "Relu".to_string(),
        Activation::Clip(low, high) => format!("Clip({}, {})", float(low), float(high)),
        Activation::LeakyRelu(alpha) => format!("LeakyRelu({})", float(alpha)),
        Activation::HardSwish => "HardSwish".to_string(),
        Activation::HardSigmoid(alpha, beta) => format!("HardSigmoid({}, {})", float(alpha), float(beta)),
    };
    format!("{KERNELS}::Activation::{variant}")
}

fn unary_text(function: UnaryOp) -> Option<String> {
    let variant = match function {
        UnaryOp::Activation(activation) => format!("Activation({})", graph_activation_text(activation)),
        UnaryOp::Elu { alpha } => format!("Elu {{ alpha: {} }}", float(alpha)),
        UnaryOp::Selu { alpha, gamma } => format!("Selu {{ alpha: {}, gamma: {} }}", float(alpha), float(gamma)),
        UnaryOp::Gelu { tanh } => format!("Gelu {{ tanh: {tanh} }}"),
        UnaryOp::Not => return None,
        UnaryOp::Sigmoid
        | UnaryOp::Tanh
        | UnaryOp::Softplus
        | UnaryOp::Erf
        | UnaryOp::Exp
        | UnaryOp::Log
        | UnaryOp::Sqrt
        | UnaryOp::Neg
        | UnaryOp::Abs
        | UnaryOp::Reciprocal
        | UnaryOp::Floor
        | UnaryOp::Ceil
        | UnaryOp::Round
        | UnaryOp::Sin
        | UnaryOp::Cos
        | UnaryOp::Tan
        | UnaryOp::Asin
        | UnaryOp::Acos
        | UnaryOp::Atan
        | UnaryOp::Sinh
        | UnaryOp::Cosh
        | UnaryOp::Asinh
        | UnaryOp::Acosh
        | UnaryOp::Atanh
        | UnaryOp::Sign
        | UnaryOp::Silu => format!("{function:?}"),
    };
    Some(format!("{KERNELS}::UnaryFunction::{variant}"))
}

fn resize_text(
    x: &CallOperand,
    y: &CallOperand,
    mode: ResizeMode,
    coordinates: ResizeCoordinates,
    scales: &[f32],
) -> Option<String> {
    let coordinates = match coordinates {
        ResizeCoordinates::HalfPixel => "HalfPixel",
        ResizeCoordinates::PytorchHalfPixel => "PytorchHalfPixel",
        ResizeCoordinates::AlignCorners => "AlignCorners",
        ResizeCoordinates::Asymmetric => "Asymmetric",
    };
    let common = format!(
        "{}, {}, {}, {}, {}, {KERNELS}::Coordinates::{coordinates}",
        x.expression,
        list(&x.tensor_type.shape),
        y.expression,
        list(&y.tensor_type.shape),
        floats(scales)
    );
    Some(match mode {
        ResizeMode::Linear => format!("{KERNELS}::resize_linear({common})"),
        ResizeMode::Nearest(rounding) => {
            let rounding = match rounding {
                NearestRounding::RoundPreferFloor => "RoundPreferFloor",
                NearestRounding::RoundPreferCeil => "RoundPreferCeil",
                NearestRounding::Floor => "Floor",
                NearestRounding::Ceil => "Ceil",
            };
            format!("{KERNELS}::resize_nearest({common}, {KERNELS}::Rounding::{rounding})")
        }
    })
}
