//! What the axes of tensors count, and in which units they are cut so that readers need not cut again: both follow from
//! the iteration spaces of the operators.

use std::collections::HashMap;

use super::Method;
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_ir::restrict::space;
use partita_ir::space::{Access, AxisKind, Role, Space};

/// What is known of the axes of all tensors of a graph.
pub struct Axes {
    /// Samples that the graph answers at once.
    samples: usize,
    spaces: HashMap<NodeId, Space>,
    roles: HashMap<TensorId, Vec<Option<Role>>>,
    /// Indices that belong together along each axis: elements of one head, places of one channel.
    units: HashMap<TensorId, Vec<usize>>,
    /// Axes that a reshape joins with others as their outermost factor: heads, channels that are flattened.
    factors: HashMap<TensorId, Vec<bool>>,
}

impl Axes {
    /// Walks the graph forwards, backwards and forwards again.
    pub fn of(graph: &Graph) -> Axes {
        let samples = graph.inputs.iter().filter_map(|input| graph.shape(*input).first()).copied().max().unwrap_or(1);
        let order = graph.topological_order().unwrap_or_default();
        let spaces = order.iter().map(|id| (*id, space(graph, *id))).collect();
        let (roles, units, factors) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut axes = Axes { samples, spaces, roles, units, factors };
        for tensor in graph.tensor_ids() {
            let rank = graph.shape(tensor).len();
            let mut roles = vec![None; rank];
            if let Some(first) = roles.first_mut().filter(|_| graph.inputs.contains(&tensor) && samples > 1) {
                *first = (graph.shape(tensor)[0] == samples).then_some(Role::Samples);
            }
            axes.roles.insert(tensor, roles);
            axes.units.insert(tensor, vec![1; rank]);
            axes.factors.insert(tensor, vec![false; rank]);
        }
        for backwards in [false, true, false] {
            let forwards = order.iter();
            let walk: Vec<NodeId> =
                if backwards { forwards.rev().copied().collect() } else { forwards.copied().collect() };
            walk.into_iter().for_each(|id| axes.visit(graph, id, backwards));
        }
        axes
    }

    /// The iteration space of a node.
    pub fn space(&self, id: NodeId) -> &Space {
        &self.spaces[&id]
    }

    /// Takes what is known over a node, from its operands to its results or back.
    fn visit(&mut self, graph: &Graph, id: NodeId, backwards: bool) {
        let node = graph.node(id);
        let space = self.spaces[&id].clone();
        let side = |tensors: &[TensorId], accesses: &[Access]| -> Vec<(TensorId, Access)> {
            let pairs = tensors.iter().copied().zip(accesses.iter().cloned());
            pairs.filter(|(tensor, _)| graph.value(*tensor).is_none()).collect()
        };
        let (operands, results) = (side(&node.inputs, &space.operands), side(&node.outputs, &space.results));
        let (from, to) = if backwards { (results, operands) } else { (operands, results) };
        for (axis, info) in space.axes.iter().enumerate() {
            let role = info.role.or_else(|| {
                from.iter().find_map(|(tensor, access)| {
                    let at =
                        access.indices.iter().position(|index| index.terms.iter().any(|(term, _)| *term == axis))?;
                    self.roles[tensor][at]
                })
            });
            let all = || from.iter().chain(&to);
            let alone = |access: &Access| access.indices.iter().position(|index| index.only() == Some(axis));
            let first = |access: &Access| {
                let outer = |terms: &[(usize, isize)]| terms.len() > 1 && terms[0].0 == axis && terms[0].1 > 1;
                let digits =
                    |terms: &[(usize, isize)]| terms.iter().all(|(term, _)| space.axes[*term].kind != AxisKind::Tap);
                access.indices.iter().position(|index| outer(&index.terms) && digits(&index.terms))
            };
            let unit = all().filter_map(|(tensor, access)| Some(self.units[tensor][alone(access)?])).max().unwrap_or(1);
            let is_factor = all().any(|(tensor, access)| {
                first(access).is_some() || alone(access).is_some_and(|at| self.factors[tensor][at])
            });
            for (tensor, access) in from.iter().chain(&to) {
                if let Some(at) = alone(access) {
                    let (units, factors) = (self.units.get_mut(tensor), self.factors.get_mut(tensor));
                    units.into_iter().for_each(|units| units[at] = unit);
                    factors.into_iter().for_each(|factors| factors[at] = is_factor);
                }
                if let (Some(at), Some(units)) = (first(access), self.units.get_mut(tensor)) {
                    units[at] = access.indices[at].terms[0].1 as usize;
                }
            }
            for (tensor, access) in &to {
                let at =
                    access.indices.iter().position(|index| index.terms.first().is_some_and(|(term, _)| *term == axis));
                if let (Some(at), Some(roles)) = (at, self.roles.get_mut(tensor)) {
                    // What an operator says of its own axes holds; what others count there only where nobody says more.
                    roles[at] = if backwards { roles[at].or(role) } else { role.or(roles[at]) };
                }
            }
        }
    }

    /// What an axis of a tensor counts.
    ///
    /// The first axis counts samples only where the inputs count as many; else it is rows of a product, as the tokens of a
    /// sequence are. Of an axis of which no operator says anything, its place decides, as in `[N, C, spatial..]`.
    pub fn role(&self, graph: &Graph, tensor: TensorId, axis: usize) -> Role {
        let place = match axis {
            0 => Role::Samples,
            1 => Role::Channels,
            _ => Role::Space,
        };
        let extent = graph.shape(tensor).get(axis).copied();
        match self.roles.get(&tensor).and_then(|roles| roles.get(axis).copied().flatten()).unwrap_or(place) {
            Role::Samples if self.samples == 1 || extent != Some(self.samples) => Role::Rows,
            role => role,
        }
    }

    /// The method that a split of a tensor along an axis is.
    pub fn method(&self, graph: &Graph, tensor: TensorId, axis: usize) -> Method {
        match self.role(graph, tensor, axis) {
            Role::Samples => Method::Batch,
            Role::Channels => Method::Output,
            Role::Rows => Method::Tokens,
            Role::Space => Method::Spatial,
        }
    }

    /// Units in which an axis may be cut beside the usual ones, of `lanes` indices: whole heads, whole channels of what is
    /// flattened.
    pub fn units(&self, tensor: TensorId, axis: usize, lanes: usize) -> Vec<usize> {
        let unit = self.units.get(&tensor).map_or(1, |units| units[axis]);
        let is_factor = self.factors.get(&tensor).is_some_and(|factors| factors[axis]);
        match (unit, is_factor) {
            (1, false) => Vec::new(),
            (1, true) => vec![1],
            (unit, _) => vec![unit, unit * lanes],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::text::parse;

    fn named(graph: &Graph, name: &str) -> TensorId {
        graph.tensor_ids().find(|id| graph.tensor(*id).name == name).expect("a tensor of that name")
    }

    #[test]
    fn axes_are_named_by_what_they_count() {
        let text = r#"graph "attention" opset 17
input %0 "x": f32[1,197,64]
const %1 "w": f32[64,96] = random(1)
%2 "before": f32[1,197,64] = "before"(%0) Unary(Neg)
%3 "q": f32[1,197,96] = "q"(%2, %1) MatMul
%4 "heads": f32[1,197,3,32] = "heads"(%3) Reshape(shape:[1,197,3,32])
%5 "turned": f32[1,3,197,32] = "turn"(%4) Transpose(permutation:[0,2,1,3])
%6 "across": f32[1,3,32,197] = "across"(%4) Transpose(permutation:[0,2,3,1])
%7 "scores": f32[1,3,197,197] = "scores"(%5, %6) MatMul
%8 "soft": f32[1,3,197,197] = "soft"(%7) Softmax(axis:3)
%9 "sums": f32[1,3,197,32] = "sums"(%8, %5) MatMul
%10 "back": f32[1,197,3,32] = "back"(%9) Transpose(permutation:[0,2,1,3])
%11 "joined": f32[1,197,96] = "join"(%10) Reshape(shape:[1,197,96])
output %11
"#;
        let graph = parse(text).expect("a graph");
        let axes = Axes::of(&graph);
        let of = |name: &str| {
            let tensor = named(&graph, name);
            (0..graph.shape(tensor).len()).map(|axis| axes.method(&graph, tensor, axis).name()).collect::<Vec<_>>()
        };
        // 197 tokens of one sample are no batch and no channels, also before the first product.
        assert_eq!(of("before"), ["tokens", "tokens", "lop"]);
        assert_eq!(of("q"), ["tokens", "tokens", "lop"]);
        assert_eq!(of("heads"), ["tokens", "tokens", "lop", "lop"]);
        assert_eq!(of("turned"), ["tokens", "lop", "tokens", "lop"]);
        assert_eq!(of("soft"), ["tokens", "lop", "tokens", "lop"]);
        assert_eq!(of("joined"), ["tokens", "tokens", "lop"]);
        // Projections are cut between heads, and so is everything that is made of heads.
        assert_eq!(axes.units(named(&graph, "q"), 2, 4), [32, 128]);
        assert_eq!(axes.units(named(&graph, "joined"), 2, 4), [32, 128]);
        assert_eq!(axes.units(named(&graph, "scores"), 1, 4), [1]);
        assert_eq!(axes.units(named(&graph, "scores"), 2, 4), [0; 0]);
    }

    #[test]
    fn images_have_samples_channels_and_places() {
        let text = "graph \"t\" opset 17\ninput %0 \"x\": f32[4,3,8,8]\n%1 \"y\": f32[4,3,8,8] = \"n\"(%0) Unary(Neg)\noutput %1\n";
        let graph = parse(text).expect("a graph");
        let axes = Axes::of(&graph);
        let names = [0, 1, 2, 3].map(|axis| axes.method(&graph, named(&graph, "y"), axis));
        assert_eq!(names, [Method::Batch, Method::Output, Method::Spatial, Method::Spatial]);
    }
}
