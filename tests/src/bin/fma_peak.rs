//! `fma_peak THREADS`: what the processor's widest fused multiply-add reaches, in GFLOP/s, on so many threads.

use std::hint::black_box;
use std::time::Instant;

const TURNS: usize = 4_000_000;

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::TURNS;
    use std::arch::asm;

    /// Floating-point operations that were done.
    pub fn run() -> usize {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512.
            unsafe { avx512() };
            return TURNS * 20 * 32;
        }
        if is_x86_feature_detected!("fma") {
            // SAFETY: the processor has FMA.
            unsafe { avx2() };
            return TURNS * 12 * 16;
        }
        super::plain()
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn avx512() {
        // SAFETY: only registers change, and all of them are named.
        unsafe {
            asm!(
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,30,31",
                "vpxord zmm\\n, zmm\\n, zmm\\n",
                ".endr",
                "2:",
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19",
                "vfmadd213ps zmm\\n, zmm30, zmm31",
                ".endr",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm30") _, out("zmm31") _,
                options(nomem, nostack),
            );
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2() {
        // SAFETY: only registers change, and all of them are named.
        unsafe {
            asm!(
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,14,15",
                "vxorps ymm\\n, ymm\\n, ymm\\n",
                ".endr",
                "2:",
                ".irp n,0,1,2,3,4,5,6,7,8,9,10,11",
                "vfmadd213ps ymm\\n, ymm14, ymm15",
                ".endr",
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm14") _, out("ymm15") _,
                options(nomem, nostack),
            );
        }
    }
}

/// What the compiler makes of plain arithmetic.
fn plain() -> usize {
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    let mut sums = [1.0f32; 64];
    for _ in 0..TURNS {
        for sum in &mut sums {
            *sum = *sum * a + b;
        }
    }
    black_box(sums);
    TURNS * sums.len() * 2
}

#[cfg(not(target_arch = "x86_64"))]
mod wide {
    pub use super::plain as run;
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1);
    let once = || -> f64 {
        let begin = Instant::now();
        let operations = wide::run();
        operations as f64 / begin.elapsed().as_secs_f64() / 1e9
    };
    let best = (0..5)
        .map(|_| {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..threads).map(|_| scope.spawn(once)).collect();
                all.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum::<f64>()
            })
        })
        .fold(0.0, f64::max);
    println!("{best:.1}");
}
