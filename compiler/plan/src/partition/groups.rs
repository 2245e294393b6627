//! Groups of devices that may share a node, and how they share it.

use partita_config::Cluster;

/// Devices that share a node, and the weight of each in the share.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Indices of the devices, ascending.
    pub devices: Vec<usize>,
    /// Share of each, in proportion to which work is cut; they need not add up to anything.
    pub shares: Vec<f64>,
}

impl Group {
    /// Channels of the widest vector in the group.
    pub fn lanes(&self, cluster: &Cluster) -> usize {
        let lanes = |device: &usize| cluster.devices[*device].target.instruction_set.lanes() as usize;
        self.devices.iter().map(lanes).max().unwrap_or(1)
    }
}

/// How shares are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareBy {
    /// In proportion to arithmetic speed.
    Speed,
    /// In proportion to memory.
    Memory,
    /// In proportion to speed, but nobody more than its memory holds of the model.
    SpeedWithinMemory,
}

/// The groups worth a look: the fastest two, three, .. devices, up to all; among equal devices those that hold the
/// input or want the answer come first. With `everyone` only the group of all; with `stages` also the groups of
/// [`stages`].
pub fn groups(
    cluster: &Cluster,
    weights_bytes: u64,
    share_by: &[ShareBy],
    everyone: bool,
    with_stages: bool,
) -> Vec<Group> {
    let count = cluster.devices.len();
    let speed = |device: usize| cluster.devices[device].target.rate.conv_macs_per_second;
    let mut order: Vec<usize> = (0..count).collect();
    let ends = |device: usize| device != cluster.input && device != cluster.output;
    order.sort_by(|a, b| speed(*b).total_cmp(&speed(*a)).then(ends(*a).cmp(&ends(*b))).then(a.cmp(b)));
    let sizes: Vec<usize> = match count {
        0 | 1 => Vec::new(),
        _ if everyone => vec![count],
        2..=4 => (2..=count).collect(),
        _ => [2, count.div_ceil(4), count.div_ceil(2), count - 1, count].into_iter().filter(|size| *size > 1).collect(),
    };
    let mut members: Vec<Vec<usize>> = sizes.into_iter().map(|size| order[..size].to_vec()).collect();
    if with_stages && !everyone {
        members.extend((2..count).flat_map(|size| stages(count, size)));
    }
    let mut found: Vec<Group> = Vec::new();
    for mut devices in members {
        devices.sort_unstable();
        for by in share_by {
            let memory =
                |device: &usize| cluster.devices[*device].ram_bytes.min(cluster.devices[*device].flash_bytes) as f64;
            let speeds: Vec<f64> = devices.iter().map(|device| speed(*device)).collect();
            let shares: Vec<f64> = match by {
                ShareBy::Speed => speeds,
                ShareBy::Memory => devices.iter().map(memory).collect(),
                ShareBy::SpeedWithinMemory => {
                    let room = |device: &usize| memory(device) * WEIGHTS_OF_MEMORY / weights_bytes.max(1) as f64;
                    within(&speeds, &devices.iter().map(room).collect::<Vec<f64>>())
                }
            };
            let largest = shares.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            let shares = shares.iter().map(|share| share / largest).collect();
            let group = Group { shares, devices: devices.clone() };
            if !found.contains(&group) {
                found.push(group);
            }
        }
    }
    found
}

/// Share of a device's memory that weights may take; the rest is for activations and code.
const WEIGHTS_OF_MEMORY: f64 = 0.75;

/// Shares of 1 in proportion to `speeds`, none above its limit; what the limited cannot take goes to the others. In
/// proportion to the limits if they do not suffice.
fn within(speeds: &[f64], limits: &[f64]) -> Vec<f64> {
    if limits.iter().sum::<f64>() <= 1.0 {
        return limits.to_vec();
    }
    let mut full = vec![false; speeds.len()];
    loop {
        let left: f64 = 1.0 - (0..limits.len()).filter(|at| full[*at]).map(|at| limits[at]).sum::<f64>();
        let speed: f64 = (0..speeds.len()).filter(|at| !full[*at]).map(|at| speeds[at]).sum();
        let share = |at: usize| if full[at] { limits[at] } else { left * speeds[at] / speed };
        let shares: Vec<f64> = (0..speeds.len()).map(share).collect();
        let over: Vec<usize> = (0..speeds.len()).filter(|at| !full[*at] && shares[*at] > limits[*at]).collect();
        if over.is_empty() {
            return shares;
        }
        over.into_iter().for_each(|at| full[at] = true);
    }
}

/// The stages of a pipeline whose every stage is shared by `size` devices; the last takes who is left.
pub fn stages(count: usize, size: usize) -> Vec<Vec<usize>> {
    let stages = (count / size.max(1)).max(1);
    (0..stages)
        .map(|stage| (stage * size..if stage + 1 == stages { count } else { (stage + 1) * size }).collect())
        .collect()
}

/// Cuts `extent` indices in proportion to shares: the range of each, in order, empty for a device that gets nothing.
/// Whole units of `unit` indices are handed out, each to whom it delays least; what is left of the last unit belongs
/// to its owner.
pub fn cut(extent: usize, shares: &[f64], unit: usize) -> Vec<(usize, usize)> {
    let units = extent.div_ceil(unit.max(1));
    let mut counts = vec![0usize; shares.len()];
    let total: f64 = shares.iter().sum();
    // What everybody gets at least, then one by one.
    for (count, share) in counts.iter_mut().zip(shares) {
        *count = (units as f64 * share / total).floor() as usize;
    }
    let handed: usize = counts.iter().sum();
    for _ in handed..units {
        let time_after = |index: usize| (counts[index] + 1) as f64 / shares[index].max(f64::MIN_POSITIVE);
        if let Some(next) = (0..shares.len()).min_by(|a, b| time_after(*a).total_cmp(&time_after(*b))) {
            counts[next] += 1;
        }
    }
    let mut begin = 0;
    counts
        .into_iter()
        .map(|count| {
            let end = (begin + count * unit).min(extent);
            (std::mem::replace(&mut begin, end), end)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{cut, within};

    #[test]
    fn shares_keep_their_limits() {
        assert_eq!(within(&[3.0, 1.0], &[1.0, 1.0]), [0.75, 0.25]);
        assert_eq!(within(&[3.0, 1.0], &[0.5, 1.0]), [0.5, 0.5]);
        assert_eq!(within(&[8.0, 1.0, 1.0], &[0.5, 0.125, 1.0]), [0.5, 0.125, 0.375]);
        assert_eq!(within(&[1.0, 1.0], &[0.2, 0.3]), [0.2, 0.3]);
    }

    #[test]
    fn cuts_are_balanced_whatever_divides() {
        assert_eq!(cut(13, &[1.0; 5], 1), [(0, 3), (3, 6), (6, 9), (9, 11), (11, 13)]);
        assert_eq!(cut(7, &[1.0; 7], 1).len(), 7);
        // Heads, and the columns that they are made of, go to the same devices, whatever the shares.
        for shares in [[3.0, 1.0, 1.0], [1.0, 7.5, 2.0], [0.1, 0.2, 9.0]] {
            let heads = cut(12, &shares, 1);
            let columns = heads.into_iter().map(|(begin, end)| (begin * 64, end * 64)).collect::<Vec<_>>();
            assert_eq!(cut(768, &shares, 64), columns);
        }
        assert_eq!(cut(2, &[1.0; 3], 1), [(0, 1), (1, 2), (2, 2)]);
        assert_eq!(cut(10, &[3.0, 1.0, 1.0], 1), [(0, 6), (6, 8), (8, 10)]);
        assert_eq!(cut(20, &[1.0, 1.0], 8), [(0, 16), (16, 20)]);
        assert_eq!(cut(20, &[1.0, 0.0], 8), [(0, 20), (20, 20)]);
    }

    #[test]
    fn every_index_has_one_owner() {
        for extent in 1..40 {
            for devices in 1..9 {
                for unit in [1, 4, 16] {
                    let ranges = cut(extent, &vec![1.0; devices], unit);
                    assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0));
                    assert_eq!((ranges[0].0, ranges[devices - 1].1), (0, extent));
                }
            }
        }
    }
}
