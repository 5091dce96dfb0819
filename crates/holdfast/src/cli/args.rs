//! What can be typed.

pub use super::backup_args::{BackupCommand, RepoCommand, RestoreArgs};
use clap::builder::TypedValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use holdfast_core::limits;
use holdfast_core::topology::Engine;
use holdfast_drill::drills::Drill;
use holdfast_drill::fault::Fault;
use std::path::PathBuf;

/// High availability for stateful backends, from a cold backup to multi-active, in one binary and one topology file.
#[derive(Parser)]
#[command(name = "holdfast", version, about, after_help = super::exit::HELP)]
pub struct Cli {
    /// Topology file [default: ./holdfast.toml, else /etc/holdfast/holdfast.toml]
    #[arg(long, short, global = true, env = "HOLDFAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// File with a viewer or operator token, where the API asks for one [default: TLS directory's operator.token]
    #[arg(long, global = true, env = "HOLDFAST_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run this host's part: agent, store member, controller, proxies
    Run {
        /// This host's name in the topology file
        #[arg(long, env = "HOLDFAST_NODE")]
        node: String,
    },
    /// Run a sandbox on loopback: real engines, data in one directory, clean stop with Ctrl-C
    Dev(DevArgs),
    /// Show nodes, services and members
    Status {
        /// Show it again every second until Ctrl-C
        #[arg(long, short)]
        watch: bool,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Hand a service's primary over to another member, without loss and without client errors
    Switchover {
        service: Option<String>,
        /// The next primary [default: the fittest replica]
        #[arg(long)]
        to: Option<String>,
        /// To the service's home, the first of its members
        #[arg(long, conflicts_with = "to")]
        home: bool,
    },
    /// Take over from a primary that is not known to be dead
    Failover {
        service: Option<String>,
        #[arg(long)]
        to: Option<String>,
        /// Promote even if acknowledged writes may be lost
        #[arg(long)]
        accept_loss: bool,
    },
    /// Switch automatic failover of a service off
    Pause { service: Option<String> },
    /// Switch automatic failover of a service on again
    Resume { service: Option<String> },
    /// Show every plan with its steps and milliseconds
    History {
        service: Option<String>,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Say why the controller acts or waits
    Explain {
        service: Option<String>,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Rebuild a member's data from the primary
    Reinit { node: String, service: Option<String> },
    /// Restart every instance with the programs that are installed by now: replicas first, then a switchover
    Upgrade {
        service: Option<String>,
        /// Say what would be done, and whether it can be
        #[arg(long)]
        dry_run: bool,
        /// Stop before the switchover: until then the group can go back to its earlier release
        #[arg(long)]
        replicas_only: bool,
        /// With only one replica: restart it although nobody can take over meanwhile and, under sync, writes wait
        #[arg(long)]
        accept_no_standby: bool,
        /// End an upgrade that is under way after its present step
        #[arg(long, conflicts_with_all = ["dry_run", "replicas_only", "accept_no_standby"])]
        stop: bool,
    },
    /// Back up services and directories, and prove that the backups work
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Restore a backup into a new directory that an engine can start on
    Restore(RestoreArgs),
    /// Make, check or export a backup repository
    #[command(subcommand)]
    Repo(RepoCommand),
    /// Check or describe the topology file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make the certificate authority, the nodes' certificates and the tokens
    Init {
        /// Where [default: the topology's tls.dir]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Also replace certificates that end within 30 days
        #[arg(long)]
        renew: bool,
    },
    /// Prove it: break real processes and count what a client lost
    #[command(subcommand)]
    Drill(DrillCommand),
    /// What agents start to break their host and to heal it again
    #[command(name = crate::faults::breaker::COMMAND, hide = true)]
    Breaker,
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Report every mistake in the topology file, with line and hint
    Check { file: Option<PathBuf> },
    /// Print the JSON schema of the topology file
    Schema,
}

#[derive(Args, Clone)]
pub struct DevArgs {
    /// Where everything goes; kept between runs
    #[arg(long, default_value = "holdfast-dev")]
    pub dir: PathBuf,
    /// Members of the service: 127.0.0.11, .12, …
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nodes: u8,
    #[arg(long, value_enum, default_value_t = Durability::Sync)]
    pub durability: Durability,
    /// The proxies' read/write port; the read port is the next one [default: 3306, or 6379 for Redis and Valkey]
    #[arg(long)]
    pub port: Option<u16>,
    /// What reads on the read/write port may see; anything but strong lets them go to replicas
    #[arg(long, value_enum, default_value_t = Consistency::Strong)]
    pub read_consistency: Consistency,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    Strong,
    Session,
    Eventual,
}

/// The servers of a sandbox.
#[derive(Args, Clone)]
pub struct EngineArgs {
    #[arg(long, value_enum, default_value_t = Flavour::Mariadb)]
    pub engine: Flavour,
    /// Directory of the engine's programs [default: found through PATH]
    #[arg(long)]
    pub programs: Option<PathBuf>,
}

impl EngineArgs {
    pub fn engine(&self) -> Engine {
        self.engine.engine()
    }
}

impl Flavour {
    pub fn engine(self) -> Engine {
        match self {
            Flavour::Mariadb => Engine::MariaDb,
            Flavour::Mysql => Engine::MySql,
            Flavour::Redis => Engine::Redis,
            Flavour::Valkey => Engine::Valkey,
        }
    }
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Mariadb => "MariaDB",
            Flavour::Mysql => "MySQL",
            Flavour::Redis => "Redis",
            Flavour::Valkey => "Valkey",
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    Mariadb,
    Mysql,
    Redis,
    Valkey,
}

#[derive(Subcommand)]
pub enum DrillCommand {
    /// Run one drill on a sandbox of its own, or with --staging on your own staging deployment
    #[command(mut_arg("staging", |a| a.conflicts_with_all(
        ["durability", "network", "witnesses", "dir", "engine", "programs"]
    )))]
    Run {
        #[arg(value_parser = drill_names())]
        drill: Drill,
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        #[command(flatten)]
        sandbox: SandboxArgs,
        #[command(flatten)]
        staging: StagingArgs,
    },
    /// Break something else again and again, by a schedule that a seed makes; under sync nothing may be lost, and
    /// registers have to be linearizable
    #[command(mut_arg("staging", |a| a.conflicts_with_all(["network", "dir", "engine", "programs"])))]
    Random {
        /// The schedule
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// No incident begins later than this
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1440))]
        minutes: u64,
        #[arg(long, value_enum, default_value_t = Network::Auto)]
        network: Network,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Where the sandbox goes [default: a temporary directory, removed afterwards]
        #[arg(long)]
        dir: Option<PathBuf>,
        #[command(flatten)]
        engine: EngineArgs,
        #[command(flatten)]
        staging: StagingArgs,
    },
    /// Two machines, each the standby of the service that is at home on the other: one dies, the other carries both, and when
    /// it is back its service goes home; then the other one
    Mutual {
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// The other service's database
        #[arg(long, value_enum, default_value_t = Flavour::Redis)]
        partner: Flavour,
        /// Directory of its programs [default: found through PATH]
        #[arg(long)]
        partner_programs: Option<PathBuf>,
        #[command(flatten)]
        sandbox: SandboxArgs,
    },
    /// Break one host of a staging deployment for a while, as drills do; its own agent does it
    Strike(StrikeArgs),
    /// A failover every period under load, for as long as you like: nothing may be lost, and nothing may grow
    Soak {
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_080))]
        minutes: u64,
        /// Seconds from one failover to the next
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=3_600))]
        every: u64,
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Where the sandbox goes [default: a temporary directory, removed afterwards]
        #[arg(long)]
        dir: Option<PathBuf>,
        #[command(flatten)]
        engine: EngineArgs,
    },
    /// List the drills and what each promises
    List,
    /// What `make demo` shows: a killed engine, then a switchover
    Demo,
}

/// What drills break.
#[derive(Args, Clone)]
pub struct SandboxArgs {
    #[arg(long, value_enum, default_value_t = Durability::Sync)]
    pub durability: Durability,
    /// Clients that write at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub writers: u8,
    /// What the hosts stand on; partitions need namespaces
    #[arg(long, value_enum, default_value_t = Network::Auto)]
    pub network: Network,
    /// Hosts that vote and hold no data; without any, the members vote (`mutual`: both do, and at least one witness)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=5))]
    pub witnesses: u8,
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Where the sandbox goes [default: a temporary directory, removed afterwards]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Somebody's own deployment, and how it is drilled.
#[derive(Args, Clone)]
pub struct StagingArgs {
    /// Break the deployment of the topology file, which has to say `drills = true`, instead of a sandbox
    #[arg(long)]
    pub staging: bool,
    /// The service to drill [default: the only one]
    #[arg(long, requires = "staging")]
    pub service: Option<String>,
    /// The service's user that writes [default: the first]
    #[arg(long, requires = "staging")]
    pub user: Option<String>,
    /// Its password in the first line [default: where the topology file says]
    #[arg(long, requires = "staging")]
    pub password_file: Option<PathBuf>,
    /// Where the drills' tables are made and dropped again [default: the first database of the user's grants]
    #[arg(long, requires = "staging")]
    pub database: Option<String>,
    /// Seconds after which what is broken heals by itself
    #[arg(long = "for", value_name = "SECONDS", requires = "staging", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(5..=limits::FAULT_S_MAX))]
    pub for_s: u64,
    /// The longest outage you allow, in milliseconds [default: what `drill list` promises]
    #[arg(long = "rto", value_name = "MS", requires = "staging")]
    pub rto_ms: Option<u64>,
    /// Seconds that members may take to come back; more where rebuilding one copies much data
    #[arg(long = "rejoin", value_name = "SECONDS", requires = "staging", default_value_t = 900,
          value_parser = clap::value_parser!(u64).range(10..=86_400))]
    pub rejoin_s: u64,
    /// Do not ask
    #[arg(long, requires = "staging")]
    pub yes: bool,
}

/// One fault of one host.
#[derive(Args, Clone)]
pub struct StrikeArgs {
    pub node: String,
    #[arg(value_parser = fault_names())]
    pub fault: Fault,
    /// Whose engine is meant [default: the only one on that host]
    #[arg(long)]
    pub service: Option<String>,
    /// Seconds after which it heals by itself
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(1..=limits::FAULT_S_MAX))]
    pub for_s: u64,
    /// Only say what would be done, and whether it could be
    #[arg(long)]
    pub rehearse: bool,
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// The faults' names.
fn fault_names() -> impl clap::builder::TypedValueParser<Value = Fault> {
    clap::builder::PossibleValuesParser::new(Fault::ALL.map(Fault::name))
        .map(|name| Fault::named(&name).expect("the parser takes only these names"))
}

/// The drills' names, each with what it does.
fn drill_names() -> impl clap::builder::TypedValueParser<Value = Drill> {
    let names = Drill::ALL.map(|d| clap::builder::PossibleValue::new(d.name()).help(d.describe()));
    clap::builder::PossibleValuesParser::new(names).map(|name| {
        Drill::ALL.into_iter().find(|d| d.name() == name).expect("the parser takes only these names")
    })
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// Namespaces where they can be made, else loopback
    Auto,
    /// Each host a network namespace of its own; needs root
    Namespaces,
    /// Each host an address of the loopback network
    Loopback,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    Sync,
    Async,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    Table,
    Json,
}

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut script);
    crate::say!("{}", String::from_utf8_lossy(&script));
}
