//! The graph as it can be quantized: a sum with a skip connection is a node of its own, since both its terms have grids, and
//! so is an activation that bounds of steps cannot express.

use partita_ir::graph::infer::{InferError, infer};
use partita_ir::graph::op::{Activation, Conv, ConvTranspose, Gemm};
use partita_ir::graph::{BinaryOp, Graph, NodeId, Op, TensorId, UnaryOp};

/// Takes residuals and activations out of convolutions and matrix products.
pub fn run(graph: &Graph) -> Result<Graph, InferError> {
    let mut graph = graph.clone();
    for id in graph.topological_order().unwrap_or_default() {
        let node = graph.node(id).clone();
        match node.op {
            Op::Conv(conv) if conv.residual => {
                let sum = Op::Binary(BinaryOp::Add, conv.activation);
                let plain = Conv { residual: false, activation: Activation::None, ..conv };
                apart(&mut graph, id, (Op::Conv(plain), &node.inputs[..3]), sum, node.inputs.get(3).copied())?;
            }
            Op::Conv(conv) if !is_bound(conv.activation) => {
                let last = Op::Unary(UnaryOp::Activation(conv.activation));
                let plain = Op::Conv(Conv { activation: Activation::None, ..conv });
                apart(&mut graph, id, (plain, &node.inputs), last, None)?;
            }
            Op::ConvTranspose(conv) if !is_bound(conv.activation) => {
                let last = Op::Unary(UnaryOp::Activation(conv.activation));
                let plain = Op::ConvTranspose(ConvTranspose { activation: Activation::None, ..conv });
                apart(&mut graph, id, (plain, &node.inputs), last, None)?;
            }
            Op::Gemm(gemm) if !is_bound(gemm.activation) => {
                let last = Op::Unary(UnaryOp::Activation(gemm.activation));
                let plain = Op::Gemm(Gemm { activation: Activation::None, ..gemm });
                apart(&mut graph, id, (plain, &node.inputs), last, None)?;
            }
            _ => {}
        }
    }
    Ok(graph)
}

/// Whether an activation is a bound of steps.
fn is_bound(activation: Activation) -> bool {
    match activation {
        Activation::None | Activation::Relu => true,
        Activation::Clip(low, high) => low <= high,
        Activation::LeakyRelu(_) | Activation::HardSwish | Activation::HardSigmoid(..) => false,
    }
}

/// Two nodes instead of one: the first with a result of its own, which the second reads, and another operand, if any.
fn apart(
    graph: &mut Graph,
    id: NodeId,
    (op, inputs): (Op, &[TensorId]),
    second: Op,
    other: Option<TensorId>,
) -> Result<(), InferError> {
    let name = format!("{}.alone", graph.node(id).name);
    let types: Vec<_> = inputs.iter().map(|input| graph.tensor_type(*input)).collect();
    let result = infer(&op, &types)?.swap_remove(0);
    let alone = graph.add_tensor(name.clone(), result);
    graph.add_node(name, op, inputs.to_vec(), vec![alone]);
    graph.replace_node(id, second, std::iter::once(alone).chain(other).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::text::{self, Constants};

    #[test]
    fn sums_and_curves_stand_alone() {
        let conv = |residual: &str, activation: &str| {
            format!(
                "Conv(Conv(window:(kernel:[1,1],stride:[1,1],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,\
                 residual:{residual},activation:{activation}))"
            )
        };
        let text = format!(
            "graph \"g\" opset 17\ninput %0 \"x\": f32[1,1,2,2]\nconst %1 \"w\": f32[1,1,1,1] = [2.0]\n\
             const %2 \"b\": f32[1] = [0.5]\n%3 \"a\": f32[1,1,2,2] = \"a\"(%0, %1, %2) {}\n\
             %4 \"y\": f32[1,1,2,2] = \"y\"(%3, %1, %2, %0) {}\noutput %4\n",
            conv("false", "HardSwish"),
            conv("true", "Relu")
        );
        let graph = run(&text::parse(&text).expect("it is a graph")).expect("it can be taken apart");
        let found = text::print(&graph, Constants::Summary);
        let lines: Vec<&str> = found.lines().filter(|line| line.starts_with('%')).collect();
        assert_eq!(lines.len(), 4, "{found}");
        assert!(lines[0].contains("a.alone") && lines[0].contains("activation:None"), "{found}");
        assert!(lines[1].ends_with("Unary(Activation(HardSwish))"), "{found}");
        assert!(lines[2].contains("residual:false,activation:None"), "{found}");
        assert!(lines[3].contains("(%5, %0) Binary(Add,Relu)") || lines[3].ends_with("Binary(Add,Relu)"), "{found}");
    }
}
