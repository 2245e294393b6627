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
                "vxorps xmm0, xmm0, xmm0",
                "vxorps xmm1, xmm1, xmm1",
                "vxorps xmm2, xmm2, xmm2",
                "vxorps xmm3, xmm3, xmm3",
                "vxorps xmm4, xmm4, xmm4",
                "vxorps xmm5, xmm5, xmm5",
                "vxorps xmm6, xmm6, xmm6",
                "vxorps xmm7, xmm7, xmm7",
                "vxorps xmm8, xmm8, xmm8",
                "vxorps xmm9, xmm9, xmm9",
                "vxorps xmm10, xmm10, xmm10",
                "vxorps xmm11, xmm11, xmm11",
                "vxorps xmm12, xmm12, xmm12",
                "vxorps xmm13, xmm13, xmm13",
                "vxorps xmm14, xmm14, xmm14",
                "vxorps xmm15, xmm15, xmm15",
                "vpxord zmm16, zmm16, zmm16",
                "vpxord zmm17, zmm17, zmm17",
                "vpxord zmm18, zmm18, zmm18",
                "vpxord zmm19, zmm19, zmm19",
                "vpxord zmm30, zmm30, zmm30",
                "vpxord zmm31, zmm31, zmm31",
                "2:",
                "vfmadd213ps zmm0, zmm30, zmm31",
                "vfmadd213ps zmm1, zmm30, zmm31",
                "vfmadd213ps zmm2, zmm30, zmm31",
                "vfmadd213ps zmm3, zmm30, zmm31",
                "vfmadd213ps zmm4, zmm30, zmm31",
                "vfmadd213ps zmm5, zmm30, zmm31",
                "vfmadd213ps zmm6, zmm30, zmm31",
                "vfmadd213ps zmm7, zmm30, zmm31",
                "vfmadd213ps zmm8, zmm30, zmm31",
                "vfmadd213ps zmm9, zmm30, zmm31",
                "vfmadd213ps zmm10, zmm30, zmm31",
                "vfmadd213ps zmm11, zmm30, zmm31",
                "vfmadd213ps zmm12, zmm30, zmm31",
                "vfmadd213ps zmm13, zmm30, zmm31",
                "vfmadd213ps zmm14, zmm30, zmm31",
                "vfmadd213ps zmm15, zmm30, zmm31",
                "vfmadd213ps zmm16, zmm30, zmm31",
                "vfmadd213ps zmm17, zmm30, zmm31",
                "vfmadd213ps zmm18, zmm30, zmm31",
                "vfmadd213ps zmm19, zmm30, zmm31",
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
                "vxorps xmm0, xmm0, xmm0",
                "vxorps xmm1, xmm1, xmm1",
                "vxorps xmm2, xmm2, xmm2",
                "vxorps xmm3, xmm3, xmm3",
                "vxorps xmm4, xmm4, xmm4",
                "vxorps xmm5, xmm5, xmm5",
                "vxorps xmm6, xmm6, xmm6",
                "vxorps xmm7, xmm7, xmm7",
                "vxorps xmm8, xmm8, xmm8",
                "vxorps xmm9, xmm9, xmm9",
                "vxorps xmm10, xmm10, xmm10",
                "vxorps xmm11, xmm11, xmm11",
                "vxorps xmm14, xmm14, xmm14",
                "vxorps xmm15, xmm15, xmm15",
                "2:",
                "vfmadd213ps ymm0, ymm14, ymm15",
                "vfmadd213ps ymm1, ymm14, ymm15",
                "vfmadd213ps ymm2, ymm14, ymm15",
                "vfmadd213ps ymm3, ymm14, ymm15",
                "vfmadd213ps ymm4, ymm14, ymm15",
                "vfmadd213ps ymm5, ymm14, ymm15",
                "vfmadd213ps ymm6, ymm14, ymm15",
                "vfmadd213ps ymm7, ymm14, ymm15",
                "vfmadd213ps ymm8, ymm14, ymm15",
                "vfmadd213ps ymm9, ymm14, ymm15",
                "vfmadd213ps ymm10, ymm14, ymm15",
                "vfmadd213ps ymm11, ymm14, ymm15",
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
