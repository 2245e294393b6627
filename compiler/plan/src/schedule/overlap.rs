//! Tensors that travel while devices compute: each leaves as soon as it is made, may come as soon as the device has nothing
//! else to wait for, and is waited for only where it is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Action, Message, Schedule};
use partita_config::{Cluster, System};
use partita_ir::graph::{Graph, TensorId};

/// Most messages to one peer that have been started and not waited for: a node has no room for more (`SENDS` of
/// `runtime-rt/src/node/transfer.rs`), and would wait where the proof does not.
const MOST_UNDER_WAY: usize = 8;

/// The same schedule with its messages started as early as may be. What leaves is waited for at the exchange after the one
/// that had it, so that its place is not written over before.
///
/// Nothing is under way where an inference may end. Both ends must have a thread for their links beside the one that computes.
pub fn overlapped(schedule: Schedule, graph: &Graph, cluster: &Cluster) -> Schedule {
    let device = schedule.device;
    let is_served = |device: usize| cluster.devices[device].target.system == System::Linux;
    let starts = |message: &Message| is_served(device) && is_served(message.peer);
    let early = Starts::of(&schedule, graph, &starts);
    let mut actions = Vec::with_capacity(schedule.actions.len() * 2);
    // What has been sent, and has not been waited for.
    let mut under_way: Vec<Message> = Vec::new();
    for (position, action) in schedule.actions.into_iter().enumerate() {
        if let Some((sends, receives)) = early.at.get(&position).cloned() {
            actions.push(Action::Start { sends, receives });
        }
        match action {
            Action::Exchange { sends, receives } => {
                let (later, now): (Vec<Message>, Vec<Message>) =
                    sends.into_iter().partition(|send| early.sends.contains(&send.number));
                let sends: Vec<Message> = std::mem::replace(&mut under_way, later).into_iter().chain(now).collect();
                if !(sends.is_empty() && receives.is_empty()) {
                    actions.push(Action::Exchange { sends, receives });
                }
            }
            Action::Leave { .. } => {
                actions.extend(finish(&mut under_way));
                actions.push(action);
            }
            _ => actions.push(action),
        }
    }
    actions.extend(finish(&mut under_way));
    Schedule { device, actions }
}

/// Waits for what has been sent.
fn finish(under_way: &mut Vec<Message>) -> Option<Action> {
    let sends = std::mem::take(under_way);
    (!sends.is_empty()).then_some(Action::Exchange { sends, receives: Vec::new() })
}

/// Before which actions messages are started.
#[derive(Default)]
struct Starts {
    at: BTreeMap<usize, (Vec<Message>, Vec<Message>)>,
    /// Numbers of those that leave.
    sends: BTreeSet<u32>,
}

impl Starts {
    fn of(schedule: &Schedule, graph: &Graph, starts: &impl Fn(&Message) -> bool) -> Starts {
        let mut found = Starts::default();
        // From where on tensors are there; and from where on nothing of before is waited for but what leaves.
        let mut there: HashMap<TensorId, usize> = HashMap::new();
        let mut settled = 0;
        // Of each peer, how many were started for the exchange before, and for this one.
        let mut under_way: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (position, action) in schedule.actions.iter().enumerate() {
            let behind = position + 1;
            match action {
                Action::Input { tensor, .. } => {
                    there.insert(*tensor, behind);
                    settled = behind;
                }
                Action::Compute(node) => there.extend(graph.node(*node).outputs.iter().map(|tensor| (*tensor, behind))),
                Action::Exchange { sends, receives } => {
                    under_way.values_mut().for_each(|counts| *counts = (counts.1, 0));
                    // Messages to one peer leave in order.
                    let mut first: BTreeMap<usize, usize> = BTreeMap::new();
                    for send in sends.iter().filter(|send| starts(send)) {
                        let counts = under_way.entry(send.peer).or_default();
                        if counts.0 + counts.1 == MOST_UNDER_WAY {
                            continue;
                        }
                        let made = there.get(&send.tensor).copied().unwrap_or(position);
                        let first = first.entry(send.peer).or_insert(settled);
                        *first = made.max(*first);
                        counts.1 += 1;
                        found.sends.insert(send.number);
                        found.at.entry(*first).or_default().0.push(*send);
                    }
                    let come: Vec<Message> = receives.iter().copied().filter(|receive| starts(receive)).collect();
                    if !come.is_empty() && settled < position {
                        found.at.entry(settled).or_default().1.extend(come);
                    }
                    there.extend(receives.iter().map(|receive| (receive.tensor, behind)));
                    settled = behind;
                }
                Action::Leave { .. } => {
                    under_way.clear();
                    settled = behind;
                }
                Action::Start { .. } | Action::Output { .. } => {}
            }
        }
        found
    }
}

/// Numbers of the messages that leave before the exchange that waits for them.
pub fn started_sends(actions: &[Action]) -> BTreeSet<u32> {
    let started = actions.iter().flat_map(|action| match action {
        Action::Start { sends, .. } => sends.as_slice(),
        _ => &[],
    });
    started.map(|message| message.number).collect()
}
