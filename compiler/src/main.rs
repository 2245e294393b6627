//! The `compile` command: arguments in, exit status out.

use std::process::ExitCode;

use clap::Parser;
use partita::cli::Arguments;
use partita::commands;
use partita::driver::Failure;

/// Training frees and takes megabytes thousands of times a second; the system's allocator gives them back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic is always our bug: say so in one line, and never leave with a status that scripts read as success.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| commands::execute(&arguments));
    let failure = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let message = payload
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()))
                .unwrap_or_else(|| "unknown".to_string());
            // Whoever reads our output has seen enough, as `head` does: no fault of ours.
            if message.contains("failed printing to stdout") {
                return ExitCode::SUCCESS;
            }
            Failure::Internal(anyhow::anyhow!("panic: {message}"))
        }
    };
    eprintln!("{failure}");
    ExitCode::from(failure.exit_status())
}
