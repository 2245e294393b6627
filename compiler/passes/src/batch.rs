//! Several samples at once: a graph for one sample becomes one for `samples`, stacked along the first axis.
//!
//! This is what makes data-parallel execution a split like any other: the first axis of every activation counts
//! samples, so copies of a stage on several devices are boxes along that axis (`partition::Method::Batch`).

use partita_ir::graph::infer::infer;
use partita_ir::graph::{Graph, NodeId, Op, TensorId, TensorType};
use partita_ir::region::Region;
use partita_ir::restrict::restrict;
use partita_ir::space::{Part, on_part};

/// Why a model takes one sample at a time only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// An input or output whose first axis does not count samples.
    #[error("`{0}` has shape {1:?}; its first dimension would have to be 1, the one sample")]
    NoSampleAxis(String, Vec<usize>),
    /// An operator whose result for one sample depends on others, or that cannot be shown not to.
    #[error("node {0} does not keep samples apart along its first axis")]
    Mixes(String),
}

/// The same graph for `samples` samples. Names stay; the first dimension of inputs, outputs and all activations grows
/// from 1 to `samples`. That no sample depends on another is shown by what operators say of themselves (`ir::restrict`): one sample of
/// every result needs that sample of each operand and no more.
pub fn batch(graph: &Graph, samples: usize) -> Result<Graph, BatchError> {
    let mut wide = graph.clone();
    for tensor in &graph.inputs {
        let info = graph.tensor(*tensor);
        if info.tensor_type.shape.first() != Some(&1) {
            return Err(BatchError::NoSampleAxis(info.name.clone(), info.tensor_type.shape.clone()));
        }
        wide.set_tensor_type(*tensor, widened(&info.tensor_type, samples));
    }
    for id in graph.topological_order().unwrap_or_default() {
        widen(&mut wide, id, samples).ok_or_else(|| BatchError::Mixes(graph.node_label(id)))?;
    }
    for output in &graph.outputs {
        let info = graph.tensor(*output);
        if info.value.is_some() || info.tensor_type.shape.first() != Some(&1) {
            return Err(BatchError::NoSampleAxis(info.name.clone(), info.tensor_type.shape.clone()));
        }
    }
    Ok(wide)
}

fn widened(tensor_type: &TensorType, samples: usize) -> TensorType {
    let mut shape = tensor_type.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = samples;
    }
    TensorType::new(tensor_type.element, shape)
}

/// Widens one node whose operands are wide; `None` if it mixes samples.
fn widen(graph: &mut Graph, id: NodeId, samples: usize) -> Option<()> {
    let node = graph.node(id).clone();
    if node.outputs.iter().any(|output| graph.shape(*output).first() != Some(&1)) {
        return None;
    }
    // What is joined to every sample, such as a class token, is there once for each.
    let mut inputs = node.inputs.clone();
    if matches!(node.op, Op::Concat { .. }) {
        for input in &mut inputs {
            if graph.value(*input).is_some() {
                *input = expanded(graph, *input, samples)?;
            }
        }
        graph.set_inputs(id, inputs.clone());
    }
    let wide: Vec<TensorType> =
        node.outputs.iter().map(|output| widened(graph.tensor_type(*output), samples)).collect();
    let shapes: Vec<&[usize]> = inputs.iter().map(|input| graph.shape(*input)).collect();
    let operands: Vec<Option<Region>> = shapes.iter().map(|shape| Some(Region::whole(shape))).collect();
    let result = Region::whole(&wide.first()?.shape);
    let op = on_part(&node.op, &Part { shapes: &shapes, operands: &operands, result: &result })?;
    let types: Vec<&TensorType> = inputs.iter().map(|input| graph.tensor_type(*input)).collect();
    if infer(&op, &types).ok()? != wide {
        return None;
    }
    graph.set_op(id, op);
    for (output, wide) in node.outputs.iter().zip(wide) {
        graph.set_tensor_type(*output, wide);
    }
    keeps_samples_apart(graph, id, node.outputs[0]).then_some(())
}

/// A constant of one sample, repeated.
fn expanded(graph: &mut Graph, constant: TensorId, samples: usize) -> Option<TensorId> {
    let tensor = graph.tensor(constant);
    let one = tensor.value.clone()?;
    if one.shape.first() != Some(&1) {
        return None;
    }
    let wide = widened(&tensor.tensor_type, samples);
    let op = Op::Expand { shape: wide.shape.clone() };
    let value = partita_ir::graph::eval::evaluate_node(&op, &[&one], &[wide]).ok()?.pop()?;
    let name = format!("{} x {samples}", tensor.name);
    Some(graph.add_constant(name, value))
}

/// Whether each sample of a node's results needs that sample of its operands and no other.
fn keeps_samples_apart(graph: &Graph, id: NodeId, first: TensorId) -> bool {
    let whole = Region::whole(graph.shape(first));
    (0..whole.extent(0)).all(|sample| {
        let restriction = whole.with(0, sample, sample + 1).and_then(|one| restrict(graph, id, &one));
        let Some(restriction) = restriction else { return false };
        let is_it = |part: &Region| (part.begin(0), part.end(0)) == (sample, sample + 1);
        restriction.results.iter().all(is_it)
            && graph.node(id).inputs.iter().zip(&restriction.operands).all(|(input, part)| {
                let Some(part) = part else { return true };
                graph.value(*input).is_some() || is_it(part)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::eval::evaluate;
    use partita_ir::graph::text::parse;
    use partita_ir::graph::values::{noise, to_f32};
    use partita_ir::graph::{Data, Value};

    /// A convolution, a flattening reshape and a matrix product, with a class token joined and a split on the way.
    const NETWORK: &str = r#"graph "case" opset 17
input %0 "x": f32[1,3,5,4]
const %1 "w": f32[4,3,3,3] = random(1)
const %2 "b": f32[4] = [0.5, -0.5, 0.25, 0.0]
const %3 "token": f32[1,1,20] = random(2)
const %4 "m": f32[100,7] = random(3)
const %5 "n": f32[7] = random(4)
%6 "c": f32[1,4,5,4] = "conv"(%0, %1, %2) Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:Relu))
%7 "r": f32[1,4,20] = "rows"(%6) Reshape(shape:[1,4,20])
%8 "t": f32[1,5,20] = "join"(%3, %7) Concat(axis:1)
%11 "above": f32[1,2,20], %12 "below": f32[1,3,20] = "parts"(%8) Split(axis:1,sizes:[2,3])
%13 "again": f32[1,5,20] = "again"(%11, %12) Concat(axis:1)
%9 "f": f32[1,100] = "flat"(%13) Reshape(shape:[1,100])
%10 "y": f32[1,7] = "gemm"(%9, %4, %5) Gemm((alpha:1.0,beta:1.0,transpose_a:false,transpose_b:false,activation:None))
output %10
"#;

    #[test]
    fn every_sample_has_the_answer_it_would_have_alone() {
        let one = parse(NETWORK).expect("the text is a graph");
        let wide = batch(&one, 3).expect("samples are apart");
        partita_ir::graph::verify::verify(&wide).expect("a sound graph");
        let samples: Vec<Value> = (0..3).map(|seed| noise(one.tensor_type(one.inputs[0]), seed)).collect();
        let stacked: Vec<f32> = samples.iter().flat_map(|sample| to_f32(&sample.data)).collect();
        let together = evaluate(&wide, &[Value::f32([3, 3, 5, 4], stacked)]).expect("it evaluates").swap_remove(0);
        let alone: Vec<f32> = samples
            .into_iter()
            .flat_map(|sample| to_f32(&evaluate(&one, &[sample]).expect("it evaluates")[0].data))
            .collect();
        assert_eq!(together.shape, [3, 7]);
        assert_eq!(together.data, Data::F32(alone));
    }

    #[test]
    fn what_mixes_samples_is_refused_by_name() {
        for (line, expected) in [
            ("%1 \"y\": f32[1,6] = \"soft\"(%0) Softmax(axis:0)", "soft"),
            ("%1 \"y\": f32[1,6] = \"mean\"(%0) Reduce(kind:Mean,axes:[0],keep_dims:true)", "mean"),
            ("%1 \"y\": f32[6,1] = \"turn\"(%0) Transpose(permutation:[1,0])", "turn"),
            ("%1 \"y\": f32[2,3] = \"cut\"(%0) Reshape(shape:[2,3])", "cut"),
        ] {
            let graph = parse(&format!("graph \"case\" opset 17\ninput %0 \"x\": f32[1,6]\n{line}\noutput %1\n"))
                .expect("the text is a graph");
            let error = batch(&graph, 2).expect_err("samples are mixed").to_string();
            assert!(error.contains(expected), "{error}");
        }
        let graph = parse("graph \"case\" opset 17\ninput %0 \"x\": f32[6]\noutput %0\n").expect("a graph");
        assert!(batch(&graph, 2).expect_err("no sample axis").to_string().contains("`x`"));
    }
}
