//! Augmentations of samples from which heads learn more than the samples themselves show: shifted, mirrored, mixed; and
//! where there are few samples also stretched, with noise, and moved as a whole.
//!
//! Nothing is known of what a sample means. So the backbone decides which augmentations leave a sample what it is: those
//! after which it still answers about as well. Mixtures are for imitation only; the backbone says what they are.

use partita_train::chance::Chance;

use crate::classifier::class;
use crate::host::Process;
use partita_files::data;
use partita_ir::graph::Value;

/// Least extent of an axis along which samples are augmented.
const LEAST_EXTENT: usize = 8;

/// Shifts are at most this part of the extent.
const SHIFT: usize = 8;

/// Samples on which an augmentation is tried, at most.
const TRIED: usize = 400;

/// Accuracy that the backbone may lose by an augmentation that leaves samples what they are.
const TOLERATED: f64 = 0.06;

/// Share of samples that are mixed with another.
const MIXED: f32 = 0.5;

/// An axis is stretched or shrunk by at most this part.
const STRETCH: f32 = 0.15;

/// Most noise on single elements, and the noise that is the same along all axes of shifts: standard deviations, as parts of
/// the deviation that an element has from sample to sample.
const NOISE: f32 = 0.3;
const OFFSET: f32 = 0.15;

/// What may be done to a sample, by axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Augmentations {
    /// Axes that may be mirrored.
    pub mirrored: Vec<usize>,
    /// Axes along which samples may be shifted.
    pub shifted: Vec<usize>,
    /// Axes along which samples may be stretched.
    pub stretched: Vec<usize>,
    /// Where noise may be added: how far each element deviates from sample to sample. Empty without noise.
    pub deviations: Vec<f32>,
}

/// One sample to be augmented, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Index of the sample.
    pub sample: usize,
    /// Another one to mix it with.
    pub other: Option<usize>,
    /// Where chance begins.
    pub seed: u64,
}

impl Draw {
    /// A draw of this sample; half of all are mixed with one that `other` picks.
    pub fn of(sample: usize, chance: &mut Chance, other: impl FnOnce(&mut Chance) -> usize) -> Draw {
        let mixed = chance.unit() < MIXED;
        let other = other(chance);
        Draw { sample, other: mixed.then_some(other), seed: chance.bits() }
    }
}

impl Augmentations {
    /// Those after which the backbone still answers as well, on some of the samples. Only `few` samples are also stretched
    /// and get noise: of many, each is seen too seldom to be learned by heart.
    pub fn harmless(
        process: &mut Process<'_>,
        inputs: &[Value],
        labels: &[u32],
        few: bool,
    ) -> anyhow::Result<Augmentations> {
        let Some(first) = inputs.first() else { return Ok(Augmentations::default()) };
        let tried: Vec<usize> = (0..inputs.len()).step_by(inputs.len().div_ceil(TRIED)).collect();
        let mut accuracy = |augmentations: &Augmentations| -> anyhow::Result<f64> {
            let mut chance = Chance::new(0xa17e);
            let mut right = 0;
            for sample in &tried {
                let augmented = augmentations.apply(&inputs[*sample], &mut chance);
                let scores = process.answer(&augmented)?.swap_remove(0);
                right += usize::from(class(&scores) == labels[*sample] as usize);
            }
            Ok(right as f64 / tried.len() as f64)
        };
        let least = accuracy(&Augmentations::default())? - TOLERATED;
        let mut found = Augmentations::default();
        for axis in (1..first.shape.len()).filter(|axis| first.shape[*axis] >= LEAST_EXTENT) {
            if accuracy(&Augmentations { mirrored: vec![axis], ..Augmentations::default() })? >= least {
                found.mirrored.push(axis);
            }
            if accuracy(&Augmentations { shifted: vec![axis], ..Augmentations::default() })? >= least {
                found.shifted.push(axis);
            }
            if few && accuracy(&Augmentations { stretched: vec![axis], ..Augmentations::default() })? >= least {
                found.stretched.push(axis);
            }
        }
        if few {
            let noisy = Augmentations { deviations: deviations(inputs), ..found.clone() };
            if accuracy(&Augmentations { mirrored: vec![], stretched: vec![], ..noisy.clone() })? >= least {
                found = noisy;
            }
        }
        Ok(found)
    }

    /// A sample mirrored or not, and shifted; what is shifted in repeats the edge.
    fn apply(&self, sample: &Value, chance: &mut Chance) -> Value {
        let sources: Vec<Vec<usize>> = (sample.shape.iter().enumerate())
            .map(|(axis, extent)| {
                let most = if self.shifted.contains(&axis) { extent / SHIFT } else { 0 };
                let shift = (chance.unit() * (2 * most + 1) as f32) as isize - most as isize;
                let mirrored = self.mirrored.contains(&axis) && chance.unit() < 0.5;
                let source = |index: usize| {
                    let moved = (index as isize + shift).clamp(0, *extent as isize - 1) as usize;
                    if mirrored { extent - 1 - moved } else { moved }
                };
                (0..*extent).map(source).collect()
            })
            .collect();
        let elements = data::to_f32(&sample.data);
        // Offsets of all elements, one axis after the other.
        let mut offsets = vec![0];
        for source in &sources {
            offsets = offsets
                .iter()
                .flat_map(|offset| source.iter().map(move |index| offset * source.len() + index))
                .collect();
        }
        let mut augmented: Vec<f32> = offsets.into_iter().map(|offset| elements[offset]).collect();
        for axis in &self.stretched {
            augmented = stretched(&augmented, &sample.shape, *axis, 1.0 + STRETCH * (2.0 * chance.unit() - 1.0));
        }
        if !self.deviations.is_empty() {
            self.add_noise(&mut augmented, &sample.shape, chance);
        }
        Value { shape: sample.shape.clone(), data: data::from_f32(augmented, sample.data.element()) }
    }

    /// Noise on every element, more or less of it from sample to sample, and noise that all positions along the axes of
    /// shifts have in common.
    fn add_noise(&self, elements: &mut [f32], shape: &[usize], chance: &mut Chance) {
        let most = NOISE * chance.unit();
        let kept =
            (shape.iter().enumerate()).map(|(axis, extent)| if self.shifted.contains(&axis) { 1 } else { *extent });
        let kept: Vec<usize> = kept.collect();
        let offsets: Vec<f32> = (0..kept.iter().product::<usize>()).map(|_| OFFSET * chance.normal()).collect();
        for (position, element) in elements.iter_mut().enumerate() {
            let (mut rest, mut line, mut lines) = (position, 0, 1);
            for (extent, kept) in shape.iter().zip(&kept).rev() {
                line += rest % extent % kept * lines;
                rest /= extent;
                lines *= kept;
            }
            *element += self.deviations[position] * (offsets[line] + most * chance.normal());
        }
    }

    /// The sample that is drawn.
    pub fn draw(&self, inputs: &[Value], draw: &Draw) -> Value {
        let mut chance = Chance::new(draw.seed);
        let own = self.apply(&inputs[draw.sample], &mut chance);
        match draw.other {
            None => own,
            Some(other) => mixed(own, &self.apply(&inputs[other], &mut chance), &mut chance),
        }
    }
}

/// How far each element deviates from its mean over all samples.
fn deviations(inputs: &[Value]) -> Vec<f32> {
    let Some(first) = inputs.first() else { return Vec::new() };
    let mut sums = vec![(0.0f64, 0.0f64); first.data.len()];
    for input in inputs {
        for (sum, element) in sums.iter_mut().zip(data::to_f32(&input.data)) {
            *sum = (sum.0 + f64::from(element), sum.1 + f64::from(element).powi(2));
        }
    }
    let count = inputs.len() as f64;
    sums.into_iter().map(|(sum, squares)| (squares / count - (sum / count).powi(2)).max(0.0).sqrt() as f32).collect()
}

/// Longer by this factor along an axis, around its middle; what is between elements is on the line through them, and what
/// is beyond them repeats the edge.
fn stretched(elements: &[f32], shape: &[usize], axis: usize, factor: f32) -> Vec<f32> {
    let extent = shape[axis];
    let last = extent.saturating_sub(1) as f32;
    let within: usize = shape[axis + 1..].iter().product();
    let sources: Vec<(usize, usize, f32)> = (0..extent)
        .map(|index| {
            let source = ((index as f32 - last / 2.0) / factor + last / 2.0).clamp(0.0, last);
            let before = source as usize;
            (before, (before + 1).min(extent - 1), source - before as f32)
        })
        .collect();
    let mut found = Vec::with_capacity(elements.len());
    for lines in elements.chunks_exact(extent * within) {
        for (before, after, share) in &sources {
            let pairs = lines[before * within..].iter().zip(&lines[after * within..]).take(within);
            found.extend(pairs.map(|(before, after)| before + share * (after - before)));
        }
    }
    found
}

/// Two samples in one: blended (Zhang et al. 2018), or a box of one in the other (Yun et al. 2019).
fn mixed(own: Value, other: &Value, chance: &mut Chance) -> Value {
    let share = chance.unit();
    let (mut elements, others) = (data::to_f32(&own.data), data::to_f32(&other.data));
    if chance.unit() < 0.5 {
        elements.iter_mut().zip(&others).for_each(|(own, other)| *own += share * (other - *own));
        return Value { shape: own.shape, data: data::from_f32(elements, own.data.element()) };
    }
    let spatial = own.shape.iter().skip(1).filter(|extent| **extent >= LEAST_EXTENT).count().max(1);
    let side = share.powf(1.0 / spatial as f32);
    let boxed: Vec<std::ops::Range<usize>> = (own.shape.iter().enumerate())
        .map(|(axis, extent)| {
            if axis == 0 || *extent < LEAST_EXTENT {
                return 0..*extent;
            }
            let length = (side * *extent as f32) as usize;
            let from = (chance.unit() * (extent - length + 1) as f32) as usize;
            from..from + length
        })
        .collect();
    for (offset, (own_element, other_element)) in elements.iter_mut().zip(&others).enumerate() {
        let mut rest = offset;
        let inside = own.shape.iter().zip(&boxed).rev().all(|(extent, range)| {
            let index = rest % extent;
            rest /= extent;
            range.contains(&index)
        });
        if inside {
            *own_element = *other_element;
        }
    }
    Value { shape: own.shape, data: data::from_f32(elements, own.data.element()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(shape: [usize; 4]) -> Value {
        Value::f32(shape.to_vec(), (0..shape.iter().product::<usize>()).map(|x| x as f32).collect())
    }

    #[test]
    fn shifts_repeat_the_edge_and_mirrors_turn_rows() {
        let sample = counted([1, 1, 2, 8]);
        let shift = Augmentations { shifted: vec![3], ..Augmentations::default() };
        let mirror = Augmentations { mirrored: vec![3], ..Augmentations::default() };
        let (mut shifted, mut turned) = (Vec::new(), Vec::new());
        let mut chance = Chance::new(5);
        for _ in 0..40 {
            shifted.push(data::to_f32(&shift.apply(&sample, &mut chance).data)[..8].to_vec());
            turned.push(data::to_f32(&mirror.apply(&sample, &mut chance).data)[8..].to_vec());
        }
        assert!(shifted.contains(&vec![0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "to the right");
        assert!(shifted.contains(&vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0]), "to the left");
        assert!(turned.contains(&vec![15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0]));
        assert!(turned.contains(&vec![8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]));
    }

    #[test]
    fn stretching_keeps_the_middle_and_lines() {
        // One line of nine, and two lines next to each other.
        for shape in [vec![1, 9], vec![1, 9, 2]] {
            let width = shape[1..].iter().skip(1).product::<usize>();
            let line: Vec<f32> = (0..9 * width).map(|index| (index / width) as f32).collect();
            let longer: Vec<f32> = stretched(&line, &shape, 1, 2.0).into_iter().step_by(width).collect();
            assert_eq!(longer, [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0]);
            let shorter: Vec<f32> = stretched(&line, &shape, 1, 0.5).into_iter().step_by(width).collect();
            assert_eq!(shorter, [0.0, 0.0, 0.0, 2.0, 4.0, 6.0, 8.0, 8.0, 8.0]);
        }
    }

    #[test]
    fn noise_is_as_large_as_elements_deviate() {
        let samples: Vec<Value> =
            (0..2).map(|at| Value::f32(vec![1, 8, 2], [0.0, 20.0 * at as f32].repeat(8))).collect();
        let deviations = deviations(&samples);
        assert_eq!(deviations, [0.0, 10.0].repeat(8));
        let noisy = Augmentations { shifted: vec![1], deviations, ..Augmentations::default() };
        let mut chance = Chance::new(7);
        let (mut common, mut own) = (0.0, 0.0);
        for _ in 0..1000 {
            let augmented = data::to_f32(&noisy.apply(&samples[0], &mut chance).data).to_vec();
            assert!(augmented.iter().step_by(2).all(|element| *element == 0.0), "what never changes stays");
            let mean = augmented.iter().skip(1).step_by(2).sum::<f32>() / 8.0;
            common += mean.powi(2) / 1000.0;
            own += (augmented[1] - mean).powi(2) / 1000.0;
        }
        // Noise is 0.3 of the deviation at most, uniformly: 0.173 in the mean of squares; an eighth of it is in the mean.
        assert!((common.sqrt() - 1.62).abs() < 0.15, "{}", common.sqrt());
        assert!((own.sqrt() - 1.62).abs() < 0.15, "{}", own.sqrt());
    }

    #[test]
    fn mixtures_hold_nothing_but_the_two() {
        let (a, b) = (counted([1, 2, 8, 8]), Value::f32(vec![1, 2, 8, 8], vec![1000.0; 128]));
        let mut boxes = 0;
        for seed in 0..50 {
            let elements = data::to_f32(&mixed(a.clone(), &b, &mut Chance::new(seed)).data);
            let own = elements.iter().enumerate().filter(|(index, element)| **element == *index as f32).count();
            let other = elements.iter().filter(|element| **element == 1000.0).count();
            let between = elements.iter().enumerate().all(|(i, element)| (i as f32..=1000.0).contains(element));
            assert!(between);
            boxes += usize::from(own + other == 128 && other % 2 == 0);
        }
        assert!((10..45).contains(&boxes), "{boxes} of 50");
    }
}
