//! The client of running clusters for programs in C; `partita.h` says what each function does.
#![allow(clippy::missing_safety_doc, reason = "callers are in C: the header says what pointers have to be")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use partita_rt::Error;
use partita_rt::hosted::client::Client;
use partita_rt::node::{Outcome, Record};

/// As `partita.h` lays it out.
#[repr(C)]
pub struct PartitaRecord {
    outcome: u32,
    route: u32,
    exit: i32,
    confidence: f32,
    tries: u32,
    took_us: u64,
}

/// Errors by number, from 1.
const ERRORS: [(Error, &CStr); 10] = [
    (Error::Closed, c"the device closed the connection"),
    (Error::Stream, c"the connection broke"),
    (Error::Deadline, c"the device was silent for too long"),
    (Error::Checksum, c"a frame arrived damaged"),
    (Error::WrongPlan, c"the device runs another plan"),
    (Error::WrongPeer, c"another device answers than expected"),
    (Error::WrongMessage, c"nothing is under way, or something that should not be"),
    (Error::WrongLength, c"an input or output is not as long as the model's"),
    (Error::NoLink, c"nobody listens at the socket"),
    (Error::Lost, c"a device ended while the input was under way"),
];

// `PARTITA_LOST` in the header.
const _: () = assert!(matches!(ERRORS[9].0, Error::Lost));

/// A pointer that must not be null is.
const NULL: c_int = ERRORS.len() as c_int + 1;

fn number(result: Result<(), Error>) -> c_int {
    let Err(error) = result else { return 0 };
    ERRORS.iter().position(|(other, _)| *other == error).map_or(NULL, |at| at as c_int + 1)
}

/// Does something with the client behind a pointer.
///
/// # Safety
/// The pointer is null or from `partita_connect`, not closed, and nobody else uses it meanwhile.
unsafe fn with(client: *mut Client, work: impl FnOnce(&mut Client) -> Result<(), Error>) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { client.as_mut() } {
        Some(client) => number(work(client)),
        None => NULL,
    }
}

fn write(record: &Record, into: &mut PartitaRecord) {
    let (outcome, route, exit) = match record.outcome {
        Outcome::Full => (0, 0, None),
        Outcome::Exit(exit, confidence) => (1, 0, Some((exit, confidence))),
        Outcome::Variant(route, exit) => (2, route.into(), exit),
        Outcome::Late => (3, 0, None),
        Outcome::Failed(_) => (4, 0, None),
    };
    let (exit, confidence) = exit.map_or((-1, 0.0), |(exit, confidence)| (exit as i32, confidence));
    *into = PartitaRecord { outcome, route, exit, confidence, tries: record.tries.into(), took_us: record.took_us };
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_connect(
    plan_hash: u64,
    input_socket: *const c_char,
    output_socket: *const c_char,
    client: *mut *mut Client,
) -> c_int {
    if input_socket.is_null() || client.is_null() {
        return NULL;
    }
    // SAFETY: strings end with a null byte, as the header says of C's.
    let path = |text: *const c_char| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()));
    let output = (!output_socket.is_null()).then(|| path(output_socket));
    let connected = Client::connect(plan_hash, path(input_socket), output).map(|connected| {
        // SAFETY: it is not null, and the caller's to be written to.
        unsafe { client.write(Box::into_raw(Box::new(connected))) }
    });
    number(connected)
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_set_budget(client: *mut Client, microseconds: u64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(client, |client| client.set_budget(Duration::from_micros(microseconds))) }
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_submit(client: *mut Client, input: *const c_void, input_bytes: usize) -> c_int {
    if input.is_null() {
        return NULL;
    }
    // SAFETY: the caller has so many bytes there, and the client.
    unsafe { with(client, |client| client.submit(std::slice::from_raw_parts(input.cast(), input_bytes))) }
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_next(
    client: *mut Client,
    output: *mut c_void,
    output_bytes: usize,
    record: *mut PartitaRecord,
) -> c_int {
    // SAFETY: the caller has a record there, or null.
    let Some(record) = (unsafe { record.as_mut() }) else { return NULL };
    if output.is_null() {
        return NULL;
    }
    // SAFETY: the caller has so many bytes there, and the client.
    unsafe {
        with(client, |client| {
            let output = std::slice::from_raw_parts_mut(output.cast(), output_bytes);
            client.next(output).map(|found| write(&found, record))
        })
    }
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_infer(
    client: *mut Client,
    input: *const c_void,
    input_bytes: usize,
    output: *mut c_void,
    output_bytes: usize,
    record: *mut PartitaRecord,
) -> c_int {
    // SAFETY: what the two want is what this one wants.
    unsafe {
        match partita_submit(client, input, input_bytes) {
            0 => partita_next(client, output, output_bytes, record),
            error => error,
        }
    }
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_reset_states(client: *mut Client) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(client, Client::reset_states) }
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_status(client: *mut Client, text: *mut c_char, text_bytes: usize) -> c_int {
    if text.is_null() || text_bytes == 0 {
        return NULL;
    }
    // SAFETY: the caller has so many bytes there, and the client.
    unsafe {
        with(client, |client| {
            let status = client.status()?;
            let count = status.len().min(text_bytes - 1);
            let text = std::slice::from_raw_parts_mut(text.cast::<u8>(), count + 1);
            text[..count].copy_from_slice(&status.as_bytes()[..count]);
            text[count] = 0;
            Ok(())
        })
    }
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn partita_close(client: *mut Client) {
    if !client.is_null() {
        // SAFETY: it is from `partita_connect`, and nobody uses it any more.
        drop(unsafe { Box::from_raw(client) });
    }
}

/// See `partita.h`.
#[unsafe(no_mangle)]
pub extern "C" fn partita_error(error: c_int) -> *const c_char {
    let known = usize::try_from(error).ok().and_then(|number| ERRORS.get(number.checked_sub(1)?));
    match (error, known) {
        (_, Some((_, text))) => text.as_ptr(),
        (0, None) => c"no error".as_ptr(),
        (NULL, None) => c"a pointer is null".as_ptr(),
        _ => c"no error of this client".as_ptr(),
    }
}
