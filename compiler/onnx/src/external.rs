//! External data: weights in files beside the model.
//!
//! The location comes from the file and is hostile: it must be relative, stay beneath the model's folder, and lead to a
//! regular file with a single name, through no symbolic link (the holes of CVE-2022-25882, CVE-2024-27318,
//! CVE-2026-34446 and CVE-2026-34447). The kernel resolves it in one step (`openat2`), so nothing can be swapped
//! between check and use.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path};

use onnx_protobuf::TensorProto;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use partita_ir::diagnostic::{Diagnostic, printable};

/// Reads exactly `wanted_bytes` of a tensor's external data.
pub fn read(tensor: &TensorProto, folder: Option<&Path>, wanted_bytes: u64) -> Result<Vec<u8>, Diagnostic> {
    let name = printable(&tensor.name);
    let refuse = |message: String| Diagnostic::new("E0150", format!("external data of tensor `{name}`: {message}"));
    let Some(folder) = folder else {
        return Err(refuse("the model was given without a folder to look in".to_string()));
    };
    let (mut location, mut offset, mut length) = (None, 0u64, None);
    for entry in &tensor.external_data {
        let number = || {
            entry
                .value
                .parse::<u64>()
                .map_err(|_| refuse(format!("`{}` is `{}`, expected a number", entry.key, printable(&entry.value))))
        };
        match entry.key.as_str() {
            "location" => location = Some(entry.value.as_str()),
            "offset" => offset = number()?,
            "length" => length = Some(number()?),
            "checksum" => {}
            other => return Err(refuse(format!("unknown key `{}`", printable(other)))),
        }
    }
    let Some(location) = location.filter(|location| !location.is_empty()) else {
        return Err(refuse("no location is given".to_string()));
    };
    if let Some(length) = length.filter(|length| *length != wanted_bytes) {
        return Err(refuse(format!("its length is {length} bytes, but the tensor has {wanted_bytes}")));
    }
    let file = open_beneath(folder, location).map_err(|message| {
        refuse(format!("`{}`: {message}", printable(location)))
            .help("the location must be a plain file beneath the model's folder, without links")
    })?;
    let size = file.metadata().map_err(|error| refuse(error.to_string()))?.len();
    let end = offset.checked_add(wanted_bytes);
    if end.is_none_or(|end| end > size) {
        return Err(refuse(format!("bytes {offset} to {offset} + {wanted_bytes} of a file of {size}")));
    }
    let mut bytes = vec![0; wanted_bytes as usize];
    file.read_exact_at(&mut bytes, offset).map_err(|error| refuse(error.to_string()))?;
    Ok(bytes)
}

fn open_beneath(folder: &Path, location: &str) -> Result<File, String> {
    let path = Path::new(location);
    if location.contains('\0')
        || !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err("it leaves the model's folder".to_string());
    }
    let root = File::open(folder).map_err(|error| format!("the model's folder: {error}"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        Ok(descriptor) => File::from(descriptor),
        Err(rustix::io::Errno::NOSYS) => open_step_by_step(root, path)?,
        Err(error) => return Err(std::io::Error::from(error).to_string()),
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_string());
    }
    if metadata.nlink() != 1 {
        return Err(format!("the file has {} names (hard links), expected one", metadata.nlink()));
    }
    Ok(file)
}

/// For kernels before 5.6: opens each part in turn, following no link.
fn open_step_by_step(root: File, path: &Path) -> Result<File, String> {
    let mut current = root;
    let parts: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        let kind = if last { OFlags::NONBLOCK } else { OFlags::DIRECTORY };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | kind;
        let next = rustix::fs::openat(&current, part.as_os_str(), flags, Mode::empty());
        current = File::from(next.map_err(|error| std::io::Error::from(error).to_string())?);
    }
    Ok(current)
}
