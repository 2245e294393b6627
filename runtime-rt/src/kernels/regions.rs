//! Regions of images: which of many boxes are kept, and what lies in a box as a grid of bins.

use super::PoolKind;

/// Boxes by falling scores, without those that overlap a better one (ONNX NonMaxSuppression-10, -11).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct NonMaxSuppression {
    /// Classes of each image.
    pub classes: usize,
    /// Boxes of each image.
    pub boxes: usize,
    /// Most boxes that a class of an image keeps.
    pub most: usize,
    /// Most that two boxes of a class may have in common: what both cover, as a share of what either does.
    pub overlap: f32,
    /// Boxes whose score is not larger are passed over.
    pub least: Option<f32>,
    /// A box is `[x, y, width, height]` around its centre, not `[y, x, y, x]` of two corners.
    pub centred: bool,
}

impl NonMaxSuppression {
    /// `y` has rows of image, class and box, in this order and by falling scores, the first of equal ones first; -1 in rows
    /// behind the last. Boxes are `[images, boxes, 4]`, scores `[images, classes, boxes]`. A score that is NaN is none.
    pub fn run(&self, boxes: &[f32], scores: &[f32], y: &mut [i64]) {
        y.fill(-1);
        let mut rest = y;
        let images =
            scores.chunks_exact((self.classes * self.boxes).max(1)).zip(boxes.chunks_exact((4 * self.boxes).max(1)));
        for ((of_image, boxes), image) in images.zip(0i64..) {
            for (of_class, class) in of_image.chunks_exact(self.boxes.max(1)).zip(0i64..) {
                let kept = self.keep(boxes, of_class, [image, class], rest);
                rest = core::mem::take(&mut rest).get_mut(3 * kept..).unwrap_or_default();
            }
        }
    }

    /// Writes a row for each box of a class that is kept, and says how many they are.
    fn keep(&self, boxes: &[f32], scores: &[f32], [image, class]: [i64; 2], rows: &mut [i64]) -> usize {
        let mut kept = 0;
        let mut last = None;
        while kept < self.most {
            let Some((index, score)) = self.next(scores, last) else { break };
            last = Some((index, score));
            let (before, free) = rows.split_at_mut_checked(3 * kept).unwrap_or_default();
            let [of_image, of_class, of_box, ..] = free else { break };
            let candidate = corners(boxes, index, self.centred);
            let better = before.iter().skip(2).step_by(3);
            let mut better = better.map(|index| corners(boxes, *index as usize, self.centred));
            if !better.any(|other| share(candidate, other) > self.overlap) {
                (*of_image, *of_class, *of_box) = (image, class, index as i64);
                kept += 1;
            }
        }
        kept
    }

    /// The best of the boxes that come after the last one.
    fn next(&self, scores: &[f32], last: Option<(usize, f32)>) -> Option<(usize, f32)> {
        let mut best: Option<(usize, f32)> = None;
        for (index, score) in scores.iter().enumerate() {
            let is_left = last.is_none_or(|(at, of_last)| *score < of_last || *score == of_last && index > at);
            let counts = !score.is_nan() && self.least.is_none_or(|least| *score > least);
            if is_left && counts && best.is_none_or(|(_, best)| *score > best) {
                best = Some((index, *score));
            }
        }
        best
    }
}

/// The lower and upper ends of a box along x and y.
fn corners(boxes: &[f32], index: usize, centred: bool) -> [(f32, f32); 2] {
    let Some([a, b, c, d]) = boxes.chunks_exact(4).nth(index) else { return [(0.0, 0.0); 2] };
    let ordered = |a: f32, b: f32| if a >= b { (b, a) } else { (a, b) };
    match centred {
        true => [(a - c / 2.0, a + c / 2.0), (b - d / 2.0, b + d / 2.0)],
        false => [ordered(*b, *d), ordered(*a, *c)],
    }
}

/// What both boxes cover, as a share of what either does; 0 of boxes without an area.
fn share(a: [(f32, f32); 2], b: [(f32, f32); 2]) -> f32 {
    let [width, height] = [0, 1].map(|axis| match (a.get(axis), b.get(axis)) {
        (Some(a), Some(b)) => larger(0.0, smaller(a.1, b.1) - larger(a.0, b.0)),
        _ => 0.0,
    });
    let area = |[x, y]: [(f32, f32); 2]| (x.1 - x.0) * (y.1 - y.0);
    let (common, of_a, of_b) = (width * height, area(a), area(b));
    let covered = of_a + of_b - common;
    if common > 0.0 && of_a > 0.0 && of_b > 0.0 && covered > 0.0 { common / covered } else { 0.0 }
}

fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

fn smaller(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

/// Regions of images as grids of bins, each the mean or the largest of what it samples (ONNX RoiAlign-10, -16).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RoiAlign {
    /// Channels of the images.
    pub channels: usize,
    /// Height and width of the images.
    pub extents: [usize; 2],
    /// Rows and columns of bins.
    pub bins: [usize; 2],
    /// What a bin is of its samples. The largest is that of the samples' four neighbours, each by its weight.
    pub kind: PoolKind,
    /// Of an image, as a factor of a region's coordinates.
    pub scale: f32,
    /// The centre of the first pixel is at 0, not at a half, and regions may be smaller than a pixel.
    pub half_pixel: bool,
    /// Samples of a bin along each axis; if 0, one for each pixel that it is high or wide.
    pub ratio: usize,
}

/// The samples of a region's bins along an axis.
struct Samples {
    start: f32,
    /// Size of a bin.
    bin: f32,
    /// Samples of a bin.
    count: usize,
    extent: usize,
}

impl RoiAlign {
    /// `y` is `[regions, channels, rows, columns]`. Images are `[images, channels, height, width]`, regions `[regions, 4]` as
    /// x and y of two corners; a region of an image that is not there is 0.
    pub fn run<I: Copy + Into<i64>>(&self, x: &[f32], regions: &[f32], images: &[I], y: &mut [f32]) {
        let ([height, width], [rows, columns]) = (self.extents, self.bins);
        let (plane, bins) = (height * width, rows * columns);
        let results = y.chunks_exact_mut((self.channels * bins).max(1));
        for ((region, image), outs) in regions.chunks_exact(4).zip(images).zip(results) {
            let &[left, top, right, bottom] = region else { continue };
            let down = self.samples(top, bottom, rows, height);
            let across = self.samples(left, right, columns, width);
            let image: i64 = (*image).into();
            let image =
                usize::try_from(image).ok().and_then(|at| x.chunks_exact((self.channels * plane).max(1)).nth(at));
            let planes = image.unwrap_or(&[]).chunks_exact(plane.max(1));
            outs.fill(0.0);
            for (plane, outs) in planes.zip(outs.chunks_exact_mut(bins.max(1))) {
                for (row, outs) in outs.chunks_exact_mut(columns.max(1)).enumerate() {
                    for (column, out) in outs.iter_mut().enumerate() {
                        *out = match self.kind {
                            PoolKind::Average => mean(plane, (&down, row), (&across, column)),
                            PoolKind::Max => most(plane, (&down, row), (&across, column)),
                        };
                    }
                }
            }
        }
    }

    fn samples(&self, begin: f32, end: f32, bins: usize, extent: usize) -> Samples {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let [start, end] = [begin, end].map(|edge| edge * self.scale - offset);
        let size = if self.half_pixel { end - start } else { larger(end - start, 1.0) };
        let bin = size / bins.max(1) as f32;
        // What is no size has no samples.
        let count = if self.ratio > 0 { self.ratio } else { libm::ceilf(bin) as usize };
        Samples { start, bin, count, extent }
    }
}

impl Samples {
    /// Where a bin samples inside the image: neighbours with their weights. Samples outside are left out, and never counted
    /// one by one: a region may be larger than any image.
    fn of(&self, bin: usize) -> impl Iterator<Item = [(usize, f32); 2]> {
        let (first, step) = (self.start + bin as f32 * self.bin, self.bin / self.count.max(1) as f32);
        let place = move |sample: usize| first + (sample as f32 + 0.5) * self.bin / self.count.max(1) as f32;
        // With a sample to spare on either side; one after the other where steps are backwards or none at all.
        let at = |edge: f32| (edge - first) / step;
        let (from, to) = match (step > 0.0, step < 0.0) {
            (true, _) => (at(-1.0) - 2.0, at(self.extent as f32) + 2.0),
            (_, true) => (at(self.extent as f32) - 2.0, at(-1.0) + 2.0),
            _ => (0.0, self.count as f32),
        };
        let samples = (from as usize).min(self.count)..(to as usize).min(self.count);
        samples.filter_map(move |sample| self.neighbours(place(sample)))
    }

    fn neighbours(&self, place: f32) -> Option<[(usize, f32); 2]> {
        let last = self.extent.checked_sub(1)?;
        if !(place >= -1.0 && place <= self.extent as f32) {
            return None;
        }
        let place = larger(0.0, place);
        let low = place as usize;
        if low >= last {
            return Some([(last, 1.0), (last, 0.0)]);
        }
        let offset = place - low as f32;
        Some([(low, 1.0 - offset), (low + 1, offset)])
    }
}

/// The mean of a bin's samples; those outside of the image are 0.
fn mean(plane: &[f32], (down, row): (&Samples, usize), (across, column): (&Samples, usize)) -> f32 {
    let mut sum = 0.0;
    for of_y in down.of(row) {
        for of_x in across.of(column) {
            for (y, y_weight) in of_y {
                for (x, x_weight) in of_x {
                    let element = plane.get(y * across.extent + x).copied().unwrap_or(0.0);
                    sum += y_weight * x_weight * element;
                }
            }
        }
    }
    sum / (down.count as f32 * across.count as f32).max(1.0)
}

/// The largest of the samples' neighbours by weight; those outside of the image are 0.
fn most(plane: &[f32], (down, row): (&Samples, usize), (across, column): (&Samples, usize)) -> f32 {
    let mut found: Option<f32> = None;
    let mut inside = [0usize; 2];
    for of_y in down.of(row) {
        inside = [inside[0] + 1, 0];
        for of_x in across.of(column) {
            inside[1] += 1;
            for (y, y_weight) in of_y {
                for (x, x_weight) in of_x {
                    let element = plane.get(y * across.extent + x).copied().unwrap_or(0.0);
                    let element = y_weight * x_weight * element;
                    let takes = found.is_none_or(|found| element > found || element.is_nan());
                    found = if takes { Some(element) } else { found };
                }
            }
        }
    }
    let found = found.unwrap_or(0.0);
    if inside == [down.count, across.count] { found } else { larger(found, 0.0) }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn kept(call: NonMaxSuppression, boxes: &[f32], scores: &[f32], rows: usize) -> Vec<[i64; 3]> {
        let mut y = vec![7; 3 * rows];
        call.run(boxes, scores, &mut y);
        y.chunks(3).map(|row| [row[0], row[1], row[2]]).collect()
    }

    const PLAIN: NonMaxSuppression =
        NonMaxSuppression { classes: 1, boxes: 4, most: 4, overlap: 0.5, least: None, centred: false };

    /// Two of one place, one beside them, and one without an area.
    const BOXES: [f32; 16] = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.1, 5.0, 5.0, 6.0, 6.0, 0.0, 0.0, 0.0, 0.0];

    #[test]
    fn better_boxes_are_kept() {
        let rows = |call, scores: &[f32]| kept(call, &BOXES, scores, 5);
        let none = [-1; 3];
        assert_eq!(rows(PLAIN, &[0.5, 0.75, 0.25, 0.5]), [[0, 0, 1], [0, 0, 3], [0, 0, 2], none, none]);
        // Of equal scores the first.
        assert_eq!(rows(PLAIN, &[0.5; 4]), [[0, 0, 0], [0, 0, 2], [0, 0, 3], none, none]);
        let least = NonMaxSuppression { least: Some(0.25), most: 2, ..PLAIN };
        assert_eq!(rows(least, &[0.25, 0.3, 0.5, 0.4]), [[0, 0, 2], [0, 0, 3], none, none, none]);
        // What overlaps by no more than may be stays.
        let all = NonMaxSuppression { overlap: 0.9, ..PLAIN };
        assert_eq!(rows(all, &[4.0, 3.0, 2.0, 1.0])[..4], [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]]);
    }

    #[test]
    fn numbers_that_are_none_and_rows_that_are_missing_end() {
        let nan = f32::NAN;
        assert_eq!(kept(PLAIN, &BOXES, &[nan, 0.5, nan, f32::INFINITY], 3), [[0, 0, 3], [0, 0, 1], [-1; 3]]);
        assert_eq!(kept(PLAIN, &[nan; 16], &[0.5, 0.25, 0.75, f32::NEG_INFINITY], 2), [[0, 0, 2], [0, 0, 0]]);
        assert_eq!(kept(PLAIN, &[f32::INFINITY; 16], &[0.0; 4], 1), [[0, 0, 0]]);
        assert_eq!(kept(PLAIN, &BOXES, &[], 1), [[-1; 3]]);
        assert_eq!(kept(PLAIN, &[], &[0.5; 4], 1), [[-1; 3]]);
        let none = NonMaxSuppression { boxes: 0, ..PLAIN };
        assert_eq!(kept(none, &[], &[], 1), [[-1; 3]]);
    }

    #[test]
    fn every_class_of_every_image_is_by_itself() {
        let call = NonMaxSuppression { classes: 2, boxes: 2, most: 1, ..PLAIN };
        let boxes = [BOXES.as_slice(), &BOXES[..0]].concat();
        let scores = [0.0, 1.0, 3.0, 2.0, 0.5, 0.25, 0.125, 0.75];
        let rows = kept(call, &boxes, &scores, 4);
        assert_eq!(rows, [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]);
    }

    fn aligned(call: RoiAlign, x: &[f32], region: [f32; 4]) -> Vec<f32> {
        let mut y = vec![f32::NAN; call.channels * call.bins[0] * call.bins[1]];
        call.run(x, &region, &[0i64], &mut y);
        y
    }

    const ALIGN: RoiAlign = RoiAlign {
        channels: 1,
        extents: [2, 4],
        bins: [1, 2],
        kind: PoolKind::Average,
        scale: 1.0,
        half_pixel: true,
        ratio: 0,
    };

    #[test]
    fn bins_sample_as_often_as_they_are_large() {
        let x = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0];
        // Pixels themselves.
        assert_eq!(aligned(ALIGN, &x, [0.0, 0.0, 4.0, 2.0]), [5.5, 7.5]);
        assert_eq!(aligned(RoiAlign { kind: PoolKind::Max, ..ALIGN }, &x, [0.0, 0.0, 4.0, 2.0]), [11.0, 13.0]);
        assert_eq!(aligned(RoiAlign { ratio: 1, ..ALIGN }, &x, [0.0, 0.0, 4.0, 2.0]), [5.5, 7.5]);
        // Half of each bin is outside.
        assert_eq!(aligned(ALIGN, &x, [-4.0, 0.0, 8.0, 1.0])[0], (0.0 + 0.0 + 0.0 + 0.0 + 0.0 + 1.0) / 6.0);
    }

    /// What lies outside is left out in steps, not one by one.
    #[test]
    fn regions_of_any_size_end() {
        let x = [1.0; 8];
        for region in [
            [-1e30, -1e30, 1e30, 1e30],
            [f32::NEG_INFINITY, 0.0, f32::INFINITY, 1.0],
            [f32::NAN, 0.0, 1.0, f32::NAN],
            [3.0, 1.0, -2.0, -5.0],
            [0.0; 4],
            [f32::MAX, f32::MAX, f32::MAX, f32::MAX],
        ] {
            for (kind, half_pixel, ratio) in
                [(PoolKind::Average, true, 0), (PoolKind::Max, false, 0), (PoolKind::Average, false, 3)]
            {
                let y = aligned(RoiAlign { kind, half_pixel, ratio, ..ALIGN }, &x, region);
                assert!(y.iter().all(|y| (0.0..=1.0).contains(y)), "{region:?} {kind:?}: {y:?}");
            }
        }
    }

    #[test]
    fn images_that_are_not_there_are_nothing() {
        let mut y = [f32::NAN; 4];
        let (regions, x) = ([0.0, 0.0, 4.0, 2.0, 0.0, 0.0, 4.0, 2.0], [1.0; 8]);
        ALIGN.run(&x, &regions, &[1i32, -1], &mut y);
        assert_eq!(y, [0.0; 4]);
    }
}
