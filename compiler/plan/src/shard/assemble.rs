//! Where the pieces of a box come from, and how they are joined.

use partita_ir::graph::Op;
use partita_ir::region::Region;

/// A piece of a needed box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// The piece.
    pub region: Region,
    /// Device that holds it.
    pub device: usize,
    /// Position among what the device holds.
    pub held: usize,
}

/// Disjoint pieces that make up `need` on `device`: first from what the device itself holds, then from the others that
/// are `linked` to it, beginning with its successor, so that equal owners share the work. `None` if somebody would have
/// to hold more.
pub fn pieces(
    held: &[Vec<Region>],
    device: usize,
    need: &Region,
    linked: &dyn Fn(usize, usize) -> bool,
) -> Option<Vec<Piece>> {
    let mut missing = vec![*need];
    let mut found = Vec::new();
    for offset in 0..held.len() {
        let owner = (device + offset) % held.len();
        if missing.is_empty() {
            return Some(found);
        }
        // Most hold nothing of it.
        if held[owner].iter().all(|have| need.intersection(have).is_none()) || offset > 0 && !linked(owner, device) {
            continue;
        }
        // Large pieces first: there are fewer then.
        let mut boxes: Vec<(usize, &Region)> = held[owner].iter().enumerate().collect();
        if boxes.len() > 1 {
            boxes.sort_by_cached_key(|(_, have)| {
                std::cmp::Reverse(need.intersection(have).map_or(0, |shared| shared.element_count()))
            });
        }
        for (position, have) in boxes {
            if missing.iter().all(|rest| rest.intersection(have).is_none()) {
                continue;
            }
            missing = missing
                .iter()
                .flat_map(|rest| {
                    if let Some(shared) = rest.intersection(have) {
                        found.push(Piece { region: shared, device: owner, held: position });
                    }
                    rest.without(have)
                })
                .collect();
        }
    }
    missing.is_empty().then_some(found)
}

/// The operator that cuts `part` out of a tensor that holds `region`.
pub fn slice(region: &Region, part: &Region) -> Op {
    let relative = part.relative_to(region);
    let rank = relative.rank();
    Op::Slice {
        starts: (0..rank).map(|axis| relative.begin(axis)).collect(),
        steps: vec![1; rank],
        sizes: relative.shape(),
    }
}

/// How pieces are joined into a box.
#[derive(Clone, Debug, PartialEq)]
pub enum Joint {
    /// The piece at this position is the box.
    Piece(usize),
    /// Boxes side by side along an axis, in order.
    Concat {
        /// The axis.
        axis: usize,
        /// What is joined.
        parts: Vec<Joint>,
    },
}

/// Straight cuts through `need` that no piece straddles, from the outside in; `None` if pieces interlock.
/// `pieces` are disjoint and cover `need`; `which` are the positions to use.
pub fn joint(need: &Region, pieces: &[Region], which: &[usize]) -> Option<Joint> {
    if let [only] = which {
        return (pieces[*only] == *need).then_some(Joint::Piece(*only));
    }
    for axis in 0..need.rank() {
        let mut cuts: Vec<usize> = which.iter().map(|index| pieces[*index].begin(axis)).collect();
        cuts.push(need.end(axis));
        cuts.sort_unstable();
        cuts.dedup();
        cuts.retain(|cut| {
            which.iter().all(|index| pieces[*index].end(axis) <= *cut || *cut <= pieces[*index].begin(axis))
        });
        if cuts.len() <= 2 {
            continue;
        }
        let parts = cuts.windows(2).map(|cut| {
            let slab = need.with(axis, cut[0], cut[1])?;
            let inside: Vec<usize> = which.iter().copied().filter(|index| slab.contains(&pieces[*index])).collect();
            joint(&slab, pieces, &inside)
        });
        return Some(Joint::Concat { axis, parts: parts.collect::<Option<Vec<_>>>()? });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(rows: (usize, usize), columns: (usize, usize)) -> Region {
        Region::new([rows, columns]).expect("not empty")
    }

    #[test]
    fn a_tile_with_halo_is_joined_from_nine_neighbours() {
        let held: Vec<Vec<Region>> = (0..9)
            .map(|device| vec![tile((device / 3 * 4, device / 3 * 4 + 4), (device % 3 * 4, device % 3 * 4 + 4))])
            .collect();
        let need = tile((3, 9), (3, 9));
        let found = pieces(&held, 4, &need, &|_, _| true).expect("everything is held");
        assert_eq!(found.len(), 9);
        assert_eq!(found[0].device, 4);
        let regions: Vec<Region> = found.iter().map(|piece| piece.region).collect();
        assert!(joint(&need, &regions, &(0..9).collect::<Vec<_>>()).is_some());
    }

    #[test]
    fn what_nobody_holds_is_not_found() {
        let held = [vec![tile((0, 2), (0, 4))], vec![]];
        assert_eq!(pieces(&held, 1, &tile((0, 3), (0, 4)), &|_, _| true), None);
        assert_eq!(pieces(&held, 1, &tile((0, 2), (0, 4)), &|_, _| false), None);
    }

    #[test]
    fn interlocking_pieces_are_refused() {
        // A pinwheel has no straight cut.
        let pieces = [
            tile((0, 1), (0, 2)),
            tile((0, 2), (2, 3)),
            tile((2, 3), (1, 3)),
            tile((1, 3), (0, 1)),
            tile((1, 2), (1, 2)),
        ];
        assert_eq!(joint(&tile((0, 3), (0, 3)), &pieces, &[0, 1, 2, 3, 4]), None);
    }
}
