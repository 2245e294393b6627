//! Einsum of two operands is a batched matrix product between transpositions, for which there are fast kernels.
//!
//! Labels of both operands are batches where the result has them and are summed where it has not; those of one are rows and
//! columns. What only one operand has and the result has not is summed before. Diagonals stay as they are.

use super::PassError;
use super::pattern::{in_order, rewrite};
use partita_ir::graph::infer::infer;
use partita_ir::graph::op::{Einsum, Op, ReduceKind};
use partita_ir::graph::{Graph, TensorId};

/// A tensor, with the label of each of its axes.
struct Term {
    tensor: TensorId,
    labels: Vec<usize>,
}

pub(super) fn run(graph: &mut Graph) -> Result<(), PassError> {
    for id in in_order(graph) {
        let node = graph.node(id);
        let Op::Einsum(Einsum { terms, result }) = &node.op else { continue };
        let (result, name) = (result.clone(), node.name.clone());
        let is_set = |labels: &[usize]| labels.iter().enumerate().all(|(at, label)| !labels[..at].contains(label));
        if !terms.iter().all(|labels| is_set(labels)) {
            continue;
        }
        let terms = node.inputs.iter().zip(terms);
        let terms = terms.map(|(tensor, labels)| Term { tensor: *tensor, labels: labels.clone() });
        let terms: Vec<Term> = terms.collect();
        let mut rewriting = Rewriting { graph, name, made: 0 };
        let (op, operand) = match &terms[..] {
            [only] => {
                let summed = rewriting.summed(only, |label| result.contains(label))?;
                rewriting.arranged(&summed, &result)
            }
            [first, second] => {
                let is_needed = |label: &usize, other: &Term| result.contains(label) || other.labels.contains(label);
                let left = rewriting.summed(first, |label| is_needed(label, second))?;
                let right = rewriting.summed(second, |label| is_needed(label, first))?;
                let product = rewriting.product(&left, &right, &result)?;
                rewriting.arranged(&product, &result)
            }
            _ => continue,
        };
        rewrite(graph, id, op, vec![operand]);
    }
    Ok(())
}

/// What is written in the place of one node.
struct Rewriting<'a> {
    graph: &'a mut Graph,
    name: String,
    /// Nodes so far.
    made: usize,
}

impl Rewriting<'_> {
    /// The result of an operator that fits its operands.
    fn value(&mut self, op: Op, inputs: Vec<TensorId>) -> Result<TensorId, PassError> {
        let types: Vec<_> = inputs.iter().map(|input| self.graph.tensor_type(*input)).collect();
        let result = infer(&op, &types)?.swap_remove(0);
        self.made += 1;
        let name = format!("{}.{}", self.name, self.made);
        let tensor = self.graph.add_tensor(name.clone(), result);
        self.graph.add_node(name, op, inputs, vec![tensor]);
        Ok(tensor)
    }

    /// Without the axes that nothing else needs.
    fn summed(&mut self, term: &Term, is_needed: impl Fn(&usize) -> bool) -> Result<Term, PassError> {
        let axes: Vec<usize> = (0..term.labels.len()).filter(|axis| !is_needed(&term.labels[*axis])).collect();
        let labels = term.labels.iter().copied().filter(is_needed).collect();
        if axes.is_empty() {
            return Ok(Term { tensor: term.tensor, labels });
        }
        let tensor = self.value(Op::Reduce { kind: ReduceKind::Sum, axes, keep_dims: false }, vec![term.tensor])?;
        Ok(Term { tensor, labels })
    }

    /// What brings its axes into another order.
    fn arranged(&mut self, term: &Term, labels: &[usize]) -> (Op, TensorId) {
        let place = |label: &usize| term.labels.iter().position(|other| other == label);
        let permutation: Vec<usize> = labels.iter().filter_map(place).collect();
        match permutation.is_sorted() {
            true => (Op::Identity, term.tensor),
            false => (Op::Transpose { permutation }, term.tensor),
        }
    }

    /// Its axes in another order, those of a group joined to one.
    fn matrices(&mut self, term: &Term, groups: [&[usize]; 3]) -> Result<TensorId, PassError> {
        let (op, mut tensor) = self.arranged(term, &groups.concat());
        if op != Op::Identity {
            tensor = self.value(op, vec![tensor])?;
        }
        let extent = |label: &usize| {
            let at = term.labels.iter().position(|other| other == label);
            at.map_or(1, |at| self.graph.shape(term.tensor)[at])
        };
        let shape = groups.iter().map(|labels| labels.iter().map(extent).product()).collect();
        self.value(Op::Reshape { shape }, vec![tensor])
    }

    /// The product of two terms, summed over what both have and the result has not.
    fn product(&mut self, first: &Term, second: &Term, result: &[usize]) -> Result<Term, PassError> {
        let of = |term: &Term, wanted: &dyn Fn(&usize) -> bool| -> Vec<usize> {
            term.labels.iter().copied().filter(|label| wanted(label)).collect()
        };
        let in_both = |label: &usize| first.labels.contains(label) && second.labels.contains(label);
        let batch = of(first, &|label| in_both(label) && result.contains(label));
        let inner = of(first, &|label| in_both(label) && !result.contains(label));
        let rows = of(first, &|label| !in_both(label));
        let columns = of(second, &|label| !in_both(label));
        let left = self.matrices(first, [&batch, &rows, &inner])?;
        let right = self.matrices(second, [&batch, &inner, &columns])?;
        let tensor = self.value(Op::MatMul, vec![left, right])?;
        let labels = [&batch[..], &rows, &columns].concat();
        let extent = |label: &usize| {
            let of = |term: &Term| {
                let at = term.labels.iter().position(|other| other == label)?;
                Some(self.graph.shape(term.tensor)[at])
            };
            of(first).or_else(|| of(second)).unwrap_or(1)
        };
        let shape = labels.iter().map(extent).collect();
        Ok(Term { tensor: self.value(Op::Reshape { shape }, vec![tensor])?, labels })
    }
}
