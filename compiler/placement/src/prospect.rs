//! Plans that compete, priced: what the best of them comes to is known before any program is made, which takes longer than all
//! of their prices.

use std::sync::Arc;

use partita_config::Cluster;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::Graph;
use partita_plan::partition::encodings::Encodings;
use partita_plan::partition::{Partition, PartitionOptions};
use partita_plan::shard::{Encoded, encoded};

use crate::clock::Clock;
use crate::contest::{Breadth, Contender, Contest};
use crate::failure::Failure;
use crate::fit::{does_not_fit, partition_failure};
use crate::options::PlacementOptions;
use crate::placed::{Placed, place};
use crate::score::Figures;

/// Plans that are carried out until one fits.
const ATTEMPTS: usize = 16;

/// Plans that are judged until one may be carried out.
const JUDGED: usize = 200;

/// What is said of the links of a plan.
pub enum Verdict {
    /// They may send what they send in fewer bytes.
    Kept,
    /// They may send nothing but this in fewer bytes, as far as is known.
    Weaker(Encodings),
}

/// The plans that compete for a network, by what they come to; none is carried out yet.
pub struct Prospect<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    wanted: PartitionOptions,
    contest: Contest<'a>,
}

/// A plan that is carried out and fits.
pub struct Carried {
    /// The plan, carried out.
    pub placed: Placed,
    /// What it really comes to.
    pub figures: Figures,
    /// The network whose links send some tensors in fewer bytes, if this plan's do: these are rounded before.
    pub encoded: Option<Encoded>,
}

impl<'a> Prospect<'a> {
    /// Asks for plans. With encodings, those tensors may travel in fewer bytes where that pays.
    ///
    /// Errors: E0170 and others where no plan keeps the limits.
    pub fn asked(
        graph: &'a Graph,
        cluster: &'a Cluster,
        options: &PlacementOptions,
        encodings: Encodings,
        clock: &mut Clock,
    ) -> Result<Prospect<'a>, Failure> {
        let encodings = Arc::new(encodings);
        let wanted = PartitionOptions { encodings, ..options.partition() };
        Prospect::of(graph, cluster, wanted, clock)
    }

    pub(crate) fn of(
        graph: &'a Graph,
        cluster: &'a Cluster,
        wanted: PartitionOptions,
        clock: &mut Clock,
    ) -> Result<Prospect<'a>, Failure> {
        let contest = Contest::new(graph, cluster, &wanted, Breadth::All).map_err(partition_failure)?;
        clock.lap("partition");
        Ok(Prospect { graph, cluster, wanted, contest })
    }

    /// Lets the best plans compete once more, with tensors that travel while devices compute; once.
    pub fn overlap(&mut self, clock: &mut Clock) {
        self.contest.overlap();
        clock.lap("overlap");
    }

    /// What the best plan comes to, should it fit as it is; before [`Prospect::overlap`], if nothing travelled meanwhile.
    pub fn figures(&self) -> Option<Figures> {
        self.contest.best().map(|best| best.figures)
    }

    /// What the fastest device comes to by itself; none if no device can do it alone.
    pub fn single(&self) -> Option<Figures> {
        self.contest.single
    }

    /// The time that no plan for the cluster can beat.
    pub fn lower_bound_ms(&self) -> f64 {
        let everyone: Vec<usize> = (0..self.cluster.devices.len()).collect();
        self.contest.bounds.latency_seconds(&everyone) * 1e3
    }

    /// The network with what the best plan's links send in fewer bytes rounded; `None` if they send every number as it is.
    pub fn encoded(&self) -> Option<Encoded> {
        self.encoded_of(self.contest.best()?)
    }

    fn encoded_of(&self, contender: &Contender) -> Option<Encoded> {
        let encodings = contender.encodings(&self.wanted.encodings);
        encoded(self.graph, &contender.partition, self.cluster, encodings)
    }

    /// Asks whether the links of the best plan may send what they send in fewer bytes. A plan of which they may not competes
    /// on with what they may. So the best of all plans that may be carried out is found, and what becomes of one plan does not
    /// depend on which others there are. Says whether there is one, before too many were looked at.
    ///
    /// `judge` is given what a plan's links do, what they did first, and how often they had to do less since.
    pub fn judge(
        &mut self,
        judge: &mut dyn FnMut(&Encoded, &Encodings, usize) -> Result<Verdict, Failure>,
    ) -> Result<bool, Failure> {
        for _ in 0..JUDGED {
            let Some(best) = self.contest.pop() else { break };
            let encoded = self.encoded_of(&best);
            let verdict = match (&encoded, &best.weakened) {
                (Some(encoded), Some(weakened)) => judge(encoded, &weakened.first, weakened.times)?,
                (Some(encoded), None) => judge(encoded, &encoded.encodings, 0)?,
                (None, _) => Verdict::Kept,
            };
            match (verdict, encoded) {
                (Verdict::Weaker(encodings), Some(now)) => self.contest.weaken(best, now.encodings, encodings),
                _ => {
                    let figures = best.figures;
                    self.contest.put_back(best, figures);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Carries out the best plan that fits. The partition counts tensors; the memory plan counts padding, alignment and what
    /// stays alive: who does not fit is asked again with more room kept free.
    pub fn carry_out(mut self, clock: &mut Clock) -> Result<Carried, Failure> {
        self.overlap(clock);
        let mut refusal = None;
        for _ in 0..ATTEMPTS {
            let Some(best) = self.contest.pop() else { break };
            let encoded = self.encoded_of(&best);
            let (graph, partition) =
                encoded.as_ref().map_or((self.graph, &best.partition), |it| (&it.graph, &it.partition));
            let mut placed = place(graph, self.cluster, partition.clone(), clock)?;
            placed.patch(self.cluster)?;
            clock.lap("patches");
            let excess = placed.excess_bytes(self.cluster);
            if excess.iter().any(|bytes| *bytes > 0) {
                refusal = refusal.or_else(|| Some(does_not_fit(&placed, &excess, self.cluster)));
                self.contest.ask_again(&best, &excess);
                clock.lap("partition");
                continue;
            }
            // What is computed patch by patch takes longer.
            let (sharded, schedules) = (&placed.sharded, &placed.schedules);
            let figures = Figures::of_schedules(graph, self.cluster, sharded, schedules, self.wanted.objective);
            if placed.patches.is_empty() || self.contest.put_back(best.clone(), figures) {
                let strategies = std::mem::take(&mut placed.partition.strategies);
                placed.partition = Partition { strategies, ..self.contest.certified(best.with(figures)) };
                clock.lap("partition");
                return Ok(Carried { placed, figures, encoded });
            }
        }
        if let Some(refused) = self.contest.refused.take() {
            return Err(partition_failure(refused));
        }
        let none = || Diagnostic::new("E0170", "no plan was found that keeps every limit");
        Err(Failure::Infeasible(refusal.unwrap_or_else(none)))
    }
}
