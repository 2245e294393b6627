//! Convolutions of channels that lie side by side, each forwards and backwards: by channel over a window, and by matrix
//! over channels.

use std::sync::Arc;

use multiversion::multiversion;

use crate::matrix::{Matrix, product};

/// A depthwise convolution, window `kernel`, padding of half a window on every side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depthwise {
    /// Extent of the window, rows and columns; odd.
    pub kernel: [usize; 2],
    /// Step of the window.
    pub stride: [usize; 2],
}

/// One row of the window: where it reads, where it writes.
struct Touch {
    input: usize,
    output: usize,
    tap: usize,
}

impl Depthwise {
    /// Rows and columns of the result.
    pub fn output(&self, space: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| (space[axis] + 2 * (self.kernel[axis] / 2) - self.kernel[axis]) / self.stride[axis] + 1)
    }

    /// Every pair of an input and an output pixel of one sample that a tap of the window connects.
    fn touches(&self, space: [usize; 2]) -> Vec<Touch> {
        let output = self.output(space);
        let mut found = Vec::new();
        for row in 0..output[0] {
            for column in 0..output[1] {
                for tap in 0..self.kernel[0] * self.kernel[1] {
                    let y = (row * self.stride[0] + tap / self.kernel[1]).wrapping_sub(self.kernel[0] / 2);
                    let x = (column * self.stride[1] + tap % self.kernel[1]).wrapping_sub(self.kernel[1] / 2);
                    if y < space[0] && x < space[1] {
                        found.push(Touch { input: y * space[1] + x, output: row * output[1] + column, tap });
                    }
                }
            }
        }
        found
    }
}

/// A convolution without what follows it.
#[derive(Clone, Default)]
pub enum Linear {
    /// By channel, over maps of one size; weights `[taps, channels]`.
    Depthwise(Arc<DepthwiseSums>),
    /// Over channels; weights `[inputs, outputs]`.
    #[default]
    Pointwise,
}

/// What a depthwise convolution sums up for one sample.
pub struct DepthwiseSums {
    channels: usize,
    /// Pixels of the input.
    input_pixels: usize,
    /// The result, of the input and the weights.
    forward: Vec<Sum>,
    /// The gradient by the input, of the gradient of the result and the weights.
    to_input: Vec<Sum>,
    /// The gradient by the weights, of the input and the gradient of the result.
    to_weights: Vec<Sum>,
}

/// Pairs of pixels, or of a pixel and a tap, whose products are added up, channel by channel.
struct Sum {
    /// First element of the first and of the second factor.
    terms: Vec<[usize; 2]>,
}

impl Linear {
    /// A depthwise convolution of maps of one size.
    pub fn depthwise(window: Depthwise, space: [usize; 2], channels: usize) -> Linear {
        let touches = window.touches(space);
        let output = window.output(space);
        let pixels = |space: [usize; 2]| space[0] * space[1];
        let sums = |rows: usize, row: fn(&Touch) -> usize, term: fn(&Touch) -> [usize; 2]| -> Vec<Sum> {
            let mut sums: Vec<Sum> = (0..rows).map(|_| Sum { terms: Vec::new() }).collect();
            touches.iter().for_each(|touch| sums[row(touch)].terms.push(term(touch).map(|pixel| pixel * channels)));
            sums
        };
        Linear::Depthwise(Arc::new(DepthwiseSums {
            channels,
            input_pixels: pixels(space),
            forward: sums(pixels(output), |touch| touch.output, |touch| [touch.input, touch.tap]),
            to_input: sums(pixels(space), |touch| touch.input, |touch| [touch.output, touch.tap]),
            to_weights: sums(pixels(window.kernel), |touch| touch.tap, |touch| [touch.input, touch.output]),
        }))
    }

    /// The result for some samples, of which each pixel has `outputs` channels.
    pub fn forward(&self, x: &[f32], weights: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
        match self {
            Linear::Depthwise(sums) => {
                let (from, to) = sums.elements();
                let mut made = vec![0.0; x.len() / from * to];
                for (made, x) in made.chunks_exact_mut(to).zip(x.chunks_exact(from)) {
                    add_products(made, x, weights, &sums.forward, sums.channels);
                }
                made
            }
            Linear::Pointwise => product(&Matrix::new(x, inputs), &Matrix::new(weights, outputs)),
        }
    }

    /// Gradients by the input and by the weights, of the gradient of the result.
    pub fn backward(
        &self,
        x: &[f32],
        weights: &[f32],
        slope: &[f32],
        inputs: usize,
        outputs: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        match self {
            Linear::Depthwise(sums) => {
                let (from, to) = sums.elements();
                let (mut to_x, mut to_weights) = (vec![0.0; x.len()], vec![0.0; weights.len()]);
                let each = to_x.chunks_exact_mut(from).zip(x.chunks_exact(from)).zip(slope.chunks_exact(to));
                for ((to_x, x), slope) in each {
                    add_products(to_x, slope, weights, &sums.to_input, sums.channels);
                    add_products(&mut to_weights, x, slope, &sums.to_weights, sums.channels);
                }
                (to_x, to_weights)
            }
            Linear::Pointwise => {
                let (x, weights, slope) =
                    (Matrix::new(x, inputs), Matrix::new(weights, outputs), Matrix::new(slope, outputs));
                (product(&slope, &weights.transposed()), product(&x.transposed(), &slope))
            }
        }
    }
}

impl DepthwiseSums {
    /// Elements of a sample, and of its result; at least one each.
    fn elements(&self) -> (usize, usize) {
        let pixels = [self.input_pixels, self.forward.len()];
        let [from, to] = pixels.map(|pixels| (pixels * self.channels).max(1));
        (from, to)
    }
}

/// Adds products of channels to sums, one for each of `all`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn add_products(sums: &mut [f32], first: &[f32], second: &[f32], all: &[Sum], channels: usize) {
    // Sums of some channels stay in registers for all their terms.
    #[inline(always)]
    fn part<const WIDTH: usize>(sum: &mut [f32], first: &[f32], second: &[f32], terms: &[[usize; 2]]) -> usize {
        let mut total = [0.0f32; WIDTH];
        for [a, b] in terms {
            let (a, b) = (&first[*a..][..WIDTH], &second[*b..][..WIDTH]);
            for lane in 0..WIDTH {
                total[lane] += a[lane] * b[lane];
            }
        }
        sum.iter_mut().zip(total).for_each(|(sum, total)| *sum += total);
        WIDTH
    }
    for (sums, Sum { terms }) in sums.chunks_exact_mut(channels.max(1)).zip(all) {
        let mut at = 0;
        while at < channels {
            let (sum, first, second) = (&mut sums[at..], &first[at..], &second[at..]);
            at += match channels - at {
                64.. => part::<64>(sum, first, second, terms),
                32.. => part::<32>(sum, first, second, terms),
                16.. => part::<16>(sum, first, second, terms),
                8.. => part::<8>(sum, first, second, terms),
                _ => part::<1>(sum, first, second, terms),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_every_width_of_channels() {
        for channels in [1, 7, 8, 12, 63, 100, 200] {
            let linear = Linear::depthwise(Depthwise { kernel: [3, 3], stride: [1, 1] }, [3, 3], channels);
            let x: Vec<f32> = (0..9 * channels).map(|index| (index % 5) as f32).collect();
            let ones = vec![1.0; 9 * channels];
            let y = linear.forward(&x, &ones, channels, channels);
            let middle: Vec<f32> = (0..channels).map(|c| (0..9).map(|pixel| x[pixel * channels + c]).sum()).collect();
            assert_eq!(y[4 * channels..5 * channels], middle[..], "{channels} channels");
        }
    }
}
