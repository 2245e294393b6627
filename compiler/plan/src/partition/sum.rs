//! What is minimised, for any plan: the same prices of nodes and travel by which the search compares.

use super::encodings::Encodings;
use super::network::Network;
use super::price::{Breadth, Scope, price};
use super::{Objective, Partition, StrategyFamily};
use partita_config::Cluster;
use partita_ir::graph::Graph;

/// The sum over nodes and travel under an objective that adds up; none if the plan cannot be carried out as it is.
pub fn sum_of(
    graph: &Graph,
    cluster: &Cluster,
    objective: Objective,
    partition: &Partition,
    encodings: &Encodings,
) -> Option<f64> {
    if matches!(objective, Objective::Throughput | Objective::Memory) {
        return None;
    }
    let (family, breadth) = (StrategyFamily::Auto, Breadth::Roomy);
    let choice = Scope { graph, cluster, family, objective, breadth, activation_share: 0.0, resident: None, encodings };
    let order = graph.topological_order()?;
    let only = |id| Some(vec![price(&choice, id, partition.strategies.get(&id)?.clone(), None)?]);
    let candidates = order.iter().map(|id| only(*id)).collect::<Option<Vec<_>>>()?;
    let nodes = order.len();
    let network = Network::of(&choice, order, candidates, (Vec::new(), Vec::new()));
    let assignment = network.completed(objective, &vec![0; nodes]);
    Some(network.value(objective, &assignment)).filter(|sum| sum.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Strategy;
    use crate::partition::encodings::EXACT;
    use partita_config::cluster_file;

    fn cluster() -> Cluster {
        let text = "[cluster]\nname = \"t\"\ninput = \"a\"\noutput = \"b\"\n[[device]]\nname = \"a\"\n\
             target = \"raspberry-pi-3\"\n[[device]]\nname = \"b\"\ntarget = \"raspberry-pi-4\"\n[[link]]\n\
             between = [\"a\", \"b\"]\ntransport = \"tcp\"\nbandwidth = \"100 Mbit/s\"\n";
        cluster_file::parse(text, "cluster.toml", std::path::Path::new(".")).expect("it is sound")
    }

    /// Bytes that travel where each node, by name, is on one device.
    fn bytes(text: &str, devices: &[(&str, usize)]) -> Option<f64> {
        let graph = partita_ir::graph::text::parse(text).expect("the text is a graph");
        let strategy = |(name, device): &(&str, usize)| {
            let id = graph.node_ids().find(|id| graph.node(*id).name == *name).expect("a node");
            (id, Strategy::whole(*device, 2, graph.shape(graph.node(id).outputs[0])))
        };
        let partition = Partition::given(devices.iter().map(strategy).collect());
        // A little time breaks ties.
        sum_of(&graph, &cluster(), Objective::Traffic, &partition, &EXACT).map(f64::round)
    }

    /// What is sent for one reader is there for the next: both read on `b` what `a` has made.
    #[test]
    fn what_several_read_travels_once() {
        const TEXT: &str = r#"graph "t" opset 17
input %0 "x": f32[1,64]
%1 "made": f32[1,64] = "made"(%0) Unary(Tanh)
%2 "p": f32[1,64] = "p"(%1) Unary(Exp)
%3 "q": f32[1,64] = "q"(%1) Unary(Erf)
%4 "y": f32[1,64] = "y"(%2, %3) Binary(Add,None)
output %4
"#;
        let on = |made, p, q, y| bytes(TEXT, &[("made", made), ("p", p), ("q", q), ("y", y)]);
        assert_eq!(on(0, 1, 1, 1), Some(256.0), "`made` goes to `b` once");
        assert_eq!(on(0, 0, 1, 1), Some(512.0), "`made` and `p` go");
        assert_eq!(on(1, 1, 1, 1), Some(256.0), "`x` goes");
    }

    /// Three of four inferences end before anybody reads what was made for all.
    #[test]
    fn what_is_read_behind_an_exit_travels_as_often_as_it_is_read() {
        const TEXT: &str = r#"graph "t" opset 17
input %0 "x": f32[1,64]
%1 "made": f32[1,64] = "made"(%0) Unary(Tanh)
%2 "head": f32[1,64] = "head"(%0) Unary(Sigmoid)
%3 "verdict": f32[2] = "decide"(%2) Decide((exit:0,rule:Margin,logits:true,temperature:1.0,threshold:0.5,share:0.75,patience:None))
%4 "p": f32[1,64] = "p"(%1) Unary(Exp)
%5 "q": f32[1,64] = "q"(%1) Unary(Erf)
%6 "y": f32[1,64] = "y"(%4, %5) Binary(Add,None)
output %6
"#;
        let devices = [("made", 0), ("head", 0), ("decide", 0), ("p", 1), ("q", 1), ("y", 1)];
        assert_eq!(bytes(TEXT, &devices), Some(64.0), "a quarter of 256");
    }
}
