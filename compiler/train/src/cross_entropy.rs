//! What it costs to say something else than a target says, and the gradient of that.

/// Probabilities of scores, `[samples, classes]`, that are divided by `temperature` first.
pub fn softmax(scores: &[f32], classes: usize, temperature: f32) -> Vec<f32> {
    let mut probabilities = scores.to_vec();
    for row in probabilities.chunks_exact_mut(classes.max(1)) {
        to_logarithms(row, temperature);
        row.iter_mut().for_each(|x| *x = x.exp());
    }
    probabilities
}

/// The cross entropy of scores, divided by `temperature`, and targets, both `[samples, classes]`: the sum over samples
/// times `weight`. Adds its gradient by the scores to `slopes`.
pub fn add(scores: &[f32], targets: &[f32], classes: usize, temperature: f32, weight: f32, slopes: &mut [f32]) -> f32 {
    let classes = classes.max(1);
    let mut cost = 0.0;
    let mut logarithms = vec![0.0; classes];
    let rows = scores.chunks_exact(classes).zip(targets.chunks_exact(classes)).zip(slopes.chunks_exact_mut(classes));
    for ((scores, targets), slopes) in rows {
        logarithms.copy_from_slice(scores);
        to_logarithms(&mut logarithms, temperature);
        let whole: f32 = targets.iter().sum();
        for ((logarithm, target), slope) in logarithms.iter().zip(targets).zip(slopes) {
            cost -= weight * target * logarithm;
            *slope += weight * (whole * logarithm.exp() - target) / temperature;
        }
    }
    cost
}

/// Scores of one sample to logarithms of probabilities.
fn to_logarithms(row: &mut [f32], temperature: f32) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - most) / temperature);
    let sum = row.iter().map(|x| x.exp()).sum::<f32>().ln();
    row.iter_mut().for_each(|x| *x -= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_scores() {
        let found = softmax(&[0.0, 2f32.ln(), 500.0, 500.0], 2, 1.0);
        for (found, right) in found.iter().zip([1.0 / 3.0, 2.0 / 3.0, 0.5, 0.5]) {
            assert!((found - right).abs() < 1e-6, "{found} {right}");
        }
        let soft = softmax(&[0.0, 2.0 * 2f32.ln()], 2, 2.0);
        assert!((soft[0] - 1.0 / 3.0).abs() < 1e-6, "{soft:?}");
    }

    #[test]
    fn the_gradient_is_what_differences_say() {
        let scores = [1.0, -2.0, 0.5, 0.1, 0.2, 3.0];
        let targets = [0.2, 0.7, 0.1, 0.0, 0.0, 0.0];
        for (temperature, weight) in [(1.0, 1.0), (2.0, 4.0)] {
            let cost = |scores: &[f32]| add(scores, &targets, 3, temperature, weight, &mut [0.0; 6]);
            let mut slopes = [0.0; 6];
            add(&scores, &targets, 3, temperature, weight, &mut slopes);
            for (at, slope) in slopes.iter().enumerate() {
                let moved = |by: f32| {
                    let mut moved = scores;
                    moved[at] += by;
                    cost(&moved)
                };
                let seen = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((seen - slope).abs() < 1e-3, "{at}: {seen} {slope}");
            }
            assert_eq!(slopes[3..], [0.0; 3], "a sample without a target teaches nothing");
        }
    }
}
