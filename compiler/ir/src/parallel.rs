//! Work on all cores.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Stack of a thread: as much as a program's first one has.
const STACK_BYTES: usize = 8 << 20;

/// How many threads or processes are worth starting for so many pieces of work.
pub fn workers(pieces: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(pieces.max(1))
}

/// Does something for each index, on all cores; ends early where that fails.
pub fn in_parallel<E: Send>(count: usize, work: impl Fn(usize) -> Result<(), E> + Sync) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(());
            }
            work(at)?;
        }
    };
    if workers(count) == 1 {
        return run();
    }
    std::thread::scope(|scope| {
        let start = || std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
        let threads: Vec<_> = (0..workers(count)).map(|_| start()).collect();
        // Where the system has no more threads, this one works.
        let own = if threads.iter().any(Result::is_err) { run() } else { Ok(()) };
        let joined =
            threads.into_iter().flatten().map(|thread| thread.join().unwrap_or_else(|cause| resume_unwind(cause)));
        joined.fold(own, Result::and)
    })
}

/// The same, and what comes of it, in the order of the indices.
pub fn gather<T: Send, E: Send>(count: usize, work: impl Fn(usize) -> Result<T, E> + Sync) -> Result<Vec<T>, E> {
    let found: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    in_parallel(count, |at| {
        let result = work(at)?;
        *found[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        Ok(())
    })?;
    Ok(found.into_iter().filter_map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

/// The same for what cannot fail, or for which it matters what fails first.
pub fn map<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    match gather(count, |at| Ok::<T, std::convert::Infallible>(work(at))) {
        Ok(found) => found,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Words = Result<(), &'static str>;

    #[test]
    fn results_come_in_order() {
        assert_eq!(map(50, |at| at * at), (0..50).map(|at| at * at).collect::<Vec<_>>());
        assert!(gather(3, |at| if at == 1 { Err("one") } else { Ok(at) }).is_err());
    }

    #[test]
    fn work_that_fails_says_so() {
        let done = AtomicUsize::new(0);
        let count = |_| -> Words {
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        in_parallel(10, count).expect("nothing fails");
        assert_eq!(done.into_inner(), 10);
        assert!(in_parallel(10, |at| if at == 7 { Err("seven") } else { Ok(()) }).is_err());
    }
}
