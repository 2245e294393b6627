//! Answers of whole numbers beside those of real ones.

use super::observe::in_chunks;
use crate::accuracy::Evidence;
use crate::classifier::class;
use crate::host::Backbone;
use anyhow::Context;
use partita_ir::graph::Value;
use partita_placement::Failure;

/// Power of a signal, and of what disturbs it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    signal: f64,
    noise: f64,
}

impl Noise {
    /// Adds elements, and what they have become: those times a scale.
    pub fn add(&mut self, exact: &[f32], found: &[f32], scale: f32) {
        for (exact, found) in exact.iter().zip(found) {
            let (exact, found) = (f64::from(*exact), f64::from(*found) * f64::from(scale));
            self.signal += exact * exact;
            self.noise += (exact - found).powi(2);
        }
    }

    fn join(&mut self, other: Noise) {
        self.signal += other.signal;
        self.noise += other.noise;
    }

    /// Signal to noise in dB; 200 where there is no noise.
    pub fn decibel(&self) -> f64 {
        if self.noise <= 0.0 { 200.0 } else { (10.0 * (self.signal / self.noise).log10()).clamp(-200.0, 200.0) }
    }
}

/// What one graph answers beside another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    /// Of the first output.
    pub noise: Noise,
    /// The largest score of each sample.
    pub classes: Vec<usize>,
}

/// What graphs of a backbone answer, each beside the first of them.
pub fn answers(backbone: &Backbone<'_>, graphs: &[usize], inputs: &[Value]) -> Result<Vec<Answered>, Failure> {
    type Chunk = (usize, Vec<Answered>);
    let threads = in_chunks(backbone, inputs.len(), |seen: &mut Vec<Chunk>, process, chunk| {
        let mut all = vec![Answered::default(); graphs.len()];
        for sample in chunk.clone() {
            let mut first: Option<Vec<f32>> = None;
            for (own, graph) in all.iter_mut().zip(graphs) {
                let answer = process.answer_by(*graph, &inputs[sample])?;
                let answer = answer.into_iter().next().context("the network has no output")?;
                own.classes.push(class(&answer));
                let exact = first.get_or_insert_with(|| answer.clone());
                own.noise.add(exact, &answer, 1.0);
            }
        }
        seen.push((chunk.start, all));
        Ok(())
    })?;
    let mut chunks: Vec<Chunk> = threads.into_iter().flatten().collect();
    chunks.sort_by_key(|(begin, _)| *begin);
    let mut all = vec![Answered::default(); graphs.len()];
    for (_, chunk) in chunks {
        for (own, other) in all.iter_mut().zip(chunk) {
            own.noise.join(other.noise);
            own.classes.extend(other.classes);
        }
    }
    Ok(all)
}

/// What tensors of one graph have become in another: by tensor, its place among the outputs of both, and what a step of the
/// other is.
pub fn layers(
    backbone: &Backbone<'_>,
    [exact, whole]: [usize; 2],
    places: &[(usize, usize, f32)],
    inputs: &[Value],
) -> Result<Vec<Noise>, Failure> {
    type Chunk = (usize, Vec<Noise>);
    let threads = in_chunks(backbone, inputs.len(), |seen: &mut Vec<Chunk>, process, chunk| {
        let mut all = vec![Noise::default(); places.len()];
        for sample in chunk.clone() {
            let exact = process.answer_by(exact, &inputs[sample])?;
            let whole = process.answer_by(whole, &inputs[sample])?;
            for (noise, (of_exact, of_whole, scale)) in all.iter_mut().zip(places) {
                noise.add(&exact[*of_exact], &whole[*of_whole], *scale);
            }
        }
        seen.push((chunk.start, all));
        Ok(())
    })?;
    let mut chunks: Vec<Chunk> = threads.into_iter().flatten().collect();
    chunks.sort_by_key(|(begin, _)| *begin);
    let mut all = vec![Noise::default(); places.len()];
    chunks.into_iter().for_each(|(_, chunk)| all.iter_mut().zip(chunk).for_each(|(own, other)| own.join(other)));
    Ok(all)
}

/// What samples of these classes say of answers beside others.
pub fn evidence(base: &Answered, found: &Answered, labels: &[u32], classes: usize) -> Evidence {
    let right = |answered: &Answered| -> Vec<bool> {
        answered.classes.iter().zip(labels).map(|(class, label)| *class == *label as usize).collect()
    };
    let (base, found) = (right(base), right(found));
    let changes: Vec<i8> = base.iter().zip(&found).map(|(base, found)| i8::from(*base) - i8::from(*found)).collect();
    Evidence::of(&changes, &base, labels, classes, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_what_differs() {
        let mut noise = Noise::default();
        noise.add(&[1.0, 2.0], &[2.0, 4.0], 0.5);
        assert_eq!(noise.decibel(), 200.0);
        noise.add(&[0.0, 0.0], &[1.0, 0.0], 0.5);
        assert!((noise.decibel() - 10.0 * (5.0f64 / 0.25).log10()).abs() < 1e-9);
    }

    #[test]
    fn answers_are_compared_sample_by_sample() {
        let of = |classes: &[usize]| Answered { classes: classes.to_vec(), noise: Noise::default() };
        let found = evidence(&of(&[0, 1, 2, 2]), &of(&[0, 2, 2, 1]), &[0, 1, 2, 1], 3);
        assert_eq!((found.difference.lost, found.difference.gained, found.difference.samples), (1, 1, 4));
        assert_eq!((found.base_right, found.accuracy()), (3, 0.75));
    }
}
