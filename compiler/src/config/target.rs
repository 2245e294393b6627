//! Targets: kinds of machines, read from `targets/*.toml` (embedded in the compiler) or from a user's own file.

use serde::Deserialize;

/// What code a target gets and what it runs on.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Target {
    /// Name, as cluster.toml uses it.
    pub name: String,
    /// What it is, in words.
    pub description: String,
    /// Rust target triple, or `host` for the machine the compiler runs on.
    pub triple: String,
    /// `-C target-cpu`; empty for the triple's default.
    #[serde(default)]
    pub cpu: String,
    /// Linux process or bare-metal firmware.
    pub system: System,
    /// How kernels are spelled.
    pub instruction_set: InstructionSet,
    /// Vector registers that a kernel may use for one tile.
    pub vector_registers: u32,
    /// First-level data cache, 0 if none.
    pub l1_bytes: u64,
    /// Second-level cache, 0 if none.
    pub l2_bytes: u64,
    /// Core clock.
    pub clock_hz: f64,
    /// Memory for the arena, stack and message buffers.
    pub ram_bytes: u64,
    /// Memory for code and weights.
    pub flash_bytes: u64,
    /// Rates for the cost model.
    pub rate: Rate,
    /// Energy for the cost model.
    pub energy: Energy,
    /// How to run its programs on another machine.
    #[serde(default)]
    pub emulator: Option<Emulator>,
    /// Memory map of bare-metal targets.
    #[serde(default)]
    pub memory_map: Option<MemoryMap>,
}

/// Operating environment.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// A Linux process with sockets.
    Linux,
    /// cortex-m-rt firmware with UARTs.
    CortexM,
}

/// Spelling of vector kernels.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum InstructionSet {
    /// x86-64 with AVX-512F, 16 lanes, Rust source.
    Avx512,
    /// x86-64 with AVX2 and FMA, 8 lanes, Rust source.
    Avx2,
    /// x86-64 baseline, 4 lanes, Rust source.
    Sse2,
    /// AArch64 Advanced SIMD, 4 lanes, Cranelift object.
    Neon,
    /// Portable: 4 lanes held in scalars, Rust source (Cortex-M, ARMv7).
    Scalar,
}

impl InstructionSet {
    /// Elements of a vector.
    pub fn lanes(self) -> u32 {
        match self {
            InstructionSet::Avx512 => 16,
            InstructionSet::Avx2 => 8,
            InstructionSet::Sse2 | InstructionSet::Neon | InstructionSet::Scalar => 4,
        }
    }

    /// Whether one element of a register can be multiplied into a vector for free (`fmla` by element), so that a tile
    /// should load activations as vectors; otherwise it broadcasts them from memory.
    pub fn multiplies_by_lane(self) -> bool {
        self == InstructionSet::Neon
    }
}

/// Sustained rates of one core.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rate {
    /// Multiply-adds per second of dense convolutions and matrix products.
    pub conv_macs_per_second: f64,
    /// Multiply-adds per second of depthwise convolutions.
    pub depthwise_macs_per_second: f64,
    /// Elements per second of portable reference kernels.
    pub element_per_second: f64,
    /// Streaming reads from main memory.
    pub memory_bytes_per_second: f64,
}

/// Energy of elementary actions.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Energy {
    /// Per multiply-add.
    pub picojoule_per_mac: f64,
    /// Per byte moved from main memory.
    pub picojoule_per_byte: f64,
    /// Drawn while on and idle.
    pub idle_watt: f64,
    /// Per byte sent or received over a link.
    pub link_nanojoule_per_byte: f64,
}

/// How to run a program of this target elsewhere.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Emulator {
    /// Program and arguments; the path of the binary is appended. For bare metal the serial ports are added too.
    pub command: Vec<String>,
}

/// Where a bare-metal program lies.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MemoryMap {
    /// First byte of code memory.
    pub flash_origin: u64,
    /// First byte of RAM.
    pub ram_origin: u64,
    /// Bytes of RAM kept for the stack.
    pub stack_bytes: u64,
    /// Base addresses of CMSDK UARTs of the board the generated firmware runs on; the first is the console.
    pub uart_base: Vec<u64>,
}
