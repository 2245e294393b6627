//! Which pools may be done by the kernel of the convolution before them: those that alone read what the convolution makes.

use std::collections::BTreeMap;

use partita_ir::graph::{Graph, NodeId, Op, TensorId};
use partita_plan::schedule::{Action, Schedule};

/// Pools by convolution. Whether a kernel for both is worth it, its lowering says.
pub(super) fn candidates(graph: &Graph, schedule: &Schedule) -> BTreeMap<NodeId, NodeId> {
    let mut uses: BTreeMap<TensorId, usize> = BTreeMap::new();
    let mut pools = Vec::new();
    for action in &schedule.actions {
        let mut count = |tensor: TensorId| *uses.entry(tensor).or_default() += 1;
        match action {
            Action::Compute(node) => {
                let info = graph.node(*node);
                info.inputs.iter().copied().for_each(count);
                if matches!(info.op, Op::Pool(_)) {
                    pools.push((*node, info.inputs[0]));
                }
            }
            Action::Exchange { sends, .. } => sends.iter().for_each(|message| count(message.tensor)),
            Action::Leave { verdict, answer, .. } => [*verdict].into_iter().chain(*answer).for_each(count),
            // An exchange has it again.
            Action::Start { .. } => {}
            Action::Output { tensor, .. } => count(*tensor),
            Action::Input { .. } => {}
        }
    }
    let convolutions = schedule.actions.iter().filter_map(|action| match action {
        Action::Compute(node) if matches!(graph.node(*node).op, Op::Conv(_)) => {
            Some((graph.node(*node).outputs[0], *node))
        }
        _ => None,
    });
    let convolutions: BTreeMap<TensorId, NodeId> = convolutions.collect();
    pools.retain(|(_, input)| uses.get(input) == Some(&1));
    pools.into_iter().filter_map(|(pool, input)| Some((*convolutions.get(&input)?, pool))).collect()
}

#[cfg(test)]
mod tests {
    use crate::program::Step;
    use crate::program::lower::{Like, lowered};

    /// Nodes of each kernel of a program that computes everything and returns all outputs.
    fn kernels(text: &str) -> Vec<String> {
        let program = lowered(text, "x86-64-v4", Like::default());
        let names = program.steps.iter().filter_map(|step| match step {
            Step::Kernel { node, fused, .. } => {
                Some([node].into_iter().chain(fused).cloned().collect::<Vec<_>>().join(" + "))
            }
            _ => None,
        });
        names.collect()
    }

    const HEAD: &str = r#"graph "case" opset 17
input %0 "x": f32[1,4,6,6]
const %1 "w": f32[4,4,3,3] = random(1)
const %2 "b": f32[4] = [0.5, -0.5, 0.25, 0.0]
%3 "c": f32[1,4,6,6] = "conv"(%0, %1, %2) Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:Relu))
%4 "p": f32[1,4,3,3] = "pool"(%3) Pool((kind:Max,window:(kernel:[2,2],stride:[2,2],dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),declared_pad_end:[0,0],count_include_pad:false))
"#;

    #[test]
    fn a_convolution_that_only_a_pool_reads_is_pooled_at_once() {
        assert_eq!(kernels(&format!("{HEAD}output %4\n")), ["conv + pool"]);
    }

    #[test]
    fn what_others_read_too_is_kept() {
        assert_eq!(kernels(&format!("{HEAD}output %3\noutput %4\n")), ["conv", "pool"]);
        let negative = "%5 \"n\": f32[1,4,6,6] = \"negative\"(%3) Unary(Neg)\n";
        assert_eq!(kernels(&format!("{HEAD}{negative}output %4\noutput %5\n")).len(), 3);
    }
}
