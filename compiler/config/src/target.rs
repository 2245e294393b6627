//! Targets: kinds of machines, read from `targets/*.toml` (embedded in the compiler) or from a user's own file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};

use super::architecture;
use super::ranges;
use super::rate::Rate;
use partita_ir::diagnostic::{Diagnostic, did_you_mean, did_you_mean_field, parser_words, place, printable};

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
    /// Instructions are executed in the order in which they stand: loads have to be spread between arithmetic.
    #[serde(default)]
    pub in_order: bool,
    /// First-level data cache, 0 if none.
    pub l1_bytes: u64,
    /// Second-level cache, 0 if none.
    pub l2_bytes: u64,
    /// Convolutions may be done by Winograd's algorithm, which takes more memory for weights and rounds more;
    /// never on bare metal.
    #[serde(default, alias = "minimal-filtering")]
    pub winograd: Option<bool>,
    /// Cores that a process may use: what `threads = "all"` of a device means. 1 where nobody said.
    #[serde(default = "one")]
    pub cores: usize,
    /// Threads that share each kernel; cluster.toml may say another number. The rates are those of one.
    #[serde(default = "one")]
    pub threads: usize,
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
    /// The user's own file that it was read from; none for targets that come with the compiler.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// The processor multiplies bytes by fours: `sdot` of AArch64, `vpdpbusd` of AVX-512 VNNI and AVX-VNNI.
    #[serde(default)]
    pub dot_product: bool,
    /// How far ahead weights are fetched that come from memory, in bytes; 0 leaves it to the processor.
    #[serde(default)]
    pub prefetch_bytes: u64,
}

impl Target {
    /// Whether convolutions may be done by Winograd's algorithm.
    pub fn allows_winograd(&self) -> bool {
        self.winograd.unwrap_or(true) && self.system == System::Linux
    }

    /// Most threads that may share a kernel: no more than the cores, where they are known.
    pub fn most_threads(&self) -> usize {
        match self.system {
            System::CortexM => 1,
            // Who tries this machine may have more than it has cores.
            System::Linux if self.cores > 1 && self.triple != "host" => self.cores.min(MOST_CORES),
            System::Linux => MOST_CORES,
        }
    }

    /// Whether memory is so scarce that whole numbers are kept in as few bytes as hold them, though they are computed with as
    /// `f32`.
    pub fn stores_narrow(&self) -> bool {
        self.system != System::Linux
    }

    /// Whether kernels multiply activations and weights of 8 bits as they are stored, and activations are kept so for them.
    pub fn multiplies_stored_bytes(&self) -> bool {
        self.instruction_set == InstructionSet::Neon || self.dot_product && self.instruction_set.may_multiply_bytes()
    }
}

fn one() -> usize {
    1
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
    /// NEON of ARMv7, 4 lanes in pairs of 64-bit registers, Rust source.
    Neon32,
    /// Portable: 4 lanes held in scalars, Rust source (Cortex-M, ARMv7 without NEON).
    Scalar,
}

impl InstructionSet {
    /// As target files spell it.
    pub fn name(self) -> &'static str {
        match self {
            InstructionSet::Avx512 => "avx512",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Sse2 => "sse2",
            InstructionSet::Neon => "neon",
            InstructionSet::Neon32 => "neon32",
            InstructionSet::Scalar => "scalar",
        }
    }

    /// Elements of a vector.
    pub fn lanes(self) -> u32 {
        match self {
            InstructionSet::Avx512 => 16,
            InstructionSet::Avx2 => 8,
            InstructionSet::Sse2 | InstructionSet::Neon | InstructionSet::Neon32 | InstructionSet::Scalar => 4,
        }
    }

    /// Whether one element of a register can be multiplied into a vector for free (`fmla`, `vmla` by element), so that a tile
    /// should load activations as vectors; otherwise it broadcasts them from memory.
    pub fn multiplies_by_lane(self) -> bool {
        matches!(self, InstructionSet::Neon | InstructionSet::Neon32)
    }

    /// Whether some processors with it multiply bytes by fours.
    pub fn may_multiply_bytes(self) -> bool {
        matches!(self, InstructionSet::Avx512 | InstructionSet::Avx2 | InstructionSet::Neon)
    }

    /// Whether a product and a sum are one instruction that rounds once.
    pub fn rounds_multiply_add_once(self) -> bool {
        matches!(self, InstructionSet::Avx512 | InstructionSet::Avx2 | InstructionSet::Neon)
    }
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
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all(deserialize = "kebab-case"))]
pub struct MemoryMap {
    /// First byte of code memory.
    pub flash_origin: u64,
    /// First byte of RAM.
    pub ram_origin: u64,
    /// Bytes of RAM kept for the stack.
    pub stack_bytes: u64,
    /// Base addresses of CMSDK UARTs of the board the generated firmware runs on; the first is the console.
    pub uart_base: Vec<u64>,
    /// Clock of the UARTs, which their dividers divide.
    #[serde(default = "board_hz")]
    pub uart_hz: f64,
    /// Clock of the core on that board, which its system timer counts.
    #[serde(default = "board_hz")]
    pub core_hz: f64,
}

/// Both clocks of most of Arm's FPGA images.
fn board_hz() -> f64 {
    25e6
}

/// Least divider of a CMSDK UART.
pub const LEAST_DIVIDER: u32 = 16;

impl MemoryMap {
    /// Fastest that a UART of the board can be set to, in bits per second.
    pub fn most_baud(&self) -> f64 {
        self.uart_hz / f64::from(LEAST_DIVIDER)
    }

    /// The divider for so many bits per second.
    pub fn divider(&self, baud: u32) -> u32 {
        ((self.uart_hz / f64::from(baud.max(1))).round() as u32).max(LEAST_DIVIDER)
    }
}

/// Memory that boards of QEMU have from an address on: machine, first byte, bytes.
const BOARD_MEMORY: &[(&str, u64, u64)] = &[
    ("mps2-an385", 0x0000_0000, 4 << 20),
    ("mps2-an385", 0x2000_0000, 4 << 20),
    ("mps2-an386", 0x0000_0000, 4 << 20),
    ("mps2-an386", 0x2000_0000, 4 << 20),
    ("mps2-an500", 0x0000_0000, 4 << 20),
    ("mps2-an500", 0x2000_0000, 4 << 20),
    ("mps2-an511", 0x0000_0000, 4 << 20),
    ("mps2-an511", 0x2000_0000, 4 << 20),
    ("mps2-an505", 0x1000_0000, 4 << 20),
    ("mps2-an505", 0x3800_0000, 4 << 20),
    ("mps2-an521", 0x1000_0000, 4 << 20),
    ("mps2-an521", 0x3800_0000, 4 << 20),
    ("mps3-an547", 0x1000_0000, 512 << 10),
    ("mps3-an547", 0x1100_0000, 2 << 20),
    ("mps3-an547", 0x3100_0000, 4 << 20),
];

/// What a target claims beyond the memory of the board that its emulator is, if it does: programs would hang there.
fn beyond_the_board(target: &Target) -> Option<String> {
    let (map, emulator) = (target.memory_map.as_ref()?, target.emulator.as_ref()?);
    let machine = emulator.command.windows(2).find(|pair| ["-M", "-machine"].contains(&pair[0].as_str()))?;
    let claims =
        [("flash-bytes", map.flash_origin, target.flash_bytes), ("ram-bytes", map.ram_origin, target.ram_bytes)];
    claims.into_iter().find_map(|(key, origin, claimed)| {
        let (_, _, bytes) = BOARD_MEMORY.iter().find(|(name, first, _)| *name == machine[1] && *first == origin)?;
        (claimed > *bytes).then(|| {
            format!("`{key}` is {claimed}, but the emulated board {} has {bytes} bytes at {origin:#010x}", machine[1])
        })
    })
}

static TARGETS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/targets");

/// A target by name, or by the path of a file of the user's (relative to `folder`).
pub fn load(name: &str, folder: &Path) -> Result<Target, Diagnostic> {
    if let Some(file) = TARGETS.get_file(format!("{name}.toml")) {
        let text = file.contents_utf8().unwrap_or_default();
        let target = parse(text, name)?;
        return Ok(if name == "host" { on_this_machine(target) } else { target });
    }
    if name.ends_with(".toml") || name.contains('/') {
        let path = folder.join(name);
        let text = partita_files::file::read_text(&path)
            .map_err(|problem| Diagnostic::new("E0168", format!("target `{}` {problem}", printable(name))))?;
        return Ok(Target { file: Some(path), ..parse(&text, name)? });
    }
    let mut known = names();
    known.sort_unstable();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Err(Diagnostic::new("E0168", format!("there is no target `{}`", printable(name)))
        .help(format!("{}; or give the path of a file of your own", did_you_mean(name, "targets", &known))))
}

/// Names of the targets that come with the compiler.
pub fn names() -> Vec<String> {
    TARGETS.files().filter_map(|file| Some(file.path().file_stem()?.to_string_lossy().into_owned())).collect()
}

/// Longest name, and longest description.
const MAX_NAME: usize = 40;
const MAX_DESCRIPTION: usize = 300;

fn parse(text: &str, name: &str) -> Result<Target, Diagnostic> {
    let shown = printable(name);
    let refuse = |problem: &str| Diagnostic::new("E0168", format!("target `{shown}`: {problem}"));
    let target: Target = toml::from_str(text).map_err(|error| {
        let mut diagnostic = refuse(&parser_words(error.message()));
        diagnostic.help = did_you_mean_field(error.message());
        match error.span() {
            Some(span) => diagnostic.note(place(text, &shown, span)),
            None => diagnostic,
        }
    })?;
    if let Some((key, problem)) = problem(&target) {
        let diagnostic = refuse(&problem);
        return Err(match key_span(text, key) {
            Some(span) => diagnostic.note(place(text, &shown, span)),
            None => diagnostic,
        });
    }
    match beyond_the_board(&target) {
        Some(problem) => {
            Err(refuse(&problem).help("claim what the board has, or give the firmware a memory map of another board"))
        }
        None => Ok(target),
    }
}

/// Most cores and threads that are used.
const MOST_CORES: usize = 64;

/// Numbers of a target and what they may be.
fn figures(target: &Target) -> Vec<(&'static str, f64, ranges::Range)> {
    let (rate, energy) = (&target.rate, &target.energy);
    let mut figures = vec![
        ("clock-hz", target.clock_hz, ranges::CLOCK),
        ("ram-bytes", target.ram_bytes as f64, ranges::MEMORY),
        ("flash-bytes", target.flash_bytes as f64, ranges::MEMORY),
        ("l1-bytes", target.l1_bytes as f64, ranges::CACHE),
        ("l2-bytes", target.l2_bytes as f64, ranges::CACHE),
        ("rate.conv-macs-per-second", rate.conv_macs_per_second, ranges::MACS_RATE),
        ("rate.depthwise-macs-per-second", rate.depthwise_macs_per_second, ranges::MACS_RATE),
        ("rate.result-per-second", rate.result_per_second, ranges::ELEMENT_RATE),
        ("rate.element-per-second", rate.element_per_second, ranges::ELEMENT_RATE),
        ("rate.memory-bytes-per-second", rate.memory_bytes_per_second, ranges::MEMORY_RATE),
        ("rate.message-microseconds", rate.message_microseconds, ranges::MESSAGE_COST),
        ("rate.link-bytes-per-second", rate.link_bytes_per_second, ranges::LINK_RATE),
        ("rate.thread-gain", rate.thread_gain, ranges::THREAD_GAIN),
        ("rate.thread-memory-gain", rate.thread_memory_gain, ranges::THREAD_GAIN),
        ("energy.picojoule-per-mac", energy.picojoule_per_mac, ranges::PICOJOULE),
        ("energy.picojoule-per-byte", energy.picojoule_per_byte, ranges::PICOJOULE),
        ("energy.link-nanojoule-per-byte", energy.link_nanojoule_per_byte, ranges::NANOJOULE),
        ("energy.idle-watt", energy.idle_watt, ranges::IDLE),
    ];
    if let Some(map) = &target.memory_map {
        figures.push(("memory-map.uart-hz", map.uart_hz, ranges::BOARD_CLOCK));
        figures.push(("memory-map.core-hz", map.core_hz, ranges::BOARD_CLOCK));
    }
    figures
}

/// Where a key stands in a target file; one of a table as `table.key`.
fn key_span(text: &str, key: &str) -> Option<Range<usize>> {
    let (table, key) = key.split_once('.').unwrap_or(("", key));
    let (mut start, mut of) = (0, "");
    for line in text.split_inclusive('\n') {
        let plain = line.trim_start();
        if let Some(head) = plain.strip_prefix('[') {
            of = head.split(']').next().unwrap_or_default().trim();
        }
        if of == table && plain.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')) {
            let first = start + line.len() - plain.len();
            return Some(first..first + key.len());
        }
        start += line.len();
    }
    None
}

/// What is wrong with a target, if anything, and which key is.
fn problem(target: &Target) -> Option<(&'static str, String)> {
    let plain = |text: &str, further: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || further.contains(c));
    let firmware = target.system == System::CortexM;
    if let Some((key, problem)) =
        figures(target).into_iter().find_map(|(key, value, range)| Some((key, range.check(value).err()?)))
    {
        return Some((key, format!("`{key}` {problem}")));
    }
    let name_is_plain = (1..=MAX_NAME).contains(&target.name.len())
        && plain(&target.name, "-_.")
        && target.name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let most_threads = target.most_threads();
    let problem = if !name_is_plain {
        let name = printable(&target.name);
        let most = format!("use up to {MAX_NAME} letters, digits, `-`, `_` and `.`");
        ("name", format!("`{name}` is not a name for a target: {most}"))
    } else if target.description.chars().count() > MAX_DESCRIPTION || target.description.contains(char::is_control) {
        ("description", format!("`description` should be one line of at most {MAX_DESCRIPTION} characters"))
    } else if target.triple != "host" && fastest_rate(target) > most_macs_per_second(target) {
        ("clock-hz", "a rate of multiply-adds is above two per lane and cycle of `clock-hz`".to_string())
    } else if !(8..=32).contains(&target.vector_registers) {
        ("vector-registers", "`vector-registers` should be 8 to 32".to_string())
    } else if !(1..=MOST_CORES).contains(&target.cores) {
        ("cores", format!("`cores` should be 1 to {MOST_CORES}"))
    } else if !(1..=most_threads).contains(&target.threads) {
        let whose = if firmware { "firmware has" } else { "the target has as many `cores`:" };
        ("threads", format!("`threads` is {}; {whose} {most_threads}", target.threads))
    } else if firmware && target.winograd == Some(true) {
        ("winograd", "`winograd` takes too much memory for firmware, which never does it".to_string())
    } else if target.dot_product && !target.instruction_set.may_multiply_bytes() {
        ("dot-product", "`dot-product` is an extension of `neon`, `avx512` and `avx2`".to_string())
    } else if target.prefetch_bytes > 1 << 20 {
        ("prefetch-bytes", "`prefetch-bytes` should be at most 1048576".to_string())
    } else if !plain(&target.triple, "-_.+") || target.triple.is_empty() {
        ("triple", "`triple` should be a plain name".to_string())
    } else if !plain(&target.cpu, "-_.+,=") {
        ("cpu", "`cpu` should be a plain name".to_string())
    } else if let Some(mismatch) = architecture::mismatch(&target.triple, target.instruction_set, target.system) {
        ("triple", mismatch.to_string())
    } else if target.emulator.as_ref().is_some_and(|emulator| emulator.command.is_empty()) {
        ("emulator.command", "`emulator.command` should name a program".to_string())
    } else {
        return match &target.memory_map {
            None if firmware => Some(("system", "a cortex-m target needs a [memory-map]".to_string())),
            Some(_) if !firmware => Some(("system", "only a cortex-m target has a [memory-map]".to_string())),
            Some(map) => memory_map_problem(map, target).map(|(key, problem)| (key, problem.to_string())),
            None => None,
        };
    };
    Some(problem)
}

/// The greater of both rates of multiply-adds.
fn fastest_rate(target: &Target) -> f64 {
    target.rate.conv_macs_per_second.max(target.rate.depthwise_macs_per_second)
}

/// Two fused multiply-adds of every lane in each cycle: no core of these instruction sets does more.
fn most_macs_per_second(target: &Target) -> f64 {
    target.clock_hz * f64::from(target.instruction_set.lanes()) * 2.0
}

/// What is wrong with a memory map, if anything: all of it lies in 32-bit addresses.
fn memory_map_problem(map: &MemoryMap, target: &Target) -> Option<(&'static str, &'static str)> {
    let fits = |origin: u64, bytes: u64| origin.checked_add(bytes).is_some_and(|end| end <= 1 << 32);
    if !fits(map.flash_origin, target.flash_bytes) {
        Some(("memory-map.flash-origin", "[memory-map]: flash should end within 32-bit addresses"))
    } else if !fits(map.ram_origin, target.ram_bytes) {
        Some(("memory-map.ram-origin", "[memory-map]: RAM should end within 32-bit addresses"))
    } else if map.flash_origin < map.ram_origin + target.ram_bytes
        && map.ram_origin < map.flash_origin + target.flash_bytes
    {
        Some(("memory-map.ram-origin", "[memory-map]: flash and RAM should not overlap"))
    } else if map.stack_bytes >= target.ram_bytes {
        Some(("memory-map.stack-bytes", "[memory-map]: `stack-bytes` should be less than `ram-bytes`"))
    } else if map.uart_base.is_empty() || map.uart_base.iter().any(|base| *base >= 1 << 32) {
        let what = "[memory-map]: `uart-base` should list the addresses of UARTs, the console's first";
        Some(("memory-map.uart-base", what))
    } else {
        None
    }
}

/// Fills in what depends on the machine that compiles: cores and the instruction set.
fn on_this_machine(mut target: Target) -> Target {
    target.cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_CORES));
    #[cfg(target_arch = "x86_64")]
    {
        (target.instruction_set, target.vector_registers) = if std::is_x86_feature_detected!("avx512f") {
            (InstructionSet::Avx512, 32)
        } else if std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c")
        {
            (InstructionSet::Avx2, 16)
        } else {
            (InstructionSet::Sse2, 16)
        };
        target.dot_product = match target.instruction_set {
            InstructionSet::Avx512 => std::is_x86_feature_detected!("avx512vnni"),
            InstructionSet::Avx2 => std::is_x86_feature_detected!("avxvnni"),
            _ => false,
        };
    }
    #[cfg(target_arch = "aarch64")]
    {
        (target.instruction_set, target.vector_registers) = (InstructionSet::Neon, 32);
        target.dot_product = std::arch::is_aarch64_feature_detected!("dotprod");
    }
    target
}
