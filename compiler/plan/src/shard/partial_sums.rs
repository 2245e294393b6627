//! Input splits: every device computes a partial sum, the partial sums are exchanged and summed.

use super::ShardError;
use super::rewrite::Rewriter;
use crate::partition::Method;
use partita_ir::graph::infer::operand_counts;
use partita_ir::graph::{Activation, BinaryOp, NodeId, Op, TensorId, UnaryOp, Value};
use partita_ir::region::Sharding;
use partita_ir::restrict::{self, PartialSum};

impl Rewriter<'_> {
    /// Splits a node by its first operand: every device computes a partial sum; pieces of the partial sums are
    /// exchanged and summed, in the order of devices, where the strategy wants the result.
    pub(super) fn sum(
        &mut self,
        id: NodeId,
        outputs: &Sharding,
        partial_sums: &Sharding,
        rows: Option<(usize, usize)>,
    ) -> Result<(), ShardError> {
        let from = self.from;
        let node = from.node(id);
        let output = node.outputs[0];
        let terms = from.shape(node.inputs[0]);
        let count: u64 = partial_sums.parts().map(|(_, x)| x.element_count()).sum();
        if !partial_sums.covers(terms) || count != terms.iter().product::<usize>() as u64 {
            return Err(ShardError::NotEveryTerm(from.node_label(id)));
        }
        let whole = self.whole(output);
        let whole = rows.and_then(|(begin, end)| whole.with(2, begin, end)).unwrap_or(whole);
        let mut shards: Vec<(usize, PartialSum)> = Vec::new();
        let mut needs = vec![vec![None; self.device_names.len()]; node.inputs.len()];
        for (device, x) in partial_sums.parts() {
            let partial_sum = restrict::partial_sum(from, id, &x, &whole, shards.is_empty())
                .ok_or_else(|| ShardError::NotRestrictable { node: from.node_label(id), part: x.to_string() })?;
            needs[0][device] = partial_sum.operands[0];
            shards.push((device, partial_sum));
        }
        let Some((_, first)) = shards.first() else { return Err(ShardError::NoStrategy(from.node_label(id))) };
        let (activation, residual) = (first.activation, first.residual);
        self.gather(id, &needs)?;
        let mut parts = Vec::with_capacity(shards.len());
        for (device, partial_sum) in shards {
            parts.push((device, self.partial_sum(id, device, partial_sum)?));
        }
        let wanted: Vec<_> = outputs
            .parts()
            .map(|(device, region)| {
                let sources = parts.iter().map(|(owner, held_as)| (region, *owner, (whole, *held_as)));
                (device, region, sources.collect::<Vec<_>>())
            })
            .collect();
        let arrived = self.exchange(wanted, None)?;
        if let Some(position) = residual {
            self.materialise(node.inputs[position], &outputs.0)?;
        }
        for ((device, region), pieces) in outputs.parts().zip(arrived) {
            let residual = match residual {
                Some(position) => Some(self.operand(node.inputs[position], device, &region)?),
                None => None,
            };
            let terms: Vec<TensorId> = pieces.into_iter().chain(residual).collect();
            let name = format!("{}@{}", from.tensor(output).name, self.device_names[device]);
            let result = self.add_up(device, &name, &terms, activation)?;
            self.hold(output, device, region, result);
        }
        Ok(())
    }

    /// One partial sum of a node on a device.
    fn partial_sum(&mut self, id: NodeId, device: usize, partial_sum: PartialSum) -> Result<TensorId, ShardError> {
        let node = self.from.node(id);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (position, (tensor, part)) in node.inputs.iter().zip(&partial_sum.operands).enumerate() {
            match part {
                Some(part) => inputs.push(self.operand(*tensor, device, part)?),
                // Only one partial sum may carry a bias; of the others it is zero where the operator must have one.
                None if position < operand_counts(&partial_sum.op).0 => {
                    let shape = self.from.shape(*tensor);
                    let name = self.unique(format!("{}.zeros", node.name));
                    let zeros = vec![0.0; shape.iter().product()];
                    inputs.push(self.to.add_constant(name, Value::f32(shape, zeros)));
                }
                None => {}
            }
        }
        let suffix = format!("@{}", self.device_names[device]);
        let name = format!("{}.addend{suffix}", self.from.tensor(node.outputs[0]).name);
        let product = self.add(device, Some(format!("{}{suffix}", node.name)), name.clone(), partial_sum.op, inputs)?;
        if let Some(node) = self.to.tensor(product).producer {
            self.labels.insert(node, (self.from.node(id).name.clone(), Method::Input));
        }
        if partial_sum.scale == 1.0 {
            return Ok(product);
        }
        let factor_name = self.unique(format!("{name}.share"));
        let factor = self.to.add_constant(factor_name, Value::f32([], vec![partial_sum.scale]));
        self.add(device, None, name, Op::Binary(BinaryOp::Mul, Activation::None), vec![product, factor])
    }

    fn add_up(
        &mut self,
        device: usize,
        name: &str,
        terms: &[TensorId],
        activation: Activation,
    ) -> Result<TensorId, ShardError> {
        let Some((first, rest)) = terms.split_first() else {
            return Err(ShardError::Missing { tensor: name.to_string(), part: "any partial sum".to_string() });
        };
        if rest.is_empty() {
            let op = Op::Unary(UnaryOp::Activation(activation));
            return self.add(device, None, name.to_string(), op, vec![*first]);
        }
        let mut sum = *first;
        for (index, term) in rest.iter().enumerate() {
            let last = index + 1 == rest.len();
            let activation = if last { activation } else { Activation::None };
            let step_name = if last { name.to_string() } else { format!("{name}.sum") };
            sum = self.add(device, None, step_name, restrict::sum(activation), vec![sum, *term])?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::apply;
    use super::super::tests_network::cluster;
    use super::*;
    use crate::partition::{Partition, Strategy};
    use partita_ir::region::Region;

    #[test]
    fn sums_with_terms_left_out_or_twice_are_refused() {
        let text = "graph \"case\" opset 17\ninput %0 \"x\": f32[1,64]\nconst %1 \"m\": f32[64,32] = random(1)\n\
                    %2 \"y\": f32[1,32] = \"product\"(%0, %1) MatMul\noutput %2\n";
        let graph = partita_ir::graph::text::parse(text).expect("the text is a graph");
        let cluster = cluster(2, "");
        let product = graph.topological_order().expect("it is a graph")[0];
        let part = |begin: usize, end: usize| Region::new([(0, 1), (begin, end)]);
        let applied = |parts: [Option<Region>; 2]| {
            let outputs = Sharding::whole(0, 2, &[1, 32]);
            let strategy = Strategy { method: Method::Input, outputs, partial_sums: Some(Sharding(parts.to_vec())) };
            apply(&graph, &Partition::given(BTreeMap::from([(product, strategy)])), &cluster).map(|_| ())
        };
        assert_eq!(applied([part(0, 40), part(40, 64)]), Ok(()));
        let refused = Err(ShardError::NotEveryTerm(graph.node_label(product)));
        assert_eq!(applied([part(0, 40), part(41, 64)]), refused);
        assert_eq!(applied([part(0, 40), part(39, 64)]), refused);
        assert_eq!(applied([part(0, 40), None]), refused);
    }
}
