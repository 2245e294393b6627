//! A device's own key and what it knows its peers by, as files.
//!
//! The private key is a file of 64 hexadecimal digits that nobody but its owner reads; it is made on the device with
//! `PROGRAM keygen`, or beside the bundle by the compiler. The file of those that are trusted has a line `NAME KEY` for each
//! device of the cluster, and nothing secret.

use std::io::{Error, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{env, format, fs};

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use super::driver::Keys;
use super::{Arguments, Device};
use crate::noise::{KEY_BYTES, Private, Public};

/// Name of the private key among the credentials that systemd hands over.
const CREDENTIAL: &str = "identity";

/// Name of the file of those that are trusted.
const TRUSTED: &str = "trusted";

/// Bytes of the system's random source.
pub fn secret() -> Result<[u8; KEY_BYTES], Error> {
    let mut bytes = [0; KEY_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += getrandom(rest, GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// A key as hexadecimal digits.
pub fn to_hex(key: &[u8; KEY_BYTES]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key of 64 hexadecimal digits.
pub fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (slot, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        for digit in digits {
            *slot = *slot << 4 | char::from(*digit).to_digit(16)? as u8;
        }
    }
    Some(key)
}

/// Makes a private key in a new file that only its owner can read; its public key.
///
/// Errors: there is such a file already, or it cannot be made.
pub fn make(path: &Path) -> Result<Public, String> {
    let told = |error: Error| format!("{}: {error}", path.display());
    let bytes = Zeroizing::new(secret().map_err(told)?);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(told)?;
    file.write_all(Zeroizing::new(to_hex(&bytes) + "\n").as_bytes()).and_then(|()| file.sync_all()).map_err(told)?;
    Ok(Private::new(*bytes).public())
}

/// The private key in a file.
pub fn read(path: &Path) -> Result<Private, String> {
    let told = |error: Error| format!("{}: {error}", path.display());
    let file = fs::File::open(path).map_err(told)?;
    let mode = file.metadata().map_err(told)?.mode();
    // What systemd hands over is kept from others by the folder it lies in.
    let is_handed_over = env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|folder| path.starts_with(folder));
    if mode & 0o077 != 0 && !is_handed_over {
        let shown = path.display();
        return Err(format!(
            "{shown}: others can read this private key; say `chmod 600 {shown}`, and make a new one if they have"
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(1024).read_to_string(&mut text).map_err(told)?;
    let key = from_hex(text.trim_end()).map(Zeroizing::new);
    let key = key.ok_or_else(|| format!("{}: expected a private key of 64 hexadecimal digits", path.display()))?;
    Ok(Private::new(*key))
}

/// The folder that this program lies in.
fn folder() -> Option<PathBuf> {
    env::current_exe().ok()?.parent().map(Path::to_path_buf)
}

/// Places where a file may lie if nobody says where: beside the program, and where the compiler has put it.
fn usual(name: &str) -> Vec<PathBuf> {
    folder().into_iter().flat_map(|folder| [folder.join(name), folder.join("../identity").join(name)]).collect()
}

/// The one that there is of some files.
fn found(what: &str, option: &str, places: Vec<PathBuf>) -> Result<PathBuf, String> {
    let shown: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    let found = places.into_iter().find(|place| place.exists());
    found.ok_or_else(|| format!("where is {what}? say {option} FILE; there is none of {}", shown.join(", ")))
}

/// What the command line, systemd or the place of this program say of keys.
pub(super) fn keys(device: &Device, arguments: &Arguments) -> Result<Keys, String> {
    let own = match &arguments.identity {
        Some(path) => PathBuf::from(path),
        None => {
            let handed = env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(CREDENTIAL));
            let places = handed.into_iter().chain(usual(&file_name(device))).collect();
            found("this device's private key", "--identity", places)
                .map_err(|message| format!("{message}; `keygen` makes one"))?
        }
    };
    let private = read(&own)?;
    let trusted = match &arguments.trusted {
        Some(path) => PathBuf::from(path),
        None => found("what peers are known by", "--trusted", usual(TRUSTED))?,
    };
    let text = fs::read_to_string(&trusted).map_err(|error| format!("{}: {error}", trusted.display()))?;
    let key_of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let key = line.and_then(|key| from_hex(key.trim()));
        key.ok_or_else(|| {
            format!("{}: expected a line `{name} KEY` with a key of 64 hexadecimal digits", trusted.display())
        })
    };
    if key_of(device.name)? != private.public() {
        let (own, trusted, public) = (own.display(), trusted.display(), to_hex(&private.public()));
        return Err(format!(
            "{own} is not the key that peers know this device by: {trusted} has another one, not its public key {public}"
        ));
    }
    let peers = device.peers.iter().map(|(_, name)| key_of(name)).collect::<Result<_, _>>()?;
    Ok(Keys { private, peers, secret: secret().map_err(|error| format!("the system's random source: {error}"))? })
}

fn file_name(device: &Device) -> String {
    format!("{}.key", device.name)
}

/// `keygen`: makes this device's key, and says what others have to know it by.
pub(super) fn keygen(device: &Device, arguments: &Arguments) -> Result<String, String> {
    let beside = || folder().map(|folder| folder.join(file_name(device)));
    let path = arguments.identity.as_ref().map(PathBuf::from).or_else(beside);
    let path = path.ok_or_else(|| "where is the key to be? say --identity FILE".to_string())?;
    make(&path)
        .map(|public| to_hex(&public) + "\n")
        .map_err(|message| format!("{message}; a key is never written over"))
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_by_its_owner_alone() {
        let folder = env::temp_dir().join(format!("partita-identity-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("cam.key");
        let public = make(&path).expect("there was none");
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o777, 0o600);
        assert_eq!(read(&path).map(|private| private.public()), Ok(public));
        assert!(make(&path).is_err_and(|message| message.contains("exists")));
        let loose = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(&path, loose).expect("it is ours");
        assert!(read(&path).is_err_and(|message| message.contains("chmod 600")));
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn keys_are_64_digits() {
        let key = core::array::from_fn(|at| at as u8 * 7);
        assert_eq!(from_hex(&to_hex(&key)), Some(key));
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"0".repeat(66), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }
}
