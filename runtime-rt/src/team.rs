//! Threads of one device: kernels that are shared out run on all of them at once.
//!
//! Between two kernels a thread spins for a moment, since the next one usually follows at once; then it sleeps.

use std::boxed::Box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::thread::Thread;
use std::vec::Vec;

/// Turns of the waiting loop before a thread goes to sleep: some tens of microseconds.
const SPINS: usize = 20_000;

/// What all threads are doing: calls of one function on one value.
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
}

/// The threads beside the one that calls.
struct Team {
    workers: Vec<Thread>,
    /// Counts jobs; a worker that sees it change has something to do.
    turn: AtomicUsize,
    job: AtomicPtr<Job>,
    /// Workers that have not finished the job.
    busy: AtomicUsize,
    /// Workers that sleep, or are about to.
    asleep: AtomicUsize,
}

static TEAM: OnceLock<&'static Team> = OnceLock::new();

/// Waits until all parts of the job that runs have come here.
pub fn barrier(parts: usize) {
    static ARRIVED: AtomicUsize = AtomicUsize::new(0);
    static ROUND: AtomicUsize = AtomicUsize::new(0);
    let round = ROUND.load(Ordering::Relaxed);
    if ARRIVED.fetch_add(1, Ordering::AcqRel) + 1 == parts {
        ARRIVED.store(0, Ordering::Relaxed);
        ROUND.store(round.wrapping_add(1), Ordering::Release);
        return;
    }
    let mut spins = 0;
    while ROUND.load(Ordering::Acquire) == round {
        wait_a_moment(&mut spins);
    }
}

/// The same for kernels in machine code.
#[unsafe(no_mangle)]
extern "C" fn partita_team_barrier(parts: u64) {
    barrier(parts as usize);
}

/// Spins, and now and then lets others run.
fn wait_a_moment(spins: &mut usize) {
    *spins += 1;
    match *spins % SPINS {
        0 => std::thread::yield_now(),
        _ => core::hint::spin_loop(),
    }
}

/// Calls `part(0)` to `part(parts - 1)`, all at the same time, and returns when all have returned.
///
/// Only one thread of a program calls this, always with the same number of parts. The process ends if the threads cannot
/// be started.
pub fn run<F: Fn(usize) + Sync>(parts: usize, part: &F) {
    unsafe fn call<F: Fn(usize)>(data: *const (), index: usize) {
        // SAFETY: `data` is the closure that `run` was given, and `run` has not returned.
        unsafe { (*data.cast::<F>())(index) }
    }
    let team = *TEAM.get_or_init(|| start(parts));
    let mut job = Job { call: call::<F>, data: (&raw const *part).cast() };
    team.busy.store(team.workers.len(), Ordering::Relaxed);
    team.job.store(&raw mut job, Ordering::Relaxed);
    team.turn.fetch_add(1, Ordering::SeqCst);
    if team.asleep.load(Ordering::SeqCst) > 0 {
        team.workers.iter().for_each(Thread::unpark);
    }
    part(0);
    let mut spins = 0;
    // `job` and `part` live until every worker has finished with them.
    while team.busy.load(Ordering::Acquire) > 0 {
        wait_a_moment(&mut spins);
    }
}

/// The team, once it is there, which takes no longer than starting its threads.
fn when_ready(team: &'static OnceLock<&'static Team>) -> &'static Team {
    loop {
        match team.get() {
            Some(team) => return team,
            None => std::thread::yield_now(),
        }
    }
}

fn start(parts: usize) -> &'static Team {
    // Workers wait for the team to be there before they look at it.
    static READY: OnceLock<&'static Team> = OnceLock::new();
    let workers: Vec<Thread> = (1..parts)
        .map(|index| {
            let builder = std::thread::Builder::new().name(std::format!("part-{index}"));
            match builder.spawn(move || work(when_ready(&READY), index)) {
                Ok(handle) => handle.thread().clone(),
                // Kernels wait for all their parts, so there is no going on with fewer.
                Err(error) => {
                    std::eprintln!("thread {index} of {parts} could not be started: {error}");
                    std::process::exit(1);
                }
            }
        })
        .collect();
    let team = Box::leak(Box::new(Team {
        workers,
        turn: AtomicUsize::new(0),
        job: AtomicPtr::new(core::ptr::null_mut()),
        busy: AtomicUsize::new(0),
        asleep: AtomicUsize::new(0),
    }));
    READY.get_or_init(|| team)
}

fn work(team: &Team, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while team.turn.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS {
                core::hint::spin_loop();
                continue;
            }
            team.asleep.fetch_add(1, Ordering::SeqCst);
            // A job that came since then has seen this worker asleep, or is seen here.
            while team.turn.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            team.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        seen = seen.wrapping_add(1);
        let job = team.job.load(Ordering::Relaxed);
        // SAFETY: `run` has stored the job before it changed `turn`, and waits until `busy` says that it is done with.
        unsafe { ((*job).call)((*job).data, index) };
        team.busy.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    #[test]
    fn every_part_runs_once_and_before_the_end() {
        for round in 0..200 {
            let seen = Mutex::new(Vec::new());
            run(3, &|part| {
                if part == round % 3 {
                    std::thread::sleep(Duration::from_micros(round as u64));
                }
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(part);
            });
            let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
            if round % 50 == 0 {
                // Long enough for everybody to fall asleep.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
