//! What a file is that was given for another: recognised by its first bytes, with what to do about it.

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// In words, with its article.
    pub what: &'static str,
    /// What to do where an ONNX model was expected.
    pub instead_of_model: &'static str,
    /// What to do where an archive of samples was expected.
    pub instead_of_data: &'static str,
}

/// Bytes at the beginning that are looked at.
const HEAD_BYTES: usize = 4096;

const ORDER: &str = "the model comes first, the cluster behind --targets: compile MODEL.onnx --targets CLUSTER.toml";
const TORCH: &str = "export it from PyTorch: torch.onnx.export(model, example_input, \"model.onnx\")";
const KERAS: &str = "convert it: python -m tf2onnx.convert --keras MODEL --output model.onnx";
const DATA: &str = "give samples behind --input, --evaluate or --calibration; the model comes first: compile MODEL.onnx --targets CLUSTER.toml";
const UNPACK: &str = "unpack it first";
const FETCH: &str = "fetch the file itself: git lfs pull";
const DOWNLOAD: &str = "download the file itself, not the page about it";
const SAVE: &str = "load it in Python and save its arrays: numpy.savez(\"data.npz\", x=.., y=..)";
const NAME_IT: &str = "save it with a name: numpy.savez(\"data.npz\", x=numpy.load(\"..\"))";
const MODEL_FIRST: &str = "the model comes first on the command line, samples behind their option";

/// An ONNX model, where something else was expected.
pub const ONNX: FileKind = FileKind { what: "an ONNX model", instead_of_model: "", instead_of_data: MODEL_FIRST };
/// An archive of NumPy arrays, where a model was expected.
pub const NPZ: FileKind = FileKind { what: "a NumPy archive (.npz)", instead_of_model: DATA, instead_of_data: "" };
/// A single NumPy array.
pub const NPY: FileKind = FileKind { what: "a NumPy array (.npy)", instead_of_model: DATA, instead_of_data: NAME_IT };

/// What a file is whose name ends in `ending`: archives are what their names say.
pub fn recognise_named(bytes: &[u8], ending: &str) -> Option<FileKind> {
    let found = recognise(bytes);
    let by_name = match ending {
        "pt" | "pth" | "ckpt" => FileKind { what: "a PyTorch file", instead_of_model: TORCH, instead_of_data: SAVE },
        "keras" | "h5" => FileKind { what: "a Keras file", instead_of_model: KERAS, instead_of_data: SAVE },
        _ => return found,
    };
    found.map(|found| if found.instead_of_model == UNPACK { by_name } else { found })
}

/// What the bytes are, if they are of a kind that people mistake for another.
pub fn recognise(bytes: &[u8]) -> Option<FileKind> {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    let holds = |part: &str| head.windows(part.len()).any(|window| window == part.as_bytes());
    let kind = |what, instead_of_model, instead_of_data| Some(FileKind { what, instead_of_model, instead_of_data });
    match head {
        [b'P', b'K', 3, 4, ..] if holds("data.pkl") || holds("constants.pkl") => kind("a PyTorch file", TORCH, SAVE),
        [b'P', b'K', 3, 4, ..] if holds(".npy") => Some(NPZ),
        [b'P', b'K', 3, 4, ..] if holds("config.json") => kind("a Keras file", KERAS, SAVE),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => kind("a zip archive", UNPACK, UNPACK),
        [0x80, 2..=5, ..] => kind("a Python pickle, perhaps of PyTorch", TORCH, SAVE),
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => kind(
            "a TensorFlow Lite model",
            "convert it: python -m tf2onnx.convert --tflite model.tflite --output model.onnx",
            MODEL_FIRST,
        ),
        [0x89, b'H', b'D', b'F', ..] => kind("an HDF5 file, perhaps of Keras", KERAS, SAVE),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some(NPY),
        [b'G', b'G', b'U', b'F', ..] => kind("a GGUF file of weights", TORCH, SAVE),
        [0x1f, 0x8b, ..] => kind("a gzip archive", UNPACK, UNPACK),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => kind("a zstd archive", UNPACK, UNPACK),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => kind("an xz archive", UNPACK, UNPACK),
        [b'B', b'Z', b'h', ..] => kind("a bzip2 archive", UNPACK, UNPACK),
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] | [b'G', b'I', b'F', b'8', ..] => {
            kind("a picture", "give the ONNX model", SAVE)
        }
        [0x7f, b'E', b'L', b'F', ..] => kind("an executable", "", ""),
        [_, _, _, _, _, 0, 0, 0, b'{', b'"', ..] => kind("a safetensors file, which holds weights only", TORCH, SAVE),
        // The version of the format, then producer, domain, graph or operator set.
        [8, 1..=30, 0x12 | 0x1a | 0x22 | 0x32 | 0x3a | 0x42, ..] => Some(ONNX),
        _ => recognise_text(head),
    }
}

fn recognise_text(head: &[u8]) -> Option<FileKind> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The end may lie within a character.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let start = text.trim_start().to_ascii_lowercase();
    let kind = |what, instead_of_model, instead_of_data| Some(FileKind { what, instead_of_model, instead_of_data });
    if start.starts_with("version https://git-lfs") {
        kind("a pointer of Git LFS", FETCH, FETCH)
    } else if start.starts_with("<!doctype") || start.starts_with("<html") {
        kind("a web page", DOWNLOAD, DOWNLOAD)
    } else if text.contains("[cluster]") || text.contains("[[device]]") {
        kind("a cluster file", ORDER, ORDER)
    } else if start.starts_with('{') {
        kind("JSON", "give the ONNX model", SAVE)
    } else if !text.is_empty() && !text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        kind("a text file", "give the ONNX model", SAVE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{recognise, recognise_named};

    #[test]
    fn files_that_people_mix_up_are_told_apart() {
        for (bytes, what) in [
            (&b"PK\x03\x04........archive/data.pkl"[..], "PyTorch"),
            (b"PK\x03\x04........x.npy", ".npz"),
            (b"PK\x03\x04........metadata.json config.json", "Keras"),
            (b"PK\x03\x04........letter.txt", "zip"),
            (b"\x80\x02\x8a\x0a", "pickle"),
            (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
            (b"\x89HDF\r\n", "HDF5"),
            (b"\x93NUMPY\x01\0", ".npy"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x89PNG\r\n\x1a\n", "picture"),
            (b"\x40\0\0\0\0\0\0\0{\"__metadata__\"", "safetensors"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"\n<!DOCTYPE html>", "web page"),
            ("# café\n[cluster]\nname = \"x\"\n".as_bytes(), "cluster file"),
            (b"hello", "text file"),
            (b"\x08\x08\x12\x07pytorch", "ONNX"),
        ] {
            let kind = recognise(bytes).unwrap_or_else(|| panic!("{what} is not recognised"));
            assert!(kind.what.contains(what), "{what}: {kind:?}");
        }
        let archive = b"PK\x03\x04........letter.txt";
        for (ending, what) in [("pt", "PyTorch"), ("keras", "Keras"), ("onnx", "zip")] {
            let kind = recognise_named(archive, ending).expect("it is an archive");
            assert!(kind.what.contains(what), "{ending}: {kind:?}");
        }
        for bytes in [&b""[..], b"\xff\xfe\x01", b"\0\0\0\0\0\0\0\0\0\0\0\0"] {
            assert_eq!(recognise(bytes), None, "{bytes:?}");
        }
    }
}
