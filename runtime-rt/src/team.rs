//! Threads of one device: kernels that are shared out run on all of them at once.
//!
//! A [`Team`] belongs to whoever owns the model, so several models in one process have each their own. Between two kernels
//! a thread spins for a moment, since the next one usually follows at once; then it sleeps.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::vec::Vec;

/// Turns of the waiting loop before a thread goes to sleep: some tens of microseconds. (An interpreter's take longer.)
const SPINS: usize = if cfg!(miri) { 20 } else { 20_000 };

/// What all threads are doing: calls of one function on one value.
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
}

/// What the threads of a team share.
struct Shared {
    parts: usize,
    /// Counts jobs; a worker that sees it change has something to do.
    turn: AtomicUsize,
    job: AtomicPtr<Job>,
    /// Workers that have not finished the job.
    busy: AtomicUsize,
    /// Workers that sleep, or are about to.
    asleep: AtomicUsize,
    /// There will be no more jobs.
    ends: AtomicBool,
    /// Parts of the job that have come to the barrier, and how often all of them have.
    arrived: AtomicUsize,
    round: AtomicUsize,
}

/// `PARTS` threads that run the parts of a job: the one that calls, and others that wait for it.
pub struct Team<const PARTS: usize> {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

thread_local! {
    /// The team whose job this thread works on.
    static CURRENT: Cell<*const Shared> = const { Cell::new(core::ptr::null()) };
}

/// Says which team a thread works for, until it is dropped.
struct Member {
    before: *const Shared,
}

impl Member {
    fn of(shared: &Shared) -> Member {
        Member { before: CURRENT.replace(shared) }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// Waits until all parts of the job that this thread works on have come here. Every part must come, equally often; outside
/// of a job there is nobody to wait for.
pub fn barrier() {
    // SAFETY: whoever sets the pointer keeps the team alive until it has set it back (`Member`).
    let Some(shared) = (unsafe { CURRENT.get().as_ref() }) else { return };
    let round = shared.round.load(Ordering::Relaxed);
    if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.parts {
        shared.arrived.store(0, Ordering::Relaxed);
        shared.round.store(round.wrapping_add(1), Ordering::Release);
        return;
    }
    let mut spins = 0;
    while shared.round.load(Ordering::Acquire) == round {
        wait_a_moment(&mut spins);
    }
}

/// The same for kernels in machine code.
#[unsafe(no_mangle)]
extern "C" fn partita_team_barrier() {
    barrier();
}

/// Spins, and now and then lets others run.
fn wait_a_moment(spins: &mut usize) {
    *spins += 1;
    match *spins % SPINS {
        0 => std::thread::yield_now(),
        _ => core::hint::spin_loop(),
    }
}

/// Ends the process if it is dropped: the other parts of a job that one has left by a panic would wait for it for ever, or
/// go on with what is gone.
struct Unwound;

impl Drop for Unwound {
    fn drop(&mut self) {
        std::eprintln!("a part of a kernel has panicked");
        std::process::abort();
    }
}

impl<const PARTS: usize> Team<PARTS> {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn new() -> std::io::Result<Team<PARTS>> {
        const { assert!(PARTS > 0, "a team has at least the thread that calls") };
        let shared = Arc::new(Shared {
            parts: PARTS,
            turn: AtomicUsize::new(0),
            job: AtomicPtr::new(core::ptr::null_mut()),
            busy: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
        });
        // Those that have been started end with the team if one cannot be.
        let mut team = Team { shared, workers: Vec::with_capacity(PARTS - 1) };
        for index in 1..PARTS {
            let shared = team.shared.clone();
            let builder = std::thread::Builder::new().name(std::format!("part-{index}"));
            team.workers.push(builder.spawn(move || work(&shared, index))?);
        }
        Ok(team)
    }

    /// Calls `part(0)` to `part(PARTS - 1)`, all at the same time, and returns when all have returned. A part that panics
    /// ends the process.
    pub fn run<F: Fn(usize) + Sync>(&mut self, part: &F) {
        unsafe fn call<F: Fn(usize)>(data: *const (), index: usize) {
            // SAFETY: `data` is the closure that `run` was given, and `run` has not returned.
            unsafe { (*data.cast::<F>())(index) }
        }
        let shared = &*self.shared;
        let mut job = Job { call: call::<F>, data: (&raw const *part).cast() };
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.job.store(&raw mut job, Ordering::Relaxed);
        let unwound = Unwound;
        self.announce();
        let member = Member::of(shared);
        part(0);
        drop(member);
        let mut spins = 0;
        // `job` and `part` live until every worker has finished with them; nothing unwinds past them before.
        while shared.busy.load(Ordering::Acquire) > 0 {
            wait_a_moment(&mut spins);
        }
        core::mem::forget(unwound);
    }

    /// Something has changed that every worker should see.
    fn announce(&self) {
        self.shared.turn.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(|worker| worker.thread().unpark());
        }
    }
}

impl<const PARTS: usize> Drop for Team<PARTS> {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.announce();
        for worker in self.workers.drain(..) {
            // A worker that has panicked has ended the process.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    let _member = Member::of(shared);
    loop {
        let mut spins = 0;
        while shared.turn.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS {
                core::hint::spin_loop();
                continue;
            }
            shared.asleep.fetch_add(1, Ordering::SeqCst);
            // A job that came since then has seen this worker asleep, or is seen here.
            while shared.turn.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            shared.asleep.fetch_sub(1, Ordering::SeqCst);
        }
        seen = seen.wrapping_add(1);
        if shared.ends.load(Ordering::Relaxed) {
            return;
        }
        let unwound = Unwound;
        let job = shared.job.load(Ordering::Relaxed);
        // SAFETY: `run` has stored the job before it changed `turn`, and waits until `busy` says that it is done with.
        unsafe { ((*job).call)((*job).data, index) };
        core::mem::forget(unwound);
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    /// The parts that ran.
    fn parts_of<const PARTS: usize>(team: &mut Team<PARTS>) -> Vec<usize> {
        let seen = Mutex::new(Vec::new());
        team.run(&|part| seen.lock().unwrap_or_else(PoisonError::into_inner).push(part));
        let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        seen.sort_unstable();
        seen
    }

    #[test]
    fn every_part_runs_once_and_before_the_end() {
        let mut team = Team::<3>::new().expect("threads can be started");
        let rounds = if cfg!(miri) { 20 } else { 200 };
        for round in 0..rounds {
            let seen = Mutex::new(Vec::new());
            team.run(&|part| {
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

    #[test]
    fn teams_of_several_sizes_live_in_one_process() {
        let (mut two, mut four) = (Team::<2>::new().expect("it starts"), Team::<4>::new().expect("it starts"));
        for _ in 0..5 {
            assert_eq!(parts_of(&mut two), [0, 1]);
            assert_eq!(parts_of(&mut four), [0, 1, 2, 3]);
        }
        drop(two);
        assert_eq!(parts_of(&mut four), [0, 1, 2, 3]);
        let mut one = Team::<1>::new().expect("it starts");
        assert_eq!(parts_of(&mut one), [0]);
    }

    /// Several owners at once, each with its own team, and parts that meet at barriers.
    #[test]
    fn owners_do_not_disturb_each_other() {
        fn phases<const PARTS: usize>() {
            let mut team = Team::<PARTS>::new().expect("it starts");
            for _ in 0..if cfg!(miri) { 2 } else { 50 } {
                let counts: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|_| {
                    for count in &counts {
                        count.fetch_add(1, Ordering::Relaxed);
                        barrier();
                        assert_eq!(count.load(Ordering::Relaxed), PARTS, "a part has not come to the barrier");
                    }
                });
            }
        }
        std::thread::scope(|scope| {
            scope.spawn(phases::<2>);
            scope.spawn(phases::<3>);
            scope.spawn(phases::<2>);
        });
    }

    #[test]
    fn a_part_may_have_a_team_of_its_own() {
        let mut outer = Team::<2>::new().expect("it starts");
        let all = Mutex::new(0);
        outer.run(&|_| {
            let mut inner = Team::<3>::new().expect("it starts");
            inner.run(&|_| barrier());
            *all.lock().unwrap_or_else(PoisonError::into_inner) += parts_of(&mut inner).len();
            // The outer team's again.
            barrier();
        });
        assert_eq!(*all.lock().unwrap_or_else(PoisonError::into_inner), 6);
    }

    #[test]
    fn outside_of_a_job_nobody_is_waited_for() {
        barrier();
        partita_team_barrier();
    }
}
