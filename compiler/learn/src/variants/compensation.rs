//! What takes the place of a part that goes, fitted by least squares to what the part computed: no training, no labels.

use partita_train::matrix::{Cholesky, Matrix, product};

use partita_ir::graph::op::Activation;

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
    let order = channels + 1;
    let row = |x: &[f32]| x.iter().copied().map(f64::from).chain([1.0]).collect::<Vec<f64>>();
    let a: Vec<f64> = x.chunks_exact(channels.max(1)).flat_map(row).collect();
    let wanted: Vec<f64> = y.iter().copied().map(f64::from).collect();
    let a = Matrix::new(&a, order);
    let mut gram = product(&a.transposed(), &a);
    widen(&mut gram, order);
    let solver = Cholesky::of(gram, order)?;
    let solved = |target: &[f64]| {
        let mut map = product(&a.transposed(), &Matrix::new(target, results));
        solver.solve(&mut map, results);
        map
    };
    let mut map = solved(&wanted);
    if low.is_finite() || high.is_finite() {
        for _ in 0..ROUNDS {
            let mut target = product(&a, &Matrix::new(&map, results));
            for (now, wanted) in target.iter_mut().zip(&wanted) {
                let cut = *wanted <= low && *now < low || *wanted >= high && *now > high;
                *now = if cut { *now } else { *wanted };
            }
            map = solved(&target);
        }
    }
    Some(LinearMap::of(&map, channels, results))
}

/// Adds to the diagonal of `[order, order]`, so that columns that say the same do not matter.
fn widen(gram: &mut [f64], order: usize) {
    let ridge = RIDGE * gram.iter().step_by(order + 1).sum::<f64>() / order as f64;
    gram.iter_mut().step_by(order + 1).for_each(|element| *element += ridge);
}

impl LinearMap {
    /// From `[channels + 1, results]`, of which the last row is the bias.
    fn of(map: &[f64], channels: usize, results: usize) -> LinearMap {
        let (weights, bias) = map.split_at(channels * results);
        let column = |result: usize| weights.iter().skip(result).step_by(results).map(|weight| *weight as f32);
        LinearMap {
            weights: (0..results).flat_map(column).collect(),
            bias: bias.iter().map(|bias| *bias as f32).collect(),
        }
    }
}

/// Fits a map of some columns to others, from sums over rows of the products of all columns, the last of which is ones,
/// `[columns, columns]`.
/// None if they say too little.
pub fn rest(products: &[f64], stay: &[usize], go: &[usize]) -> Option<LinearMap> {
    let columns = products.len().isqrt();
    let from: Vec<usize> = stay.iter().copied().chain([columns.checked_sub(1)?]).collect();
    let picked = |to: &[usize]| {
        let row = |a: &usize| to.iter().map(|b| products[a * columns + b]).collect::<Vec<f64>>();
        from.iter().flat_map(row).collect::<Vec<f64>>()
    };
    let mut gram = picked(&from);
    widen(&mut gram, from.len());
    let mut map = picked(go);
    Cholesky::of(gram, from.len())?.solve(&mut map, go.len());
    Some(LinearMap::of(&map, stay.len(), go.len()))
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
        let rows: Vec<f64> = rows.flatten().collect();
        let products = product(&Matrix::new(&rows, 4).transposed(), &Matrix::new(&rows, 4));
        let map = rest(&products, &[0, 2], &[1]).expect("there are enough rows");
        for (found, wanted) in map.weights.iter().chain(&map.bias).zip([2.0, -1.0, -0.5]) {
            assert!((found - wanted).abs() < 1e-3, "{found} instead of {wanted}");
        }
        assert_eq!(rest(&[0.0; 16], &[0, 2], &[1]), None);
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
