//! The fields of `[[service]]` and of what stands in it.

use super::{
    COMMAND_WORDS, Choice, Default, ENGINE_OPTIONS, GRANTS_PER_USER, Kind, Need, PASSWORD, PASSWORD_ENV,
    PASSWORD_FILE, PATH_CHARS, PORT, Section, UNITS_MAX, USERS_PER_SERVICE, field,
};
use holdfast_core::limits;

pub(super) static SERVICE: Section = Section {
    title: "[[service]]",
    doc: "Instances of one dataset, of which one is writable, and the ports under which clients find them.",
    fields: &[
        field("name", Kind::Name, Need::Required, "Unique."),
        field(
            "engine",
            Kind::Choice(&[
                Choice { value: "mariadb", doc: "MariaDB 10.6.19, 10.11.9 or later" },
                Choice { value: "mysql", doc: "MySQL 8.4 or later" },
                Choice { value: "redis", doc: "Redis 7.0 or later" },
                Choice { value: "valkey", doc: "Valkey 8.0 or later" },
            ]),
            Need::Required,
            "The database.",
        ),
        field(
            "strategy",
            Kind::Choice(&[
                Choice {
                    value: "hot-standby",
                    doc: "one primary, replicas that take over in about a second",
                },
                Choice {
                    value: "mutual-standby",
                    doc: "the same with two members, each the standby of what the other serves; the service goes \
                          home by itself",
                },
            ]),
            Need::Default(Default::Text("hot-standby")),
            "How it is made available.",
        ),
        field(
            "durability",
            Kind::Choice(&[
                Choice {
                    value: "sync",
                    doc: "an acknowledged write is on the primary and on a replica that can take over",
                },
                Choice {
                    value: "async",
                    doc: "an acknowledged write is on the primary; a failover reports what it lost",
                },
            ]),
            Need::Default(Default::Text("sync")),
            "What an acknowledged write has survived.",
        ),
        field(
            "sync_replicas",
            Kind::Number { min: 1, max: limits::NODES as u64 },
            Need::Optional("1 under `sync`"),
            "Under `sync`: how many replicas are kept able to acknowledge, 1 to members − 1. One acknowledgement is \
             enough for a commit, so a larger number keeps writes going when a replica fails, but a failover must \
             then reach more of them before it may start early. Not for Redis and Valkey, where every replica that \
             follows acknowledges.",
        ),
        field(
            "when_no_sync_replica",
            Kind::Choice(&[
                Choice {
                    value: "degrade",
                    doc: "writes go on; recorded first, and automatic failover is off meanwhile",
                },
                Choice { value: "block", doc: "writes wait until a replica is back" },
            ]),
            Need::Default(Default::Text("degrade")),
            "Under `sync`, when no replica is left that could acknowledge.",
        ),
        field(
            "members",
            Kind::List { of: &Kind::Name, min: 1, max: limits::NODES },
            Need::Required,
            "Names of the nodes with an instance, in order of preference: the first that can becomes the first \
             primary. The very first is the service's home: to place services crossed, turn the list around.",
        ),
        field("engine_port", PORT, Need::Required, "The engine's own port on each member."),
        field(
            "port",
            PORT,
            Need::Required,
            "The proxy's read/write port, on every node: leads to the primary, and with `read_consistency` also to replicas.",
        ),
        field(
            "read_port",
            PORT,
            Need::Required,
            "The proxy's read port, on every node: leads to a replica, or to the primary if there is none.",
        ),
        field(
            "read_consistency",
            Kind::Choice(&[
                Choice { value: "strong", doc: "reads see every acknowledged write: all go to the primary" },
                Choice {
                    value: "session",
                    doc: "reads see what the same session wrote; of others' writes, what a replica has",
                },
                Choice { value: "eventual", doc: "reads see what a replica has" },
            ]),
            Need::Default(Default::Text("strong")),
            "What reads on `port` may see. Unless it is `strong`, plain reads outside transactions go to replicas, those of \
             the client's own zone first; what is not surely a plain read goes to the primary.",
        ),
        field(
            "read_lag_ms",
            Kind::Number { min: limits::READ_LAG_MIN_MS, max: limits::READ_LAG_MAX_MS },
            Need::Default(Default::Number(limits::READ_LAG_MS)),
            "A replica further behind serves no reads, on either port. The engine tells its lag in whole seconds.",
        ),
        field(
            "read_wait_ms",
            Kind::Number { min: 1, max: limits::READ_WAIT_MAX_MS },
            Need::Default(Default::Number(limits::READ_WAIT_MS)),
            "Under `read_consistency = \"session\"`: how long a read waits on a replica for what its session wrote, \
             before it goes to the primary. Not for Redis and Valkey, where it goes there at once.",
        ),
        field(
            "cross_region_failover",
            Kind::Flag,
            Need::Default(Default::Flag(false)),
            "Fail over automatically to another region. Off: only `holdfast failover` does.",
        ),
        field(
            "cool_down_s",
            Kind::Number { min: 0, max: limits::COOL_DOWN_MAX_S },
            Need::Default(Default::Number(limits::COOL_DOWN_MS / 1_000)),
            "Seconds after an automatic failover in which another one happens only if the new primary's process is \
             seen to end (S12). `holdfast failover` does not wait.",
        ),
        field(
            "hand_back",
            Kind::Text { chars_max: 16 },
            Need::Optional("`\"auto\"` under `mutual-standby`, else `\"manual\"`"),
            "When the service goes home, by a switchover that loses nothing, after a failover moved it away. \"auto\": as soon \
             as its home is well. \"HH:MM\": within the hour from that time of day on (UTC). \"manual\": only `holdfast \
             switchover SERVICE --home` does. What a person moved stays where it is.",
        ),
        field(
            "hand_back_after_s",
            Kind::Number { min: 0, max: limits::HAND_BACK_AFTER_MAX_S },
            Need::Default(Default::Number(limits::HAND_BACK_AFTER_MS / 1_000)),
            "Before that, its home must have followed well for so many seconds. The cool-down must be over, too.",
        ),
        field(
            "needs",
            Kind::One(&NEEDS),
            Need::Optional("not checked"),
            "What it takes of a node, to be compared with `capacity` there.",
        ),
        field(
            "managed",
            Kind::One(&MANAGED),
            Need::Optional("`managed = {}`, unless `attached` is given"),
            "Holdfast initialises the data directory, starts and supervises the engine.",
        ),
        field(
            "attached",
            Kind::One(&ATTACHED),
            Need::Optional("`managed`"),
            "Something else, such as systemd, starts the engine; Holdfast watches it. It sets there at run time what a role needs, \
             whatever the configuration says: for SQL engines `read_only`, semi-synchronous replication, `sync_relay_log`.",
        ),
        field(
            "programs",
            Kind::Path,
            Need::Optional("found through `PATH`"),
            "Directory of the engine's programs on every member, such as `/opt/mysql/bin`.",
        ),
        field(
            "engine_options",
            Kind::Options { max: ENGINE_OPTIONS },
            Need::Optional("the engine's defaults"),
            "Options of the engine, such as `innodb_buffer_pool_size = \"64M\"` or `maxmemory = \"1gb\"`. Only for managed \
             engines; those that Holdfast sets itself are refused. For Redis and Valkey, `repl-backlog-size` says how \
             much a replica may miss and still go on from where it was: by default 64 MiB, a minute's absence at 1 MiB \
             of writes a second.",
        ),
        field(
            "replication",
            Kind::One(&REPLICATION),
            Need::Required,
            "The account with which replicas log in at their primary.",
        ),
        field(
            "user",
            Kind::Many { of: &USER, min: 0, max: USERS_PER_SERVICE },
            Need::Optional("no client can log in"),
            "Database users that clients log in with. One `[[service.user]]` each.",
        ),
    ],
};

static NEEDS: Section = Section {
    title: "needs",
    doc: "",
    fields: &[
        field(
            "memory_mib",
            Kind::Number { min: 1, max: UNITS_MAX },
            Need::Optional("counts as nothing"),
            "MiB of memory that each of its instances takes.",
        ),
        field(
            "load",
            Kind::Number { min: 1, max: UNITS_MAX },
            Need::Optional("counts as nothing"),
            "What its primary takes, in the unit of `capacity`.",
        ),
    ],
};

static MANAGED: Section = Section {
    title: "managed",
    doc: "",
    fields: &[field(
        "run_as",
        Kind::User,
        Need::Optional("the user Holdfast runs as"),
        "OS user to run the engine as when Holdfast itself runs as root.",
    )],
};

static ATTACHED: Section = Section {
    title: "attached",
    doc: "",
    fields: &[
        field("socket", Kind::Path, Need::Required, "Unix socket of the running engine."),
        field("data_dir", Kind::Path, Need::Required, "The engine's data directory."),
        field(
            "stop_command",
            Kind::List { of: &Kind::Text { chars_max: PATH_CHARS }, min: 1, max: COMMAND_WORDS },
            Need::Required,
            "Program and arguments that stop the engine: before a reclone, or to fence it past the bound.",
        ),
        field(
            "start_command",
            Kind::List { of: &Kind::Text { chars_max: PATH_CHARS }, min: 1, max: COMMAND_WORDS },
            Need::Required,
            "Program and arguments that start it again.",
        ),
    ],
};

static REPLICATION: Section = Section {
    title: "[service.replication]",
    doc: "",
    fields: &[
        field(
            "user",
            Kind::User,
            Need::Default(Default::Text("holdfast_repl")),
            "Its name. Holdfast creates it. An attached Redis or Valkey must have it, with `+@all ~* &*`: the agent \
             administers by it.",
        ),
        PASSWORD_FILE,
        PASSWORD_ENV,
        PASSWORD,
    ],
};

static USER: Section = Section {
    title: "[[service.user]]",
    doc: "The proxy logs these users in and opens their sessions on the engine. They are created when the service \
          is first started.",
    fields: &[
        field("name", Kind::User, Need::Required, "Unique within the service."),
        PASSWORD_FILE,
        PASSWORD_ENV,
        PASSWORD,
        field(
            "grants",
            Kind::List { of: &Kind::Text { chars_max: 1_024 }, min: 0, max: GRANTS_PER_USER },
            Need::Optional("none: the user can log in and do nothing"),
            "Privileges as in SQL, without the user: `\"ALL PRIVILEGES ON shop.*\"`. For Redis and Valkey, rules as in an \
             ACL: `\"~shop:* &* +@all -@dangerous\"`; what would let a user open or reconfigure an instance is taken away \
             again. There, a user named `default` is who clients are that only give a password.",
        ),
    ],
};
