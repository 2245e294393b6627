//! Parts of one segment that go together. In a network of dense blocks everything between two cuts is one segment; a
//! set picks one alternative for each segment, so one without several parts is an alternative of its own.

use super::parts::{Drop, Part, PartKind};
use super::scores::Score;
use super::segments::{Segment, alternative};
use partita_ir::graph::Graph;
use partita_placement::Failure;

/// How many parts go together.
const SIZES: [usize; 9] = [2, 3, 4, 6, 8, 12, 16, 24, 32];

/// Kinds of which several can go from one segment without getting into each other's way.
const KINDS: [PartKind; 2] = [PartKind::Branch, PartKind::Channels];

/// Adds to segments alternatives without several parts of a kind: those that lose least alone for what they save, ever
/// more of them. `singles` are the scores of alternatives, `alone` that of the whole network; at most `most`
/// alternatives come out in all. Says whether there are any new ones.
pub fn add(
    graph: &Graph,
    parts: &[Part],
    segments: &mut [Segment],
    singles: &[(usize, u8, Score)],
    alone: Score,
    most: usize,
) -> Result<bool, Failure> {
    let mut room = most.saturating_sub(segments.iter().map(|segment| segment.alternatives.len()).sum());
    let mut found = false;
    for (number, segment) in segments.iter_mut().enumerate() {
        for kind in KINDS {
            let mut ordered = single_drops(parts, segment, number, kind, singles, alone);
            ordered.sort_by(|a, b| a.0.total_cmp(&b.0));
            for size in SIZES.into_iter().filter(|size| *size <= ordered.len()).take(room) {
                let drops: Vec<Drop> = ordered[..size].iter().map(|(_, drop)| drop.clone()).collect();
                segment.alternatives.push(alternative(graph, segment.from, segment.to, drops, parts)?);
                (room, found) = (room - 1, true);
            }
        }
    }
    Ok(found)
}

/// What goes alone from a segment, with the negative log-likelihood that it adds for each operation that it saves.
fn single_drops(
    parts: &[Part],
    segment: &Segment,
    number: usize,
    kind: PartKind,
    singles: &[(usize, u8, Score)],
    alone: Score,
) -> Vec<(f64, Drop)> {
    let whole = segment.alternatives[0].macs;
    let of_alternative = |(_, at, score): &(usize, u8, Score)| {
        let alternative = segment.alternatives.get(usize::from(*at))?;
        let [drop] = &alternative.drops[..] else { return None };
        let saved = whole.saturating_sub(alternative.macs);
        let price = (score.loss() - alone.loss()) / saved.max(1) as f64;
        (parts[drop.0].kind == kind && saved > 0).then(|| (price, drop.clone()))
    };
    singles.iter().filter(|(segment, ..)| *segment == number).filter_map(of_alternative).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variants::parts::parts;
    use crate::variants::segments::segments;
    use partita_ir::graph::text::parse;

    /// A dense block of four layers: each reads all tensors before it.
    fn dense() -> Graph {
        let conv = |to: usize, from: usize, name: &str, weights: usize| {
            format!(
                "%{to} \"{name}\": f32[1,4,3,3] = \"{name}\"(%{from}, %{weights}, %2) Conv((window:(kernel:[1,1],stride:[1,1],\
                 dilation:[1,1],pad_begin:[0,0],pad_end:[0,0]),groups:1,residual:false,activation:Relu))\n"
            )
        };
        let mut text =
            "graph \"dense\" opset 17\ninput %0 \"x\": f32[1,4,3,3]\nconst %1 \"w1\": f32[4,4,1,1] = random(1)\n\
                        const %2 \"b\": f32[4] = random(2)\nconst %3 \"w2\": f32[4,8,1,1] = random(3)\n\
                        const %4 \"w3\": f32[4,12,1,1] = random(4)\nconst %5 \"w4\": f32[4,16,1,1] = random(5)\n"
                .to_string();
        text += &conv(6, 0, "stem", 1);
        text += &conv(7, 6, "first", 1);
        text += "%8 \"two\": f32[1,8,3,3] = \"two\"(%6, %7) Concat(axis:1)\n";
        text += &conv(9, 8, "second", 3);
        text += "%10 \"three\": f32[1,12,3,3] = \"three\"(%6, %7, %9) Concat(axis:1)\n";
        text += &conv(11, 10, "third", 4);
        text += "%12 \"four\": f32[1,16,3,3] = \"four\"(%6, %7, %9, %11) Concat(axis:1)\n";
        text += &conv(13, 12, "last", 5);
        parse(&(text + "output %13\n")).expect("the text is a graph")
    }

    #[test]
    fn layers_of_a_dense_block_go_alone_and_together() {
        let graph = dense();
        let parts = parts(&graph);
        let names: Vec<&str> =
            parts.iter().map(|part| graph.tensor(graph.node(part.join).inputs[part.operand]).name.as_str()).collect();
        assert_eq!(names, ["first", "second", "third"], "each once, wherever it is read");
        let mut found = segments(&graph, &parts).expect("it can be cut");
        let alternatives: Vec<usize> = found.iter().map(|segment| segment.alternatives.len()).collect();
        assert_eq!(alternatives, [1, 4, 1], "the stem, the block, and what reads it");
        let score = |nll: f64| Score { right: 90, nll, samples: 100 };
        // The second costs nothing, the third little, the first much.
        let singles = [(1, 1, score(50.0)), (1, 2, score(10.0)), (1, 3, score(12.0))];
        assert!(add(&graph, &parts, &mut found, &singles, score(10.0), 250).expect("they can go"));
        let together: Vec<Vec<usize>> = found[1].alternatives[4..]
            .iter()
            .map(|alternative| alternative.drops.iter().map(|(part, _)| *part).collect())
            .collect();
        assert_eq!(together, [vec![1, 2], vec![1, 2, 0]]);
        let macs: Vec<u64> = found[1].alternatives.iter().map(|alternative| alternative.macs / (4 * 9)).collect();
        assert_eq!(macs, [4 + 8 + 12, 8 + 12, 4 + 12, 4 + 8, 4, 0], "what reads a layer that has gone reads its mean");
        assert!(!add(&graph, &parts, &mut found[..1], &singles, score(10.0), 0).expect("nothing happens"));
    }
}
