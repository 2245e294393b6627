//! Work on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;

/// How many threads or processes are worth starting for so many pieces of work.
pub fn workers(pieces: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(pieces.max(1))
}

/// Does something for each index, on all cores.
pub fn in_parallel(count: usize, work: impl Fn(usize) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
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
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers(count)).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread has failed"))))
    })
}

/// The same, and what comes of it, in the order of the indices.
pub fn gather<T: Send>(count: usize, work: impl Fn(usize) -> anyhow::Result<T> + Sync) -> anyhow::Result<Vec<T>> {
    let found: Vec<Mutex<Option<T>>> = (0..count).map(|_| Mutex::new(None)).collect();
    in_parallel(count, |at| {
        let result = work(at)?;
        *found[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        Ok(())
    })?;
    Ok(found.into_iter().filter_map(|one| one.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        let squares = gather(50, |at| Ok(at * at)).expect("nothing fails");
        assert_eq!(squares, (0..50).map(|at| at * at).collect::<Vec<_>>());
        assert!(gather(3, |at| if at == 1 { Err(anyhow!("one")) } else { Ok(at) }).is_err());
    }

    #[test]
    fn work_that_fails_says_so() {
        let done = AtomicUsize::new(0);
        in_parallel(10, |_| {
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .expect("nothing fails");
        assert_eq!(done.into_inner(), 10);
        assert!(in_parallel(10, |at| if at == 7 { Err(anyhow!("seven")) } else { Ok(()) }).is_err());
    }
}
