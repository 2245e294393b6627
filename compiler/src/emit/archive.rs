//! Weights as an object file, and objects as a static library: what linkers take on every target.

use ar_archive_writer::{ArchiveKind, NewArchiveMember};
use object::write::{Object, Symbol, SymbolSection};
use object::{BinaryFormat, Endianness, FileFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use crate::config::{InstructionSet, System, Target};

/// Alignment of the weights section.
const ALIGNMENT_BYTES: u64 = 64;

/// Version 5 of the Arm ABI for ELF, in the file header's flags.
const ARM_EABI_VERSION_5: u32 = 0x0500_0000;

/// Machine of an object file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Architecture {
    X86_64,
    Aarch64,
    Arm,
}

impl Architecture {
    /// The machine that a target's programs run on.
    pub fn of(target: &Target) -> Architecture {
        match (target.system, target.instruction_set) {
            (System::CortexM, _) => Architecture::Arm,
            (System::Linux, InstructionSet::Neon) => Architecture::Aarch64,
            (System::Linux, InstructionSet::Scalar | InstructionSet::Neon32) => Architecture::Arm,
            (System::Linux, InstructionSet::Avx512 | InstructionSet::Avx2 | InstructionSet::Sse2) => {
                Architecture::X86_64
            }
        }
    }
}

/// An ELF object whose section `.rodata.partita_weights` holds `bytes` under a global symbol.
pub fn weights_object(bytes: Vec<u8>, symbol: &str, architecture: Architecture) -> anyhow::Result<Vec<u8>> {
    let machine = match architecture {
        Architecture::X86_64 => object::Architecture::X86_64,
        Architecture::Aarch64 => object::Architecture::Aarch64,
        Architecture::Arm => object::Architecture::Arm,
    };
    let mut file = Object::new(BinaryFormat::Elf, machine, Endianness::Little);
    if architecture == Architecture::Arm {
        file.flags = FileFlags::Elf {
            os_abi: object::elf::OsAbi(0),
            abi_version: 0,
            e_flags: object::elf::FileFlags(ARM_EABI_VERSION_5),
        };
    }
    let section = file.add_section(Vec::new(), b".rodata.partita_weights".to_vec(), SectionKind::ReadOnlyData);
    let size = bytes.len() as u64;
    file.set_section_data(section, bytes, ALIGNMENT_BYTES);
    file.add_symbol(Symbol {
        name: symbol.as_bytes().to_vec(),
        value: 0,
        size,
        kind: SymbolKind::Data,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    Ok(file.write()?)
}

/// A static library of object files, with a symbol table; the same members give the same bytes.
pub fn static_library(members: Vec<(String, Vec<u8>)>) -> anyhow::Result<Vec<u8>> {
    let members: Vec<NewArchiveMember<'_>> = members
        .into_iter()
        .map(|(name, bytes)| NewArchiveMember::new(bytes, &ar_archive_writer::DEFAULT_OBJECT_READER, name))
        .collect();
    let mut library = std::io::Cursor::new(Vec::new());
    ar_archive_writer::write_archive_to_stream(&mut library, &members, ArchiveKind::Gnu, false, None)?;
    Ok(library.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object as _, ObjectSection, ObjectSymbol};

    #[test]
    fn weights_can_be_read_back() {
        for architecture in [Architecture::X86_64, Architecture::Aarch64, Architecture::Arm] {
            let bytes: Vec<u8> = (0..200).collect();
            let file = weights_object(bytes.clone(), "some_weights", architecture).expect("it is written");
            let parsed = object::File::parse(&*file).expect("it is an object");
            let section = parsed.section_by_name(".rodata.partita_weights").expect("the section is there");
            assert_eq!(section.align(), ALIGNMENT_BYTES);
            assert_eq!(section.data().expect("it has data"), bytes);
            let symbol = parsed.symbol_by_name("some_weights").expect("the symbol is there");
            assert_eq!(symbol.size(), 200);
            let library = static_library(vec![("weights.o".to_string(), file)]).expect("it is written");
            assert!(library.starts_with(b"!<arch>\n"));
            assert!(library.windows(12).any(|part| part == b"some_weights"), "the symbol table names it");
        }
    }
}
