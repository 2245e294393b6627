//! What is computed in pieces, or in unequal rows, so that tensors travel meanwhile.

use super::tests_network::{Random, check, cluster, network, on_linux};
use super::*;
use crate::partition::Strategy;
use crate::partition::arrival::Arrival;
use crate::partition::{Objective, Overlap, Partition, PartitionOptions, StrategyFamily, solve};
use crate::schedule::{self, Action};
use partita_ir::graph::eval::evaluate;

/// Two layers of 16 channels and 12 rows.
const LAYERS: &str = r#"graph "layers" opset 17
input %0 "x": f32[1,16,12,6]
const %1 "v": f32[16,16,3,3] = random(1)
const %2 "b": f32[16] = random(2)
const %3 "w": f32[16,16,3,3] = random(3)
%4 "y": f32[1,16,12,6] = "first"(%0, %1, %2) Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:None))
%5 "z": f32[1,16,12,6] = "second"(%4, %3, %2) Conv((window:(kernel:[3,3],stride:[1,1],dilation:[1,1],pad_begin:[1,1],pad_end:[1,1]),groups:1,residual:false,activation:None))
output %5
"#;

/// What a device does when these three share the layers, the first one in two pieces.
fn first_actions(family: StrategyFamily) -> Vec<String> {
    let graph = partita_ir::graph::text::parse(LAYERS).expect("the text is a graph");
    let cluster = on_linux(&cluster(3, ""));
    let options = PartitionOptions::new(Objective::Latency, family);
    let partition = solve(&graph, &cluster, &options).expect("there is room");
    let first = graph.node_ids().next().expect("there are nodes");
    let overlap = Some(Overlap { pieces: BTreeMap::from([(first, 2)]) });
    let sharded = apply(&graph, &Partition { overlap, ..partition }, &cluster).expect("it can be cut");
    let schedules = schedule::build(&sharded, &cluster).expect("few messages");
    schedule::check::check(&sharded.graph, &schedules, &cluster).unwrap_or_else(|error| panic!("{error}"));
    let of_second = schedules.iter().find(|schedule| schedule.device == 1).expect("it takes part");
    let graph = &sharded.graph;
    let shown = |action: &Action| match action {
        Action::Compute(id) => {
            let output = graph.node(*id).outputs[0];
            format!("{} {:?}", graph.node(*id).name, graph.shape(output))
        }
        Action::Start { sends, receives } => format!("start {} out, {} in", sends.len(), receives.len()),
        Action::Exchange { sends, receives } => format!("exchange {} out, {} in", sends.len(), receives.len()),
        _ => String::new(),
    };
    of_second.actions.iter().map(shown).collect()
}

#[test]
fn rows_that_others_need_leave_before_the_rest_is_computed() {
    let actions = first_actions(StrategyFamily::Spatial);
    let at = |what: &str| {
        actions.iter().position(|action| action.starts_with(what)).unwrap_or_else(|| panic!("{what}: {actions:#?}"))
    };
    // One row at each border of the four that it has; then the two between them, while these travel.
    let rows: Vec<&String> = actions.iter().filter(|action| action.starts_with("first")).collect();
    assert_eq!(rows.iter().filter(|action| action.ends_with("[1, 16, 1, 6]")).count(), 2, "{actions:#?}");
    assert!(rows[2].ends_with("[1, 16, 2, 6]"), "{actions:#?}");
    let starts: Vec<usize> = (0..actions.len()).filter(|at| actions[*at].starts_with("start")).collect();
    let rest = actions.iter().position(|action| action.ends_with("[1, 16, 2, 6]")).expect("it is computed");
    assert!(starts.iter().filter(|start| **start < rest).count() >= 2, "{actions:#?}");
    assert!(rest < at("second"), "{actions:#?}");
}

#[test]
fn channels_leave_in_pieces_where_others_need_all() {
    let graph = partita_ir::graph::text::parse(LAYERS).expect("the text is a graph");
    let cluster = cluster(2, "");
    let partition = solve(&graph, &cluster, &PartitionOptions::new(Objective::Latency, StrategyFamily::Lop));
    let partition = partition.expect("there is room");
    let first = graph.node_ids().next().expect("there are nodes");
    let parts = |count: usize| -> Vec<Vec<Option<(usize, usize)>>> {
        let turns = pieces::turns(&graph, &partition, &cluster, first, count).unwrap_or_default();
        let channels =
            |turn: &Sharding| turn.0.iter().map(|part| part.map(|part| (part.begin(1), part.end(1)))).collect();
        turns.iter().map(channels).collect()
    };
    // Eight channels each: two vectors of four lanes are computed together.
    assert_eq!(parts(2), Vec::<Vec<_>>::new(), "a piece is no smaller than that");
    assert!(pieces::travels(&graph, &partition, &cluster, first));
    let whole = Partition::given(
        graph.node_ids().map(|id| (id, Strategy::whole(usize::from(id == first), 2, &[1, 16, 12, 6]))).collect(),
    );
    let turns = pieces::turns(&graph, &whole, &cluster, first, 2).expect("16 channels are two pieces");
    let channels: Vec<_> = turns.iter().map(|turn| turn.0[1].map(|part| (part.begin(1), part.end(1)))).collect();
    assert_eq!(channels, [Some((0, 8)), Some((8, 16))]);
}

#[test]
fn who_has_the_input_may_compute_more_of_the_first_rows() {
    let (mut tried, mut more) = (0, 0);
    for seed in 1..12u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let graph = network(&mut random);
        let input = random.values(graph.shape(graph.inputs[0]));
        let expected = evaluate(&graph, std::slice::from_ref(&input)).expect("the graph is sound");
        let cluster = cluster(2 + random.next(3), "");
        for family in [StrategyFamily::Spatial, StrategyFamily::Ftp] {
            let options = PartitionOptions::new(Objective::Latency, family);
            let Ok(partition) = solve(&graph, &cluster, &options) else { continue };
            let Some(arrival) = Arrival::of(&graph, &cluster, &partition) else { continue };
            for place in arrival.places() {
                for favour in [1.0, 2.0, 8.0] {
                    let Some(favoured) = arrival.plan(place, favour) else { continue };
                    let label = format!("seed {seed}, {family:?}, place {place}, favour {favour}");
                    check(&graph, &favoured, &cluster, &input, &expected, &label);
                    let last = graph.topological_order().expect("no cycle")[place];
                    let rows =
                        |device: usize| favoured.strategies[&last].outputs.0[device].map_or(0, |part| part.extent(2));
                    let others = (0..cluster.devices.len()).filter(|device| *device != cluster.input);
                    tried += 1;
                    more += usize::from(
                        favour > 1.0 && others.map(rows).max().is_some_and(|most| rows(cluster.input) > most),
                    );
                }
            }
        }
    }
    assert!(tried > 50 && more > 30, "{tried} plans, {more} with more rows where the input is");
}
