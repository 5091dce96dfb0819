//! The binary: parses arguments, runs the command, turns the outcome into an exit code.

use clap::Parser;
use holdfast::cli::{Cli, execute};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("Error: the system does not give this process its threads: {e}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(execute(cli));
    // Threads that wait for a file or a process must not keep a finished command.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match outcome {
        Ok(exit) => exit.code(),
        Err(failure) => {
            eprintln!("{}", failure.text());
            failure.code()
        }
    }
}
