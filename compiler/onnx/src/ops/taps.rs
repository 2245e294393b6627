//! Resizes without a kernel of their own (cubic, antialiased, cropped): along each axis a weighted sum of elements.

use crate::importer::NodeContext;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{BinaryOp, Op};
use partita_ir::graph::{TensorId, Value};

/// Most elements that are summed for one; filters of strong reductions are wide.
const MAX_TAPS: usize = 256;

/// How elements are weighted by their distance.
#[derive(Clone, Copy, PartialEq)]
pub enum Filter {
    /// The nearest two.
    Linear,
    /// The nearest four; the coefficient is ONNX's `cubic_coeff_a`.
    Cubic(f32),
}

/// Where output elements lie among input elements.
#[derive(Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "each variant is the ONNX coordinate_transformation_mode of the same name")]
pub enum Mapping {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfCropAndResize { start: f32, end: f32, extrapolation: f32 },
}

/// A resize along one axis.
pub struct AxisResize {
    /// The axis.
    pub axis: usize,
    /// Extent of the result.
    pub size: usize,
    /// Output by input, as ONNX uses it.
    pub scale: f32,
    /// Where elements lie.
    pub mapping: Mapping,
    /// How they are weighted.
    pub filter: Filter,
    /// Whether the filter widens where the result is smaller.
    pub antialias: bool,
    /// Whether elements outside of the input have no weight; they repeat the edge otherwise.
    pub exclude_outside: bool,
}

impl AxisResize {
    /// The place of an output element among `extent` input elements.
    fn place(&self, at: usize, extent: usize) -> f32 {
        let (x, scale) = (at as f32, self.scale);
        let input = extent as f32;
        let output = scale * input;
        match self.mapping {
            Mapping::HalfPixel => (x + 0.5) / scale - 0.5,
            Mapping::HalfPixelSymmetric => {
                let center = input / 2.0;
                let offset = center * (1.0 - self.size as f32 / output);
                offset + (x + 0.5) / scale - 0.5
            }
            Mapping::PytorchHalfPixel if self.size > 1 => (x + 0.5) / scale - 0.5,
            Mapping::AlignCorners if self.size > 1 => x * (input - 1.0) / (self.size as f32 - 1.0),
            Mapping::PytorchHalfPixel | Mapping::AlignCorners => 0.0,
            Mapping::Asymmetric => x / scale,
            Mapping::TfCropAndResize { start, end, .. } if self.size > 1 => {
                start * (input - 1.0) + x * (end - start) * (input - 1.0) / (self.size as f32 - 1.0)
            }
            Mapping::TfCropAndResize { start, end, .. } => 0.5 * (start + end) * (input - 1.0),
        }
    }

    fn weight(&self, distance: f32) -> f32 {
        let x = distance.abs();
        match self.filter {
            Filter::Linear => (1.0 - x).max(0.0),
            Filter::Cubic(a) if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            Filter::Cubic(a) if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            Filter::Cubic(_) => 0.0,
        }
    }

    /// Input elements with their weights, and a constant addend, for one output element.
    fn taps(&self, at: usize, extent: usize) -> (Vec<(usize, f32)>, f32) {
        let place = self.place(at, extent);
        if let Mapping::TfCropAndResize { extrapolation, .. } = self.mapping
            && !(0.0..=extent as f32 - 1.0).contains(&place)
        {
            return (Vec::new(), extrapolation);
        }
        let narrow = if self.antialias { self.scale.min(1.0) } else { 1.0 };
        let reach = match self.filter {
            Filter::Linear => 1.0,
            Filter::Cubic(_) => 2.0,
        } / narrow;
        let (first, last) = ((place - reach).floor() as i64, (place + reach).ceil() as i64);
        let mut taps: Vec<(usize, f32)> = Vec::new();
        for position in first..=last {
            let weight = self.weight((position as f32 - place) * narrow);
            let inside = (0..extent as i64).contains(&position);
            if weight == 0.0 || (self.exclude_outside && !inside) {
                continue;
            }
            let index = position.clamp(0, extent as i64 - 1) as usize;
            match taps.iter_mut().find(|(other, _)| *other == index) {
                Some((_, sum)) => *sum += weight,
                None => taps.push((index, weight)),
            }
        }
        let sum: f32 = taps.iter().map(|(_, weight)| weight).sum();
        if (self.antialias || self.exclude_outside) && sum != 0.0 {
            taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        (taps, 0.0)
    }

    /// Adds the nodes.
    pub fn emit(&self, context: &mut NodeContext<'_>, x: TensorId) -> Result<TensorId, Diagnostic> {
        let shape = context.shape(x);
        let extent = shape[self.axis];
        let narrow = if self.antialias { f64::from(self.scale.min(1.0)) } else { 1.0 };
        // No fewer than an element has.
        let most = 2.0 * (2.0 / narrow) + 2.0;
        if most > MAX_TAPS as f64 {
            let message = format!("scale {} of axis {} needs too wide a filter", self.scale, self.axis);
            return Err(context.attributes.unsupported(message));
        }
        context.reserve("list of indices and weights", self.size.saturating_mul(2 * most as usize + 1))?;
        let rows: Vec<(Vec<(usize, f32)>, f32)> = (0..self.size).map(|at| self.taps(at, extent)).collect();
        let most = rows.iter().map(|(taps, _)| taps.len()).max().unwrap_or(0).max(1);
        let mut along = vec![1; shape.len() - self.axis];
        along[0] = self.size;
        let mut sum: Option<TensorId> = None;
        for tap in 0..most {
            let (mut indices, mut weights) = (Vec::with_capacity(self.size), Vec::with_capacity(self.size));
            for (taps, _) in &rows {
                // What has fewer taps reads its last once more, for nothing.
                let (index, weight) = taps.get(tap).copied().unwrap_or((taps.last().map_or(0, |last| last.0), 0.0));
                indices.push(index as i64);
                weights.push(weight);
            }
            let indices = context.name_constant("indices", Value::i64([self.size], indices));
            let taken = context.value(Op::Gather { axis: self.axis }, &[x, indices])?;
            let weights = context.name_constant("weights", Value::f32(along.clone(), weights));
            let weighted = context.binary(BinaryOp::Mul, taken, weights)?;
            sum = Some(match sum {
                Some(sum) => context.binary(BinaryOp::Add, sum, weighted)?,
                None => weighted,
            });
        }
        let Some(mut sum) = sum else { return Err(context.refuse("it makes nothing")) };
        if rows.iter().any(|(_, addend)| *addend != 0.0) {
            let addends = rows.iter().map(|(_, addend)| *addend).collect();
            let addends = context.name_constant("outside", Value::f32(along, addends));
            sum = context.binary(BinaryOp::Add, sum, addends)?;
        }
        Ok(sum)
    }
}
