//! How texts refer to the tensors and nodes of a graph: by their numbers in the graph's own text form.

use std::collections::HashMap;

use crate::graph::{Graph, NodeId, TensorId};
use crate::text::{ParseError, Reader};

/// Numbers of tensors: inputs first, then constants that something reads, then results of nodes in topological order. A node
/// has the number of its first result. Names stand behind the numbers for readers, and are checked.
pub struct Numbering<'a> {
    graph: &'a Graph,
    numbers: HashMap<TensorId, usize>,
    tensors: Vec<TensorId>,
}

impl<'a> Numbering<'a> {
    /// Of a graph.
    pub fn of(graph: &'a Graph) -> Numbering<'a> {
        let mut numbering = Numbering { graph, numbers: HashMap::new(), tensors: Vec::new() };
        let order = graph.topological_order().unwrap_or_else(|| graph.node_ids().collect());
        let read = order.iter().flat_map(|node| &graph.node(*node).inputs).chain(&graph.outputs);
        let constants = read.filter(|tensor| graph.value(**tensor).is_some());
        let results = order.iter().flat_map(|node| &graph.node(*node).outputs);
        for tensor in graph.inputs.iter().chain(constants).chain(results) {
            let next = numbering.tensors.len();
            if *numbering.numbers.entry(*tensor).or_insert(next) == next {
                numbering.tensors.push(*tensor);
            }
        }
        numbering
    }

    /// `%3`
    pub(super) fn number(&self, tensor: TensorId) -> String {
        // What nothing declares would be a broken graph, and dumps must show those too.
        self.numbers.get(&tensor).map_or_else(|| format!("%undeclared{}", tensor.0), |number| format!("%{number}"))
    }

    /// `%3 "y"`
    pub fn tensor(&self, tensor: TensorId) -> String {
        format!("{} {:?}", self.number(tensor), self.graph.tensor(tensor).name)
    }

    /// `%3 "conv1"`
    pub fn node(&self, id: NodeId) -> String {
        let node = self.graph.node(id);
        let number = node.outputs.first().map_or_else(|| "%undeclared".to_string(), |first| self.number(*first));
        format!("{number} {:?}", node.name)
    }

    /// Reads what [`Numbering::tensor`] writes; the name may be left out.
    pub fn read_tensor(&self, reader: &mut Reader<'_>) -> Result<TensorId, ParseError> {
        let tensor = self.read_number(reader)?;
        self.check_name(reader, &self.graph.tensor(tensor).name)?;
        Ok(tensor)
    }

    /// Reads what [`Numbering::node`] writes; the name may be left out.
    pub fn read_node(&self, reader: &mut Reader<'_>) -> Result<NodeId, ParseError> {
        let place = reader.place();
        let tensor = self.read_number(reader)?;
        let producer = self.graph.tensor(tensor).producer;
        let first = producer.filter(|id| self.graph.node(*id).outputs.first() == Some(&tensor));
        let wrong =
            || reader.error_at(place, format!("expected the first result of a node, found {}", self.tensor(tensor)));
        let id = first.ok_or_else(wrong)?;
        self.check_name(reader, &self.graph.node(id).name)?;
        Ok(id)
    }

    fn read_number(&self, reader: &mut Reader<'_>) -> Result<TensorId, ParseError> {
        let place = reader.place();
        if !reader.take("%") {
            return Err(reader.expected("a tensor such as `%3`"));
        }
        let number: usize = reader.count()?;
        let known = self.tensors.get(number).copied();
        known.ok_or_else(|| {
            let most = self.tensors.len().saturating_sub(1);
            reader.error_at(place, format!("expected a tensor of the graph, %0 to %{most}, found %{number}"))
        })
    }

    fn check_name(&self, reader: &mut Reader<'_>, name: &str) -> Result<(), ParseError> {
        let place = reader.place();
        if !reader.is_at(|c| c == '"') || reader.string()? == name {
            return Ok(());
        }
        Err(reader.error_at(place, format!("expected {name:?}, the name that belongs to the number")))
    }
}
