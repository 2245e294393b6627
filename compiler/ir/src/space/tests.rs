//! The space of every operator as text, and what is derived from it held against the operator's meaning.

use super::{AxisKind, iteration_space};
use crate::graph::eval::evaluate_node;
use crate::graph::infer::{infer, operand_counts};
use crate::graph::values::{noise, to_f32};
use crate::graph::{Data, ElementType, Graph, NodeId, Op, TensorType, Value};
use crate::region::Region;
use crate::restrict::{partial_sum, restrict};

/// Operands, operator and space; every operator at least once.
const CASES: &[(&str, &str, &str)] = &[
    (
        "f32[2,3,8,7] f32[4,3,3,3] f32[4]",
        "Conv((window:(kernel:[3,3],stride:[2,1],dilation:[1,2],pad_begin:[1,2],pad_end:[1,2]),groups:1,residual:false,activation:Relu))",
        "[d0: 2 samples, d1: 4 channels, d2: 3 sum channels, d3: 4 space, d4: 7 space, d5: 3 tap, d6: 3 tap] (d0, d2, 2*d3 + d5 - 1, d4 + 2*d6 - 2), (d1, d2, d5, d6), (d1) -> (d0, d1, d3, d4) multiply-add",
    ),
    (
        "f32[1,4,9] f32[6,2,3] f32[6] f32[1,6,9]",
        "Conv((window:(kernel:[3],stride:[1],dilation:[1],pad_begin:[1],pad_end:[1]),groups:2,residual:true,activation:None))",
        "[d0: 1 samples, d1: 2 channels, d2: 3 channels, d3: 2 sum channels, d4: 9 space, d5: 3 tap] (d0, 2*d1 + d3, d4 + d5 - 1), (3*d1 + d2, d3, d5), (3*d1 + d2), (d0, 3*d1 + d2, d4) -> (d0, 3*d1 + d2, d4) multiply-add",
    ),
    (
        "f32[1,6,4,9] f32[6,1,1,3] f32[6]",
        "Conv((window:(kernel:[1,3],stride:[2,3],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:6,residual:false,activation:None))",
        "[d0: 1 samples, d1: 6 channels, d2: 2 space, d3: 3 space, d4: 1 tap, d5: 3 tap] (d0, d1, 2*d2 + d4, 3*d3 + d5), (d1, 0, d4, d5), (d1) -> (d0, d1, d2, d3) multiply-add",
    ),
    (
        "f32[1,4,3,3] f32[4,2,3,2] f32[4]",
        "ConvTranspose((window:(kernel:[3,2],stride:[2,1],dilation:[1,1],pad_begin:[1,0],pad_end:[1,0]),output_padding:[1,0],groups:2,activation:Relu))",
        "[d0: 1 samples, d1: 2 channels, d2: 2 channels, d3: 2 sum channels, d4: 3 coupled space, d5: 3 tap, d6: 3 coupled space, d7: 2 tap] (d0, 2*d1 + d3, d4, d6), (2*d1 + d3, d2, d5, d7), (2*d1 + d2) -> (d0, 2*d1 + d2, 2*d4 + d5 - 1, d6 + d7) multiply-add",
    ),
    (
        "f32[1,4,5] f32[4,3,2] f32[3]",
        "ConvTranspose((window:(kernel:[2],stride:[2],dilation:[1],pad_begin:[0],pad_end:[0]),output_padding:[0],groups:1,activation:None))",
        "[d0: 1 samples, d1: 3 channels, d2: 4 sum channels, d3: 5 coupled space, d4: 2 tap] (d0, d2, d3), (d2, d1, d4), (d1) -> (d0, d1, 2*d3 + d4) multiply-add",
    ),
    (
        "f32[5,6] f32[6,4] f32[4]",
        "Gemm((transpose_a:false,transpose_b:false,alpha:0.5,beta:2.0,activation:Relu))",
        "[d0: 5, d1: 4 channels, d2: 6 sum channels] (d0, d2), (d2, d1), (d1) -> (d0, d1) multiply-add",
    ),
    (
        "f32[6,5] f32[4,6] f32[5,1]",
        "Gemm((transpose_a:true,transpose_b:true,alpha:1.0,beta:1.0,activation:None))",
        "[d0: 5, d1: 4 channels, d2: 6 sum channels] (d2, d0), (d1, d2), (d0, 0) -> (d0, d1) multiply-add",
    ),
    (
        "f32[2,1,5,6] f32[3,6,4]",
        "MatMul",
        "[d0: 2, d1: 3, d2: 5 rows, d3: 6 sum channels, d4: 4 channels] (d0, 0, d2, d3), (d1, d3, d4) -> (d0, d1, d2, d4) multiply-add",
    ),
    ("f32[6] f32[6,4]", "MatMul", "[d0: 6 sum channels, d1: 4 channels] (d0), (d0, d1) -> (d1) multiply-add"),
    (
        "f32[2,5,6] f32[6]",
        "MatMul",
        "[d0: 2, d1: 5 rows, d2: 6 sum channels] (d0, d1, d2), (d2) -> (d0, d1) multiply-add",
    ),
    (
        "f32[2,4,3,5] f32[4] f32[4] f32[4] f32[4]",
        "BatchNormalization(epsilon:0.1)",
        "[d0: 2 samples, d1: 4 channels, d2: 3 space, d3: 5 space] (d0, d1, d2, d3), (d1), (d1), (d1), (d1) -> (d0, d1, d2, d3)",
    ),
    (
        "f32[2,4,3] f32[4] f32[4]",
        "InstanceNormalization(epsilon:0.1)",
        "[d0: 2 samples, d1: 4 channels, d2: 3 coupled space] (d0, d1, d2), (d1), (d1) -> (d0, d1, d2)",
    ),
    (
        "f32[2,3,2,4] f32[2,5,2,4]",
        "Einsum((terms:[[0,1,2,3],[0,4,2,3]],result:[0,2,1,4]))",
        "[d0: 2, d1: 3 rows, d2: 2, d3: 4 sum channels, d4: 5 channels] (d0, d1, d2, d3), (d0, d4, d2, d3) -> (d0, d2, d1, d4) multiply-add",
    ),
    (
        "f32[3,4,3] f32[4]",
        "Einsum((terms:[[0,1,0],[1]],result:[0]))",
        "[d0: 3 rows, d1: 4 sum channels] (d0, d1, d0), (d1) -> (d0) multiply-add",
    ),
    ("f32[3,4,3]", "Einsum((terms:[[0,1,0]],result:[]))", "[d0: 3 reduction, d1: 4 sum] (d0, d1, d0) -> ()"),
    (
        "f32[2,6,3] f32[6] f32[6]",
        "GroupNormalization(groups:3,epsilon:0.1)",
        "[d0: 2 samples, d1: 3 channels, d2: 2 coupled channels, d3: 3 coupled space] (d0, 2*d1 + d2, d3), (2*d1 + d2), (2*d1 + d2) -> (d0, 2*d1 + d2, d3)",
    ),
    (
        "f32[2,4,6] f32[6] f32[6]",
        "LayerNormalization(axis:2,epsilon:0.1)",
        "[d0: 2, d1: 4 rows, d2: 6 coupled channels] (d0, d1, d2), (d2), (d2) -> (d0, d1, d2)",
    ),
    (
        "f32[2,4,6] f32[4,6] f32[4,6]",
        "LayerNormalization(axis:1,epsilon:0.1)",
        "[d0: 2, d1: 4 coupled, d2: 6 coupled channels] (d0, d1, d2), (d1, d2), (d1, d2) -> (d0, d1, d2)",
    ),
    (
        "f32[2,6,3]",
        "Lrn(alpha:0.1,beta:0.75,bias:1.0,size:3)",
        "[d0: 2 samples, d1: 6 coupled channels, d2: 3 space] (d0, d1, d2) -> (d0, d1, d2)",
    ),
    ("f32[2,4,6]", "Unary(Tanh)", "[d0: 2, d1: 4, d2: 6] (d0, d1, d2) -> (d0, d1, d2)"),
    ("f32[2,1,6] f32[4,1]", "Binary(Add,Relu)", "[d0: 2, d1: 4, d2: 6] (d0, 0, d2), (d1, 0) -> (d0, d1, d2)"),
    ("f32[2,4,6] f32[4,1]", "PRelu", "[d0: 2, d1: 4, d2: 6] (d0, d1, d2), (d1, 0) -> (d0, d1, d2)"),
    ("bool[4,1] f32[2,1,6] f32[1]", "Where", "[d0: 2, d1: 4, d2: 6] (d1, 0), (d0, 0, d2), (0) -> (d0, d1, d2)"),
    (
        "f32[1,3,9,6]",
        "Pool((kind:Average,window:(kernel:[3,2],stride:[2,2],dilation:[1,1],pad_begin:[1,0],pad_end:[1,0]),declared_pad_end:[1,0],count_include_pad:true))",
        "[d0: 1 samples, d1: 3 channels, d2: 5 space, d3: 3 space, d4: 3 tap, d5: 2 tap] (d0, d1, 2*d2 + d4 - 1, 2*d3 + d5) -> (d0, d1, d2, d3)",
    ),
    (
        "f32[2,3,4,5]",
        "GlobalPool(Average)",
        "[d0: 2 samples, d1: 3 channels, d2: 4 sum space, d3: 5 sum space] (d0, d1, d2, d3) -> (d0, d1, 0, 0)",
    ),
    (
        "f32[2,3,4,5]",
        "GlobalPool(Max)",
        "[d0: 2 samples, d1: 3 channels, d2: 4 reduction space, d3: 5 reduction space] (d0, d1, d2, d3) -> (d0, d1, 0, 0)",
    ),
    ("f32[3,4,5]", "Softmax(axis:1)", "[d0: 3, d1: 4 coupled, d2: 5] (d0, d1, d2) -> (d0, d1, d2)"),
    ("f32[3,4,5]", "LogSoftmax(axis:2)", "[d0: 3, d1: 4, d2: 5 coupled] (d0, d1, d2) -> (d0, d1, d2)"),
    (
        "f32[3,4,5]",
        "Reduce(kind:Mean,axes:[1],keep_dims:true)",
        "[d0: 3, d1: 4 sum, d2: 5] (d0, d1, d2) -> (d0, 0, d2)",
    ),
    (
        "f32[3,4,5,2]",
        "Reduce(kind:Sum,axes:[0,2],keep_dims:false)",
        "[d0: 3 sum, d1: 4, d2: 5 sum, d3: 2] (d0, d1, d2, d3) -> (d1, d3)",
    ),
    (
        "i64[3,4,5]",
        "Reduce(kind:Max,axes:[0],keep_dims:false)",
        "[d0: 3 reduction, d1: 4, d2: 5] (d0, d1, d2) -> (d1, d2)",
    ),
    (
        "f32[3,4,5]",
        "Reduce(kind:L2,axes:[1,2],keep_dims:true)",
        "[d0: 3, d1: 4 reduction, d2: 5 reduction] (d0, d1, d2) -> (d0, 0, 0)",
    ),
    (
        "f32[3,4,5]",
        "ArgMax(axis:1,keep_dims:false,select_last:false)",
        "[d0: 3, d1: 4 reduction, d2: 5] (d0, d1, d2) -> (d0, d2)",
    ),
    (
        "f32[2,3,4] f32[2,1,4] f32[2,5,4]",
        "Concat(axis:1)",
        "[d0: 2, d1: 9, d2: 4] (d0, d1, d2), (d0, d1 - 3, d2), (d0, d1 - 4, d2) -> (d0, d1, d2) copy",
    ),
    (
        "f32[2,6,4]",
        "Split(axis:1,sizes:[1,3,2])",
        "[d0: 2, d1: 6 coupled, d2: 4] (d0, d1, d2) -> (d0, d1, d2), (d0, d1 - 1, d2), (d0, d1 - 4, d2) copy",
    ),
    (
        "f32[2,9,4]",
        "Slice(starts:[0,1,3],steps:[1,3,-1],sizes:[2,3,4])",
        "[d0: 2, d1: 3, d2: 4] (d0, 3*d1 + 1, -d2 + 3) -> (d0, d1, d2) copy",
    ),
    ("f32[1,5,12]", "Reshape(shape:[1,5,3,4])", "[d0: 5, d1: 3, d2: 4] (0, d0, 4*d1 + d2) -> (0, d0, d1, d2) view"),
    ("f32[5,3,4]", "Reshape(shape:[5,12])", "[d0: 5, d1: 3, d2: 4] (d0, d1, d2) -> (d0, 4*d1 + d2) view"),
    (
        "f32[1,6,4,5]",
        "Reshape(shape:[1,4,6,5])",
        "[d0: 2, d1: 3 coupled, d2: 4 coupled, d3: 2 coupled, d4: 6 coupled, d5: 5] (0, 3*d0 + d1, d2, d5) -> (0, 2*d0 + d3, d4, d5) view",
    ),
    (
        "f32[2,4,6]",
        "Reshape(shape:[8,3,2])",
        "[d0: 2, d1: 4, d2: 3, d3: 2] (d0, d1, 2*d2 + d3) -> (4*d0 + d1, d2, d3) view",
    ),
    ("f32[2,3,4]", "Transpose(permutation:[2,0,1])", "[d0: 4, d1: 2, d2: 3] (d1, d2, d0) -> (d0, d1, d2)"),
    (
        "f32[2,5,4]",
        "Pad(mode:Constant(0.5),begin:[0,2,1],end:[0,1,0])",
        "[d0: 2, d1: 8, d2: 5] (d0, d1 - 2, d2 - 1) -> (d0, d1, d2)",
    ),
    (
        "f32[2,5,4]",
        "Pad(mode:Reflect,begin:[0,0,1],end:[0,0,2])",
        "[d0: 2, d1: 5, d2: 7 coupled] (d0, d1, d2 - 1) -> (d0, d1, d2)",
    ),
    (
        "f32[2,5,4] i64[3,2]",
        "Gather(axis:1)",
        "[d0: 2, d1: 3, d2: 2, d3: 4, d4: 5 gathered] (d0, d4, d3), (d1, d2) -> (d0, d1, d2, d3)",
    ),
    (
        "f32[5,3] f32[4,3] i64[4]",
        "Scatter(function:Some(Add))",
        "[d0: 5 coupled, d1: 3, d2: 4 reduction] (d0, d1), (d2, d1), (d2) -> (d0, d1)",
    ),
    ("f32[3,1]", "Expand(shape:[2,3,4])", "[d0: 2, d1: 3, d2: 4] (d1, 0) -> (d0, d1, d2)"),
    ("f32[2,3]", "Identity", "[d0: 2, d1: 3] (d0, d1) -> (d0, d1) view"),
    ("f32[2,3]", "Cast(to:I64)", "[d0: 2, d1: 3] (d0, d1) -> (d0, d1)"),
    ("f32[2,3]", "BitCast(to:I32)", "[d0: 2, d1: 3] (d0, d1) -> (d0, d1)"),
    (
        "f32[2,3,4,5]",
        "Resize(mode:Linear,coordinates:HalfPixel,scales:[1.0,1.0,2.0,1.0],sizes:[2,3,8,5])",
        "[d0: 2, d1: 3, d2: 8 coupled, d3: 5, d4: 4 coupled] (d0, d1, d4, d3) -> (d0, d1, d2, d3)",
    ),
    (
        "f32[2,3,4,6]",
        "SpaceToDepth(block:2)",
        "[d0: 2 samples, d1: 3 channels, d2: 2 space, d3: 3 space, d4: 2 coupled, d5: 2 coupled] (d0, d1, 2*d2 + d4, 2*d3 + d5) -> (d0, 6*d4 + 3*d5 + d1, d2, d3)",
    ),
    (
        "f32[2,12,2,3]",
        "DepthToSpace(block:2,column_row_depth:false)",
        "[d0: 2 samples, d1: 3 channels, d2: 2 space, d3: 3 space, d4: 2 coupled, d5: 2 coupled] (d0, 6*d4 + 3*d5 + d1, d2, d3) -> (d0, d1, 2*d2 + d4, 2*d3 + d5)",
    ),
    (
        "f32[2,12,2,3]",
        "DepthToSpace(block:2,column_row_depth:true)",
        "[d0: 2 samples, d1: 3 channels, d2: 2 space, d3: 3 space, d4: 2 coupled, d5: 2 coupled] (d0, 4*d1 + 2*d4 + d5, d2, d3) -> (d0, d1, 2*d2 + d4, 2*d3 + d5)",
    ),
    (
        "f32[2,5,4] f32[2,3,5]",
        "NonMaxSuppression((rows:7,most:2,overlap:0.5,least:Some(0.0),centred:true))",
        "[d0: 2 coupled, d1: 5 coupled, d2: 4 coupled, d3: 2 coupled, d4: 3 coupled, d5: 5 coupled, d6: 7 coupled, d7: 3 coupled] (d0, d1, d2), (d3, d4, d5) -> (d6, d7) opaque",
    ),
    (
        "f32[5,3,4,6] f32[4,4] i64[4]",
        "RoiAlign((kind:Average,bins:(2,3),scale:3.0,half_pixel:true,ratio:0))",
        "[d0: 4, d1: 3 channels, d2: 2 coupled space, d3: 3 coupled space, d4: 5 gathered, d5: 4 gathered, d6: 6 gathered, d7: 4 reduction] (d4, d1, d5, d6), (d0, d7), (d0) -> (d0, d1, d2, d3)",
    ),
    (
        "f32[4,3] i32[5,4] f32[5] i32[2] i32[6] f32[6]",
        "TreeEnsemble((targets:2,kind:Sum))",
        "[d0: 4, d1: 3 reduction, d2: 5 gathered, d3: 4 gathered, d4: 5 gathered, d5: 2 gathered, d6: 6 gathered, d7: 6 gathered, d8: 2 coupled] (d0, d1), (d2, d3), (d4), (d5), (d6), (d7) -> (d0, d8)",
    ),
    (
        "f32[1,5]",
        "Decide((exit:0,rule:Margin,logits:true,temperature:1.0,threshold:0.5,share:0.5))",
        "[d0: 1 coupled, d1: 5 coupled, d2: 2 coupled] (d0, d1) -> (d2) opaque",
    ),
];

/// A graph of one node, with values for its operands.
struct Case {
    graph: Graph,
    id: NodeId,
    values: Vec<Value>,
}

fn cases() -> impl Iterator<Item = (Case, &'static str)> {
    CASES.iter().map(|(operands, op, space)| {
        let op: Op = ron::from_str(op).unwrap_or_else(|error| panic!("{op}: {error}"));
        let operand = |text: &str| {
            let (element, shape) = text.trim_end_matches(']').split_once('[').expect("a type");
            let shape: Vec<usize> = shape.split(',').map(|extent| extent.parse().expect("an extent")).collect();
            TensorType::new(ElementType::from_name(element).expect("an element type"), shape)
        };
        let types: Vec<TensorType> = operands.split(' ').map(operand).collect();
        let mut graph = Graph::new("case");
        let inputs = types.iter().enumerate().map(|(at, operand)| graph.add_input(format!("x{at}"), operand.clone()));
        let inputs = inputs.collect();
        let results = infer(&op, &types.iter().collect::<Vec<_>>()).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        let results = results.into_iter().enumerate().map(|(at, result)| graph.add_tensor(format!("y{at}"), result));
        let results = results.collect();
        let id = graph.add_node("n", op, inputs, results);
        let value = |(at, operand): (usize, &TensorType)| match operand.element {
            // Indices of data with five slices.
            ElementType::I64 if at > 0 => {
                let count = operand.element_count() as i64;
                Value { shape: operand.shape.clone(), data: Data::I64((0..count).map(|at| at % 5).collect()) }
            }
            // A variance is not negative.
            ElementType::F32 if at == 4 => {
                Value::f32(operand.shape.clone(), to_f32(&noise(operand, 4).data).iter().map(|x| x.abs()).collect())
            }
            _ => noise(operand, at as u64),
        };
        let values = types.iter().enumerate().map(value).collect();
        (Case { graph, id, values }, *space)
    })
}

impl Case {
    fn op(&self) -> &Op {
        &self.graph.node(self.id).op
    }

    fn results(&self) -> Vec<Value> {
        evaluated(self.op(), &self.values.iter().collect::<Vec<_>>())
    }
}

fn evaluated(op: &Op, values: &[&Value]) -> Vec<Value> {
    let types: Vec<TensorType> = values.iter().map(|value| value.tensor_type()).collect();
    let results = infer(op, &types.iter().collect::<Vec<_>>()).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    evaluate_node(op, values, &results).unwrap_or_else(|error| panic!("{op:?}: {error}"))
}

fn cut(value: &Value, part: &Region) -> Value {
    let starts = (0..part.rank()).map(|axis| part.begin(axis)).collect();
    evaluated(&Op::Slice { starts, steps: vec![1; part.rank()], sizes: part.shape() }, &[value]).swap_remove(0)
}

fn assert_close(found: &Value, expected: &Value, about: &str) {
    assert_eq!(found.shape, expected.shape, "{about}");
    for (a, b) in to_f32(&found.data).iter().zip(to_f32(&expected.data)) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{about}: {a} instead of {b}");
    }
}

/// A sequence of numbers that is always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    /// A box; along each axis it is as likely whole as not.
    fn part(&mut self, shape: &[usize]) -> Region {
        let range = |extent: &usize| {
            let begin = self.below(*extent);
            let end = begin + 1 + self.below(extent - begin);
            if self.below(2) == 0 { (0, *extent) } else { (begin, end) }
        };
        Region::new(shape.iter().map(range)).expect("no range is empty")
    }
}

#[test]
fn every_operator_is_described() {
    let source = include_str!("../graph/op.rs");
    let (_, variants) = source.split_once("pub enum Op {").expect("the operators");
    let (variants, _) = variants.split_once("\n}").expect("their end");
    let name = |line: &str| {
        let line = line.strip_prefix("    ").filter(|line| line.starts_with(char::is_uppercase))?;
        Some(line.chars().take_while(|c| c.is_alphanumeric()).collect::<String>())
    };
    let names: Vec<String> = variants.lines().filter_map(name).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let is_its = |op: &str| op.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('('));
        assert!(CASES.iter().any(|(_, op, _)| is_its(op)), "no case of {name}");
    }
}

#[test]
fn spaces_are_as_written() {
    for (case, expected) in cases() {
        let shapes: Vec<&[usize]> = case.values.iter().map(|value| value.shape.as_slice()).collect();
        let space = iteration_space(case.op(), &shapes);
        assert_eq!(space.to_string(), expected, "{:?}", case.op());
    }
}

#[test]
fn shapes_of_results_follow() {
    for (case, _) in cases() {
        let shapes: Vec<&[usize]> = case.values.iter().map(|value| value.shape.as_slice()).collect();
        let space = iteration_space(case.op(), &shapes);
        let found: Vec<&[usize]> = space.results.iter().map(|access| access.extents.as_slice()).collect();
        let results = case.results();
        assert_eq!(found, results.iter().map(|value| value.shape.as_slice()).collect::<Vec<_>>(), "{:?}", case.op());
        // All loops together touch everything.
        for access in space.operands.iter().chain(&space.results) {
            let touched = space.touched(access, &space.whole()).flatten();
            let skipping = matches!(case.op(), Op::Slice { .. });
            assert!(skipping || touched == Some(Region::whole(&access.extents)), "{:?}: {touched:?}", case.op());
        }
    }
}

/// The operator on the parts of its operands computes the part of its results.
#[test]
fn parts_are_computed_from_parts() {
    let mut numbers = Numbers(1);
    for (case, _) in cases() {
        let results = case.results();
        let (mut cuts, mut whole) = (0, 0);
        for _ in 0..300 {
            let part = numbers.part(&results[0].shape);
            whole += usize::from(part == Region::whole(&results[0].shape));
            let Some(restriction) = restrict(&case.graph, case.id, &part) else { continue };
            cuts += 1;
            let operands: Vec<Value> = case
                .values
                .iter()
                .zip(&restriction.operands)
                .filter_map(|(value, part)| Some(cut(value, &(*part)?)))
                .collect();
            let found = evaluated(&restriction.op, &operands.iter().collect::<Vec<_>>());
            for ((found, whole), part) in found.iter().zip(&results).zip(&restriction.results) {
                assert_close(found, &cut(whole, part), &format!("{:?} of {part}", restriction.op));
            }
        }
        let shapes: Vec<&[usize]> = case.values.iter().map(|value| value.shape.as_slice()).collect();
        let space = iteration_space(case.op(), &shapes);
        let parallel = |(axis, _): &(usize, isize)| space.axes[*axis].kind == AxisKind::Parallel;
        let divisible = space.results[0].indices.iter().flat_map(|index| &index.terms).any(parallel);
        assert_eq!(cuts > whole, divisible, "{:?}: {cuts} parts of which {whole} are all of it", case.op());
    }
}

/// What is computed from parts of the first operand adds up to the result.
#[test]
fn partial_sums_add_up() {
    for (case, _) in cases() {
        let whole = &case.results()[0];
        let shape = case.values[0].shape.clone();
        let (result, x) = (Region::whole(&whole.shape), Region::whole(&shape));
        let shapes: Vec<&[usize]> = case.values.iter().map(|value| value.shape.as_slice()).collect();
        let space = iteration_space(case.op(), &shapes);
        for (axis, extent) in shape.iter().enumerate().filter(|(_, extent)| **extent > 1) {
            let ranges = [(0, extent / 2), (extent / 2, *extent)];
            let parts = ranges.map(|(begin, end)| x.with(axis, begin, end).expect("half of it"));
            let [first, second] = [0, 1].map(|at| partial_sum(&case.graph, case.id, &parts[at], &result, at == 0));
            let sums = space.operands[0].indices[axis].only().is_some_and(|d| space.axes[d].kind == AxisKind::Sum);
            let is_real = case.values[0].data.element() == ElementType::F32;
            let (Some(first), Some(second)) = (first, second) else {
                assert!(!sums || !is_real, "{:?} is a sum over axis {axis}", case.op());
                continue;
            };
            let mut sum = vec![0.0f32; whole.data.len()];
            let mut residual = None;
            for partial_sum in [&first, &second] {
                let required = operand_counts(&partial_sum.op).0;
                let mut operands = Vec::new();
                for (at, (value, part)) in case.values.iter().zip(&partial_sum.operands).enumerate() {
                    match part {
                        Some(part) => operands.push(cut(value, part)),
                        None if partial_sum.residual == Some(at) => residual = Some(value),
                        None if at < required => {
                            operands.push(Value::f32(value.shape.clone(), vec![0.0; value.data.len()]));
                        }
                        None => {}
                    }
                }
                let found = evaluated(&partial_sum.op, &operands.iter().collect::<Vec<_>>()).swap_remove(0);
                for (sum, part) in sum.iter_mut().zip(to_f32(&found.data)) {
                    *sum += part * partial_sum.scale;
                }
            }
            let mut sum = Value::f32(whole.shape.clone(), sum);
            if let Some(residual) = residual {
                sum = evaluated(&crate::restrict::sum(first.activation), &[&sum, residual]).swap_remove(0);
            } else {
                let op = Op::Unary(crate::graph::op::UnaryOp::Activation(first.activation));
                sum = evaluated(&op, &[&sum]).swap_remove(0);
            }
            assert_close(&sum, whole, &format!("{:?} cut along axis {axis}", case.op()));
        }
    }
}
