//! Families of processors: whose objects a target's programs are linked from.

use super::{InstructionSet, System};

/// A family of processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Architecture {
    X86,
    X86_64,
    Aarch64,
    Arm,
    Riscv32(FloatAbi),
    Riscv64(FloatAbi),
}

/// In which registers RISC-V programs pass floating-point numbers: objects of another kind are not linked with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum FloatAbi {
    Soft,
    Single,
    Double,
}

impl Architecture {
    /// That of a Rust target triple, or of this machine for `host`; none if it is of another family, or big-endian.
    pub fn of(triple: &str) -> Option<Architecture> {
        // Pointers of 32 bits on processors of 64: their objects are of yet another kind.
        if triple.contains("gnux32") || triple.contains("ilp32") {
            return None;
        }
        let name = match triple {
            "host" if cfg!(target_endian = "little") => std::env::consts::ARCH,
            triple => triple.split('-').next().unwrap_or_default(),
        };
        Some(match name {
            "x86_64" => Architecture::X86_64,
            "x86" | "i386" | "i586" | "i686" => Architecture::X86,
            name if name == "aarch64" || name.starts_with("arm64") => Architecture::Aarch64,
            "riscv64" if triple.contains("android") => Architecture::Riscv64(FloatAbi::Double),
            // The name of this machine's processor says no extensions.
            "riscv32" if triple == "host" => Architecture::Riscv32(FloatAbi::Double),
            "riscv64" if triple == "host" => Architecture::Riscv64(FloatAbi::Double),
            name if name.starts_with("armeb") || name.starts_with("thumbeb") => return None,
            name if name.starts_with("arm") || name.starts_with("thumb") => Architecture::Arm,
            name => match (name.strip_prefix("riscv32"), name.strip_prefix("riscv64")) {
                (Some(extensions), _) => Architecture::Riscv32(float_abi(extensions)),
                (_, Some(extensions)) => Architecture::Riscv64(float_abi(extensions)),
                (None, None) => return None,
            },
        })
    }

    /// Whether its processors have an instruction set.
    pub fn has(self, instruction_set: InstructionSet) -> bool {
        match instruction_set {
            InstructionSet::Avx512 | InstructionSet::Avx2 | InstructionSet::Sse2 => self == Architecture::X86_64,
            InstructionSet::Neon => self == Architecture::Aarch64,
            InstructionSet::Neon32 => self == Architecture::Arm,
            InstructionSet::Scalar => true,
        }
    }
}

/// Rust builds for registers of doubles if the processor has them. `g` stands for `imafd`, `a23` for a profile with them.
fn float_abi(extensions: &str) -> FloatAbi {
    let own = extensions.split(['_', '.']).next().unwrap_or_default();
    if own.contains(['g', 'd']) || own.starts_with("a2") {
        FloatAbi::Double
    } else if own.contains('f') {
        FloatAbi::Single
    } else {
        FloatAbi::Soft
    }
}

/// What is wrong with a target's triple for its instruction set and system; nothing if they go together.
pub fn mismatch(triple: &str, instruction_set: InstructionSet, system: System) -> Option<String> {
    let Some(architecture) = Architecture::of(triple) else {
        return Some(format!(
            "there are no objects for the processors of `{triple}`; known are x86, x86-64, AArch64, and little-endian Arm and RISC-V"
        ));
    };
    if system == System::Linux && triple != "host" && !triple.contains("linux") {
        return Some(format!("the system is `linux`, but `{triple}` is not a triple of Linux"));
    }
    if system == System::CortexM && architecture != Architecture::Arm {
        return Some(format!("the system is `cortex-m`, but `{triple}` is not a triple for Arm's processors"));
    }
    (!architecture.has(instruction_set)).then(|| {
        format!(
            "its processors have no `{}`, the `instruction-set` of this target, if `{triple}` is its triple; `scalar` suits all",
            instruction_set.name()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triples_name_their_processors() {
        let cases = [
            ("x86_64-unknown-linux-gnu", Some(Architecture::X86_64)),
            ("i686-unknown-linux-gnu", Some(Architecture::X86)),
            ("aarch64-unknown-linux-musl", Some(Architecture::Aarch64)),
            ("thumbv7em-none-eabihf", Some(Architecture::Arm)),
            ("armv7-unknown-linux-gnueabihf", Some(Architecture::Arm)),
            ("riscv64gc-unknown-linux-gnu", Some(Architecture::Riscv64(FloatAbi::Double))),
            ("riscv32imac-unknown-none-elf", Some(Architecture::Riscv32(FloatAbi::Soft))),
            ("riscv32imafc-unknown-none-elf", Some(Architecture::Riscv32(FloatAbi::Single))),
            ("riscv64-linux-android", Some(Architecture::Riscv64(FloatAbi::Double))),
            ("arm64e-apple-darwin", Some(Architecture::Aarch64)),
            ("x86_64-unknown-linux-gnux32", None),
            ("aarch64-unknown-linux-gnu_ilp32", None),
            ("armebv7r-none-eabi", None),
            ("s390x-unknown-linux-gnu", None),
            ("powerpc64-unknown-linux-gnu", None),
            ("mips-unknown-linux-gnu", None),
            ("", None),
        ];
        for (triple, expected) in cases {
            assert_eq!(Architecture::of(triple), expected, "{triple}");
        }
        assert_eq!(Architecture::of("host"), Architecture::of(std::env::consts::ARCH));
    }

    #[test]
    fn instruction_sets_go_with_their_processors() {
        let fits = |triple: &str, set: InstructionSet| mismatch(triple, set, System::Linux).is_none();
        assert!(fits("riscv64gc-unknown-linux-gnu", InstructionSet::Scalar));
        assert!(fits("host", InstructionSet::Scalar));
        assert!(!fits("riscv64gc-unknown-linux-gnu", InstructionSet::Sse2));
        assert!(!fits("aarch64-unknown-linux-gnu", InstructionSet::Neon32));
        assert!(!fits("armv7-unknown-linux-gnueabihf", InstructionSet::Neon));
        assert!(!fits("s390x-unknown-linux-gnu", InstructionSet::Scalar));
        let message = mismatch("riscv32imac-unknown-none-elf", InstructionSet::Scalar, System::CortexM);
        assert!(message.is_some_and(|message| message.contains("cortex-m")));
    }
}
