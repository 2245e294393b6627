//! Files that people give by mistake: told by their first bytes, with what to do instead.

/// What a file seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// With its article: `a PyTorch file`.
    pub name: &'static str,
    /// How a model, if it is one, comes to be ONNX.
    pub as_model: &'static str,
    /// How samples, if it holds some, come to be an `.npz`.
    pub as_data: &'static str,
}

/// Name of the format of our data files.
pub const NPZ: &str = "an archive of arrays (.npz)";

/// Name of the format of models.
pub const ONNX: &str = "an ONNX model";

const EXPORT: &str = "load the model in Python and export it: torch.onnx.export(model, example, \"model.onnx\")";
const SAVE: &str = "load it in Python and save its arrays: numpy.savez(\"data.npz\", x=.., y=..)";

/// What a file is by its first bytes; nothing for what we read ourselves and for what is not known.
pub fn recognise(head: &[u8]) -> Option<Format> {
    let holds = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    let of = |name, as_model, as_data| Some(Format { name, as_model, as_data });
    if head.starts_with(b"\x93NUMPY") {
        return of(
            "a single array (.npy)",
            "give the ONNX file",
            "save it with a name: numpy.savez(\"data.npz\", x=numpy.load(\"..\"))",
        );
    }
    if head.starts_with(b"PK\x03\x04") {
        if holds(b"data.pkl") || holds(b"/version") || holds(b"/.format_version") {
            return of("a PyTorch file (.pt)", EXPORT, SAVE);
        }
        if holds(b".npy") {
            return of(NPZ, "give the ONNX file; samples go to --input, --evaluate or --calibration", SAVE);
        }
        return of("a zip archive", "unpack it, and give the ONNX file in it", SAVE);
    }
    if head.get(4..8) == Some(b"TFL3") {
        return of(
            "a TensorFlow Lite model (.tflite)",
            "convert it: python -m tf2onnx.convert --tflite model.tflite --output model.onnx",
            "give samples as .npz; the model comes first on the command line",
        );
    }
    if head.starts_with(b"\x89HDF\r\n\x1a\n") {
        return of(
            "an HDF5 file (Keras .h5)",
            "convert it: python -m tf2onnx.convert --keras model.h5 --output model.onnx",
            SAVE,
        );
    }
    // Protocols 2 to 5 of Python's pickle.
    if matches!(head, [0x80, 2..=5, ..]) {
        return of("a Python pickle (old .pt or .pkl)", EXPORT, SAVE);
    }
    let image =
        [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8\xff", b"GIF8", b"BM"].iter().any(|magic| head.starts_with(magic));
    if image {
        return of("a picture", "give the ONNX file", SAVE);
    }
    if looks_like_onnx(head) {
        return of(
            ONNX,
            "give the ONNX file",
            "the model comes first on the command line, samples behind their option",
        );
    }
    if head.starts_with(b"version https://git-lfs") {
        return of("a Git LFS pointer", "fetch the file itself: git lfs pull", "fetch the file itself: git lfs pull");
    }
    let text = !head.is_empty() && std::str::from_utf8(head).is_ok_and(|text| !text.contains('\0'));
    text.then_some(Format { name: "text", as_model: "give the ONNX file", as_data: SAVE })
}

/// A protobuf message that begins with the version of the format and the name of a producer or the graph.
fn looks_like_onnx(head: &[u8]) -> bool {
    matches!(head, [0x08, 1..=20, 0x12 | 0x1a | 0x22 | 0x3a | 0x42, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_first_bytes() {
        for (head, name) in [
            (&b"\x93NUMPY\x01\x00v"[..], "a single array (.npy)"),
            (b"PK\x03\x04........model/data.pkl", "a PyTorch file (.pt)"),
            (b"PK\x03\x04........x.npy\x93NUMPY", "an archive of arrays (.npz)"),
            (b"PK\x03\x04........readme", "a zip archive"),
            (b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite model (.tflite)"),
            (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)"),
            (b"\x80\x02\x8a\x0a", "a Python pickle (old .pt or .pkl)"),
            (b"\x89PNG\r\n\x1a\n", "a picture"),
            (b"\x08\x09\x12\x07pytorch", "an ONNX model"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
            (b"1,2,3\n", "text"),
        ] {
            assert_eq!(recognise(head).map(|format| format.name), Some(name), "{head:?}");
        }
        assert_eq!(recognise(b""), None);
        assert_eq!(recognise(b"\x00\x01\x02\xff"), None);
    }
}
