//! Every field of the topology file, once: its name, kind, default and meaning. The reader, the table in
//! docs/topology.md and the JSON Schema are made from here, so they cannot disagree.
//! What fields mean *together* (ports that clash, a service on a missing node) is not here but in `rules`.

mod service;

use holdfast_core::limits;
use service::SERVICE;

/// A table of the file and its fields.
#[derive(Debug)]
pub struct Section {
    /// How a reader of the file would call it: `[[node]]`.
    pub title: &'static str,
    pub doc: &'static str,
    pub fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub need: Need,
    pub doc: &'static str,
}

/// What a field holds.
#[derive(Debug)]
pub enum Kind {
    /// 1 to 63 of `a-z 0-9 -`, starting with a letter.
    Name,
    /// A database user's name.
    User,
    /// Any text without control characters.
    Text {
        chars_max: usize,
    },
    /// A text that no report shows.
    Secret {
        chars_max: usize,
    },
    Flag,
    Number {
        min: u64,
        max: u64,
    },
    /// An IP address.
    Address,
    /// An absolute path without `..`.
    Path,
    Choice(&'static [Choice]),
    List {
        of: &'static Kind,
        min: usize,
        max: usize,
    },
    /// Free keys with a text, whole number or boolean each.
    Options {
        max: usize,
    },
    One(&'static Section),
    Many {
        of: &'static Section,
        min: usize,
        max: usize,
    },
}

/// One value of a [`Kind::Choice`].
#[derive(Debug)]
pub struct Choice {
    pub value: &'static str,
    pub doc: &'static str,
}

/// What happens when a field is not given.
#[derive(Debug)]
pub enum Need {
    Required,
    Default(Default),
    /// May be absent; the text says what that means.
    Optional(&'static str),
}

/// A default in the form the field would be written.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    Text(&'static str),
    Flag(bool),
    Number(u64),
}

const PORT: Kind = Kind::Number { min: 1, max: 65_535 };
const UNITS_MAX: u64 = 1 << 40;
const PATH_CHARS: usize = 4_096;
const COMMAND_WORDS: usize = 64;
pub(super) const USERS_PER_SERVICE: usize = 64;
pub(super) const GRANTS_PER_USER: usize = 64;
pub(super) const ENGINE_OPTIONS: usize = 256;

const fn field(name: &'static str, kind: Kind, need: Need, doc: &'static str) -> Field {
    Field { name, kind, need, doc }
}

pub static FILE: Section = Section {
    title: "the top of the file",
    doc: "Written before the first section.",
    fields: &[
        field(
            "name",
            Kind::Name,
            Need::Required,
            "Names the deployment in outputs, metrics and certificates.",
        ),
        field(
            "api_port",
            PORT,
            Need::Default(Default::Number(7400)),
            "TCP port of the HTTP API, on every node's `address`.",
        ),
        field(
            "allow_plaintext_passwords",
            Kind::Flag,
            Need::Default(Default::Flag(false)),
            "Accept `password = \"…\"` in this file. It is copied to every host and into every backup of it, so \
             leave this off outside a sandbox.",
        ),
        field(
            "drills",
            Kind::Flag,
            Need::Default(Default::Flag(false)),
            "This is a staging deployment: every host lets an operator break it with `holdfast drill`, for a while. \
             Without it every host refuses. Never set it where the data matters.",
        ),
        field(
            "tls",
            Kind::One(&TLS),
            Need::Optional("the API listens on loopback addresses only"),
            "Certificates between the hosts.",
        ),
        field(
            "sentinel",
            Kind::One(&SENTINEL),
            Need::Optional("clients of Redis and Valkey connect to the proxies"),
            "Answers clients that ask a Sentinel for the primary.",
        ),
        field(
            "repository",
            Kind::One(&REPOSITORY),
            Need::Optional("backups are made only with `--repository`"),
            "Where backups go.",
        ),
        field(
            "backup",
            Kind::One(&BACKUP),
            Need::Optional("the defaults of its fields"),
            "How long backups are kept.",
        ),
        field(
            "node",
            Kind::Many { of: &NODE, min: 1, max: limits::NODES },
            Need::Required,
            "The hosts. One `[[node]]` each.",
        ),
        field(
            "service",
            Kind::Many { of: &SERVICE, min: 0, max: limits::SERVICES },
            Need::Optional("the nodes only form a store"),
            "What clients connect to. One `[[service]]` each.",
        ),
    ],
};

static TLS: Section = Section {
    title: "[tls]",
    doc: "Made by `holdfast init`. Needed as soon as one node is not on a loopback address.",
    fields: &[field(
        "dir",
        Kind::Path,
        Need::Required,
        "Directory with `ca.pem`, `<node>.pem`, `<node>.key` and the hashes of the people's tokens.",
    )],
};

static SENTINEL: Section = Section {
    title: "[sentinel]",
    doc: "Every node answers as a Sentinel of all Redis and Valkey services; see [operations.md](operations.md#clients-of-sentinel). A service's name is \
          what clients call the master's name. With a password, clients give it before they are told anything.",
    fields: &[
        field(
            "port",
            PORT,
            Need::Default(Default::Number(26_379)),
            "TCP port, on every node's `address`. With `[tls]`, clients may use TLS there.",
        ),
        Field { need: NO_PASSWORD, ..PASSWORD_FILE },
        Field { need: NO_PASSWORD, ..PASSWORD_ENV },
        Field { need: NO_PASSWORD, ..PASSWORD },
    ],
};

const NO_PASSWORD: Need = Need::Optional("clients give none");

static REPOSITORY: Section = Section {
    title: "[repository]",
    doc: "Backups of all services, deduplicated, compressed and encrypted. Made by `holdfast repo init`. One of the key \
          fields, or `unencrypted`, is needed: a backup that nobody can read is as bad as one that everybody can.",
    fields: &[
        field(
            "path",
            Kind::Path,
            PLACE_NEED,
            "Directory of the repository, on a disk or a network file system that does not go when a host goes.",
        ),
        field("s3", Kind::One(&S3), PLACE_NEED, "A bucket of S3 or of a server that speaks its protocol."),
        field(
            "key_file",
            Kind::Path,
            KEY_NEED,
            "The key is the first line of this file, on each host that makes or restores backups.",
        ),
        field("key_env", Kind::Text { chars_max: 256 }, KEY_NEED, "The key is in this environment variable."),
        field(
            "key_command",
            Kind::List { of: &Kind::Text { chars_max: PATH_CHARS }, min: 1, max: COMMAND_WORDS },
            KEY_NEED,
            "Program and arguments that print the key, for a vault.",
        ),
        field(
            "unencrypted",
            Kind::Flag,
            Need::Default(Default::Flag(false)),
            "Do without a key: whoever can read the repository can read the data.",
        ),
        field(
            "archive",
            Kind::Flag,
            Need::Default(Default::Flag(false)),
            "Keep the log of every MariaDB and MySQL primary here as well, continuously, so that `holdfast restore --at` \
             leads to any moment. A directory must be at `path` on every host that may be primary.",
        ),
    ],
};

const PLACE_NEED: Need = Need::Optional("one of `path` and [repository.s3] is needed");

static S3: Section = Section {
    title: "[repository.s3]",
    doc: "A repository in a bucket. The server must honour `If-None-Match` where it writes, which `holdfast repo init` \
          finds out. What a backup or a kept log consists of never changes once it is written, so versions and object lock of the \
          bucket keep what a stolen access key would remove; small signs of what runs are written again.",
    fields: &[
        field("bucket", Kind::Text { chars_max: 63 }, Need::Required, "Its name."),
        field(
            "prefix",
            Kind::Text { chars_max: 256 },
            Need::Optional("the bucket holds nothing else"),
            "What the names of all objects begin with, as a directory.",
        ),
        field(
            "endpoint",
            Kind::Text { chars_max: 1_024 },
            Need::Optional("Amazon's, of the region"),
            "`https://HOST:PORT` of another server.",
        ),
        field(
            "region",
            Kind::Text { chars_max: 64 },
            Need::Optional("the environment's `AWS_REGION`, else us-east-1"),
            "Other servers than Amazon's mostly do not mind.",
        ),
        field(
            "ca_file",
            Kind::Path,
            Need::Optional("the system's certificates"),
            "PEM certificates that the endpoint's may be signed by, beside the system's.",
        ),
        field(
            "access_key",
            Kind::Text { chars_max: 256 },
            Need::Optional(
                "AWS_… variables of the environment, or the role of the machine or container; no files of Amazon's tools",
            ),
            "Id of the access key. It must be allowed to list, read and write; `repo init` and `backup prune`, also a scheduled \
             one, have to delete.",
        ),
        field(
            "secret_key_file",
            Kind::Path,
            SECRET_NEED,
            "The secret is the first line of this file, on each host that makes or restores backups.",
        ),
        field(
            "secret_key_env",
            Kind::Text { chars_max: 256 },
            SECRET_NEED,
            "The secret is in this environment variable.",
        ),
    ],
};

const SECRET_NEED: Need = Need::Optional("only with `access_key`");

const KEY_NEED: Need = Need::Optional("one key field is needed, or `unencrypted`");
const KEPT_MAX: u64 = 10_000;

static BACKUP: Section = Section {
    title: "[backup]",
    doc: "When backups are made, and what `holdfast backup prune` keeps of each service: a backup that any rule keeps \
          stays. The last one always does.",
    fields: &[
        field(
            "schedule",
            Kind::Text { chars_max: 16 },
            Need::Optional("nobody makes them but `holdfast backup now`"),
            "`\"03:15\"`: each day at that time, UTC. `\"6h\"`: so many hours after the last one began. The controller tells the \
             fittest member of each MariaDB service to make one and to prune; where its host goes away meanwhile, another.",
        ),
        field(
            "verify",
            Kind::Flag,
            Need::Default(Default::Flag(false)),
            "Scheduled backups are proven: restored into the temporary directory of the host that made them, which must have \
             room for all of it.",
        ),
        field(
            "keep_last",
            Kind::Number { min: 1, max: KEPT_MAX },
            Need::Default(Default::Number(7)),
            "So many of the latest backups.",
        ),
        field(
            "keep_daily",
            Kind::Number { min: 0, max: KEPT_MAX },
            Need::Default(Default::Number(7)),
            "The last backup of each of so many days (UTC) that have one.",
        ),
        field(
            "keep_weekly",
            Kind::Number { min: 0, max: KEPT_MAX },
            Need::Default(Default::Number(5)),
            "The last backup of each of so many weeks, which begin on Monday.",
        ),
        field(
            "keep_monthly",
            Kind::Number { min: 0, max: KEPT_MAX },
            Need::Default(Default::Number(12)),
            "The last backup of each of so many months.",
        ),
        field(
            "keep_days",
            Kind::Number { min: 0, max: KEPT_MAX },
            Need::Default(Default::Number(0)),
            "Every backup of so many days.",
        ),
    ],
};

static NODE: Section = Section {
    title: "[[node]]",
    doc: "A host that runs `holdfast run --node NAME`.",
    fields: &[
        field("name", Kind::Name, Need::Required, "Unique. Given to `holdfast run --node`."),
        field(
            "id",
            Kind::Number { min: 1, max: limits::NODE_ID_MAX as u64 },
            Need::Optional("the node's place in the file: 1, 2, …"),
            "Unique number, part of the engine's `server_id` and the store's member id. It must stay with its host for \
             ever and never be given to another: **set it on all nodes before you remove or reorder one**, since \
             otherwise the others' numbers shift. All nodes have one or none has.",
        ),
        field("region", Kind::Name, Need::Default(Default::Text("local")), "The city the host is in."),
        field(
            "zone",
            Kind::Name,
            Need::Optional("the region's name followed by `-1`"),
            "The data centre within the region.",
        ),
        field(
            "address",
            Kind::Address,
            Need::Required,
            "IP address where the other hosts and the clients reach it. Not a name: a failover must not wait for \
             DNS.",
        ),
        field(
            "voter",
            Kind::Flag,
            Need::Default(Default::Flag(true)),
            "Takes part in the store's quorum. One voter on a laptop, three or five in earnest.",
        ),
        field(
            "data_dir",
            Kind::Path,
            Need::Default(Default::Text("/var/lib/holdfast")),
            "Where everything of Holdfast lives on that host: store, engine data, saved histories. Nodes on \
             loopback addresses share one machine and need one each.",
        ),
        field(
            "capacity",
            Kind::One(&CAPACITY),
            Need::Optional("not checked"),
            "What the node has for services, compared with what they need when any other node is lost.",
        ),
    ],
};

static CAPACITY: Section = Section {
    title: "capacity",
    doc: "",
    fields: &[
        field(
            "memory_mib",
            Kind::Number { min: 1, max: UNITS_MAX },
            Need::Optional("not checked"),
            "MiB of memory for engines.",
        ),
        field(
            "load",
            Kind::Number { min: 1, max: UNITS_MAX },
            Need::Optional("not checked"),
            "What it can serve, in a unit of yours that is the same in the whole file: hundredths of a core, or \
             thousands of transactions a second.",
        ),
    ],
};

const PASSWORD_NEED: Need = Need::Optional("one of the three password fields is needed");

const PASSWORD_FILE: Field =
    field("password_file", Kind::Path, PASSWORD_NEED, "The password is the first line of this file.");
const PASSWORD_ENV: Field = field(
    "password_env",
    Kind::Text { chars_max: 256 },
    PASSWORD_NEED,
    "The password is in this environment variable of `holdfast run`.",
);
const PASSWORD: Field = field(
    "password",
    Kind::Secret { chars_max: 256 },
    PASSWORD_NEED,
    "The password itself. Only with `allow_plaintext_passwords = true`.",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn each(section: &'static Section, check: &mut impl FnMut(&'static Section, &'static Field)) {
        for field in section.fields {
            check(section, field);
            match &field.kind {
                Kind::One(inner) | Kind::Many { of: inner, .. } => each(inner, check),
                _ => {}
            }
        }
    }

    #[test]
    fn every_field_is_described_and_its_default_fits() {
        each(&FILE, &mut |section, field| {
            let at = format!("{} {}", section.title, field.name);
            assert!(field.doc.ends_with('.'), "{at}: the description is a sentence");
            match (&field.need, &field.kind) {
                (Need::Default(Default::Flag(_)), Kind::Flag) => {}
                (Need::Default(Default::Number(n)), Kind::Number { min, max }) => {
                    assert!(min <= n && n <= max, "{at}");
                }
                (Need::Default(Default::Text(t)), Kind::Choice(choices)) => {
                    assert!(choices.iter().any(|c| c.value == *t), "{at}");
                }
                (Need::Default(Default::Text(_)), Kind::Name | Kind::User | Kind::Path) => {}
                (Need::Default(other), kind) => panic!("{at}: {other:?} for {kind:?}"),
                (Need::Required | Need::Optional(_), _) => {}
            }
        });
    }
}
