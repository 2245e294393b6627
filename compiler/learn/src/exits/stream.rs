//! Augmented samples through the backbone, batch after batch in a fixed order, as many processes as there are cores at work.

use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::Context;

use super::augment::{Augmentations, Draw};
use crate::host::{Backbone, Process};
use partita_ir::graph::Value;
use partita_ir::parallel;

/// Batches that a process may be ahead.
const AHEAD: usize = 2;

/// What a backbone answers to a batch: per output its elements, sample after sample.
pub type Answers = Vec<Vec<f32>>;

/// Lets the backbone answer batches; `each` gets them in order.
pub fn stream(
    backbone: &Backbone<'_>,
    inputs: &[Value],
    augmentations: &Augmentations,
    batches: &[Vec<Draw>],
    mut each: impl FnMut(usize, Answers) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let workers = parallel::workers(batches.len());
    std::thread::scope(|scope| {
        let answers: Vec<Receiver<anyhow::Result<Answers>>> = (0..workers)
            .map(|worker| {
                let (send, receive) = sync_channel(AHEAD);
                scope.spawn(move || {
                    let mut process = backbone.start();
                    for batch in batches.iter().skip(worker).step_by(workers) {
                        let answered = match &mut process {
                            Ok(process) => answer(process, inputs, augmentations, batch),
                            Err(_) => break,
                        };
                        // Nobody listens any more if something else has failed.
                        if send.send(answered).is_err() {
                            return;
                        }
                    }
                    if let Err(error) = process {
                        drop(send.send(Err(error)));
                    }
                });
                receive
            })
            .collect();
        for index in 0..batches.len() {
            let answered = answers[index % workers].recv().context("a process of the backbone has ended")??;
            each(index, answered)?;
        }
        Ok(())
    })
}

fn answer(
    process: &mut Process<'_>,
    inputs: &[Value],
    augmentations: &Augmentations,
    batch: &[Draw],
) -> anyhow::Result<Answers> {
    let mut answers: Answers = Vec::new();
    for draw in batch {
        let outputs = process.answer(&augmentations.draw(inputs, draw))?;
        answers.resize(outputs.len(), Vec::new());
        answers.iter_mut().zip(outputs).for_each(|(all, output)| all.extend(output));
    }
    Ok(answers)
}
