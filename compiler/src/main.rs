//! The `compile` command; `partita` is the same.

use std::process::ExitCode;

/// Training frees and takes megabytes thousands of times a second; the system's allocator gives them back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    partita::commands::main()
}
