//! A network as a chain of segments, so that what is left of any set of parts is put together from few pieces.
//!
//! A segment lies between two tensors that carry everything on. Each has the alternatives by which it can be computed:
//! as it is, or without some part. All alternatives of all segments are compiled once, into one program for this
//! machine.

use std::collections::{BTreeMap, HashMap};

use super::parts::{Compensation, Drop, Part, dropped, joins, macs};
use partita_ir::graph::{Graph, NodeId, TensorId};
use partita_placement::Failure;
use partita_plan::partition::crossings;

/// One of several forms of a segment.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// Parts that are left out, each with what takes its place.
    pub drops: Vec<Drop>,
    /// The segment as a graph; none if its input is its result.
    pub graph: Option<Graph>,
    /// Multiply-adds.
    pub macs: u64,
}

impl Alternative {
    /// Bytes that travel of what it computes, by node of the whole network.
    pub fn sent_bytes(&self, by_node: &BTreeMap<NodeId, u64>) -> u64 {
        let stays = |id: NodeId| self.graph.as_ref().is_some_and(|graph| graph.contains(id));
        by_node.iter().filter(|(id, _)| stays(**id)).map(|(_, bytes)| bytes).sum()
    }
}

/// What lies between two tensors.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What comes in; none for the network's input.
    pub from: Option<TensorId>,
    /// What comes out.
    pub to: TensorId,
    /// Alternatives to compute it; the first is as it is.
    pub alternatives: Vec<Alternative>,
}

/// Cuts a graph into segments: those that hold parts, each with all of any part that touches it, and the stretches
/// between them.
pub fn segments(graph: &Graph, parts: &[Part]) -> Result<Vec<Segment>, Failure> {
    let order = graph.topological_order().unwrap_or_default();
    let position: HashMap<NodeId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let spans = parts.iter().map(|part| span(graph, part, &position)).collect::<Result<Vec<_>, Failure>>()?;
    let cuts: Vec<(usize, TensorId)> = crossings(graph, &order)
        .into_iter()
        .filter(|(at, tensor)| {
            let crossed = spans.iter().any(|(first, last)| first <= at && at < last);
            !crossed && !graph.is_output(*tensor)
        })
        .collect();
    let mut found: Vec<Segment> = Vec::new();
    let mut from = None;
    let mut first = 0;
    for (number, (at, tensor)) in cuts.iter().enumerate() {
        // A cut is worth making behind a part, and where the next piece holds one.
        let end = cuts.get(number + 1).map_or(order.len(), |(at, _)| at + 1);
        let holds = |begin: usize, end: usize| spans.iter().any(|(first, last)| begin <= *first && *last < end);
        if holds(first, at + 1) || holds(at + 1, end) {
            found.push(segment(graph, from, *tensor, &inside(&spans, first, at + 1), parts)?);
            (from, first) = (Some(*tensor), at + 1);
        }
    }
    let output = graph.outputs.first().copied();
    if let Some(output) = output.filter(|output| from != Some(*output)) {
        found.push(segment(graph, from, output, &inside(&spans, first, order.len()), parts)?);
    }
    Ok(found)
}

/// Parts that lie between two positions.
fn inside(spans: &[(usize, usize)], begin: usize, end: usize) -> Vec<usize> {
    (0..spans.len()).filter(|part| begin <= spans[*part].0 && spans[*part].1 < end).collect()
}

/// Leaves as many alternatives as routes can be told apart: those that save least go, never a segment as it is.
pub fn limit_alternatives(segments: &mut [Segment], most: usize) {
    let mut alternatives: usize = segments.iter().map(|segment| segment.alternatives.len()).sum();
    while alternatives > most {
        let saves = |(segment, alternative): &(usize, usize)| {
            segments[*segment].alternatives[0].macs.saturating_sub(segments[*segment].alternatives[*alternative].macs)
        };
        let all = segments.iter().enumerate();
        let least = all
            .flat_map(|(at, segment)| (1..segment.alternatives.len()).map(move |alternative| (at, alternative)))
            .min_by_key(saves);
        let Some((segment, alternative)) = least else { return };
        segments[segment].alternatives.remove(alternative);
        alternatives -= 1;
    }
}

/// First and last position of what goes with a part, its joins included.
fn span(graph: &Graph, part: &Part, position: &HashMap<NodeId, usize>) -> Result<(usize, usize), Failure> {
    let without = dropped(graph, &[(part, None)]).map_err(|error| Failure::Internal(error.into()))?;
    // What a node reads and writes: fewer channels, where it stays but gets narrower.
    let shapes = |graph: &Graph, id: NodeId| -> Vec<Vec<usize>> {
        let node = graph.node(id);
        node.inputs.iter().chain(&node.outputs).map(|tensor| graph.shape(*tensor).to_vec()).collect()
    };
    let stays = |id: &NodeId| without.contains(*id) && shapes(graph, *id) == shapes(&without, *id);
    let gone = graph.node_ids().filter(|id| !stays(id));
    let touched: Vec<usize> = gone.chain(joins(graph, part)).filter_map(|id| position.get(&id).copied()).collect();
    let first = touched.iter().copied().min().unwrap_or(0);
    Ok((first, touched.iter().copied().max().unwrap_or(first)))
}

fn segment(
    graph: &Graph,
    from: Option<TensorId>,
    to: TensorId,
    inside: &[usize],
    parts: &[Part],
) -> Result<Segment, Failure> {
    let whole = extract(graph, from, to)?;
    let mut alternatives = vec![Alternative { drops: Vec::new(), macs: whole.as_ref().map_or(0, macs), graph: whole }];
    for part in inside {
        alternatives.push(alternative(graph, from, to, vec![(*part, None)], parts)?);
    }
    Ok(Segment { from, to, alternatives })
}

/// A segment without some parts.
pub fn alternative(
    graph: &Graph,
    from: Option<TensorId>,
    to: TensorId,
    drops: Vec<Drop>,
    parts: &[Part],
) -> Result<Alternative, Failure> {
    let which: Vec<(&Part, Option<&Compensation>)> =
        drops.iter().map(|(part, compensation)| (&parts[*part], compensation.as_ref())).collect();
    // The tensor may take over the name, not the number, of another: what comes out is kept as an output meanwhile.
    let mut marked = graph.clone();
    if !marked.is_output(to) {
        marked.outputs.push(to);
    }
    let place = marked.outputs.iter().position(|output| *output == to).unwrap_or(0);
    let without = dropped(&marked, &which).map_err(|error| Failure::Internal(error.into()))?;
    let graph = extract(&without, from, without.outputs[place])?;
    Ok(Alternative { drops, macs: graph.as_ref().map_or(0, macs), graph })
}

/// What lies between two tensors as a graph of its own; none if they are the same.
fn extract(graph: &Graph, from: Option<TensorId>, to: TensorId) -> Result<Option<Graph>, Failure> {
    if from == Some(to) {
        return Ok(None);
    }
    let mut piece = graph.clone();
    piece.outputs = vec![to].into();
    let tidy = |piece: &mut Graph| {
        partita_passes::run(partita_passes::TIDY, piece, &mut |_, _, _| {})
            .map_err(|error| Failure::Internal(error.into()))
    };
    if let Some(from) = from {
        if let Some(producer) = piece.tensor(from).producer {
            piece.remove_node(producer);
        }
        // What came before still stands on the other inputs until it is gone.
        piece.inputs.push(from);
        tidy(&mut piece)?;
        piece.inputs = vec![from];
    }
    tidy(&mut piece)?;
    Ok(Some(piece))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variants::parts::parts;
    use partita_ir::graph::text::parse;

    /// `before` convolutions, as many residual blocks as said, and a convolution.
    fn chain(before: usize, blocks: usize) -> Graph {
        let conv = |number: usize, inputs: &str, residual: bool| {
            format!(
                "%{number} \"t{number}\": f32[1,4,3,3] = \"n{number}\"({inputs}) Conv((window:(kernel:[1,1],stride:[1,1],dilation:[1,1],\
                 pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:{residual},activation:Relu))\n"
            )
        };
        let mut text =
            "graph \"chain\" opset 17\ninput %0 \"x\": f32[1,4,3,3]\nconst %1 \"w\": f32[4,4,1,1] = random(1)\n\
                        const %2 \"b\": f32[4] = random(2)\n"
                .to_string();
        let (mut last, mut next) = (0, 3);
        for _ in 0..before {
            text += &conv(next, &format!("%{last}, %1, %2"), false);
            (last, next) = (next, next + 1);
        }
        for _ in 0..blocks {
            text += &conv(next, &format!("%{last}, %1, %2"), false);
            text += &conv(next + 1, &format!("%{next}, %1, %2, %{last}"), true);
            (last, next) = (next + 1, next + 2);
        }
        text += &conv(next, &format!("%{last}, %1, %2"), false);
        parse(&(text + &format!("output %{next}\n"))).expect("the text is a graph")
    }

    #[test]
    fn stretches_without_parts_are_one_segment() {
        let graph = chain(300, 2);
        let parts = parts(&graph);
        let found = segments(&graph, &parts).expect("it can be cut");
        let alternatives: Vec<usize> = found.iter().map(|segment| segment.alternatives.len()).collect();
        assert_eq!(alternatives, [1, 3, 3, 1], "before, two blocks with their skips, behind");
        let nodes: usize =
            found.iter().filter_map(|segment| Some(segment.alternatives[0].graph.as_ref()?.node_count())).sum();
        assert_eq!(nodes, graph.node_count());
    }

    #[test]
    fn many_alternatives_are_cut_down_to_those_that_save_most() {
        let graph = chain(1, 5);
        let parts = parts(&graph);
        let mut found = segments(&graph, &parts).expect("it can be cut");
        limit_alternatives(&mut found, 12);
        let alternatives: Vec<usize> = found.iter().map(|segment| segment.alternatives.len()).collect();
        assert_eq!(alternatives, [1, 2, 2, 2, 2, 2, 1], "skip connections save nothing");
        limit_alternatives(&mut found, 1);
        assert!(found.iter().all(|segment| segment.alternatives.len() == 1), "what there is stays");
    }
}
