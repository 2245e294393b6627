//! Operators as ONNX spells them.

use onnx_protobuf::AttributeProto;

use super::proto::{Writer, float, int, ints, number, whole, wholes, word};
use super::quantized::unary;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::op::{
    Activation, NearestRounding, Op, PadMode, Pool, PoolKind, ReduceKind, ResizeCoordinates, ResizeMode, Window,
};
use partita_ir::graph::text::op_name;
use partita_ir::graph::{BinaryOp, Data, ElementType, Graph, Node, UnaryOp};

/// Writes a node that reads and makes tensors of these names; what it does last may be a node of its own.
///
/// Errors: E0195 where ONNX has no word for the operator.
pub fn write(
    writer: &mut Writer,
    graph: &Graph,
    node: &Node,
    inputs: &[String],
    outputs: &[String],
) -> Result<(), Diagnostic> {
    let (mut inputs, mut outputs) = (inputs.to_vec(), outputs.to_vec());
    let mut behind: Vec<(Op, Vec<String>, Vec<String>)> = Vec::new();
    // What stands behind the operator, the last first: each gets what the one before it makes, under a name of its own.
    let mut put_behind = |writer: &mut Writer, op: Option<Op>, outputs: &mut Vec<String>, other: Option<String>| {
        if let Some(op) = op {
            let before = writer.name(&format!("{}.before", outputs[0]));
            let operands = std::iter::once(before.clone()).chain(other).collect();
            behind.push((op, operands, std::mem::replace(outputs, vec![before])));
        }
    };
    match &node.op {
        Op::Conv(conv) => {
            put_behind(writer, unary(conv.activation), &mut outputs, None);
            if conv.residual {
                let sum = Op::Binary(BinaryOp::Add, Activation::None);
                let residual = inputs.pop();
                put_behind(writer, Some(sum), &mut outputs, residual);
            }
        }
        Op::ConvTranspose(conv) => put_behind(writer, unary(conv.activation), &mut outputs, None),
        Op::Gemm(gemm) => put_behind(writer, unary(gemm.activation), &mut outputs, None),
        Op::Binary(_, activation) => put_behind(writer, unary(*activation), &mut outputs, None),
        _ => {}
    }
    plain(writer, graph, node, &inputs, &outputs)?;
    while let Some((op, inputs, outputs)) = behind.pop() {
        let node = Node { name: node.name.clone(), op, inputs: node.inputs.clone(), outputs: node.outputs.clone() };
        plain(writer, graph, &node, &inputs, &outputs)?;
    }
    Ok(())
}

/// The operator by itself.
#[expect(clippy::too_many_lines, reason = "one arm for each operator")]
fn plain(
    writer: &mut Writer,
    graph: &Graph,
    node: &Node,
    inputs: &[String],
    outputs: &[String],
) -> Result<(), Diagnostic> {
    let result = &outputs[0];
    let name = |part: &str| format!("{result}.{part}");
    let with = |list: String| -> Vec<String> { vec![inputs[0].clone(), list] };
    match &node.op {
        Op::Conv(conv) => {
            let attributes =
                [window(&conv.window, &conv.window.pad_end), vec![int("group", whole(conv.groups))]].concat();
            writer.node("Conv", inputs, outputs, attributes);
        }
        Op::ConvTranspose(conv) => {
            let padding = ints("output_padding", wholes(&conv.output_padding));
            let further = vec![int("group", whole(conv.groups)), padding];
            writer.node(
                "ConvTranspose",
                inputs,
                outputs,
                [window(&conv.window, &conv.window.pad_end), further].concat(),
            );
        }
        Op::Gemm(gemm) => {
            let flags = [int("transA", i64::from(gemm.transpose_a)), int("transB", i64::from(gemm.transpose_b))];
            let attributes = [float("alpha", gemm.alpha), float("beta", gemm.beta)].into_iter().chain(flags).collect();
            writer.node("Gemm", inputs, outputs, attributes);
        }
        Op::MatMul => writer.node("MatMul", inputs, outputs, vec![]),
        Op::Einsum(einsum) => {
            let letters = |labels: &[usize]| -> Option<String> {
                labels
                    .iter()
                    .map(|label| u8::try_from(*label).ok().filter(|l| *l < 26).map(|l| char::from(b'a' + l)))
                    .collect()
            };
            let terms: Option<Vec<String>> = einsum.terms.iter().map(|term| letters(term)).collect();
            let (Some(terms), Some(sum)) = (terms, letters(&einsum.result)) else { return Err(no_word(node)) };
            let equation = word("equation", &format!("{}->{sum}", terms.join(",")));
            writer.node("Einsum", inputs, outputs, vec![equation]);
        }
        Op::BatchNormalization { epsilon } => {
            writer.node("BatchNormalization", inputs, outputs, vec![float("epsilon", *epsilon)]);
        }
        Op::InstanceNormalization { epsilon } => {
            writer.node("InstanceNormalization", inputs, outputs, vec![float("epsilon", *epsilon)]);
        }
        Op::GroupNormalization { groups, epsilon } => {
            let attributes = vec![int("num_groups", whole(*groups)), float("epsilon", *epsilon)];
            writer.node("GroupNormalization", inputs, outputs, attributes);
        }
        Op::LayerNormalization { axis, epsilon } => {
            let attributes = vec![int("axis", whole(*axis)), float("epsilon", *epsilon)];
            writer.node("LayerNormalization", inputs, outputs, attributes);
        }
        Op::Lrn { alpha, beta, bias, size } => {
            let numbers = [float("alpha", *alpha), float("beta", *beta), float("bias", *bias)];
            writer.node("LRN", inputs, outputs, numbers.into_iter().chain([int("size", whole(*size))]).collect());
        }
        Op::Unary(function) => unary_function(writer, *function, inputs, outputs),
        Op::Binary(function, _) => {
            let op = binary_name(*function).ok_or_else(|| no_word(node))?;
            // Of real numbers, the remainder has the sign of what is divided.
            let is_real = node.inputs.first().is_some_and(|x| graph.tensor_type(*x).element.is_float());
            let attributes = if *function == BinaryOp::Mod { vec![int("fmod", i64::from(is_real))] } else { vec![] };
            writer.node(op, inputs, outputs, attributes);
        }
        Op::PRelu => writer.node("PRelu", inputs, outputs, vec![]),
        Op::Where => writer.node("Where", inputs, outputs, vec![]),
        Op::Pool(pool) => {
            let (op, attributes) = pooling(pool);
            writer.node(op, inputs, outputs, attributes);
        }
        Op::GlobalPool(PoolKind::Max) => writer.node("GlobalMaxPool", inputs, outputs, vec![]),
        Op::GlobalPool(PoolKind::Average) => writer.node("GlobalAveragePool", inputs, outputs, vec![]),
        Op::Softmax { axis } => writer.node("Softmax", inputs, outputs, vec![int("axis", whole(*axis))]),
        Op::LogSoftmax { axis } => writer.node("LogSoftmax", inputs, outputs, vec![int("axis", whole(*axis))]),
        Op::Reduce { kind, axes, keep_dims } => {
            let op = match kind {
                ReduceKind::Mean => "ReduceMean",
                ReduceKind::Sum => "ReduceSum",
                ReduceKind::Max => "ReduceMax",
                ReduceKind::Min => "ReduceMin",
                ReduceKind::L2 => "ReduceL2",
            };
            let list = writer.list(&name("axes"), wholes(axes));
            writer.node(op, &with(list), outputs, vec![int("keepdims", i64::from(*keep_dims))]);
        }
        Op::ArgMax { axis, keep_dims, select_last } => {
            let flags = [int("keepdims", i64::from(*keep_dims)), int("select_last_index", i64::from(*select_last))];
            writer.node("ArgMax", inputs, outputs, flags.into_iter().chain([int("axis", whole(*axis))]).collect());
        }
        Op::Concat { axis } => writer.node("Concat", inputs, outputs, vec![int("axis", whole(*axis))]),
        Op::Split { axis, sizes } => {
            let list = writer.list(&name("sizes"), wholes(sizes));
            writer.node("Split", &with(list), outputs, vec![int("axis", whole(*axis))]);
        }
        Op::Slice { starts, steps, sizes } => {
            // Backwards to the first element ends before it, which no index from 0 says.
            let end = |((start, step), size): ((&usize, &isize), &usize)| {
                let end = *start as i64 + *step as i64 * *size as i64;
                if end < 0 { i64::MIN + 1 } else { end }
            };
            let ends = starts.iter().zip(steps).zip(sizes).map(end).collect();
            let lists = [
                writer.list(&name("starts"), wholes(starts)),
                writer.list(&name("ends"), ends),
                writer.list(&name("axes"), (0..starts.len()).map(whole).collect()),
                writer.list(&name("steps"), steps.iter().map(|step| *step as i64).collect()),
            ];
            let operands: Vec<String> = std::iter::once(inputs[0].clone()).chain(lists).collect();
            writer.node("Slice", &operands, outputs, vec![]);
        }
        Op::Reshape { shape } => {
            let list = writer.list(&name("shape"), wholes(shape));
            writer.node("Reshape", &with(list), outputs, vec![int("allowzero", 1)]);
        }
        Op::Transpose { permutation } => {
            writer.node("Transpose", inputs, outputs, vec![ints("perm", wholes(permutation))]);
        }
        Op::Pad { mode, begin, end } => {
            let mut operands = with(writer.list(&name("pads"), wholes(&[&begin[..], end].concat())));
            let mode = match mode {
                PadMode::Constant(value) => {
                    let element = graph.tensor_type(node.inputs[0]).element;
                    let value = Data::F32(vec![*value]).cast(element);
                    operands.push(writer.constant(&name("value"), &[], &value));
                    "constant"
                }
                PadMode::Reflect => "reflect",
                PadMode::Edge => "edge",
            };
            writer.node("Pad", &operands, outputs, vec![word("mode", mode)]);
        }
        Op::Gather { axis } => writer.node("Gather", inputs, outputs, vec![int("axis", whole(*axis))]),
        Op::Scatter { function } => {
            let reduction = match function {
                None => "none",
                Some(BinaryOp::Add) => "add",
                Some(BinaryOp::Mul) => "mul",
                Some(BinaryOp::Min) => "min",
                Some(BinaryOp::Max) => "max",
                Some(_) => return Err(no_word(node)),
            };
            let (wide, column) = (name("indices.i64"), name("indices.column"));
            let to = int("to", i64::from(number(ElementType::I64)));
            writer.node("Cast", &inputs[2..], std::slice::from_ref(&wide), vec![to]);
            let axes = writer.list(&name("axes"), vec![1]);
            writer.node("Unsqueeze", &[wide, axes], std::slice::from_ref(&column), vec![]);
            let operands = [inputs[0].clone(), column, inputs[1].clone()];
            writer.node("ScatterND", &operands, outputs, vec![word("reduction", reduction)]);
        }
        Op::Expand { shape } => {
            let list = writer.list(&name("shape"), wholes(shape));
            writer.node("Expand", &with(list), outputs, vec![]);
        }
        Op::Identity => writer.node("Identity", inputs, outputs, vec![]),
        Op::Cast { to } => writer.node("Cast", inputs, outputs, vec![int("to", i64::from(number(*to)))]),
        Op::Resize { mode, coordinates, scales, sizes } => {
            let shape = graph.shape(node.inputs[0]);
            let follows =
                |((extent, scale), size): ((&usize, &f32), &usize)| (*extent as f32 * scale).floor() == *size as f32;
            let operands = if shape.iter().zip(scales).zip(sizes).all(follows) {
                let list = writer.constant(&name("scales"), &[scales.len()], &Data::F32(scales.clone()));
                vec![inputs[0].clone(), String::new(), list]
            } else {
                let list = writer.list(&name("sizes"), wholes(sizes));
                vec![inputs[0].clone(), String::new(), String::new(), list]
            };
            writer.node("Resize", &operands, outputs, resizing(*mode, *coordinates));
        }
        Op::SpaceToDepth { block } => {
            writer.node("SpaceToDepth", inputs, outputs, vec![int("blocksize", whole(*block))]);
        }
        Op::DepthToSpace { block, column_row_depth } => {
            let mode = word("mode", if *column_row_depth { "CRD" } else { "DCR" });
            writer.node("DepthToSpace", inputs, outputs, vec![int("blocksize", whole(*block)), mode]);
        }
        Op::NonMaxSuppression(suppression) => {
            let most = i64::try_from(suppression.most).unwrap_or(i64::MAX);
            let mut operands = inputs.to_vec();
            operands.push(writer.list(&name("most"), vec![most]));
            operands.push(writer.constant(&name("overlap"), &[1], &Data::F32(vec![suppression.overlap])));
            let least = suppression.least.map(|least| writer.constant(&name("least"), &[1], &Data::F32(vec![least])));
            operands.extend(least);
            let centred = int("center_point_box", i64::from(suppression.centred));
            writer.node("NonMaxSuppression", &operands, outputs, vec![centred]);
        }
        Op::RoiAlign(align) => {
            let images = name("images.i64");
            let to = int("to", i64::from(number(ElementType::I64)));
            writer.node("Cast", &inputs[2..], std::slice::from_ref(&images), vec![to]);
            let operands = [inputs[0].clone(), inputs[1].clone(), images];
            let coordinates = if align.half_pixel { "half_pixel" } else { "output_half_pixel" };
            let attributes = vec![
                word("mode", if align.kind == PoolKind::Max { "max" } else { "avg" }),
                word("coordinate_transformation_mode", coordinates),
                int("output_height", whole(align.bins[0])),
                int("output_width", whole(align.bins[1])),
                int("sampling_ratio", whole(align.ratio)),
                float("spatial_scale", align.scale),
            ];
            writer.node("RoiAlign", &operands, outputs, attributes);
        }
        // Later or other operator sets than the one that is written have words for two of them.
        Op::BitCast { .. } | Op::TreeEnsemble(_) | Op::Decide(_) => return Err(no_word(node)),
    }
    Ok(())
}

fn no_word(node: &Node) -> Diagnostic {
    let message = format!("node `{}` ({}) has no operator in ONNX", printable(&node.name), op_name(&node.op));
    Diagnostic::new("E0195", message).help("leave --write-onnx out")
}

fn window(window: &Window, pad_end: &[usize]) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", wholes(&window.kernel)),
        ints("strides", wholes(&window.stride)),
        ints("dilations", wholes(&window.dilation)),
        ints("pads", wholes(&[&window.pad_begin[..], pad_end].concat())),
    ]
}

fn pooling(pool: &Pool) -> (&'static str, Vec<AttributeProto>) {
    match pool.kind {
        // Padded elements never win.
        PoolKind::Max if pool.window.pad_end == pool.declared_pad_end => {
            ("MaxPool", window(&pool.window, &pool.declared_pad_end))
        }
        PoolKind::Max => {
            ("MaxPool", [window(&pool.window, &pool.declared_pad_end), vec![int("ceil_mode", 1)]].concat())
        }
        PoolKind::Average => {
            let rounds_up = pool.window.pad_end != pool.declared_pad_end;
            let further = vec![
                int("count_include_pad", i64::from(pool.count_include_pad)),
                int("ceil_mode", i64::from(rounds_up)),
            ];
            ("AveragePool", [window(&pool.window, &pool.declared_pad_end), further].concat())
        }
    }
}

fn resizing(mode: ResizeMode, coordinates: ResizeCoordinates) -> Vec<AttributeProto> {
    let coordinates = match coordinates {
        ResizeCoordinates::HalfPixel => "half_pixel",
        ResizeCoordinates::PytorchHalfPixel => "pytorch_half_pixel",
        ResizeCoordinates::AlignCorners => "align_corners",
        ResizeCoordinates::Asymmetric => "asymmetric",
    };
    let mut attributes = vec![word("coordinate_transformation_mode", coordinates)];
    match mode {
        ResizeMode::Linear => attributes.push(word("mode", "linear")),
        ResizeMode::Nearest(rounding) => {
            let rounding = match rounding {
                NearestRounding::RoundPreferFloor => "round_prefer_floor",
                NearestRounding::RoundPreferCeil => "round_prefer_ceil",
                NearestRounding::Floor => "floor",
                NearestRounding::Ceil => "ceil",
            };
            attributes.extend([word("mode", "nearest"), word("nearest_mode", rounding)]);
        }
    }
    attributes
}

/// A function of one tensor; few are more than a node.
fn unary_function(writer: &mut Writer, function: UnaryOp, inputs: &[String], outputs: &[String]) {
    let mut operands = inputs.to_vec();
    let (op, attributes) = match function {
        UnaryOp::Activation(activation) => match activation {
            Activation::None => ("Identity", vec![]),
            Activation::Relu => ("Relu", vec![]),
            Activation::Clip(low, high) => {
                let bound = |writer: &mut Writer, part: &str, bound: f32| {
                    writer.constant(&format!("{}.{part}", outputs[0]), &[], &Data::F32(vec![bound]))
                };
                operands.push(bound(writer, "low", low));
                operands.push(bound(writer, "high", high));
                ("Clip", vec![])
            }
            Activation::LeakyRelu(alpha) => ("LeakyRelu", vec![float("alpha", alpha)]),
            Activation::HardSwish => ("HardSwish", vec![]),
            Activation::HardSigmoid(alpha, beta) => ("HardSigmoid", vec![float("alpha", alpha), float("beta", beta)]),
        },
        UnaryOp::Silu => {
            let sigmoid = writer.name(&format!("{}.sigmoid", outputs[0]));
            writer.node("Sigmoid", inputs, std::slice::from_ref(&sigmoid), vec![]);
            operands.push(sigmoid);
            ("Mul", vec![])
        }
        UnaryOp::Half => {
            let half = writer.name(&format!("{}.half", outputs[0]));
            writer.node(
                "Cast",
                inputs,
                std::slice::from_ref(&half),
                vec![int("to", i64::from(number(ElementType::F16)))],
            );
            operands = vec![half];
            ("Cast", vec![int("to", i64::from(number(ElementType::F32)))])
        }
        UnaryOp::Steps { step, low, high } => {
            operands = steps(writer, [step, low, high], &inputs[0], &outputs[0]);
            ("Mul", vec![])
        }
        UnaryOp::Elu { alpha } => ("Elu", vec![float("alpha", alpha)]),
        UnaryOp::Selu { alpha, gamma } => ("Selu", vec![float("alpha", alpha), float("gamma", gamma)]),
        UnaryOp::Gelu { tanh } => ("Gelu", vec![word("approximate", if tanh { "tanh" } else { "none" })]),
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
        | UnaryOp::Not => (op_name(&Op::Unary(function)), vec![]),
    };
    writer.node(op, &operands, outputs, attributes);
}

/// A tensor in steps: so many of them, and one of them, whose product is the result. As its own arithmetic: QuantizeLinear
/// divides.
fn steps(writer: &mut Writer, [step, low, high]: [f32; 3], input: &str, output: &str) -> Vec<String> {
    let name = |part: &str| format!("{output}.{part}");
    let scalar = |writer: &mut Writer, part: &str, x: f32| writer.constant(&name(part), &[], &Data::F32(vec![x]));
    let (inverse, low, high) =
        (scalar(writer, "inverse", 1.0 / step), scalar(writer, "low", low), scalar(writer, "high", high));
    let [many, clipped, whole] = ["many", "clipped", "whole"].map(|part| writer.name(&name(part)));
    let one = |name: &String| std::slice::from_ref(name).to_vec();
    writer.node("Mul", &[input.to_string(), inverse], &one(&many), vec![]);
    writer.node("Clip", &[many, low, high], &one(&clipped), vec![]);
    writer.node("Round", &one(&clipped), &one(&whole), vec![]);
    vec![whole, scalar(writer, "step", step)]
}

fn binary_name(function: BinaryOp) -> Option<&'static str> {
    match function {
        BinaryOp::Add
        | BinaryOp::Sub
        | BinaryOp::Mul
        | BinaryOp::Div
        | BinaryOp::Pow
        | BinaryOp::Min
        | BinaryOp::Max
        | BinaryOp::Mod
        | BinaryOp::Equal
        | BinaryOp::Less
        | BinaryOp::LessOrEqual
        | BinaryOp::Greater
        | BinaryOp::GreaterOrEqual
        | BinaryOp::And
        | BinaryOp::Or => Some(op_name(&Op::Binary(function, Activation::None))),
        // Only models that are quantized have it, and they are not written.
        BinaryOp::RoundedQuotient => None,
    }
}
