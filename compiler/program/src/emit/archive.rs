//! Weights as an object file, and objects as a static library: what linkers take on every target.

use ar_archive_writer::{ArchiveKind, NewArchiveMember};
use object::write::{Object, Symbol, SymbolSection};
use object::{BinaryFormat, Endianness, FileFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use partita_config::architecture::{Architecture, FloatAbi};

/// Alignment of the weights section.
const ALIGNMENT_BYTES: u64 = 64;

/// Version 5 of the Arm ABI for ELF, in the file header's flags.
const ARM_EABI_VERSION_5: u32 = 0x0500_0000;

/// Flags of a RISC-V file's header: which registers numbers are passed in (psABI, 8.1).
const RISCV_FLOAT_ABI_SINGLE: u32 = 0x2;
const RISCV_FLOAT_ABI_DOUBLE: u32 = 0x4;

/// An ELF object whose section `.rodata.partita_weights` holds `bytes` under a global symbol.
pub fn weights_object(bytes: Vec<u8>, symbol: &str, architecture: Architecture) -> anyhow::Result<Vec<u8>> {
    let float_abi = |abi: FloatAbi| match abi {
        FloatAbi::Soft => 0,
        FloatAbi::Single => RISCV_FLOAT_ABI_SINGLE,
        FloatAbi::Double => RISCV_FLOAT_ABI_DOUBLE,
    };
    let (machine, flags) = match architecture {
        Architecture::X86 => (object::Architecture::I386, 0),
        Architecture::X86_64 => (object::Architecture::X86_64, 0),
        Architecture::Aarch64 => (object::Architecture::Aarch64, 0),
        Architecture::Arm => (object::Architecture::Arm, ARM_EABI_VERSION_5),
        Architecture::Riscv32(abi) => (object::Architecture::Riscv32, float_abi(abi)),
        Architecture::Riscv64(abi) => (object::Architecture::Riscv64, float_abi(abi)),
    };
    let mut file = Object::new(BinaryFormat::Elf, machine, Endianness::Little);
    if flags != 0 {
        file.flags = FileFlags::Elf { os_abi: 0, abi_version: 0, e_flags: flags };
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
        let machines = [
            (Architecture::X86, object::elf::EM_386),
            (Architecture::X86_64, object::elf::EM_X86_64),
            (Architecture::Aarch64, object::elf::EM_AARCH64),
            (Architecture::Arm, object::elf::EM_ARM),
            (Architecture::Riscv32(FloatAbi::Soft), object::elf::EM_RISCV),
            (Architecture::Riscv64(FloatAbi::Double), object::elf::EM_RISCV),
        ];
        for (architecture, machine) in machines {
            let bytes: Vec<u8> = (0..200).collect();
            let file = weights_object(bytes.clone(), "some_weights", architecture).expect("it is written");
            // The machine in the file's header.
            assert_eq!(u16::from_le_bytes([file[18], file[19]]), machine, "{architecture:?}");
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
