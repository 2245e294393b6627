//! Emitted kernels, compiled and run, against the interpreter of the kernel IR: Rust source for every instruction set
//! that this machine has, and AArch64 machine code under QEMU.

mod cases;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use cases::{Case, Share, cases};
use partita::config::{InstructionSet, Settings, Target, target};
use partita::emit::{archive, object, rust_source};
use partita::graph::ElementType;
use partita::kernel::lower::Machine;
use partita::kernel::{Access, Kernel};
use partita_tests::command::{require, succeed};
use partita_tests::place::is_long;

/// Numbers as kernels that read fewer bytes want them; the test's are whole, or have few bits. What is written comes back.
const NARROW: &str = "
unsafe fn test_i8(from: *const f32, count: usize) -> *mut i8 {
    // SAFETY: the buffer has so many elements.
    let all: Vec<i8> = (0..count).map(|index| unsafe { *from.add(index) as i8 }).collect();
    all.leak().as_mut_ptr()
}
unsafe fn test_u8(from: *const f32, count: usize) -> *mut u8 {
    // SAFETY: the buffer has so many elements.
    let all: Vec<u8> = (0..count).map(|index| unsafe { *from.add(index) as u8 }).collect();
    all.leak().as_mut_ptr()
}
unsafe fn test_i16(from: *const f32, count: usize) -> *mut i16 {
    // SAFETY: the buffer has so many elements.
    let all: Vec<i16> = (0..count).map(|index| unsafe { *from.add(index) as i16 }).collect();
    all.leak().as_mut_ptr()
}
unsafe fn test_back<T: Copy + Into<f32>>(from: *mut T, to: *mut f32, count: usize) {
    // SAFETY: both have so many elements.
    (0..count).for_each(|index| unsafe { *to.add(index) = (*from.add(index)).into() });
}
unsafe fn test_half(from: *const f32, count: usize) -> *const u16 {
    let short = |x: f32| {
        let bits = (x.abs() * f32::from_bits(0x0780_0000)).to_bits();
        (bits >> 13) as u16 | if x.is_sign_negative() { 0x8000 } else { 0 }
    };
    // SAFETY: the buffer has so many elements.
    let all: Vec<u16> = (0..count).map(|index| unsafe { short(*from.add(index)) }).collect();
    all.leak().as_ptr()
}
";

/// The program that runs every kernel: reads all buffers from its first argument, writes them to the second.
fn driver(cases: &[Case], prefix: &str) -> String {
    let mut text = String::from(NARROW);
    text.push_str("fn main() {\n    let arguments: Vec<String> = std::env::args().collect();\n");
    text.push_str("    let bytes = std::fs::read(&arguments[1]).unwrap();\n");
    text.push_str("    let mut all: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();\n");
    text.push_str("    let mut at = all.as_mut_ptr();\n");
    for case in cases {
        let mut offset = 0;
        let mut arguments = Vec::new();
        let mut back = String::new();
        for buffer in &case.kernel.buffers {
            let cast = if matches!(buffer.access, Access::Output | Access::Scratch) { "" } else { ".cast_const()" };
            arguments.push(match buffer.storage {
                _ if buffer.access == Access::Scratch => format!("at.add({offset})"),
                ElementType::F16 => format!("test_half(at.add({offset}), {})", buffer.elements),
                ElementType::F32 => format!("at.add({offset}){cast}"),
                narrow if buffer.access == Access::Output => {
                    let elements = buffer.elements;
                    let _ = writeln!(
                        text,
                        "    let narrow = unsafe {{ test_{}(at.add({offset}), {elements}) }};",
                        narrow.name()
                    );
                    back = format!(" test_back(narrow, at.add({offset}), {elements});");
                    "narrow".to_string()
                }
                narrow => format!("test_{}(at.add({offset}), {})", narrow.name(), buffer.elements),
            });
            offset += buffer.elements;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "    unsafe {{ {prefix}{}({});{back} at = at.add({offset}); }}",
            case.kernel.name,
            arguments.join(", ")
        );
    }
    text.push_str("    let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();\n");
    text.push_str("    let _ = at;\n    std::fs::write(&arguments[2], bytes).unwrap();\n}\n");
    text
}

/// Runs a compiled driver and compares every buffer.
fn check(cases: &[Case], mut command: Command, folder: &Path, label: &str) {
    let bytes = |buffers: &dyn Fn(&Case) -> Vec<Vec<f32>>| -> Vec<u8> {
        cases.iter().flat_map(buffers).flatten().flat_map(f32::to_le_bytes).collect()
    };
    let (input, output) = (folder.join("input"), folder.join("output"));
    fs::write(&input, bytes(&|case| case.before.clone())).expect("the folder can be written");
    succeed(command.arg(&input).arg(&output));
    let found = fs::read(&output).expect("the driver wrote its buffers");
    let mut found = found.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
    for case in cases {
        for (declared, expected) in case.kernel.buffers.iter().zip(&case.after) {
            let finite = expected.iter().filter(|x| x.is_finite());
            let scale = finite.fold(1e-3f32, |scale, x| scale.max(x.abs()));
            for (index, expected) in expected.iter().enumerate() {
                let found = found.next().expect("as many elements as were written");
                let difference = (found - expected).abs();
                // The interpreter has a number for every byte of scratch memory.
                let is_bytes = declared.access == Access::Scratch && declared.storage == ElementType::I8;
                let same = match expected {
                    expected if expected.is_nan() => found.is_nan(),
                    expected if expected.is_infinite() => found == *expected,
                    expected => found == *expected || difference <= 1e-5 * scale,
                };
                assert!(
                    is_bytes || same,
                    "{label}: {}[{index}] is {found}, expected {expected}\n{}",
                    declared.name,
                    case.kernel.name
                );
            }
        }
    }
}

fn machine(instruction_set: InstructionSet, registers: u32) -> Machine {
    // The smallest of matrices come from memory, so that they are fetched early.
    Machine { l1_bytes: 64, l2_bytes: 64, prefetch_bytes: 256, ..Machine::spelled(instruction_set, registers) }
}

/// A program with all kernels.
fn source_of(cases: &[Case], instruction_set: InstructionSet) -> String {
    let mut source = rust_source::prelude(instruction_set).expect("there is a prelude");
    for case in cases {
        let kernel = rust_source::render(&case.kernel, instruction_set).expect("the kernel is rendered");
        // All of them in one `main` would take as long again to optimise.
        source.push_str(&kernel.replacen("pub unsafe fn", "#[inline(never)]\npub unsafe fn", 1));
    }
    source.push_str("mod partita_rt { pub fn square_root(x: f32) -> f32 { x.sqrt() } }\n");
    source.push_str(&driver(cases, ""));
    source
}

/// The Rust compiler. What it makes of kernels is the same whatever it takes time for, which is much for so many of them:
/// only with `PARTITA_LONG=1` all that bundles ask for.
fn rustc() -> Command {
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-C", if is_long() { "opt-level=3" } else { "opt-level=1" }]);
    rustc
}

fn check_rust(instruction_set: InstructionSet, registers: u32, share: Share) {
    let cases = cases(&machine(instruction_set, registers), share);
    assert!(cases.len() > 30, "only {} kernels for {instruction_set:?}", cases.len());
    let source = source_of(&cases, instruction_set);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, binary) = (folder.path().join("kernels.rs"), folder.path().join("kernels"));
    fs::write(&path, source).expect("the folder can be written");
    succeed(rustc().arg("-o").arg(&binary).arg(&path));
    check(&cases, Command::new(&binary), folder.path(), &format!("{instruction_set:?}"));
}

#[test]
fn rust_kernels_in_scalar_registers() {
    check_rust(InstructionSet::Scalar, 8, Share::Half(0));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rust_kernels_for_sse2() {
    check_rust(InstructionSet::Sse2, 16, Share::Half(1));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rust_kernels_for_avx2() {
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        check_rust(InstructionSet::Avx2, 16, Share::All);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn rust_kernels_for_avx512() {
    if std::is_x86_feature_detected!("avx512f") {
        check_rust(InstructionSet::Avx512, 32, Share::All);
    }
}

#[test]
fn rust_kernels_for_neon_of_armv7() {
    require("qemu-arm");
    let board: Target = target::load("armv7", Path::new(".")).expect("the target is built in");
    let cases = cases(&Machine::of(&board, &Settings::default()), Share::Half(1));
    let source = source_of(&cases, board.instruction_set);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, binary) = (folder.path().join("kernels.rs"), folder.path().join("kernels"));
    fs::write(&path, source).expect("the folder can be written");
    let mut rustc = rustc();
    rustc.args(["-C", "linker=arm-linux-gnueabihf-gcc", "--target", &board.triple]);
    succeed(rustc.arg("-o").arg(&binary).arg(&path));
    let mut command = Command::new("qemu-arm");
    command.args(["-cpu", "cortex-a7", "-L", "/usr/arm-linux-gnueabihf"]).arg(&binary);
    check(&cases, command, folder.path(), "NEON of ARMv7");
}

#[test]
fn machine_code_for_aarch64() {
    require("qemu-aarch64");
    // The second has a core that executes in order, the third multiplies bytes.
    for (board, share) in
        [("raspberry-pi-4", Share::All), ("raspberry-pi-3", Share::Half(0)), ("raspberry-pi-5", Share::Half(1))]
    {
        check_aarch64(board, share);
    }
}

fn check_aarch64(board: &str, share: Share) {
    let board: Target = target::load(board, Path::new(".")).expect("the target is built in");
    // With so small a cache, weights of every size are fetched early.
    let cases = cases(&Machine { l2_bytes: 64, ..Machine::of(&board, &Settings::default()) }, share);
    assert!(cases.len() > 30, "only {} kernels", cases.len());
    let kernels: Vec<Kernel> = cases.iter().map(|case| case.kernel.clone()).collect();
    let code = object::compile_kernels(&kernels, &board, "t_").expect("Cranelift compiles them");
    let dot = cases.iter().filter(|case| case.kernel.name.starts_with("dot")).count();
    assert_eq!(dot > 0, board.dot_product, "{dot} kernels multiply bytes");
    let words = code.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    // prfm with an unsigned offset.
    assert!(words.into_iter().any(|word| word & 0xffc0_001f == 0xf980_0000), "weights are not fetched early");
    let library = archive::static_library(vec![("kernels.o".to_string(), code)]).expect("the library is written");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source =
        format!("{}{}", object::declarations(&kernels, "t_").expect("they are rendered"), driver(&cases, "t_"));
    let (path, binary) = (folder.path().join("kernels.rs"), folder.path().join("kernels"));
    fs::write(&path, source).expect("the folder can be written");
    fs::write(folder.path().join("libkernels.a"), library).expect("the folder can be written");
    succeed(
        rustc()
            .args(["--target", &board.triple])
            .args(["-C", "linker=rust-lld", "-C", "link-self-contained=yes", "-l", "static=kernels", "-L"])
            .arg(folder.path())
            .arg("-o")
            .arg(&binary)
            .arg(&path),
    );
    let mut command = Command::new("qemu-aarch64");
    command.args(["-cpu", if board.dot_product { "cortex-a76" } else { "cortex-a72" }]).arg(&binary);
    check(&cases, command, folder.path(), &board.name);
}
