//! What has whole numbers, between QuantizeLinear and DequantizeLinear.

use std::collections::BTreeMap;

use onnx_protobuf::GraphProto;

use super::nodes;
use super::proto::{Writer, int, value_info};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, Op, PoolKind};
use partita_ir::graph::quantization::{Grid, Products, Quantization, moves};
use partita_ir::graph::{Data, Graph, Node, NodeId, TensorId, UnaryOp};

/// The graph in QDQ form.
pub fn graph(graph: &Graph, quantization: &Quantization) -> Result<GraphProto, Diagnostic> {
    let mut qdq = Qdq { graph, quantization, writer: Writer::default(), real: BTreeMap::new(), int8: BTreeMap::new() };
    // Names that callers know are taken first.
    for tensor in graph.inputs.iter().chain(graph.outputs.iter()) {
        let name = qdq.writer.name(&graph.tensor(*tensor).name);
        qdq.real.insert(*tensor, name);
    }
    for input in &graph.inputs {
        let name = &graph.tensor(*input).name;
        qdq.writer.proto.input.push(value_info(name, graph.tensor_type(*input)));
        if let Some(grid) = quantization.grids.get(input) {
            let exact = qdq.real.remove(input).unwrap_or_else(|| name.clone());
            qdq.quantize(*input, &exact, *grid);
        }
    }
    for id in graph.topological_order().unwrap_or_default() {
        qdq.node(id)?;
    }
    for output in &graph.outputs {
        let name = &graph.tensor(*output).name;
        qdq.finish(*output, name);
        qdq.writer.proto.output.push(value_info(name, graph.tensor_type(*output)));
    }
    let Writer { mut proto, .. } = qdq.writer;
    proto.name = if graph.name.is_empty() { "model".to_string() } else { graph.name.clone() };
    Ok(proto)
}

struct Qdq<'a> {
    graph: &'a Graph,
    quantization: &'a Quantization,
    writer: Writer,
    /// Names of real numbers: of a graph's outputs from the beginning, of others as soon as they are made.
    real: BTreeMap<TensorId, String>,
    /// Names of whole numbers, and what they stand for.
    int8: BTreeMap<TensorId, (String, Grid)>,
}

impl Qdq<'_> {
    fn own_name(&self, tensor: TensorId) -> &str {
        &self.graph.tensor(tensor).name
    }

    /// Scale and zero point as constants.
    fn grid(&mut self, name: &str, grid: Grid) -> [String; 2] {
        let scale = self.writer.constant(&format!("{name}.scale"), &[], &Data::F32(vec![grid.scale]));
        let zero = self.writer.constant(&format!("{name}.zero"), &[], &Data::I8(vec![grid.zero as i8]));
        [scale, zero]
    }

    /// Whole numbers of a tensor, of real numbers with this name.
    fn quantize(&mut self, tensor: TensorId, exact: &str, grid: Grid) {
        let name = self.own_name(tensor).to_string();
        let [scale, zero] = self.grid(&name, grid);
        let int8 = self.writer.name(&format!("{name}.int8"));
        self.writer.node("QuantizeLinear", &[exact.to_string(), scale, zero], std::slice::from_ref(&int8), vec![]);
        self.int8.insert(tensor, (int8, grid));
    }

    fn dequantize(&mut self, int8: &str, grid: Grid, real: &str) {
        let [scale, zero] = self.grid(real, grid);
        self.writer.node("DequantizeLinear", &[int8.to_string(), scale, zero], &[real.to_string()], vec![]);
    }

    /// Name of a tensor's real numbers, for whoever reads them.
    fn read(&mut self, tensor: TensorId) -> String {
        if let Some(value) = self.graph.value(tensor).filter(|_| !self.real.contains_key(&tensor)) {
            let name = self.own_name(tensor).to_string();
            let name = self.writer.constant(&name, &value.shape, &value.data);
            self.real.insert(tensor, name);
        }
        let made = self.real.get(&tensor).filter(|_| !self.int8.contains_key(&tensor));
        if let Some(name) = made {
            return name.clone();
        }
        // Each reader has its own: so optimisers of others expect it.
        let Some((int8, grid)) = self.int8.get(&tensor).cloned() else { return self.own_name(tensor).to_string() };
        let real = self.writer.name(&format!("{}.real", self.own_name(tensor)));
        self.dequantize(&int8, grid, &real);
        real
    }

    /// Name under which a node makes a tensor's real numbers: before they are rounded, if they are.
    fn make(&mut self, tensor: TensorId, is_rounded: bool) -> String {
        let known = self.real.get(&tensor).cloned().filter(|_| !is_rounded);
        let wanted = self.own_name(tensor).to_string();
        let wanted = if is_rounded { format!("{wanted}.exact") } else { wanted };
        let name = known.unwrap_or_else(|| self.writer.name(&wanted));
        if !is_rounded {
            self.real.insert(tensor, name.clone());
        }
        name
    }

    /// Makes an output that only whole numbers stand for so far, and one that is an input or a constant.
    fn finish(&mut self, output: TensorId, name: &str) {
        if let Some((int8, grid)) = self.int8.get(&output).cloned() {
            self.dequantize(&int8, grid, name);
        } else if let Some(value) = self.graph.value(output) {
            let constant = self.writer.constant(&format!("{name}.value"), &value.shape, &value.data);
            self.writer.node("Identity", &[constant], &[name.to_string()], vec![]);
        }
    }

    fn node(&mut self, id: NodeId) -> Result<(), Diagnostic> {
        let node = self.graph.node(id);
        let int8 = node.inputs.first().and_then(|x| self.int8.get(x)).cloned();
        match (int8, self.quantization.products.get(&id)) {
            (Some((_, grid)), Some(products)) => self.multiply(node, grid, products),
            (Some((x, grid)), None) if moves(self.graph, node) => self.move_elements(node, &x, grid),
            _ => {
                let inputs: Vec<String> = node.inputs.iter().map(|input| self.read(*input)).collect();
                let grids: Vec<Option<Grid>> =
                    node.outputs.iter().map(|output| self.quantization.grids.get(output).copied()).collect();
                let outputs: Vec<String> =
                    node.outputs.iter().zip(&grids).map(|(output, grid)| self.make(*output, grid.is_some())).collect();
                nodes::write(&mut self.writer, self.graph, node, &inputs, &outputs)?;
                for ((output, exact), grid) in node.outputs.iter().zip(&outputs).zip(grids) {
                    if let Some(grid) = grid {
                        self.quantize(*output, exact, grid);
                    }
                }
                Ok(())
            }
        }
    }

    /// Weights and bias as whole numbers, and the result rounded if it has a grid.
    fn multiply(&mut self, node: &Node, x: Grid, products: &Products) -> Result<(), Diagnostic> {
        let (output, name) = (node.outputs[0], node.name.clone());
        let axis = i64::from(!matches!(node.op, Op::Conv(_)));
        let count = [products.scales.len()];
        let weights_shape = self.graph.shape(node.inputs[1]).to_vec();
        let weights =
            self.writer.constant(&format!("{name}.weights.int8"), &weights_shape, &Data::I8(products.weights.clone()));
        let scales =
            self.writer.constant(&format!("{name}.weights.scale"), &count, &Data::F32(products.scales.clone()));
        let zeros = self.writer.constant(&format!("{name}.weights.zero"), &count, &Data::I8(vec![0; count[0]]));
        let real_weights = self.writer.name(&format!("{name}.weights"));
        let of_weights = [weights, scales, zeros];
        self.writer.node("DequantizeLinear", &of_weights, std::slice::from_ref(&real_weights), vec![int("axis", axis)]);
        let sums = products.scales.iter().map(|scale| (f64::from(x.scale) * f64::from(*scale)) as f32).collect();
        let bias = self.writer.constant(&format!("{name}.bias.int32"), &count, &Data::I32(products.bias.clone()));
        let scales = self.writer.constant(&format!("{name}.bias.scale"), &count, &Data::F32(sums));
        let zeros = self.writer.constant(&format!("{name}.bias.zero"), &count, &Data::I32(vec![0; count[0]]));
        let real_bias = self.writer.name(&format!("{name}.bias"));
        self.writer.node(
            "DequantizeLinear",
            &[bias, scales, zeros],
            std::slice::from_ref(&real_bias),
            vec![int("axis", 0)],
        );
        let inputs = [self.read(node.inputs[0]), real_weights, real_bias];
        let grid = self.quantization.grids.get(&output).copied();
        let exact = self.make(output, grid.is_some());
        nodes::write(&mut self.writer, self.graph, node, &inputs, std::slice::from_ref(&exact))?;
        if let Some(grid) = grid {
            self.quantize(output, &exact, grid);
        }
        Ok(())
    }

    /// A node on whole numbers, or between DequantizeLinear and QuantizeLinear of the same grid.
    fn move_elements(&mut self, node: &Node, x: &str, grid: Grid) -> Result<(), Diagnostic> {
        if takes_int8(&node.op) {
            let mut inputs = vec![x.to_string()];
            for further in &node.inputs[1..] {
                inputs.push(self.read(*further));
            }
            let mut outputs = Vec::new();
            for output in &node.outputs {
                let name = format!("{}.int8", self.own_name(*output));
                let name = self.writer.name(&name);
                self.int8.insert(*output, (name.clone(), grid));
                outputs.push(name);
            }
            return nodes::write(&mut self.writer, self.graph, node, &inputs, &outputs);
        }
        let mut inputs = Vec::new();
        for input in &node.inputs {
            inputs.push(self.read(*input));
        }
        let outputs: Vec<String> = node.outputs.iter().map(|output| self.make(*output, true)).collect();
        nodes::write(&mut self.writer, self.graph, node, &inputs, &outputs)?;
        for (output, exact) in node.outputs.iter().zip(&outputs) {
            self.quantize(*output, exact, grid);
        }
        Ok(())
    }
}

/// Whether ONNX's operator takes int8, and those who compute it usually do.
fn takes_int8(op: &Op) -> bool {
    match op {
        Op::Split { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::Gather { .. } => true,
        Op::Pool(pool) => pool.kind == PoolKind::Max && pool.window.kernel.len() <= 2,
        _ => false,
    }
}

/// An activation as a node of its own; none if it changes nothing.
pub(super) fn unary(activation: Activation) -> Option<Op> {
    (activation != Activation::None).then_some(Op::Unary(UnaryOp::Activation(activation)))
}
