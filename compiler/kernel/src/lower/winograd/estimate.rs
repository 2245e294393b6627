//! What Winograd's algorithm saves, from shapes alone: for plans, which compare thousands of shards.

use super::plan::{DATA_CYCLES, RESULT_CYCLES};
use super::transform::{Form, Forms};
use partita_ir::graph::op::Conv;

/// What the phases wait for memory, of their arithmetic: measured on VGG16 and ResNet-18.
const WAITING: f64 = 1.1;

/// What a form costs, in parts of direct convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Time of the arithmetic.
    pub time: f64,
    /// Size of the weights.
    pub weights: f64,
    /// Results of products that are written, for every result of the convolution.
    pub results: f64,
}

/// A convolution that may be done by Winograd's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filterable {
    /// Taps down and across.
    taps: [usize; 2],
    /// Input and output channels.
    channels: [usize; 2],
    /// Rows and columns of the output, and how many such planes are computed from how many taps of depth.
    output: [usize; 2],
    planes: usize,
    depth_taps: usize,
}

impl Filterable {
    /// None for what has no form: strides, dilations, groups, other numbers of taps.
    pub fn of(conv: &Conv, input: &[usize], output: &[usize]) -> Option<Filterable> {
        let (window, rank) = (&conv.window, conv.window.kernel.len());
        let is_plain = conv.groups == 1 && window.stride.iter().chain(&window.dilation).all(|step| *step == 1);
        if !is_plain || rank == 0 || output.len() != rank + 2 || output.contains(&0) {
            return None;
        }
        let last = |extents: &[usize]| match extents {
            [.., down, across] => [*down, *across],
            [across] => [1, *across],
            [] => [1, 1],
        };
        let taps = last(&window.kernel);
        let channels = *input.get(1)?;
        let has_form = (taps[0] == taps[1] || taps[0] == 1) && !Form::of_taps(taps[1]).is_empty();
        let outer: usize = output[2..output.len() - rank.min(2)].iter().product();
        has_form.then(|| Filterable {
            taps,
            channels: [channels, output[1]],
            output: last(&output[2..]),
            planes: output[0] * outer,
            depth_taps: window.kernel[..rank - rank.min(2)].iter().product(),
        })
    }

    /// What every form costs. None where channels do not fill a vector: such layers are done directly.
    pub fn parts(&self, lanes: u64) -> impl Iterator<Item = Part> {
        let Filterable { taps, channels, output, planes, depth_taps } = *self;
        let lanes = lanes as f64;
        let forms = Form::of_taps(taps[1]).iter().filter(move |_| channels[0] as f64 >= lanes);
        forms.map(move |form| {
            let forms = Forms { down: (taps[0] > 1).then_some(*form), across: *form };
            let tiles = output.iter().zip(forms.outputs()).map(|(extent, tile)| extent.div_ceil(tile));
            let tiles = (planes * tiles.product::<usize>()) as f64;
            let points = forms.points().iter().product::<usize>() as f64;
            let vectors = channels.map(|channels| (channels as f64 / lanes).ceil());
            // Two vectors are multiplied per cycle.
            let depth = depth_taps as f64;
            let products = tiles * points * depth * channels[0] as f64 * vectors[1] / 2.0;
            let twice = usize::from(forms.down.is_some());
            let data = tiles * depth * vectors[0] * points * DATA_CYCLES[twice];
            let results = tiles * vectors[1] * points * RESULT_CYCLES[twice];
            let all_taps = (taps[0] * taps[1]) as f64;
            let outputs = (planes * output[0] * output[1]) as f64;
            let direct = outputs * all_taps * depth * channels[0] as f64 * vectors[1] / 2.0;
            Part {
                time: (products + data + results) * WAITING / direct.max(1.0),
                weights: points / all_taps,
                results: tiles * points / outputs,
            }
        })
    }

    /// No part of the convolution, however it is cut, takes less time per direct multiply-add than this, in parts of that
    /// of direct convolution; 1 where it has no form.
    pub fn least_part(&self, lanes: u64) -> f64 {
        let Filterable { taps, channels, depth_taps, .. } = *self;
        let vectors = (channels[1] as f64 / lanes as f64).ceil();
        let of_form = |form: &Form| {
            let forms = Forms { down: (taps[0] > 1).then_some(*form), across: *form };
            let product = |extents: [usize; 2]| extents.iter().product::<usize>() as f64;
            // No tile has more outputs, no part more channels.
            let points = product(forms.points()) / product(forms.outputs()) / (taps[0] * taps[1]) as f64;
            let twice = usize::from(forms.down.is_some());
            let data = DATA_CYCLES[twice] * 2.0 / (lanes as f64 * vectors);
            let results = RESULT_CYCLES[twice] * 2.0 / (depth_taps * channels[0]) as f64;
            points * (1.0 + data + results) * WAITING
        };
        Form::of_taps(taps[1]).iter().map(of_form).fold(1.0, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::op::{Activation, Window};

    fn conv(kernel: &[usize], stride: usize) -> Conv {
        let rank = kernel.len();
        let window = Window {
            kernel: kernel.to_vec(),
            stride: vec![stride; rank],
            dilation: vec![1; rank],
            pad_begin: kernel.iter().map(|taps| taps / 2).collect(),
            pad_end: kernel.iter().map(|taps| taps / 2).collect(),
        };
        Conv { window, groups: 1, residual: false, activation: Activation::None }
    }

    #[test]
    fn gains_are_those_that_were_measured() {
        // ResNet-18's and VGG16's layers on one core of an EPYC with AVX-512: direct time over winograd time.
        for (channels, extent, measured) in [(64, 56, 2.9), (128, 28, 3.0), (128, 112, 3.2), (256, 56, 3.4)] {
            let shape = [1, channels, extent, extent];
            let known = Filterable::of(&conv(&[3, 3], 1), &shape, &shape).expect("three taps have forms");
            let gain = known.parts(16).map(|part| 1.0 / part.time).fold(0.0, f64::max);
            assert!((gain / measured - 1.0_f64).abs() < 0.1, "{channels} channels: {gain}, measured {measured}");
        }
    }

    #[test]
    fn no_part_is_quicker_than_the_least() {
        for (filters, channels) in [(64, 64), (20, 36), (4, 128), (96, 8)] {
            let all = Filterable::of(&conv(&[3, 3], 1), &[1, channels, 24, 24], &[1, filters, 24, 24]);
            let least = all.expect("three taps have forms").least_part(4);
            for (rows, part, of) in [(24, filters, channels), (5, filters, channels), (24, 4, channels), (7, 3, 5)] {
                let part = Filterable::of(&conv(&[3, 3], 1), &[1, of, rows, 24], &[1, part, rows, 24]);
                let quickest = part.expect("three taps have forms").parts(4).map(|part| part.time).fold(1.0, f64::min);
                assert!(least <= quickest * (1.0 + 1e-12), "{least} is more than {quickest}");
            }
        }
    }

    #[test]
    fn what_has_no_form_is_done_directly() {
        let shape = [1, 64, 28, 28];
        assert!(Filterable::of(&conv(&[1, 1], 1), &shape, &shape).is_none());
        assert!(Filterable::of(&conv(&[3, 3], 2), &shape, &[1, 64, 14, 14]).is_none());
        assert!(Filterable::of(&conv(&[3, 3], 1), &[], &shape).is_none());
        let first = Filterable::of(&conv(&[3, 3], 1), &[1, 3, 28, 28], &shape).expect("three taps have forms");
        assert_eq!(first.parts(16).count(), 0);
        assert!(Filterable::of(&Conv { groups: 64, ..conv(&[3, 3], 1) }, &shape, &shape).is_none());
        let line = Filterable::of(&conv(&[3], 1), &[1, 64, 28], &[1, 64, 28]).expect("a line of three taps");
        assert!(line.parts(4).all(|part| part.time < 1.0 && part.weights > 1.0));
        let volume = [1, 64, 8, 28, 28];
        let volume = Filterable::of(&conv(&[3, 3, 3], 1), &volume, &volume).expect("three planes of three taps");
        assert!(volume.parts(8).any(|part| part.time < 0.5));
    }
}
