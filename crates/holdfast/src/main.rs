//! The binary: parses arguments, runs the command, turns the outcome into an exit code.

use clap::Parser;
use holdfast::cli::{Cli, execute};
use std::process::ExitCode;
use tokio::runtime::Builder;

/// What is not the proxy has little to do; the second thread is there for when the first waits for a disk.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = match runtime {
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
