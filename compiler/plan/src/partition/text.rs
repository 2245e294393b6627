//! Text form of a partition: printed for people, read back by tests.
//!
//! ```text
//! partition for latency
//! gap 0.0
//! %3 "conv1": whole on cam ; Conv
//! %4 "conv2": lop cam:[0..1, 0..8, 0..4, 0..4] hub:[0..1, 8..16, 0..4, 0..4] ; Conv
//! %5 "fc": lip of cam:[0..1, 0..8] hub:[0..1, 8..16] to cam:[0..1, 0..10] ; Gemm
//!   operand 0 by way of cam:[0..1, 0..8] hub:[0..1, 8..16]
//! stripes 4 of %3 "conv1", %4 "conv2"
//! overlap
//! pieces 2 of %3 "conv1"
//! ```
//!
//! Nodes bear their numbers of the graph's text form. Behind `partition` may stand what is known of it, each on a line of its
//! own: `optimal`, `gap`, `sum`, `proven`, `lower_bound_ms`, `period_bound_seconds`, `solve_ms`, `single_device_ms`.

use std::collections::BTreeMap;
use std::fmt;

use super::{Method, Objective, Overlap, Partition, RowStreaming, Strategy};
use crate::read_device;
use crate::shard::{Region, Sharding};
use partita_config::Cluster;
use partita_ir::graph::text::{Numbering, op_name};
use partita_ir::graph::{Graph, NodeId};
use partita_ir::text::{ParseError, Reader};

/// Shows a partition with the names of its graph and cluster.
pub struct Display<'a> {
    /// What is shown.
    pub partition: &'a Partition,
    /// Its graph.
    pub graph: &'a Graph,
    /// Its cluster.
    pub cluster: &'a Cluster,
}

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Partition { strategies, relays, row_streaming, overlap, objective, optimal, gap, .. } = self.partition;
        let Partition { sum, proven, lower_bound_ms, period_bound_seconds, solve_ms, single_device_ms, .. } =
            self.partition;
        writeln!(f, "partition for {objective}")?;
        if *optimal {
            writeln!(f, "optimal")?;
        }
        writeln!(f, "gap {gap:?}")?;
        if !proven.is_empty() {
            writeln!(f, "proven {proven:?}")?;
        }
        let known = [("lower_bound_ms", *lower_bound_ms), ("solve_ms", *solve_ms)];
        let known = known.into_iter().filter(|(_, value)| *value != 0.0).map(|(word, value)| (word, Some(value)));
        let optional =
            [("sum", *sum), ("period_bound_seconds", *period_bound_seconds), ("single_device_ms", *single_device_ms)];
        for (word, value) in known.chain(optional).filter_map(|(word, value)| Some((word, value?))) {
            writeln!(f, "{word} {value:?}")?;
        }
        let numbering = Numbering::of(self.graph);
        for id in self.graph.topological_order().unwrap_or_default() {
            let Some(strategy) = strategies.get(&id) else { continue };
            let shown = self.strategy(id, strategy);
            writeln!(f, "{}: {shown} ; {}", numbering.node(id), op_name(&self.graph.node(id).op))?;
            let relays = relays.range((id, 0)..=(id, usize::MAX));
            for (operand, relay) in
                relays.flat_map(|((_, operand), relays)| relays.iter().map(move |relay| (operand, relay)))
            {
                writeln!(f, "  operand {operand} by way of{}", self.parts(relay))?;
            }
        }
        for RowStreaming { nodes, count } in row_streaming {
            let nodes: Vec<String> = nodes.iter().map(|id| numbering.node(*id)).collect();
            writeln!(f, "stripes {count} of {}", nodes.join(", "))?;
        }
        if let Some(Overlap { pieces }) = overlap {
            writeln!(f, "overlap")?;
            for (id, count) in pieces {
                writeln!(f, "pieces {count} of {}", numbering.node(*id))?;
            }
        }
        Ok(())
    }
}

impl Display<'_> {
    fn strategy(&self, id: NodeId, strategy: &Strategy) -> String {
        let result = result_shape(self.graph, id);
        if let Some(device) = strategy.outputs.only_device()
            && *strategy == Strategy::whole(device, self.cluster.devices.len(), result)
        {
            return format!("whole on {}", self.cluster.devices[device].name);
        }
        let partial_sums =
            strategy.partial_sums.as_ref().map(|partial_sums| format!(" of{} to", self.parts(partial_sums)));
        format!("{}{}{}", strategy.method.name(), partial_sums.unwrap_or_default(), self.parts(&strategy.outputs))
    }

    fn parts(&self, sharding: &Sharding) -> String {
        sharding.parts().map(|(device, region)| format!(" {}:{region}", self.cluster.devices[device].name)).collect()
    }
}

/// Of a node's first result.
fn result_shape(graph: &Graph, id: NodeId) -> &[usize] {
    graph.node(id).outputs.first().map_or(&[], |result| graph.shape(*result))
}

/// Reads a partition; the inverse of [`Display`].
pub fn parse(text: &str, graph: &Graph, cluster: &Cluster) -> Result<Partition, ParseError> {
    let mut reader = Reader::new(text);
    reader.next_line();
    reader.expect_word("partition")?;
    reader.expect_word("for")?;
    let place = reader.place();
    let objective = Objective::parse(reader.line().trim()).map_err(|error| reader.error_at(place, error))?;
    let partition = Partition { objective, ..Partition::given(BTreeMap::new()) };
    let mut parser = Parser { graph, cluster, numbering: Numbering::of(graph), partition, node: None };
    while reader.next_line() {
        if reader.is_at(|c| c == '%') {
            parser.node(&mut reader)?
        } else {
            parser.line(&mut reader)?
        }
        reader.end_of_line()?;
    }
    Ok(parser.partition)
}

struct Parser<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    numbering: Numbering<'a>,
    partition: Partition,
    /// The node that was read last.
    node: Option<NodeId>,
}

impl Parser<'_> {
    fn node(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        let place = reader.place();
        let id = self.numbering.read_node(reader)?;
        reader.expect(":")?;
        let strategy = self.strategy(reader, id)?;
        self.node = Some(id);
        match self.partition.strategies.insert(id, strategy) {
            None => Ok(()),
            Some(_) => Err(reader.error_at(place, "the node has a strategy already")),
        }
    }

    fn strategy(&self, reader: &mut Reader<'_>, id: NodeId) -> Result<Strategy, ParseError> {
        let place = reader.place();
        let name = reader.word("a strategy")?;
        let result = result_shape(self.graph, id);
        let known = || Method::ALL.map(Method::name).join(", ");
        let unknown = || reader.error_at(place, format!("expected {}, found `{name}`", known()));
        let method = Method::from_name(name).ok_or_else(unknown)?;
        if method == Method::Whole && reader.take_word("on") {
            let device = read_device(reader, self.cluster)?;
            return Ok(Strategy::whole(device, self.cluster.devices.len(), result));
        }
        let mut partial_sums = None;
        if reader.take_word("of") {
            let operand = self.graph.node(id).inputs.first().map_or(&[][..], |operand| self.graph.shape(*operand));
            partial_sums = Some(self.sharding(reader, operand)?);
            reader.expect_word("to")?;
        }
        Ok(Strategy { method, outputs: self.sharding(reader, result)?, partial_sums })
    }

    /// `cam:[0..1, 0..8] hub:[0..1, 8..16]`, of a tensor of this shape.
    fn sharding(&self, reader: &mut Reader<'_>, shape: &[usize]) -> Result<Sharding, ParseError> {
        let mut regions = vec![None; self.cluster.devices.len()];
        loop {
            let mut ahead = *reader;
            let place = ahead.place();
            if ahead.name("").is_err() || !ahead.take(":") {
                break;
            }
            let device = read_device(reader, self.cluster)?;
            reader.expect(":")?;
            if regions[device].replace(Region::read(reader, shape)?).is_some() {
                return Err(reader.error_at(place, "the device has a part already"));
            }
        }
        if regions.iter().all(Option::is_none) {
            return Err(reader.expected("a device and its part, such as `cam:[0..1, 0..8]`"));
        }
        Ok(Sharding(regions))
    }

    /// What is not a node's strategy.
    fn line(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        let place = reader.place();
        let word = reader.word("a node, `operand`, `stripes`, `overlap`, `pieces`, or what is known of the plan")?;
        let partition = &mut self.partition;
        match word {
            "optimal" => partition.optimal = true,
            "gap" => partition.gap = reader.number()?,
            "proven" => partition.proven = reader.string()?,
            "lower_bound_ms" => partition.lower_bound_ms = reader.number()?,
            "solve_ms" => partition.solve_ms = reader.number()?,
            "sum" => partition.sum = Some(reader.number()?),
            "period_bound_seconds" => partition.period_bound_seconds = Some(reader.number()?),
            "single_device_ms" => partition.single_device_ms = Some(reader.number()?),
            "operand" => self.relay(reader)?,
            "stripes" => {
                let count = reader.count()?;
                reader.expect_word("of")?;
                let mut nodes = vec![self.numbering.read_node(reader)?];
                while reader.take(",") {
                    nodes.push(self.numbering.read_node(reader)?);
                }
                self.partition.row_streaming.push(RowStreaming { nodes, count });
            }
            "overlap" => partition.overlap = Some(Overlap::default()),
            "pieces" => {
                let count = reader.count()?;
                reader.expect_word("of")?;
                let id = self.numbering.read_node(reader)?;
                self.partition.overlap.get_or_insert_default().pieces.insert(id, count);
            }
            _ => {
                let words = "a node such as `%3`, `operand`, `stripes`, `overlap`, `pieces`, `optimal`, `gap`, `sum`, `proven`, `lower_bound_ms`, \
                     `period_bound_seconds`, `solve_ms` or `single_device_ms`";
                return Err(reader.error_at(place, format!("expected {words}, found `{word}`")));
            }
        }
        Ok(())
    }

    /// How an operand of the node that was read last travels.
    fn relay(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        let place = reader.place();
        let operand = reader.count()?;
        let inputs = self.node.map(|id| (id, &self.graph.node(id).inputs));
        let Some((id, tensor)) = inputs.and_then(|(id, inputs)| Some((id, *inputs.get(operand)?))) else {
            return Err(reader.error_at(place, format!("the node above has no operand {operand}")));
        };
        for word in ["by", "way", "of"] {
            reader.expect_word(word)?;
        }
        let relay = self.sharding(reader, self.graph.shape(tensor))?;
        self.partition.relays.entry((id, operand)).or_default().push(relay);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that may be known of a partition.
    const ALL: &str = r#"partition for latency=1,traffic=0.5,energy=0
optimal
gap 0.25
proven "nothing \"less\""
lower_bound_ms 1.5
solve_ms 2.0
sum 1e-9
period_bound_seconds 0.125
single_device_ms inf
%2 "conv": lip of a:[0..1, 0..2, 0..1] b-2:[0..1, 2..4, 0..1] to a:[0..1, 0..3, 0..1] ; Conv
  operand 0 by way of a:[0..1, 0..4, 0..1]
  operand 0 by way of b-2:[0..1, 0..4, 0..1]
%3 "relu": whole on b-2 ; Relu
stripes 3 of %2 "conv", %3 "relu"
"#;

    fn read(text: &str) -> Result<String, String> {
        let graph = "input %0 \"x\": f32[1,4,1]\nconst %1 \"w\": f32[3,4,1] = fill(1.0)\n\
            %2 \"c\": f32[1,3,1] = \"conv\"(%0, %1) Conv((window:(kernel:[1],stride:[1],dilation:[1],pad_begin:[0],pad_end:[0]),\
            groups:1,residual:false,activation:None))\n%3 \"y\": f32[1,3,1] = \"relu\"(%2) Unary(Activation(Relu))\noutput %3\n";
        let graph = partita_ir::graph::text::parse(graph).expect("the text is a graph");
        let cluster = "[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"a\"\n[[device]]\nname = \"a\"\ntarget = \"host\"\n\
            [[device]]\nname = \"b-2\"\ntarget = \"host\"\n[[link]]\nbetween = [\"a\", \"b-2\"]\ntransport = \"tcp\"\n\
            bandwidth = \"1 Mbit/s\"\n";
        let cluster = partita_config::cluster_file::parse(cluster, "cluster.toml", std::path::Path::new("."));
        let cluster = cluster.expect("the cluster is sound");
        let partition = parse(text, &graph, &cluster).map_err(|error| error.to_string())?;
        Ok(Display { partition: &partition, graph: &graph, cluster: &cluster }.to_string())
    }

    #[test]
    fn everything_reads_back() {
        assert_eq!(read(ALL).as_deref(), Ok(ALL));
    }

    #[test]
    fn faults_are_named_with_their_place() {
        for (old, new, message) in [
            ("latency=1", "speed=1", "line 1, column 15: `speed` cannot be weighted"),
            ("gap 0.25", "gap x", "line 3, column 5: expected a number, found `x`"),
            ("sum ", "sums ", "line 7, column 1: expected a node such as `%3`, `operand`, `stripes`"),
            ("%2 \"conv\": lip", "%2 \"conv\": lips", "line 10, column 12: expected whole, replicated, lop"),
            ("b-2:[0..1, 2..4", "b:[0..1, 2..4", "line 10, column 40: cluster `t` has no device `b`"),
            (
                "[0..1, 2..4, 0..1]",
                "[0..1, 2..5, 0..1]",
                "line 10, column 44: expected a box of a tensor of shape [1, 4, 1]",
            ),
            (
                "[0..1, 0..3, 0..1]",
                "[0..1, 3..3, 0..1]",
                "line 10, column 68: expected a box of a tensor of shape [1, 3, 1]",
            ),
            ("b-2:[0..1, 2..4", "a:[0..1, 2..4", "line 10, column 40: the device has a part already"),
            ("to a:[0..1, 0..3, 0..1]", "to", "line 10, column 66: expected a device and its part"),
            ("operand 0", "operand 2", "line 11, column 11: the node above has no operand 2"),
            ("%3 \"relu\": whole", "%2: whole", "line 13, column 1: the node has a strategy already"),
            ("stripes 3 of %2", "stripes 3 of %1", "line 14, column 14: expected the first result of a node"),
        ] {
            assert!(ALL.contains(old), "{old}");
            let error = read(&ALL.replacen(old, new, 1)).expect_err(new);
            assert!(error.starts_with(message), "{error} is not {message}");
        }
    }
}
