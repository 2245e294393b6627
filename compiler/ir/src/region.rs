//! Boxes of tensors: one half-open range per axis.

use std::fmt;

use crate::graph::infer::MAX_RANK;
use crate::text::{ParseError, Reader};

/// A box of a tensor, never empty: `begin <= index < end` on every axis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region {
    rank: u8,
    /// Beyond the rank: `(0, 1)`.
    ranges: [(u32, u32); MAX_RANK],
}

impl Region {
    /// All of a tensor of this shape. One without elements is never cut and may count as one of extent 1.
    pub fn whole(shape: &[usize]) -> Region {
        let mut region = Region { rank: shape.len().min(MAX_RANK) as u8, ranges: [(0, 1); MAX_RANK] };
        for (range, extent) in region.ranges.iter_mut().zip(shape) {
            range.1 = (*extent).clamp(1, u32::MAX as usize) as u32;
        }
        region
    }

    /// A box from its ranges; `None` if one is empty or there are more than [`MAX_RANK`].
    pub fn new(ranges: impl IntoIterator<Item = (usize, usize)>) -> Option<Region> {
        let mut region = Region { rank: 0, ranges: [(0, 1); MAX_RANK] };
        for (begin, end) in ranges {
            let (begin, end) = (u32::try_from(begin).ok()?, u32::try_from(end).ok()?);
            *region.ranges.get_mut(region.rank as usize).filter(|_| begin < end)? = (begin, end);
            region.rank += 1;
        }
        Some(region)
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// First index along an axis.
    pub fn begin(&self, axis: usize) -> usize {
        self.ranges[axis].0 as usize
    }

    /// One more than the last index along an axis.
    pub fn end(&self, axis: usize) -> usize {
        self.ranges[axis].1 as usize
    }

    /// Indices along an axis.
    pub fn extent(&self, axis: usize) -> usize {
        self.end(axis) - self.begin(axis)
    }

    /// Extents along all axes.
    pub fn shape(&self) -> Vec<usize> {
        (0..self.rank()).map(|axis| self.extent(axis)).collect()
    }

    /// Number of elements.
    pub fn element_count(&self) -> u64 {
        (0..self.rank()).map(|axis| self.extent(axis) as u64).product()
    }

    /// The same box with another range along one axis; `None` if that is empty.
    pub fn with(mut self, axis: usize, begin: usize, end: usize) -> Option<Region> {
        let (begin, end) = (u32::try_from(begin).ok()?, u32::try_from(end).ok()?);
        self.ranges[axis] = (begin, end);
        (begin < end).then_some(self)
    }

    /// What two boxes share.
    pub fn intersection(&self, other: &Region) -> Option<Region> {
        let mut shared = *self;
        for (range, other) in shared.ranges.iter_mut().zip(&other.ranges) {
            *range = (range.0.max(other.0), range.1.min(other.1));
            if range.0 >= range.1 {
                return None;
            }
        }
        Some(shared)
    }

    /// Whether every element of `other` is in this box.
    pub fn contains(&self, other: &Region) -> bool {
        self.ranges.iter().zip(&other.ranges).all(|(range, other)| range.0 <= other.0 && other.1 <= range.1)
    }

    /// The smallest box that holds both.
    pub fn hull(&self, other: &Region) -> Region {
        let mut hull = *self;
        for (range, other) in hull.ranges.iter_mut().zip(&other.ranges) {
            *range = (range.0.min(other.0), range.1.max(other.1));
        }
        hull
    }

    /// What is left of this box without `hole`: disjoint boxes that straight cuts can put together again.
    pub fn without(&self, hole: &Region) -> Vec<Region> {
        let Some(hole) = self.intersection(hole) else { return vec![*self] };
        let mut rest = *self;
        let mut parts = Vec::new();
        for axis in 0..self.rank() {
            parts.extend(rest.with(axis, rest.begin(axis), hole.begin(axis)));
            parts.extend(rest.with(axis, hole.end(axis), rest.end(axis)));
            rest.ranges[axis] = hole.ranges[axis];
        }
        parts
    }

    /// The box in coordinates that begin at the corner of `origin`, which holds it.
    pub fn relative_to(&self, origin: &Region) -> Region {
        let mut moved = *self;
        for (range, origin) in moved.ranges.iter_mut().zip(&origin.ranges).take(self.rank()) {
            *range = (range.0 - origin.0, range.1 - origin.0);
        }
        moved
    }
}

impl Region {
    /// Reads a box as it is printed; `shape` is that of the tensor, which holds it.
    pub fn read(reader: &mut Reader<'_>, shape: &[usize]) -> Result<Region, ParseError> {
        let place = reader.place();
        reader.expect("[")?;
        let mut ranges = Vec::new();
        while !reader.take("]") {
            if !ranges.is_empty() {
                reader.expect(",")?;
            }
            let begin = reader.count()?;
            reader.expect("..")?;
            ranges.push((begin, reader.count()?));
        }
        let region = Region::new(ranges);
        let fits = |region: &Region| region.rank() == shape.len() && Region::whole(shape).contains(region);
        region
            .filter(fits)
            .ok_or_else(|| reader.error_at(place, format!("expected a box of a tensor of shape {shape:?}")))
    }
}

impl fmt::Display for Region {
    /// `[0..1, 16..32, 0..7, 0..7]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> =
            self.ranges[..self.rank()].iter().map(|(begin, end)| format!("{begin}..{end}")).collect();
        write!(f, "[{}]", ranges.join(", "))
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How one tensor lies over the devices: the box that each holds, `None` for a device that holds nothing of it.
///
/// `whole(d)` is one box; replicated, the same box several times; split, boxes side by side; with recomputed halo they
/// overlap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sharding(pub Vec<Option<Region>>);

impl Sharding {
    /// All of a tensor on one device.
    pub fn whole(device: usize, devices: usize, shape: &[usize]) -> Sharding {
        let mut regions = vec![None; devices];
        regions[device] = Some(Region::whole(shape));
        Sharding(regions)
    }

    /// The only device that holds anything.
    pub fn only_device(&self) -> Option<usize> {
        let mut holders = self.0.iter().enumerate().filter(|(_, region)| region.is_some());
        match (holders.next(), holders.next()) {
            (Some((device, _)), None) => Some(device),
            _ => None,
        }
    }

    /// Devices that hold something, with what they hold.
    pub fn parts(&self) -> impl Iterator<Item = (usize, Region)> + '_ {
        self.0.iter().enumerate().filter_map(|(device, region)| region.map(|region| (device, region)))
    }

    /// Whether every element of a tensor of this shape is held by somebody.
    pub fn covers(&self, shape: &[usize]) -> bool {
        let mut missing = vec![Region::whole(shape)];
        for (_, region) in self.parts() {
            missing = missing.iter().flat_map(|rest| rest.without(&region)).collect();
        }
        missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(ranges: &[(usize, usize)]) -> Region {
        Region::new(ranges.iter().copied()).expect("the ranges are not empty")
    }

    #[test]
    fn what_is_left_and_the_hole_make_the_whole() {
        let whole = region(&[(0, 1), (0, 8), (0, 6)]);
        for hole in
            [region(&[(0, 1), (2, 5), (1, 3)]), region(&[(0, 1), (0, 8), (0, 6)]), region(&[(0, 1), (7, 9), (0, 2)])]
        {
            let parts = whole.without(&hole);
            let shared = whole.intersection(&hole).expect("they meet");
            let elements: u64 = parts.iter().map(Region::element_count).sum();
            assert_eq!(elements + shared.element_count(), whole.element_count());
            for (index, part) in parts.iter().enumerate() {
                assert!(part.intersection(&hole).is_none());
                assert!(parts[..index].iter().all(|other| other.intersection(part).is_none()));
            }
        }
        assert_eq!(whole.without(&region(&[(0, 1), (8, 9), (0, 6)])), [whole]);
    }

    #[test]
    fn empty_and_overlong_boxes_do_not_exist() {
        assert_eq!(Region::new([(0, 2), (3, 3)]), None);
        assert_eq!(Region::new([(0, 1); 9]), None);
        assert_eq!(Region::whole(&[2, 3]).element_count(), 6);
    }

    #[test]
    fn a_sharding_knows_whether_it_covers() {
        let halves = Sharding(vec![Some(region(&[(0, 4), (0, 3)])), None, Some(region(&[(3, 8), (0, 3)]))]);
        assert!(halves.covers(&[8, 3]));
        assert!(!halves.covers(&[9, 3]));
        assert_eq!(halves.only_device(), None);
        assert_eq!(Sharding::whole(1, 3, &[4]).only_device(), Some(1));
    }
}
