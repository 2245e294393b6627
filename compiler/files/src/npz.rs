//! `.npz` archives: a zip of `.npy` arrays. Files come from anywhere, so nothing is believed before it is checked, and
//! no more memory is taken than the bytes of the file can fill.

use std::io::{Read, Seek, Write};

use anyhow::{Context, bail, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// What an array begins with.
const MAGIC: &[u8] = b"\x93NUMPY";

/// Longest header that is read; numpy writes some hundred bytes.
const MOST_HEADER_BYTES: usize = 64 << 10;

/// Most axes, as in numpy.
const MOST_AXES: usize = 64;

/// Deflate makes nothing smaller than by this factor.
const MOST_DEFLATED: u64 = 1032;

/// An array larger than this that is so many times smaller in its file is refused: a small file would fill the memory.
const ROOMY_BYTES: u64 = 64 << 20;
const MOST_DEFLATED_OF_MANY: u64 = 200;

/// One array as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Element type as numpy writes it, such as `<f4`; a list of fields if it is structured.
    pub descr: String,
    /// Whether the first axis varies fastest.
    pub fortran_order: bool,
    /// Extent per axis.
    pub shape: Vec<usize>,
    /// Elements; none if their type is none that [`Array::element`] knows.
    pub bytes: Vec<u8>,
}

impl Array {
    /// Kind of the elements and bytes of each: `('f', 4)`.
    ///
    /// Errors: Python's objects, a structured type, or a byte order that is not little-endian.
    pub fn element(&self) -> anyhow::Result<(char, usize)> {
        element(&self.descr)
    }
}

/// The arrays of an archive, by name, in order of name.
///
/// Errors: no archive, an entry that is no array, or one that holds less or more than it says. What the elements are is
/// asked by whoever uses an array.
pub fn read<R: Read + Seek>(reader: R) -> anyhow::Result<Vec<(String, Array)>> {
    let mut archive = ZipArchive::new(reader).context("is not an .npz archive")?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).context("reading an entry of the archive")?;
        let Some(name) = entry.name().strip_suffix(".npy").map(str::to_string) else { continue };
        let (stored, whole) = (entry.compressed_size(), entry.size());
        ensure!(
            whole <= stored.saturating_mul(MOST_DEFLATED).saturating_add(MOST_DEFLATED),
            "array `{name}` cannot hold {whole} bytes in {stored}"
        );
        ensure!(
            whole <= ROOMY_BYTES || whole <= stored.saturating_mul(MOST_DEFLATED_OF_MANY),
            "array `{name}` is {whole} bytes in {stored} of the file: it is all the same, and no data"
        );
        let array = read_array(entry, whole).with_context(|| format!("array `{name}`"))?;
        arrays.push((name, array));
    }
    arrays.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(arrays)
}

/// Reads one `.npy` of `whole` bytes.
fn read_array(mut reader: impl Read, whole: u64) -> anyhow::Result<Array> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).context("ends within its header")?;
    ensure!(start.starts_with(MAGIC), "is no .npy array");
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => bail!("has version {version} of .npy, which is not known"),
    };
    let mut length = [0; 4];
    reader.read_exact(&mut length[..length_bytes]).context("ends within its header")?;
    let length = u32::from_le_bytes(length) as usize;
    ensure!(length <= MOST_HEADER_BYTES, "has a header of {length} bytes; at most {MOST_HEADER_BYTES} are read");
    let mut header = vec![0; length];
    reader.read_exact(&mut header).context("ends within its header")?;
    let header = String::from_utf8(header).context("has a header that is no text")?;
    let (descr, fortran_order, shape) = parse_header(&header)?;
    // A size of their own have only the elements of types that are known.
    let Ok((_, element_bytes)) = element(&descr) else {
        return Ok(Array { descr, fortran_order, shape, bytes: Vec::new() });
    };
    let bytes = shape.iter().try_fold(element_bytes, |bytes, extent| bytes.checked_mul(*extent));
    let bytes = bytes.filter(|bytes| isize::try_from(*bytes).is_ok());
    let bytes = bytes.with_context(|| format!("has shape {shape:?}, which is too large"))?;
    let held = whole.saturating_sub((start.len() + length_bytes + length) as u64);
    ensure!(bytes as u64 == held, "holds {held} bytes, but its shape {shape:?} of `{descr}` is {bytes}");
    let mut elements = Vec::new();
    elements.try_reserve_exact(bytes).context("does not fit into memory")?;
    reader.by_ref().take(bytes as u64).read_to_end(&mut elements).context("reading its elements")?;
    ensure!(elements.len() == bytes, "ends after {} of {bytes} bytes", elements.len());
    // The checksum is compared at the end, and not before.
    ensure!(reader.read(&mut [0]).context("reading its end")? == 0, "holds more than its shape says");
    Ok(Array { descr, fortran_order, shape, bytes: elements })
}

fn element(descr: &str) -> anyhow::Result<(char, usize)> {
    ensure!(!descr.starts_with('['), "has structured elements; save its fields as arrays of their own");
    ensure!(descr != "|O", "holds Python objects, not numbers; save it with a type such as np.float32");
    let mut chars = descr.chars();
    let order = chars.next().filter(|order| "<>|=".contains(*order));
    let kind = chars.next().filter(char::is_ascii_alphabetic);
    let size = chars.as_str().parse::<usize>().ok().filter(|size| (1..=1 << 20).contains(size));
    let (Some(order), Some(kind), Some(size)) = (order, kind, size) else {
        bail!("has element type `{}`, which is not supported", partita_ir::diagnostic::printable(descr))
    };
    ensure!(order != '>' || size == 1, "has big-endian elements (`{descr}`); save them little-endian");
    // Text is counted in characters of four bytes.
    Ok((kind, if kind == 'U' { 4 * size } else { size }))
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, with the keys in any order.
fn parse_header(text: &str) -> anyhow::Result<(String, bool, Vec<usize>)> {
    let wrong =
        || anyhow::anyhow!("has a header that is not understood: {}", partita_ir::diagnostic::printable(text.trim()));
    let mut rest = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(wrong)?.trim();
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(wrong)?;
        let after = after.trim_start().strip_prefix(':').ok_or_else(wrong)?.trim_start();
        rest = match key {
            "descr" => {
                let (value, after) = fields(after).or_else(|| quoted(after)).ok_or_else(wrong)?;
                descr = Some(value.to_string());
                after
            }
            "fortran_order" => {
                let is = |word| after.strip_prefix(word);
                let (value, after) = is("True")
                    .map(|after| (true, after))
                    .or(is("False").map(|after| (false, after)))
                    .ok_or_else(wrong)?;
                fortran_order = Some(value);
                after
            }
            "shape" => {
                let (inside, after) =
                    after.strip_prefix('(').and_then(|after| after.split_once(')')).ok_or_else(wrong)?;
                let inside = inside.trim().strip_suffix(',').unwrap_or(inside).trim();
                let extents = inside.split(',').filter(|_| !inside.is_empty());
                let extents: Vec<usize> = extents
                    .map(|extent| extent.trim().trim_end_matches('L').parse())
                    .collect::<Result<_, _>>()
                    .map_err(|_| wrong())?;
                ensure!(extents.len() <= MOST_AXES, "has {} axes; at most {MOST_AXES} are read", extents.len());
                shape = Some(extents);
                after
            }
            _ => return Err(wrong()),
        };
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').map_or(rest, str::trim_start);
    }
    match (descr, fortran_order, shape) {
        (Some(descr), Some(fortran_order), Some(shape)) => Ok((descr, fortran_order, shape)),
        _ => Err(wrong()),
    }
}

/// A list in brackets at the beginning, which may hold others, and what follows it.
fn fields(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quote) = (0, None);
    for (at, char) in text.char_indices() {
        match (quote, char) {
            (Some(open), char) if open == char => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(char),
            (None, '[') => depth += 1,
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
        if depth == 0 {
            return (at > 0).then(|| text.split_at(at + 1));
        }
    }
    None
}

/// A word in quotes at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| "'\"".contains(*quote))?;
    text[1..].split_once(quote)
}

/// Writes arrays as numpy's `savez` does: stored, since floats hardly get smaller and squeezing them takes long.
pub struct Writer<W: Write + Seek> {
    archive: ZipWriter<W>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins an archive.
    pub fn new(writer: W) -> Writer<W> {
        Writer { archive: ZipWriter::new(writer) }
    }

    /// Adds one array in C order; `bytes` are its elements, little-endian.
    pub fn add(&mut self, name: &str, descr: &str, shape: &[usize], bytes: &[u8]) -> anyhow::Result<()> {
        // A date of its own would make every file another one.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(bytes.len() >= u32::MAX as usize - MOST_HEADER_BYTES);
        self.archive.start_file(format!("{name}.npy"), options)?;
        let extents: String = shape.iter().map(|extent| format!("{extent},")).collect();
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
        // Elements begin at a multiple of 64 bytes; the header ends with a line break.
        let length = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
        header += &" ".repeat(length - header.len() - 1);
        header.push('\n');
        let length = u16::try_from(length).context("the shape has too many axes")?;
        self.archive.write_all(MAGIC)?;
        self.archive.write_all(&[1, 0])?;
        self.archive.write_all(&length.to_le_bytes())?;
        self.archive.write_all(header.as_bytes())?;
        self.archive.write_all(bytes)?;
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(self) -> anyhow::Result<()> {
        self.archive.finish()?.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = ZipWriter::new(&mut bytes);
        for (name, content) in entries {
            writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).expect("an entry");
            writer.write_all(content).expect("written");
        }
        writer.finish().expect("written");
        bytes.into_inner()
    }

    fn npy(header: &str, elements: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(elements);
        bytes
    }

    fn read_one(header: &str, elements: &[u8]) -> anyhow::Result<Array> {
        let file = archive(&[("x.npy", &npy(header, elements))], CompressionMethod::Deflated);
        let array = read(Cursor::new(file))?.remove(0).1;
        array.element().map(|_| array)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut bytes);
        writer.add("x", "<f4", &[2, 1], &[1, 2, 3, 4, 5, 6, 7, 8]).expect("written");
        writer.add("scalar", "|u1", &[], &[9]).expect("written");
        writer.add("empty", "<i8", &[0, 3], &[]).expect("written");
        writer.finish().expect("written");
        let read = read(Cursor::new(bytes.into_inner())).expect("an archive");
        let shapes: Vec<(&str, &[usize])> =
            read.iter().map(|(name, array)| (name.as_str(), &array.shape[..])).collect();
        assert_eq!(shapes, [("empty", &[0, 3][..]), ("scalar", &[]), ("x", &[2, 1])]);
        assert_eq!(read[2].1.element().expect("floats"), ('f', 4));
        assert_eq!(read[2].1.bytes, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn compressed_arrays_and_other_spellings_are_read() {
        let array =
            read_one("{\"shape\":(2,), 'fortran_order':True,'descr':'<i2'}\n", &[1, 0, 2, 0]).expect("an array");
        assert_eq!((array.shape, array.fortran_order, array.bytes.len()), (vec![2], true, 4));
        let array = read_one("{'descr': '|b1', 'fortran_order': False, 'shape': (1L, 2L)}", &[1, 0]).expect("an array");
        assert_eq!(array.shape, [1, 2]);
        let array =
            read_one("{'descr': '<U1', 'fortran_order': False, 'shape': (2,)}", b"a\0\0\0b\0\0\0").expect("text");
        assert_eq!(array.element().expect("characters"), ('U', 4));
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let with =
            |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
        let deep = "(".repeat(60_000);
        for (header, says) in [
            (with("'<f4'", "(3,)"), "holds 8 bytes"),
            (with("'<f4'", "(4611686018427387904, 4611686018427387904)"), "too large"),
            (with("'<f4'", "(0, 18446744073709551615)"), "holds 8 bytes"),
            (with("'<f4'", "(-1,)"), "not understood"),
            (with("'<f4'", "(99999999999999999999999,)"), "not understood"),
            (with("'<f4'", &deep), "not understood"),
            (with("'<f4'", &format!("({})", "1,".repeat(65))), "65 axes"),
            (with("'>f4'", "(2,)"), "big-endian"),
            (with("'<f0'", "(2,)"), "not supported"),
            (with("'<f99999999999999999999'", "(2,)"), "not supported"),
            (with("''", "(2,)"), "not supported"),
            (with("'\u{e9}\u{e9}'", "(2,)"), "not supported"),
            (with("[('a', '<f4')]", "(2,)"), "structured"),
            (with("[('a]', [('b', '|O', (2,))]), ('c', '<i8')]", "(2,)"), "structured"),
            (with("[('a', '<f4'", "(2,)"), "not understood"),
            (with("'|O'", "(2,)"), "Python objects"),
            (with("'<U2'", "(2,)"), "of `<U2` is 16"),
            (deep.clone(), "not understood"),
            ("{'descr': '<f4'}".to_string(), "not understood"),
            ("{'descr".to_string(), "not understood"),
            (String::new(), "not understood"),
        ] {
            let error = read_one(&header, &[0; 8]).expect_err(&header[..header.len().min(80)]);
            assert!(format!("{error:#}").contains(says), "{error:#}: not `{says}`");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut file = archive(
            &[("x.npy", &npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", b"four"))],
            CompressionMethod::Stored,
        );
        let at = file.windows(4).position(|window| window == b"four").expect("the elements are stored as they are");
        file[at] ^= 1;
        assert!(read(Cursor::new(file)).is_err());
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for content in
            [&b""[..], b"\x93NUMPY", b"\x93NUMPY\x09\0aaaa", b"\x93NUMPY\x02\0\xff\xff\xff\xff", b"hello world"]
        {
            let file = archive(&[("x.npy", content)], CompressionMethod::Stored);
            assert!(read(Cursor::new(file)).is_err(), "{content:?}");
        }
        assert!(read(Cursor::new(b"PK".to_vec())).is_err());
        assert!(read(Cursor::new(Vec::new())).is_err());
        assert_eq!(
            read(Cursor::new(archive(&[("readme.txt", b"x")], CompressionMethod::Stored))).expect("none").len(),
            0
        );
    }
}
