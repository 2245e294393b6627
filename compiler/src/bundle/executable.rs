//! Linked programs: what their sections take, and the same program without symbols.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use object::elf;
use object::{Object, ObjectSection, SectionFlags, SectionKind};
use sha2::{Digest, Sha256};

/// Memory a linked program occupies, from its section table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionSizes {
    /// Executable sections.
    pub code_bytes: u64,
    /// Everything that is loaded from storage: code, constants, weights, initial values.
    pub flash_bytes: u64,
    /// Writable memory: initialised and zeroed data, the arena among them.
    pub ram_bytes: u64,
}

/// Reads the sizes of the sections that are in memory when the program runs.
pub fn section_sizes(binary: &Path) -> anyhow::Result<SectionSizes> {
    let bytes = std::fs::read(binary).with_context(|| format!("reading `{}`", binary.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("reading `{}`", binary.display()))?;
    let mut sizes = SectionSizes::default();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        let has = |flag: u32| sh_flags & u64::from(flag) != 0;
        let (allocated, writable) = (has(elf::SHF_ALLOC), has(elf::SHF_WRITE));
        if !allocated {
            continue;
        }
        let zeroed = section.kind() == SectionKind::UninitializedData;
        if section.kind() == SectionKind::Text {
            sizes.code_bytes += section.size();
        }
        if !zeroed {
            sizes.flash_bytes += section.size();
        }
        if writable {
            sizes.ram_bytes += section.size();
        }
    }
    Ok(sizes)
}

/// Writes an executable file, through another one beside it: the old one may be running.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("creating `{}`", folder.display()))?;
    let context = || format!("writing `{}`", path.display());
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder);
    let mut file = file.with_context(context)?;
    file.write_all(bytes).with_context(context)?;
    file.persist(path).with_context(context)?;
    Ok(())
}

/// The program with what is loaded into memory and nothing else: no symbols, no line numbers, no notes of tools. None
/// if it is no little-endian ELF file, or not as linkers write them.
pub fn strip(program: &[u8]) -> Option<Vec<u8>> {
    let is_64 = match program.get(..6)? {
        [0x7f, b'E', b'L', b'F', 1, 1] => false,
        [0x7f, b'E', b'L', b'F', 2, 1] => true,
        _ => return None,
    };
    let pick = |narrow: usize, wide: usize| if is_64 { wide } else { narrow };
    let read = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        let value = field.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    let word = pick(4, 8);
    let (segments, sections) = (read(pick(0x1c, 0x20), word)?, read(pick(0x20, 0x28), word)?);
    // Sizes and counts of segments and sections, and which section holds the names of all.
    let counts = pick(0x2a, 0x36);
    let [segment_bytes, segment_count, section_bytes, section_count, names] =
        [0, 2, 4, 6, 8].map(|at| read(counts + at, 2)).into_iter().collect::<Option<Vec<usize>>>()?.try_into().ok()?;
    if sections == 0 || section_count == 0 || section_bytes < pick(40, 64) || segment_bytes < pick(32, 56) {
        return None;
    }
    // The end of what is loaded.
    let mut end = segments + segment_bytes * segment_count;
    for header in (0..segment_count).map(|index| segments + index * segment_bytes) {
        end = end.max(read(header + pick(4, 8), word)?.checked_add(read(header + pick(16, 32), word)?)?);
    }
    let (flags_at, offset_at, size_at, link_at) = (8, pick(16, 24), pick(20, 32), pick(24, 40));
    let header = |index: usize| sections + index * section_bytes;
    let mut kept = vec![0];
    for index in 1..section_count {
        if read(header(index) + flags_at, word)? & elf::SHF_ALLOC as usize == 0 {
            continue;
        }
        kept.push(index);
        if read(header(index) + 4, 4)? != elf::SHT_NOBITS as usize {
            end = end.max(read(header(index) + offset_at, word)?.checked_add(read(header(index) + size_at, word)?)?);
        }
    }
    let mut stripped = program.get(..end)?.to_vec();
    let put = |bytes: &mut [u8], at: usize, width: usize, value: usize| {
        bytes[at..at + width].copy_from_slice(&(value as u64).to_le_bytes()[..width]);
    };
    // Names of what stays, and of their own section.
    let all_names = program.get(read(header(names) + offset_at, word)?..)?;
    let (mut table, mut headers) = (vec![0], Vec::new());
    for index in &kept {
        let mut copy = program.get(header(*index)..header(*index) + section_bytes)?.to_vec();
        let name = all_names.get(read(header(*index), 4)?..)?.split(|byte| *byte == 0).next()?;
        put(&mut copy, 0, 4, if name.is_empty() { 0 } else { table.len() });
        if !name.is_empty() {
            table.extend_from_slice(name);
            table.push(0);
        }
        let place = |old: usize| kept.iter().position(|kept| *kept == old).unwrap_or(0);
        put(&mut copy, link_at, 4, place(read(header(*index) + link_at, 4)?));
        // Elsewhere it counts something.
        if read(header(*index) + flags_at, word)? & elf::SHF_INFO_LINK as usize != 0 {
            put(&mut copy, link_at + 4, 4, place(read(header(*index) + link_at + 4, 4)?));
        }
        headers.push(copy);
    }
    let mut last = vec![0; section_bytes];
    put(&mut last, 0, 4, table.len());
    put(&mut last, 4, 4, elf::SHT_STRTAB as usize);
    table.extend_from_slice(b".shstrtab\0");
    put(&mut last, offset_at, word, end);
    put(&mut last, size_at, word, table.len());
    put(&mut last, pick(32, 48), word, 1);
    headers.push(last);
    stripped.extend_from_slice(&table);
    stripped.resize(stripped.len().next_multiple_of(8), 0);
    let place = stripped.len();
    stripped.extend(headers.iter().flatten());
    put(&mut stripped, pick(0x20, 0x28), word, place);
    put(&mut stripped, counts + 6, 2, headers.len());
    put(&mut stripped, counts + 8, 2, headers.len() - 1);
    Some(stripped)
}

/// Gives a program a build ID that follows from what is loaded of it. The linker's follows from all names of functions as
/// well, and some end with a number that LLVM makes of what stands in no certain order: another one each time.
pub fn identify(program: &mut [u8]) {
    let Some(id) = build_id(program) else { return };
    program[id.clone()].fill(0);
    let Some(loaded) = strip(program) else { return };
    program[id].iter_mut().zip(Sha256::digest(loaded)).for_each(|(byte, digest)| *byte = digest);
}

/// Where the build ID is.
fn build_id(program: &[u8]) -> Option<Range<usize>> {
    let file = object::File::parse(program).ok()?;
    let (start, bytes) = file.section_by_name(".note.gnu.build-id")?.file_range()?;
    // Before it stand how long its name and itself are, its kind, and the name: "GNU".
    let range = usize::try_from(start.checked_add(16)?).ok()?..usize::try_from(start.checked_add(bytes)?).ok()?;
    (range.start <= range.end && range.end <= program.len()).then_some(range)
}

#[cfg(test)]
mod tests {
    use object::ObjectSymbol;

    use super::*;

    #[test]
    fn a_stripped_program_is_the_same_without_symbols() {
        let folder = tempfile::tempdir().expect("a folder");
        let whole = std::fs::read(std::env::current_exe().expect("a test knows its path")).expect("it can be read");
        let stripped = strip(&whole).expect("an ELF file");
        let before = object::File::parse(&*whole).expect("an ELF file");
        let after = object::File::parse(&*stripped).expect("still one");
        assert!(before.symbols().any(|symbol| symbol.name() == Ok("main")));
        assert_eq!(after.symbols().count(), 0);
        // What is loaded is the same, and the dynamic linker finds what it needs.
        let loaded = |file: &object::File<'_>| {
            let flags = |section: &object::Section<'_, '_>| match section.flags() {
                SectionFlags::Elf { sh_flags, .. } => sh_flags & u64::from(elf::SHF_ALLOC) != 0,
                _ => false,
            };
            let sections = file.sections().filter(flags);
            let of = |section: object::Section<'_, '_>| {
                (section.name().map(str::to_string), section.address(), section.data().map(<[u8]>::to_vec))
            };
            sections
                .map(of)
                .map(|(name, at, data)| (name.expect("a name"), at, data.expect("data")))
                .collect::<Vec<_>>()
        };
        assert!(loaded(&before).len() > 10);
        assert!(loaded(&before) == loaded(&after));
        assert_eq!(before.dynamic_symbols().count(), after.dynamic_symbols().count());
        let path = folder.path().join("program");
        write(&path, &stripped).expect("written");
        let output = std::process::Command::new(&path).args(["--list", "no_test_has_this_name"]).output();
        assert!(output.expect("it starts").status.success());
    }

    #[test]
    fn who_a_program_is_depends_on_what_is_loaded() {
        let mut whole = std::fs::read(std::env::current_exe().expect("a test knows its path")).expect("it can be read");
        if build_id(&whole).is_none() {
            println!("skipped: the linker gives programs no build ID");
            return;
        }
        let place = |section: &str, text: &[u8]| {
            let file = object::File::parse(&*whole).expect("an ELF file");
            let section = file.section_by_name(section).expect("it has one");
            let start = section.file_range().expect("it is in the file").0 as usize;
            let data = section.data().expect("it can be read");
            start + data.windows(text.len()).position(|part| part == text).expect("it is there")
        };
        let name = place(".strtab", b"who_a_program_is_depends_on_what_is_loaded");
        let text = place(".rodata", b"skipped: the linker gives programs no build ID");
        let mut renamed = whole.clone();
        renamed[name] = b'W';
        // What the linker would make of that.
        let id = build_id(&renamed).expect("it is where it was");
        renamed[id].fill(7);
        let mut changed = whole.clone();
        changed[text] = b'S';
        [&mut whole, &mut renamed, &mut changed].into_iter().for_each(|program| identify(program));
        assert!(strip(&whole) == strip(&renamed) && whole != renamed);
        let ids = [&whole, &changed].map(|program| program[build_id(program).expect("it has one")].to_vec());
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn what_is_no_program_is_left_alone() {
        for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0x7f, b'E', b'L', b'F', 2, 1]] {
            assert_eq!(strip(bytes), None);
        }
        let mut whole = std::fs::read(std::env::current_exe().expect("a test knows its path")).expect("it can be read");
        whole.truncate(1000);
        assert_eq!(strip(&whole), None);
    }
}
