//! What takes the place of a part that goes, fitted by least squares to what the part computed: no training, no labels.

use nalgebra::{Cholesky, DMatrix};

use crate::graph::op::Activation;

/// Rounds in which results that the activation cuts off are left where they are.
const ROUNDS: usize = 12;

/// Added to the diagonal, relative to its mean.
const RIDGE: f64 = 1e-4;

/// `activation(weights * x + bias)`, nearest to given results.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LinearMap {
    /// `[M, C]`, row-major.
    pub weights: Vec<f32>,
    /// `[M]`
    pub bias: Vec<f32>,
}

/// Fits a map of `channels` to `results` elements on rows `x` (`[rows, channels]`) and `y` (`[rows, results]`), both
/// row-major. Where the activation has cut a result off, anything beyond the cut is as good: such targets follow the
/// map from round to round. None if the activation is not a rectifier, or the rows say too little.
pub fn fit(x: &[f32], y: &[f32], channels: usize, results: usize, activation: Activation) -> Option<LinearMap> {
    let (low, high) = match activation {
        Activation::None => (f64::NEG_INFINITY, f64::INFINITY),
        Activation::Relu => (0.0, f64::INFINITY),
        Activation::Clip(low, high) => (f64::from(low), f64::from(high)),
        _ => return None,
    };
    let rows = x.len() / channels.max(1);
    if rows < 2 * channels || y.len() != rows * results {
        return None;
    }
    // A last column of ones carries the bias.
    let a = DMatrix::from_fn(rows, channels + 1, |row, column| {
        if column == channels { 1.0 } else { f64::from(x[row * channels + column]) }
    });
    let wanted = DMatrix::from_fn(rows, results, |row, column| f64::from(y[row * results + column]));
    // Products with a transposed copy are several times as fast as `tr_mul`, which is one dot product after the other.
    let transposed = a.transpose();
    let mut gram = &transposed * &a;
    let ridge = RIDGE * gram.diagonal().mean();
    for at in 0..=channels {
        gram[(at, at)] += ridge;
    }
    let solver = Cholesky::new(gram)?;
    let mut map = solver.solve(&(&transposed * &wanted));
    if low.is_finite() || high.is_finite() {
        for _ in 0..ROUNDS {
            let mut target = &a * &map;
            target.zip_apply(&wanted, |now, wanted| {
                let cut = wanted <= low && *now < low || wanted >= high && *now > high;
                *now = if cut { *now } else { wanted };
            });
            map = solver.solve(&(&transposed * &target));
        }
    }
    let weights = (0..results).flat_map(|m| (0..channels).map(move |c| (c, m))).map(|at| map[at] as f32).collect();
    let bias = (0..results).map(|m| map[(channels, m)] as f32).collect();
    Some(LinearMap { weights, bias })
}

/// Fits a map of some columns to others, from sums over rows of the products of all columns, the last of which is ones.
/// None if they say too little.
pub fn rest(products: &DMatrix<f64>, stay: &[usize], go: &[usize]) -> Option<LinearMap> {
    let ones = products.nrows().checked_sub(1)?;
    let from: Vec<usize> = stay.iter().copied().chain([ones]).collect();
    let mut gram = DMatrix::from_fn(from.len(), from.len(), |a, b| products[(from[a], from[b])]);
    let wanted = DMatrix::from_fn(from.len(), go.len(), |a, b| products[(from[a], go[b])]);
    let ridge = RIDGE * gram.diagonal().mean();
    for at in 0..from.len() {
        gram[(at, at)] += ridge;
    }
    let map = Cholesky::new(gram)?.solve(&wanted);
    let column = |gone: usize| (0..stay.len()).map(move |at| (at, gone));
    let weights = (0..go.len()).flat_map(column).map(|at| map[at] as f32).collect();
    let bias = (0..go.len()).map(|gone| map[(stay.len(), gone)] as f32).collect();
    Some(LinearMap { weights, bias })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of noise, and what a map with a rectifier makes of them.
    fn example(activation: impl Fn(f32) -> f32) -> (Vec<f32>, Vec<f32>) {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let x: Vec<f32> = (0..300).map(|_| noise()).collect();
        let y = x.chunks(3).flat_map(|x| [x[0] - 2.0 * x[1] + 0.1, 0.5 * x[2] - 0.2]).map(activation).collect();
        (x, y)
    }

    #[test]
    fn a_linear_map_is_found_again() {
        let (x, y) = example(|y| y);
        let map = fit(&x, &y, 3, 2, Activation::None).expect("there are enough rows");
        for (found, wanted) in map.weights.iter().chain(&map.bias).zip([1.0, -2.0, 0.0, 0.0, 0.0, 0.5, 0.1, -0.2]) {
            assert!((found - wanted).abs() < 1e-3, "{found} instead of {wanted}");
        }
    }

    #[test]
    fn columns_are_told_from_others_by_their_products() {
        let (x, _) = example(|y| y);
        // Columns 0 and 2 are noise, 1 is twice 0 less 2 and 0.5, and the last is ones.
        let rows = x.chunks(2).map(|x| [x[0], 2.0 * x[0] - x[1] - 0.5, x[1], 1.0].map(f64::from));
        let products = rows.fold(DMatrix::zeros(4, 4), |sum, row| {
            let row = DMatrix::from_row_slice(1, 4, &row);
            sum + row.transpose() * row
        });
        let map = rest(&products, &[0, 2], &[1]).expect("there are enough rows");
        for (found, wanted) in map.weights.iter().chain(&map.bias).zip([2.0, -1.0, -0.5]) {
            assert!((found - wanted).abs() < 1e-3, "{found} instead of {wanted}");
        }
        assert_eq!(rest(&DMatrix::zeros(4, 4), &[0, 2], &[1]), None);
    }

    #[test]
    fn what_a_rectifier_has_cut_off_does_not_count() {
        let (x, y) = example(|y| y.max(0.0));
        let error = |map: &LinearMap| -> f32 {
            let rows = x.chunks(3).zip(y.chunks(2));
            let squared = |(x, y): (&[f32], &[f32])| {
                let z = |m: usize| x.iter().zip(&map.weights[3 * m..]).map(|(x, w)| x * w).sum::<f32>() + map.bias[m];
                (0..2).map(|m| (z(m).max(0.0) - y[m]).powi(2)).sum::<f32>()
            };
            rows.map(squared).sum()
        };
        let plain = fit(&x, &y, 3, 2, Activation::None).expect("there are enough rows");
        let aware = fit(&x, &y, 3, 2, Activation::Relu).expect("there are enough rows");
        assert!(error(&aware) < 0.1 * error(&plain), "{} and {}", error(&aware), error(&plain));
        assert_eq!(fit(&x[..9], &y[..6], 3, 2, Activation::Relu), None, "three rows say too little");
        assert_eq!(fit(&x, &y, 3, 2, Activation::HardSwish), None);
    }
}
