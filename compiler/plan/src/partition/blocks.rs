//! Boxes of rows and columns: bands across a tensor, and each band shared by some of the devices.
//!
//! A grid has as many devices in every band, so six of them cut 7 x 7 tiles in three by two, and one gets 12 of 49. Bands of
//! four and of two devices leave nobody more than 10.

use super::groups::cut;

/// Up to so many devices every way to put them into bands is looked at, beyond only bands of equally many.
const MAX_DEVICES: usize = 8;

/// The rows and the columns of each device, in order; none for one that gets nothing.
pub type Blocks = Vec<Option<[(usize, usize); 2]>>;

/// How long the slowest device takes for its tiles of `unit` rows and columns, where one tile takes a device of share 1 one
/// unit of time; what is left of a tile takes as long as all of it.
pub fn delay(blocks: &[Option<[(usize, usize); 2]>], shares: &[f64], unit: usize) -> f64 {
    let tiles = |(begin, end): (usize, usize)| (end - begin).div_ceil(unit) as f64;
    let of_device = |(block, share): (&Option<[(usize, usize); 2]>, &f64)| {
        block.map_or(0.0, |[rows, columns]| tiles(rows) * tiles(columns) / share.max(f64::MIN_POSITIVE))
    };
    blocks.iter().zip(shares).map(of_device).fold(0.0, f64::max)
}

/// The blocks of devices with these shares whose slowest is done first, in tiles of `unit` and, among equals, in single
/// elements, and then those with the shortest borders. `None` for fewer than three devices, which a row of them serves as well.
pub fn blocks(extents: [usize; 2], shares: &[f64], unit: usize) -> Option<Blocks> {
    let mut best: Option<([f64; 3], Blocks)> = None;
    let mut units = vec![[1, 1], [1, unit], [unit, 1], [unit, unit]];
    units.dedup();
    for bands in band_sizes(shares.len()) {
        for (units, upright) in units.iter().flat_map(|units| [(*units, false), (*units, true)]) {
            let found = in_bands(extents, shares, units, &bands, upright);
            let border: usize = found.iter().flatten().flatten().map(|(begin, end)| end - begin).sum();
            let rank = [delay(&found, shares, unit), delay(&found, shares, 1), border as f64];
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, found));
            }
        }
    }
    best.map(|(_, found)| found)
}

/// How many devices are in each band: at least two bands, of which one is shared.
fn band_sizes(devices: usize) -> Vec<Vec<usize>> {
    if devices > MAX_DEVICES {
        let even =
            |bands: usize| (0..bands).map(|band| (band + 1) * devices / bands - band * devices / bands).collect();
        return (2..devices).map(even).collect();
    }
    // A border behind each device but the last, or none.
    let of_borders = |borders: u32| {
        let mut sizes = vec![1];
        for device in 1..devices {
            match sizes.last_mut() {
                Some(size) if borders >> (device - 1) & 1 == 0 => *size += 1,
                _ => sizes.push(1),
            }
        }
        sizes
    };
    let all = 1u32 << devices.saturating_sub(1);
    (1..all.saturating_sub(1)).map(of_borders).collect()
}

/// Devices in bands of rows (`upright`: of columns) by what those in it can do together, and the band by what each can do, cut
/// at multiples of these units.
fn in_bands(
    [rows, columns]: [usize; 2],
    shares: &[f64],
    [unit_across, unit_along]: [usize; 2],
    bands: &[usize],
    upright: bool,
) -> Blocks {
    let (across, along) = if upright { (columns, rows) } else { (rows, columns) };
    let mut left = shares;
    let members: Vec<&[f64]> = bands
        .iter()
        .map(|size| {
            let (band, rest) = left.split_at(*size);
            left = rest;
            band
        })
        .collect();
    let together: Vec<f64> = members.iter().map(|band| band.iter().sum()).collect();
    let is_some = |(begin, end): (usize, usize)| begin < end;
    let of_band = |(band, members): ((usize, usize), &&[f64])| {
        let block = move |piece: (usize, usize)| {
            let block = if upright { [piece, band] } else { [band, piece] };
            (is_some(band) && is_some(piece)).then_some(block)
        };
        cut(along, members, unit_along).into_iter().map(block).collect::<Blocks>()
    };
    cut(across, &together, unit_across).into_iter().zip(&members).flat_map(of_band).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(extents: [usize; 2], blocks: &Blocks) -> Vec<usize> {
        let mut owners = vec![0; extents[0] * extents[1]];
        for [rows, columns] in blocks.iter().flatten() {
            for row in rows.0..rows.1 {
                (columns.0..columns.1).for_each(|column| owners[row * extents[1] + column] += 1);
            }
        }
        owners
    }

    #[test]
    fn bands_of_four_and_two_leave_nobody_twelve_tiles() {
        let found = blocks([28, 28], &[1.0; 6], 4).expect("there are bands");
        assert_eq!((delay(&found, &[1.0; 6], 4), delay(&found, &[1.0; 6], 1)), (10.0, 140.0));
        let grid: Blocks =
            (0..6).map(|at| Some([[(0, 10), (10, 19), (19, 28)][at / 2], [(0, 14), (14, 28)][at % 2]])).collect();
        assert_eq!(delay(&grid, &[1.0; 6], 4), 12.0);
        // Pixels of the last layers, where rows alone would give somebody two of seven.
        let found = blocks([7, 7], &[1.0; 6], 1).expect("there are bands");
        assert_eq!(delay(&found, &[1.0; 6], 1), 10.0);
    }

    #[test]
    fn every_element_has_one_owner() {
        for extents in [[7, 7], [13, 13], [28, 14], [3, 40], [2, 2]] {
            for shares in [&[1.0; 3][..], &[1.0; 6], &[1.0, 0.2, 0.7, 1.0, 0.1], &[1.0; 8], &[1.0; 11]] {
                for unit in [1, 4] {
                    let found = blocks(extents, shares, unit).expect("there are bands");
                    assert_eq!(found.len(), shares.len());
                    assert!(cells(extents, &found).iter().all(|owners| *owners == 1), "{extents:?} {found:?}");
                }
            }
        }
        assert_eq!(blocks([8, 8], &[1.0; 2], 1), None);
    }

    #[test]
    fn who_is_slow_gets_little() {
        let shares = [1.0, 1.0, 0.25];
        let found = blocks([12, 12], &shares, 1).expect("there are bands");
        let elements = |block: &Option<[(usize, usize); 2]>| {
            block.map_or(0, |[rows, columns]| (rows.1 - rows.0) * (columns.1 - columns.0))
        };
        assert!(elements(&found[2]) <= 20, "{found:?}");
        assert!(delay(&found, &shares, 1) <= 72.0, "{found:?}");
    }
}
