//! A graph of whole numbers of a graph of real ones: the same graph that is imported of a quantized model (QDQ).
//!
//! Steps are `f32` tensors of whole numbers. A product sums products of steps, exactly, and its sums are rounded to the grid
//! of its result, with ReLU and Clip as bounds; what only moves elements moves steps; everything else reads what steps stand
//! for, and its result is rounded where it has a grid. All who read a tensor with a grid read its rounded elements.

use std::collections::BTreeMap;

use partita_ir::graph::infer::{InferError, infer};
use partita_ir::graph::op::{Activation, Conv, Gemm};
use partita_ir::graph::quantization::{Grid, Products, Quantization, averages, moves};
use partita_ir::graph::verify::verify;
use partita_ir::graph::{BinaryOp, Graph, NodeId, Op, TensorId, Value};

use super::PassError;

/// A graph of whole numbers, and where in it the numbers are.
pub struct Quantized {
    /// The graph; outputs are real numbers as before.
    pub graph: Graph,
    /// By tensor of the graph of real numbers: the steps of the result, and what a step is.
    pub steps: BTreeMap<TensorId, (TensorId, f32)>,
}

/// Makes the graph of whole numbers.
pub fn run(graph: &Graph, quantization: &Quantization) -> Result<Quantized, PassError> {
    let mut rewrite = Rewrite { graph: graph.clone(), steps: BTreeMap::new() };
    for tensor in graph.inputs.clone() {
        if let Some(grid) = quantization.grids.get(&tensor) {
            rewrite.round(tensor, *grid)?;
        }
    }
    for id in graph.topological_order().unwrap_or_default() {
        let outputs = graph.node(id).outputs.clone();
        let x = graph.node(id).inputs.first().and_then(|x| rewrite.steps.get(x)).copied();
        match (x, quantization.products.get(&id)) {
            (Some(x), Some(products)) => rewrite.multiply(id, x, products, quantization.grids.get(&outputs[0]))?,
            (Some(x), None) if moves(graph, graph.node(id)) => rewrite.move_steps(id, x)?,
            (Some(x), None) if averages(graph.node(id)) => {
                rewrite.average(id, x, quantization.grids.get(&outputs[0]))?;
            }
            _ => {
                for output in outputs {
                    if let Some(grid) = quantization.grids.get(&output) {
                        rewrite.round(output, *grid)?;
                    }
                }
            }
        }
    }
    rewrite.read_real_numbers()?;
    let Rewrite { mut graph, steps } = rewrite;
    super::run(super::TIDY, &mut graph, &mut |_, _, _| {})?;
    verify(&graph).map_err(|source| PassError::Broken { pass: "quantize", source })?;
    Ok(Quantized { graph, steps })
}

struct Rewrite {
    graph: Graph,
    /// Steps of tensors that have some.
    steps: BTreeMap<TensorId, (TensorId, f32)>,
}

/// `grid / own`, as importers of quantized models compute it.
fn ratio(grid: &Grid, own: f32) -> f32 {
    (f64::from(grid.scale) / f64::from(own)) as f32
}

/// Bounds of steps, of what an activation has left: rounding is monotonic, so they may as well be rounded and met afterwards.
fn bounds(grid: &Grid, activation: Activation) -> Activation {
    let [low, high] = grid.steps();
    let bound = |bound: f32| (bound / grid.scale).round_ties_even();
    match activation {
        Activation::Relu => Activation::Clip(low.max(0.0), high),
        Activation::Clip(from, to) => Activation::Clip(low.max(bound(from)), high.min(bound(to))),
        _ => Activation::Clip(low, high),
    }
}

impl Rewrite {
    /// A node with a result of its own.
    fn emit(&mut self, name: String, op: Op, inputs: Vec<TensorId>) -> Result<TensorId, InferError> {
        let types: Vec<_> = inputs.iter().map(|input| self.graph.tensor_type(*input)).collect();
        let result = infer(&op, &types)?.swap_remove(0);
        let output = self.graph.add_tensor(name.clone(), result);
        self.graph.add_node(name, op, inputs, vec![output]);
        Ok(output)
    }

    /// A constant of one element per index of an axis, of a shape that broadcasts over a tensor.
    fn along(&mut self, name: String, elements: Vec<f32>, axis: usize, rank: usize) -> TensorId {
        let shape: Vec<usize> = match elements.len() {
            1 => Vec::new(),
            count => std::iter::once(count).chain(std::iter::repeat_n(1, rank - 1 - axis)).collect(),
        };
        self.graph.add_constant(name, Value::f32(shape, elements))
    }

    /// Rounds what makes or feeds a tensor to a grid, and lets everybody read that.
    fn round(&mut self, tensor: TensorId, grid: Grid) -> Result<(), InferError> {
        let name = self.graph.tensor(tensor).name.clone();
        let placeholder = self.graph.add_tensor(format!("{name}.rounded"), self.graph.tensor_type(tensor).clone());
        // Readers read the rounded elements, the outputs of the graph, too; the node that rounds reads the tensor itself.
        self.graph.replace_uses(tensor, placeholder);
        let scale = self.along(format!("{name}.step"), vec![grid.scale], 0, 1);
        let op = Op::Binary(BinaryOp::RoundedQuotient, bounds(&grid, Activation::None));
        let steps = self.emit(format!("{name}.steps"), op, vec![tensor, scale])?;
        self.steps.insert(tensor, (steps, grid.scale));
        self.steps.insert(placeholder, (steps, grid.scale));
        Ok(())
    }

    /// A product of steps, rounded.
    fn multiply(
        &mut self,
        id: NodeId,
        (x, scale): (TensorId, f32),
        products: &Products,
        grid: Option<&Grid>,
    ) -> Result<(), InferError> {
        let node = self.graph.node(id).clone();
        let (output, name) = (node.outputs[0], node.name);
        let (op, activation, axis) = match node.op {
            Op::Conv(conv) => {
                let activation = conv.activation;
                (Op::Conv(Conv { activation: Activation::None, ..conv }), activation, 1)
            }
            Op::Gemm(gemm) => {
                let activation = gemm.activation;
                (Op::Gemm(Gemm { activation: Activation::None, ..gemm }), activation, 1)
            }
            _ => return Ok(()),
        };
        let weights = products.weights.iter().map(|weight| f32::from(*weight)).collect();
        let weights = Value::f32(self.graph.shape(node.inputs[1]), weights);
        let weights = self.graph.add_constant(format!("{name}.weights"), weights);
        let bias = products.bias.iter().map(|bias| *bias as f32).collect::<Vec<f32>>();
        let bias = self.graph.add_constant(format!("{name}.bias"), Value::f32([bias.len()], bias));
        let rank = self.graph.shape(output).len();
        self.graph.remove_node(id);
        let sums = self.emit(format!("{name}.sums"), op, vec![x, weights, bias])?;
        let own: Vec<f32> = products.scales.iter().map(|own| (f64::from(scale) * f64::from(*own)) as f32).collect();
        match grid {
            Some(grid) => {
                let divisors = own.iter().map(|own| ratio(grid, *own)).collect();
                let divisors = self.along(format!("{name}.step"), divisors, axis, rank);
                let op = Op::Binary(BinaryOp::RoundedQuotient, bounds(grid, activation));
                let steps = self.emit(format!("{name}.steps"), op, vec![sums, divisors])?;
                self.steps.insert(output, (steps, grid.scale));
            }
            None => {
                let scales = self.along(format!("{name}.scale"), own, axis, rank);
                self.graph.add_node(name, Op::Binary(BinaryOp::Mul, activation), vec![sums, scales], vec![output]);
            }
        }
        Ok(())
    }

    /// The same node on steps.
    fn move_steps(&mut self, id: NodeId, (x, scale): (TensorId, f32)) -> Result<(), InferError> {
        let node = self.graph.node(id).clone();
        let types = infer(&node.op, &[self.graph.tensor_type(x)]);
        let inputs: Vec<TensorId> = std::iter::once(x).chain(node.inputs[1..].iter().copied()).collect();
        let types = match types {
            Ok(types) if inputs.len() == 1 => types,
            _ => infer(&node.op, &inputs.iter().map(|input| self.graph.tensor_type(*input)).collect::<Vec<_>>())?,
        };
        self.graph.remove_node(id);
        let mut moved = Vec::new();
        for (output, tensor_type) in node.outputs.iter().zip(types) {
            let name = format!("{}.steps", self.graph.tensor(*output).name);
            let steps = self.graph.add_tensor(name, tensor_type);
            self.steps.insert(*output, (steps, scale));
            moved.push(steps);
        }
        self.graph.add_node(format!("{}.steps", node.name), node.op, inputs, moved);
        Ok(())
    }

    /// A mean of steps, rounded if its result has a grid.
    fn average(&mut self, id: NodeId, (x, scale): (TensorId, f32), grid: Option<&Grid>) -> Result<(), InferError> {
        let node = self.graph.node(id).clone();
        let (output, name) = (node.outputs[0], node.name);
        self.graph.remove_node(id);
        let means = self.emit(format!("{name}.means"), node.op, vec![x])?;
        match grid {
            Some(grid) => {
                let divisor = self.along(format!("{name}.step"), vec![ratio(grid, scale)], 0, 1);
                let op = Op::Binary(BinaryOp::RoundedQuotient, bounds(grid, Activation::None));
                let steps = self.emit(format!("{name}.steps"), op, vec![means, divisor])?;
                self.steps.insert(output, (steps, grid.scale));
            }
            None => {
                let scale = self.along(format!("{name}.scale"), vec![scale], 0, 1);
                let op = Op::Binary(BinaryOp::Mul, Activation::None);
                self.graph.add_node(name, op, vec![means, scale], vec![output]);
            }
        }
        Ok(())
    }

    /// Makes what steps stand for, of those tensors that somebody reads as real numbers.
    fn read_real_numbers(&mut self) -> Result<(), InferError> {
        for (tensor, (steps, scale)) in self.steps.clone() {
            let is_made = self.graph.tensor(tensor).producer.is_some() || self.graph.inputs.contains(&tensor);
            if is_made || !(self.graph.is_read(tensor) || self.graph.is_output(tensor)) {
                continue;
            }
            let name = self.graph.tensor(tensor).name.clone();
            let scale = self.along(format!("{name}.scale"), vec![scale], 0, 1);
            let op = Op::Binary(BinaryOp::Mul, Activation::None);
            self.graph.add_node(format!("{name}.real"), op, vec![steps, scale], vec![tensor]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::eval::evaluate;
    use partita_ir::graph::text::{self, Constants};

    const RESIDUAL: &str = r#"graph "residual" opset 17
input %0 "x": f32[1,1,2,2]
const %1 "w": f32[2,1,1,1] = [1.0, -0.5]
const %2 "b": f32[2] = [0.5, 0.0]
const %3 "v": f32[2,2,1,1] = [1.0, 0.0, 0.0, 1.0]
const %4 "c": f32[2] = [0.0, 0.0]
%5 "a": f32[1,2,2,2] = "first"(%0, %1, %2) Conv(Conv(window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:false,activation:Relu))
%6 "d": f32[1,2,2,2] = "second"(%5, %3, %4) Conv(Conv(window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:false,activation:None))
%7 "s": f32[1,2,2,2] = "sum"(%5, %6) Binary(Add,Relu)
%8 "p": f32[1,2,1,1] = "pool"(%7) GlobalPool(Average)
%9 "y": f32[1,2] = "flat"(%8) Reshape(shape:[1,2])
output %9
"#;

    /// The text above with a grid for everything between its nodes.
    fn residual() -> (Graph, Quantization) {
        let graph = text::parse(RESIDUAL).expect("it is a graph");
        let mut all = Quantization::default();
        for (tensor, low, high) in [(0, -1.0, 1.55), (5, 0.0, 2.55), (6, -0.25, 2.3), (7, 0.0, 5.1)] {
            all.grids.insert(TensorId(tensor), Grid::over(low, high));
        }
        let order = graph.topological_order().expect("it has one");
        let first = Products { weights: vec![127, -127], scales: vec![1.0 / 127.0, 0.5 / 127.0], bias: vec![6350, 0] };
        let second = Products { weights: vec![127, 0, 0, 127], scales: vec![1.0 / 127.0; 2], bias: vec![0; 2] };
        all.products.insert(order[0], first);
        all.products.insert(order[1], second);
        (graph, all)
    }

    #[test]
    fn whole_numbers_are_as_a_quantized_model_has_them() {
        let (graph, quantization) = residual();
        let whole = run(&graph, &quantization).expect("it can be quantized");
        let text = text::print(&whole.graph, Constants::Summary);
        let ops: Vec<&str> = text.lines().filter_map(|line| line.split(") ").nth(1)).collect();
        let expected = [
            "Binary(RoundedQuotient,Clip(-100.0,155.0))",
            "Conv(",
            "Binary(RoundedQuotient,Clip(0.0,255.0))",
            "Binary(Mul,None)",
            "Conv(",
            "Binary(RoundedQuotient,Clip(-25.0,230.0))",
            "Binary(Mul,None)",
            "Binary(Add,Relu)",
            "Binary(RoundedQuotient,Clip(0.0,255.0))",
            "GlobalPool(Average)",
            "Binary(Mul,None)",
            "Reshape(shape:[1,2])",
        ];
        for op in expected {
            let wanted = expected.iter().filter(|other| **other == op).count();
            assert_eq!(ops.iter().filter(|found| found.starts_with(op)).count(), wanted, "{op} in {text}");
        }
        assert_eq!(ops.len(), expected.len(), "{text}");
        let steps = whole.steps[&TensorId(7)].0;
        assert_eq!(whole.graph.stored(steps).element, partita_ir::graph::ElementType::U8);
    }

    #[test]
    fn answers_are_as_near_as_steps_allow() {
        let (graph, quantization) = residual();
        let whole = run(&graph, &quantization).expect("it can be quantized").graph;
        for elements in [[0.0, 0.25, 0.5, 1.0], [-1.0, -0.3, 0.7, 1.5]] {
            let x = Value::f32([1, 1, 2, 2], elements.to_vec());
            let answer = |graph: &Graph| evaluate(graph, std::slice::from_ref(&x)).expect("it is computed");
            let (exact, rounded) = (answer(&graph), answer(&whole));
            for (exact, rounded) in exact[0].as_f32().expect("real").iter().zip(rounded[0].as_f32().expect("real")) {
                assert!((exact - rounded).abs() <= 0.02, "{exact} is {rounded}");
            }
        }
    }

    #[test]
    fn a_bound_of_an_activation_is_one_of_steps() {
        let grid = Grid { scale: 0.05, zero: -128 };
        assert_eq!(bounds(&grid, Activation::Clip(0.0, 6.0)), Activation::Clip(0.0, 120.0));
        assert_eq!(bounds(&grid, Activation::Relu), Activation::Clip(0.0, 255.0));
        assert_eq!(bounds(&Grid { scale: 0.05, zero: 3 }, Activation::None), Activation::Clip(-131.0, 124.0));
    }
}
