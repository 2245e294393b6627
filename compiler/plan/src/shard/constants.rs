//! Parts of constants, each made once.

use super::rewrite::Rewriter;
use super::{ShardError, assemble};
use partita_ir::graph::eval::evaluate_node;
use partita_ir::graph::{Original, TensorId, TensorType};
use partita_ir::region::Region;

impl Rewriter<'_> {
    /// The tensor of the new graph that holds a part of a constant of the original.
    pub(super) fn constant(&mut self, tensor: TensorId, part: &Region) -> Result<TensorId, ShardError> {
        let whole = self.whole(tensor);
        let cut = (whole != *part).then_some(*part);
        if let Some(found) = self.constants.get(&(tensor, cut)) {
            return Ok(*found);
        }
        let info = self.from.tensor(tensor);
        let Some(value) = info.value.clone() else {
            return Err(ShardError::Missing { tensor: info.name.clone(), part: part.to_string() });
        };
        let id = match cut {
            _ if !self.with_constants => {
                let name = self.unique(info.name.clone());
                self.to.add_tensor(name, TensorType::new(info.tensor_type.element, part.shape()))
            }
            None => {
                let name = self.unique(info.name.clone());
                self.to.add_constant(name, value)
            }
            Some(part) => {
                let op = assemble::slice(&whole, &part);
                let tensor_type = TensorType::new(info.tensor_type.element, part.shape());
                let sliced = evaluate_node(&op, &[&value], &[tensor_type])
                    .map_err(|error| ShardError::IllTyped { node: info.name.clone(), problem: error.to_string() })?
                    .swap_remove(0);
                let name = self.unique(format!("{}{part}", info.name));
                self.to.add_constant(name, sliced)
            }
        };
        if let Some(facts) = self.from.facts(tensor) {
            // Found out for the whole, where elements are at hand, and valid for every part.
            self.from.is_whole(tensor);
            self.from.whole_range(tensor);
            self.to.set_facts(id, facts.clone());
        }
        self.to.set_original(id, Original { tensor, region: *part });
        self.constants.insert((tensor, cut), id);
        Ok(id)
    }
}
