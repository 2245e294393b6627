//! The choice of layouts for one node: the offer that needs the fewest elements reordered, the family's favourite
//! among equals. Nodes that read the same weights, as the patches and stripes of one do, take the same layouts, so that
//! the weights are stored once.

use super::Lowering;
use crate::graph::NodeId;
use crate::kernel::lower::{LayoutChoice, layout_choices};
use crate::program::Layout;

impl Lowering<'_> {
    /// The best offer of the node's kernel family; `None` if only the reference kernel can do it.
    pub(super) fn choose_layouts(&self, node: NodeId) -> Option<LayoutChoice> {
        if !self.is_f32(node) {
            return None;
        }
        let info = self.graph.node(node);
        let plain = vec![Layout::Plain; info.inputs.len()];
        let operands = self.operands(node, &plain);
        let output = self.graph.tensor_type(*info.outputs.first()?);
        let choices = layout_choices(&info.op, &operands, output, &self.machine);
        let packed = info.inputs.iter().find_map(|input| self.packings.get(input));
        if let Some(packing) = packed.filter(|packing| choices.contains(&packing.choice)) {
            return Some(packing.choice.clone());
        }
        choices.into_iter().min_by_key(|choice| self.reordered_elements(node, choice))
    }

    /// Elements that must be copied before the node can run in these layouts. `min_by_key` keeps the first of equals.
    fn reordered_elements(&self, node: NodeId, choice: &LayoutChoice) -> usize {
        let inputs = &self.graph.node(node).inputs;
        inputs
            .iter()
            .zip(&choice.inputs)
            .filter(|(input, layout)| {
                self.graph.value(**input).is_none() && self.existing_place(**input, **layout).is_none()
            })
            .filter(|(input, _)| !self.graph.shape(**input).iter().skip(2).all(|extent| *extent == 1))
            .map(|(input, _)| self.graph.tensor_type(*input).element_count())
            .sum()
    }
}
