//! Descent with steps of a size of their own for each weight.

/// Shares by which the moments keep what they were, and what is added to deviations.
const BETAS: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

/// AdamW (Loshchilov and Hutter 2019, Decoupled weight decay regularization, algorithm 2).
pub struct Adam {
    /// Weight decay.
    decay: f32,
    /// Steps taken.
    steps: i32,
    /// First and second moments, by array.
    moments: Vec<[Vec<f32>; 2]>,
}

impl Adam {
    /// Before the first step, of arrays of these lengths.
    pub fn new(lengths: impl Iterator<Item = usize>, decay: f32) -> Adam {
        Adam { decay, steps: 0, moments: lengths.map(|length| [vec![0.0; length], vec![0.0; length]]).collect() }
    }

    /// One step of every array along its gradient.
    pub fn step<'a>(&mut self, arrays: impl Iterator<Item = (&'a mut Vec<f32>, Vec<f32>)>, rate: f32) {
        self.steps = self.steps.saturating_add(1);
        let [first_scale, second_scale] = BETAS.map(|beta| 1.0 / (1.0 - beta.powi(self.steps)));
        for ([first, second], (values, slopes)) in self.moments.iter_mut().zip(arrays) {
            for (((value, slope), first), second) in values.iter_mut().zip(slopes).zip(first).zip(second) {
                *first = *first * BETAS[0] + slope * (1.0 - BETAS[0]);
                *second = *second * BETAS[1] + slope * slope * (1.0 - BETAS[1]);
                let step = *first * first_scale / ((*second * second_scale).sqrt() + EPSILON);
                *value = *value * (1.0 - rate * self.decay) - rate * step;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_steps_are_as_long_as_the_rate_and_what_is_not_asked_for_decays() {
        let mut adam = Adam::new([2].into_iter(), 0.5);
        let mut values = vec![1.0, 1.0];
        adam.step([(&mut values, vec![1e-3, 0.0])].into_iter(), 0.1);
        assert!((values[0] - (0.95 - 0.1)).abs() < 1e-5 && (values[1] - 0.95).abs() < 1e-6, "{values:?}");
    }

    #[test]
    fn it_finds_the_lowest_point_of_a_bowl() {
        let mut adam = Adam::new([2].into_iter(), 0.0);
        let mut values = vec![4.0, -3.0];
        for step in 0..2000 {
            let slopes = vec![2.0 * (values[0] - 1.0), 200.0 * (values[1] - 2.0)];
            adam.step([(&mut values, slopes)].into_iter(), 0.05 * (1.0 - step as f32 / 2000.0));
        }
        assert!((values[0] - 1.0).abs() < 1e-3 && (values[1] - 2.0).abs() < 1e-3, "{values:?}");
    }
}
