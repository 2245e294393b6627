//! Answers in whole numbers: what a quantized model does to its probabilities at the end is taken off while exits are
//! learned and chosen, and then done to the answer of every exit as well.

use std::sync::Arc;

use super::insert::add;
use partita_ir::graph::infer::InferError;
use partita_ir::graph::{ElementType, Graph, Op, TensorId, Value};

/// What a model does to its scores or probabilities before it answers.
#[derive(Debug)]
pub struct Tail {
    /// In the order of the graph.
    nodes: Vec<TailNode>,
    /// Name of the output.
    output: String,
}

#[derive(Debug)]
struct TailNode {
    name: String,
    op: Op,
    /// Constants by name; none stands for what the node before has made.
    operands: Vec<Option<(String, Arc<Value>)>>,
}

/// Takes off what makes whole numbers of the only output, so that the graph answers what they are made from. None, and
/// nothing is changed, if the answer is not in whole numbers, or is made by more than elementwise steps with one
/// constant each.
pub fn detach(graph: &mut Graph) -> Option<Tail> {
    let [output] = graph.outputs[..] else { return None };
    if graph.tensor_type(output).element == ElementType::F32 {
        return None;
    }
    let (mut nodes, mut ids, mut at) = (Vec::new(), Vec::new(), output);
    while let Some(id) = graph.tensor(at).producer {
        let node = graph.node(id);
        let operand =
            |tensor: &TensorId| graph.value(*tensor).map(|value| (graph.tensor(*tensor).name.clone(), value.clone()));
        let operands: Vec<_> = node.inputs.iter().map(operand).collect();
        let made: Vec<TensorId> = node.inputs.iter().copied().filter(|input| graph.value(*input).is_none()).collect();
        let single = operands.iter().flatten().all(|(_, value)| value.data.len() == 1);
        let used_once = at == output || (graph.consumers(at).len() == 1 && !graph.is_output(at));
        let ([before], true, true, Op::Cast { .. } | Op::Binary(..) | Op::Unary(_)) =
            (&made[..], single, used_once, &node.op)
        else {
            break;
        };
        nodes.push(TailNode { name: node.name.clone(), op: node.op.clone(), operands });
        ids.push(id);
        at = *before;
    }
    if graph.tensor_type(at).element != ElementType::F32 || ids.is_empty() {
        return None;
    }
    nodes.reverse();
    let tail = Tail { nodes, output: graph.tensor(output).name.clone() };
    graph.outputs = vec![at].into();
    ids.into_iter().for_each(|id| graph.remove_node(id));
    Some(tail)
}

/// Puts it back, behind the output and behind the answer of every exit.
///
/// Errors: none for a graph whose output and exits are of the type that it was taken off from.
pub fn attach(graph: &mut Graph, tail: &Tail) -> Result<(), InferError> {
    for (exit, id) in graph.exits().into_iter().enumerate() {
        let scores = graph.node(id).inputs[0];
        let answer = tail.append(graph, &format!("exit{exit}."), scores)?;
        graph.set_inputs(id, vec![scores, answer]);
    }
    let output = tail.append(graph, "", graph.outputs[0])?;
    graph.rename_tensor(output, tail.output.clone());
    graph.outputs = vec![output].into();
    Ok(())
}

impl Tail {
    fn append(&self, graph: &mut Graph, prefix: &str, mut x: TensorId) -> Result<TensorId, InferError> {
        for node in &self.nodes {
            let operand = |operand: &Option<(String, Arc<Value>)>| match operand {
                Some((name, value)) => graph.add_constant(format!("{prefix}{name}"), value.clone()),
                None => x,
            };
            let inputs: Vec<TensorId> = node.operands.iter().map(operand).collect();
            x = add(graph, format!("{prefix}{}", node.name), node.op.clone(), inputs)?;
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use partita_ir::graph::op::{Decide, ExitRule};
    use partita_ir::graph::{eval, text};

    const QUANTIZED: &str = "graph \"q\" opset 17\ninput %0 \"x\": f32[1,4]\nconst %1 \"step\": f32[] = [0.0078125]\n\
        const %2 \"zero\": f32[] = [-128.0]\n\
        %3 \"p\": f32[1,4] = \"softmax\"(%0) Softmax(axis:1)\n\
        %4 \"q\": f32[1,4] = \"quotient\"(%3, %1) Binary(RoundedQuotient,Clip(0.0,255.0))\n\
        %5 \"s\": f32[1,4] = \"shift\"(%4, %2) Binary(Add,None)\n\
        %6 \"answer\": i8[1,4] = \"cast\"(%5) Cast(to:I8)\noutput %6\n";

    #[test]
    fn exits_answer_in_the_numbers_of_the_model() {
        let mut graph = text::parse(QUANTIZED).expect("it is a graph");
        let x = Value::f32([1, 4], vec![0.0, 1.0, 2.0, 4.0]);
        let whole = eval::evaluate(&graph, std::slice::from_ref(&x)).expect("it can be evaluated");
        let tail = detach(&mut graph).expect("the answer is in whole numbers");
        assert_eq!(graph.node_count(), 1);
        assert_eq!(graph.tensor(graph.outputs[0]).name, "p");
        let verdict = graph.add_tensor("verdict", partita_ir::graph::TensorType::f32([2]));
        let decide = Decide {
            exit: 0,
            rule: ExitRule::Probability,
            logits: false,
            temperature: 1.0,
            threshold: 0.5,
            share: 0.5,
            patience: None,
        };
        let scores = graph.outputs[0];
        graph.add_node("decide", Op::Decide(decide), vec![scores], vec![verdict]);
        attach(&mut graph, &tail).expect("it fits");
        assert_eq!(graph.tensor(graph.outputs[0]).name, "answer");
        let early = eval::evaluate_until_exit(&graph, &[x], &mut BTreeMap::new()).expect("it can be evaluated");
        assert!(early.exit.is_some_and(|(exit, confidence)| exit == 0 && confidence > 0.8));
        assert_eq!(early.outputs, whole, "of the same type and value");
        let uncertain = Value::f32([1, 4], vec![0.0; 4]);
        let late = eval::evaluate_until_exit(&graph, &[uncertain], &mut BTreeMap::new()).expect("likewise");
        assert!(late.exit.is_none() && late.outputs[0].data.element() == ElementType::I8);
    }

    #[test]
    fn what_is_no_number_of_its_own_stays() {
        let float = QUANTIZED.replace("output %6", "output %3");
        assert!(detach(&mut text::parse(&float).expect("it is a graph")).is_none());
        let picked = QUANTIZED.replace(
            "%6 \"answer\": i8[1,4] = \"cast\"(%5) Cast(to:I8)",
            "%6 \"answer\": i64[1,1] = \"pick\"(%3) ArgMax(axis:1,keep_dims:true,select_last:false)",
        );
        let mut picked = text::parse(&picked).expect("it is a graph");
        let nodes = picked.node_count();
        assert!(detach(&mut picked).is_none() && picked.node_count() == nodes);
    }
}
