//! The choice of layouts for one node: the offer that needs the fewest elements reordered, the family's favourite
//! among equals. Nodes that read the same weights, as the patches and bands of one do, or a node in several programs of
//! a device, take the same layouts, so that the weights are stored once.

use super::Lowering;
use crate::program::Layout;
use partita_ir::graph::{NodeId, TensorId};
use partita_kernel::lower::{LayoutChoice, layout_choices};

impl Lowering<'_> {
    /// The best offer of the node's kernel family; `None` if only the reference kernel can do it.
    pub(super) fn choose_layouts(&self, node: NodeId) -> Option<LayoutChoice> {
        if !self.is_f32(node) {
            return None;
        }
        let info = self.graph.node(node);
        let plain = vec![Layout::Plain; info.inputs.len()];
        let mut operands = self.operands(node, &plain);
        for (operand, input) in operands.iter_mut().zip(&info.inputs) {
            operand.packing = self.wanted_packing(*input);
        }
        let output = self.graph.tensor_type(*info.outputs.first()?);
        let choices = layout_choices(&info.op, &operands, output, &self.machine);
        let packed = info.inputs.iter().find_map(|input| self.packings.get(input));
        if let Some(packing) = packed.filter(|packing| choices.contains(&packing.choice)) {
            return Some(packing.choice.clone());
        }
        // The order of weights depends on the layout of what they are multiplied by.
        let elsewhere = info.inputs.iter().find_map(|input| self.packed_elsewhere(*input));
        let suits = |choice: &&LayoutChoice| elsewhere.is_none_or(|(layout, _)| choice.inputs[0] == layout);
        let suitable: Vec<LayoutChoice> = choices.iter().filter(suits).cloned().collect();
        self.least_reordered(&info.inputs, if suitable.is_empty() { &choices } else { &suitable })
    }

    /// The choice for which least has to be reordered.
    pub(super) fn least_reordered(&self, inputs: &[TensorId], choices: &[LayoutChoice]) -> Option<LayoutChoice> {
        choices.iter().min_by_key(|choice| self.reordered_elements(inputs, choice)).cloned()
    }

    /// Elements that must be copied before the node can run in these layouts. `min_by_key` keeps the first of equals.
    fn reordered_elements(&self, inputs: &[TensorId], choice: &LayoutChoice) -> usize {
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

#[cfg(test)]
mod tests {
    use crate::program::Weight;
    use crate::program::lower::{Like, lowered};

    /// Packed weights of a program that computes everything.
    fn weights(text: &str, like: Like<'_>) -> Vec<Weight> {
        lowered(text, "raspberry-pi-3", like).weights
    }

    const CONV: &str = "Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:Relu))";

    fn graph(lines: &str) -> String {
        let constant = |number: usize, name: &str| {
            format!(
                "const %{number} \"{name}\": f32[32,32,3,3] = random({number})\nconst %{} \"{name}_bias\": f32[32] = random({number})\n",
                number + 1
            )
        };
        let head = "graph \"case\" opset 17\ninput %0 \"x\": f32[1,32,16,16]\n";
        format!("{head}{}{}{}{lines}", constant(1, "first"), constant(3, "second"), constant(5, "third"))
    }

    /// Both convolutions, of which the second reads what the first has made; and the second alone, which reads what
    /// arrives.
    #[test]
    fn weights_of_two_programs_are_packed_alike() {
        let both = format!(
            "%7 \"a\": f32[1,32,16,16] = \"one\"(%0, %1, %2) {CONV}\n%8 \"b\": f32[1,32,16,16] = \"two\"(%7, %3, %4) {CONV}\noutput %8\n"
        );
        let both = weights(&graph(&both), Like::default());
        let named = |weights: &[Weight], name: &str| weights.iter().find(|weight| weight.name == name).cloned();
        let second = named(&both, "second");
        assert!(second.is_some());
        let alone = graph(&format!("%8 \"b\": f32[1,32,16,16] = \"two\"(%0, %3, %4) {CONV}\noutput %8\n"));
        let like = Like { weights: &both, small: false };
        assert_eq!(named(&weights(&alone, like), "second"), second);
        // What only one of them has may have to be small; otherwise Winograd's algorithm is worth a reordering.
        let other = graph(&format!("%8 \"b\": f32[1,32,16,16] = \"new\"(%0, %5, %6) {CONV}\noutput %8\n"));
        let bytes = |small: bool| {
            let weights = weights(&other, Like { weights: &both, small });
            named(&weights, "third").map(|weight| weight.bytes.len())
        };
        assert_eq!(bytes(true), Some(32 * 32 * 9 * 4));
        assert!(bytes(false) > bytes(true));
    }
}
