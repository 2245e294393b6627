//! The graph over the samples that teach: how often each number was seen in every tensor, and what its channels are on
//! average.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;

use super::histogram::Histogram;
use crate::host::{Backbone, Process};
use partita_files::data;
use partita_ir::graph::{Graph, TensorId, Value};
use partita_ir::parallel::workers;
use partita_placement::Failure;

/// Samples that one process answers before it takes the next ones. Sums are added up by chunks, in their order, so that they
/// do not depend on the number of cores.
const CHUNK: usize = 8;

/// What was seen of a tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// All of its elements.
    pub histogram: Histogram,
    /// Mean of each channel, which the second axis counts; one for all where there is none.
    pub means: Vec<f64>,
}

/// The graph with tensors as further outputs, as far as they are none yet. An input is none.
pub(super) fn probed(graph: &Graph, tensors: impl IntoIterator<Item = TensorId>) -> Graph {
    let mut probe = graph.clone();
    for tensor in tensors {
        if !probe.is_output(tensor) && probe.tensor(tensor).producer.is_some() {
            probe.outputs.push(tensor);
        }
    }
    probe
}

/// Runs chunks of samples on as many processes as there are cores; what each thread has gathered, in no order.
pub(super) fn in_chunks<A: Default + Send>(
    backbone: &Backbone<'_>,
    samples: usize,
    work: impl Fn(&mut A, &mut Process<'_>, Range<usize>) -> anyhow::Result<()> + Sync,
) -> Result<Vec<A>, Failure> {
    let next = AtomicUsize::new(0);
    let run = || -> anyhow::Result<A> {
        let mut process = backbone.start()?;
        let mut gathered = A::default();
        loop {
            let begin = next.fetch_add(1, Ordering::Relaxed) * CHUNK;
            if begin >= samples {
                return Ok(gathered);
            }
            work(&mut gathered, &mut process, begin..(begin + CHUNK).min(samples))?;
        }
    };
    let all: anyhow::Result<Vec<A>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers(samples.div_ceil(CHUNK))).map(|_| scope.spawn(run)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<A>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread has failed")))
        };
        threads.into_iter().map(join).collect()
    });
    all.map_err(|error| Failure::of(error.context("running the calibration samples")))
}

/// What one thread has seen.
#[derive(Default)]
struct Seen {
    histograms: Vec<Histogram>,
    /// By first sample of a chunk and tensor: sums of its channels.
    sums: BTreeMap<usize, Vec<Vec<f64>>>,
}

/// Runs a graph of the backbone, which is [`probed`] for these tensors, over samples.
pub fn observe(
    backbone: &Backbone<'_>,
    (number, graph): (usize, &Graph),
    tensors: &[TensorId],
    inputs: &[Value],
) -> Result<BTreeMap<TensorId, Observed>, Failure> {
    let channels: Vec<usize> = tensors.iter().map(|tensor| channels(graph.shape(*tensor))).collect();
    let places: Vec<Option<usize>> =
        tensors.iter().map(|tensor| graph.outputs.iter().position(|output| output == tensor)).collect();
    let threads = in_chunks(backbone, inputs.len(), |seen: &mut Seen, process, chunk| {
        seen.histograms.resize_with(tensors.len(), Histogram::default);
        let mut sums: Vec<Vec<f64>> = channels.iter().map(|count| vec![0.0; *count]).collect();
        for sample in chunk.clone() {
            let answers = process.answer_by(number, &inputs[sample])?;
            // The only tensor that is no output is the input.
            let input = data::to_f32(&inputs[sample].data);
            for (index, place) in places.iter().enumerate() {
                let elements = match place {
                    Some(place) => answers.get(*place).context("an output is missing")?,
                    None => &input,
                };
                seen.histograms[index].add(elements);
                let inner = graph.shape(tensors[index]).iter().skip(2).product::<usize>().max(1);
                for (at, plane) in elements.chunks(inner).enumerate() {
                    let sum = &mut sums[index][at % channels[index]];
                    *sum += plane.iter().map(|element| f64::from(*element)).sum::<f64>();
                }
            }
        }
        seen.sums.insert(chunk.start, sums);
        Ok(())
    })?;
    let mut all = Seen::default();
    all.histograms.resize_with(tensors.len(), Histogram::default);
    for seen in threads {
        all.histograms.iter_mut().zip(&seen.histograms).for_each(|(own, other)| own.join(other));
        all.sums.extend(seen.sums);
    }
    let observed = |(index, (tensor, histogram)): (usize, (&TensorId, Histogram))| {
        let elements = graph.shape(*tensor).iter().product::<usize>() / channels[index].max(1) * inputs.len();
        let mean =
            |channel: usize| all.sums.values().map(|sums| sums[index][channel]).sum::<f64>() / elements.max(1) as f64;
        (*tensor, Observed { histogram, means: (0..channels[index]).map(mean).collect() })
    };
    Ok(tensors.iter().zip(all.histograms).enumerate().map(observed).collect())
}

/// How many channels a tensor has.
fn channels(shape: &[usize]) -> usize {
    shape.get(1).copied().unwrap_or(1).max(1)
}
