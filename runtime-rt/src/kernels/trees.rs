//! Decision trees.

use super::ReduceKind;

/// Many decision trees (ONNX ai.onnx.ml TreeEnsembleRegressor, -Classifier). What their leaves say of each target is added, or
/// the largest or smallest of it taken; 0 where no leaf says anything.
///
/// A node is `[feature, comparison, if true, if false]`, where the latter two are nodes. Comparisons are `<=`, `<`, `>=`, `>`,
/// `==` and `!=`, from 1 on; 8 more where a feature that is NaN makes them true. A leaf has a comparison of 0, and instead of
/// nodes the first of its weights and the one behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct TreeEnsemble {
    /// Features of a row of the input.
    pub features: usize,
    /// Numbers in a row of the result.
    pub targets: usize,
    /// Sum, Max or Min of what leaves say.
    pub kind: ReduceKind,
}

impl TreeEnsemble {
    /// `y` is `[rows, targets]`, `x` `[rows, features]`; a threshold for each node, a root for each tree, and of each weight of
    /// leaves which target it is for.
    #[expect(clippy::too_many_arguments, reason = "tables beside each other, of different types")]
    pub fn run(
        &self,
        x: &[f32],
        nodes: &[i32],
        thresholds: &[f32],
        roots: &[i32],
        targets: &[i32],
        weights: &[f32],
        y: &mut [f32],
    ) {
        // NaN for what nobody has said anything of.
        let first = if self.kind == ReduceKind::Sum { 0.0 } else { f32::NAN };
        for (row, outs) in x.chunks_exact(self.features.max(1)).zip(y.chunks_exact_mut(self.targets.max(1))) {
            outs.fill(first);
            for root in roots {
                let (begin, end) = leaf(row, nodes, thresholds, *root).unwrap_or_default();
                let said = targets.get(begin..end).unwrap_or(&[]).iter().zip(weights.get(begin..end).unwrap_or(&[]));
                for (target, weight) in said {
                    let Some(out) = usize::try_from(*target).ok().and_then(|target| outs.get_mut(target)) else {
                        continue;
                    };
                    *out = match self.kind {
                        ReduceKind::Max if *out >= *weight => *out,
                        ReduceKind::Min if *out <= *weight => *out,
                        ReduceKind::Max | ReduceKind::Min => *weight,
                        ReduceKind::Sum | ReduceKind::Mean | ReduceKind::L2 => *out + *weight,
                    };
                }
            }
            outs.iter_mut().filter(|out| self.kind != ReduceKind::Sum && out.is_nan()).for_each(|out| *out = 0.0);
        }
    }
}

/// The weights of the leaf to which a row comes from a root; nothing if it comes to none.
fn leaf(row: &[f32], nodes: &[i32], thresholds: &[f32], root: i32) -> Option<(usize, usize)> {
    let mut at = usize::try_from(root).ok()?;
    // Who passes more nodes than there are walks in a circle.
    for _ in 0..=nodes.len() / 4 {
        let &[feature, comparison, if_true, if_false] = nodes.chunks_exact(4).nth(at)? else { return None };
        if comparison == 0 {
            return Some((usize::try_from(if_true).ok()?, usize::try_from(if_false).ok()?));
        }
        let (element, threshold) = (*row.get(usize::try_from(feature).ok()?)?, *thresholds.get(at)?);
        let holds = match comparison & 7 {
            1 => element <= threshold,
            2 => element < threshold,
            3 => element >= threshold,
            4 => element > threshold,
            5 => element == threshold,
            _ => element != threshold,
        };
        let holds = if element.is_nan() { comparison >= 8 } else { holds };
        at = usize::try_from(if holds { if_true } else { if_false }).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two trees: a fork with a fork behind it, and a leaf alone.
    const NODES: [i32; 24] = [0, 1, 1, 2, 0, 0, 0, 1, 1, 8 + 4, 3, 4, 0, 0, 1, 3, 0, 0, 3, 4, 0, 0, 4, 5];
    const THRESHOLDS: [f32; 6] = [0.5, 0.0, 2.0, 0.0, 0.0, 0.0];
    const TARGETS: [i32; 5] = [0, 0, 1, 1, 1];
    const WEIGHTS: [f32; 5] = [1.0, 2.0, 4.0, -8.0, 16.0];

    fn answer(kind: ReduceKind, row: [f32; 2]) -> [f32; 2] {
        let mut y = [9.0; 2];
        let call = TreeEnsemble { features: 2, targets: 2, kind };
        call.run(&row, &NODES, &THRESHOLDS, &[0, 5], &TARGETS, &WEIGHTS, &mut y);
        y
    }

    #[test]
    fn rows_go_where_comparisons_say() {
        assert_eq!(answer(ReduceKind::Sum, [0.5, 7.0]), [1.0, 16.0]);
        assert_eq!(answer(ReduceKind::Sum, [0.75, 2.5]), [2.0, 20.0]);
        assert_eq!(answer(ReduceKind::Sum, [0.75, 2.0]), [0.0, 8.0]);
        assert_eq!(answer(ReduceKind::Max, [0.75, 2.0]), [0.0, 16.0]);
        assert_eq!(answer(ReduceKind::Min, [0.75, 2.0]), [0.0, -8.0]);
        // NaN is not below, and makes the second comparison true.
        assert_eq!(answer(ReduceKind::Sum, [f32::NAN, f32::NAN]), [2.0, 20.0]);
    }

    #[test]
    fn tables_that_lead_nowhere_end() {
        let call = TreeEnsemble { features: 1, targets: 1, kind: ReduceKind::Sum };
        for nodes in [[0, 1, 0, 0], [0, 1, 7, -7], [9, 1, 0, 0], [0, 0, 5, 2], [0, 0, -1, 9], [-1, 3, 0, 0]] {
            let mut y = [9.0];
            call.run(&[0.0], &nodes, &[0.0], &[0, -1, 8], &[0], &[1.0], &mut y);
            assert_eq!(y, [0.0], "{nodes:?}");
        }
    }
}
