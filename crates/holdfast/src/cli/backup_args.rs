//! What can be typed after `holdfast backup`, `restore` and `repo`.

use super::args::Output;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Which repository, and its key.
#[derive(Args, Clone, Default)]
pub struct RepositoryArgs {
    /// Directory of the repository, or s3://BUCKET/PREFIX [default: the topology file's]
    #[arg(long, env = "HOLDFAST_REPOSITORY")]
    pub repository: Option<String>,
    /// File with the repository key in its first line
    #[arg(long, env = "HOLDFAST_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// The repository is not encrypted: whoever can read it can read the data
    #[arg(long, conflicts_with = "key_file")]
    pub unencrypted: bool,
}

#[derive(Subcommand)]
pub enum BackupCommand {
    /// Back up a running service, without stopping anything
    Now {
        /// A service of the topology; with --socket, the name to file it under
        service: Option<String>,
        /// Unix socket of a server, with or without a topology
        #[arg(long, conflicts_with = "from")]
        socket: Option<PathBuf>,
        /// The member to take it from, on this host [default: the fittest, a replica if there is one]
        #[arg(long)]
        from: Option<String>,
        /// Rely on nothing that is in the repository
        #[arg(long)]
        full: bool,
        /// Also read every table, and record rows and checksums if nothing is written meanwhile
        #[arg(long)]
        count: bool,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Copy a directory that nobody writes to, of any engine
    Cold {
        dir: PathBuf,
        /// The name to file it under
        #[arg(long)]
        service: String,
        /// Shell command that stops what writes to it
        #[arg(long)]
        stop: Option<String>,
        /// Shell command that starts it again, also if stopping or the copy fails
        #[arg(long, requires = "stop")]
        start: Option<String>,
        #[arg(long)]
        full: bool,
        /// Copy although a process has files in it open for writing, or may have
        #[arg(long)]
        even_if_open: bool,
        /// Keep links that lead out of the directory; what they lead to is not in the backup
        #[arg(long)]
        outside_links: bool,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Show when the services are backed up by themselves, and what became of the last one
    Schedule {
        service: Option<String>,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// List backups
    List {
        service: Option<String>,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Show what a backup is, and its proofs
    Show {
        service: Option<String>,
        /// [default: the last one]
        #[arg(long = "backup")]
        id: Option<String>,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Prove a backup: restore it, start a server on it that nobody can reach, check and read every table
    Verify {
        service: Option<String>,
        /// [default: the last one]
        #[arg(long = "backup")]
        id: Option<String>,
        /// Where the copy may lie meanwhile [default: the system's temporary directory]
        #[arg(long)]
        scratch: Option<PathBuf>,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Remove backups that no rule keeps, and what interrupted ones left
    Prune {
        /// [default: every service that has backups]
        service: Option<String>,
        #[arg(long)]
        keep_last: Option<u32>,
        #[arg(long)]
        keep_daily: Option<u32>,
        #[arg(long)]
        keep_weekly: Option<u32>,
        #[arg(long)]
        keep_monthly: Option<u32>,
        /// Every backup of so many days
        #[arg(long)]
        keep_days: Option<u32>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Finish the work of a prune on another host that is certainly over
        #[arg(long)]
        take_over: bool,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
}

#[derive(Args, Clone)]
pub struct RestoreArgs {
    pub service: Option<String>,
    /// A directory that does not exist, or is empty
    #[arg(long)]
    pub to: PathBuf,
    /// [default: the last one]
    #[arg(long = "backup")]
    pub id: Option<String>,
    /// Go on from the backup to a moment (2026-11-26T14:30:00Z), through a transaction (its id), or to all that was kept
    /// (latest); needs `archive = true`
    #[arg(long, value_name = "MOMENT|TRANSACTION|latest", conflicts_with = "raw")]
    pub at: Option<String>,
    /// Go on to just before this transaction
    #[arg(long, value_name = "TRANSACTION", conflicts_with_all = ["raw", "at"])]
    pub before: Option<String>,
    /// Leave the files as they were backed up, not ready to start on
    #[arg(long)]
    pub raw: bool,
    /// OS user who is to own the files
    #[arg(long)]
    pub owner: Option<String>,
    #[command(flatten)]
    pub repository: RepositoryArgs,
}

#[derive(Subcommand)]
pub enum RepoCommand {
    /// Make a repository in a new or empty directory
    Init {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Print a new key; without it nothing can be restored, so keep it where the repository is not
    Key,
    /// Read every byte, and name what is damaged and which backups suffer
    Check {
        #[command(flatten)]
        repository: RepositoryArgs,
    },
    /// Write backups to plain directories, with a description beside each
    Export {
        service: Option<String>,
        /// Below it, SERVICE/BACKUP/ and SERVICE/BACKUP.json
        #[arg(long)]
        to: PathBuf,
        /// Every backup, not only the last
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        repository: RepositoryArgs,
    },
}
