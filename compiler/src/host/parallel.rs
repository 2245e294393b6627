//! Work on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};

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

#[cfg(test)]
mod tests {
    use super::*;

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
