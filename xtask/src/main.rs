//! `cargo xtask`: what the repository checks about itself, and the files that are generated from the code.
//! Writes only what `schemas` generates; everything else looks and reports, all mistakes at once.

mod edges;
mod schemas;
mod sources;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy             check crate edges, licences and style
       cargo xtask schemas [--check]  write the generated files, or only compare them";

fn main() -> ExitCode {
    let Some(root) = root() else {
        eprintln!("run this inside the repository");
        return ExitCode::from(2);
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mistakes = match arguments[..] {
        ["tidy"] => [edges::check(&root), sources::check(&root)].concat(),
        ["schemas"] => schemas::write(&root),
        ["schemas", "--check"] => schemas::check(&root),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    for mistake in &mistakes {
        eprintln!("{mistake}");
    }
    if mistakes.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("{} mistakes", mistakes.len());
    ExitCode::FAILURE
}

/// The repository around the current directory. Not where this was built: clones may share a target directory.
fn root() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().find(|dir| dir.join("xtask/Cargo.toml").exists()).map(Path::to_path_buf)
}
