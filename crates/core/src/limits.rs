//! Every bound in one place, related at compile time. Units are in the names.

/// An engine that has not answered for this long is taken for hung.
pub const UNRESPONSIVE_MS: u64 = 2_000;
/// How often an agent reports when nothing happens.
pub const REPORT_EVERY_MS: u64 = 250;
/// A host that has not reported for this long is silent: suspected, not dead.
pub const SILENT_AFTER_MS: u64 = 1_000;
/// A replica's stream on which nothing has come for this long, not even a heartbeat, is broken. Before its primary's host
/// counts as silent, so that a lost host is not suspected twice in a row.
pub const STREAM_SILENT_AFTER_MS: u64 = 700;
/// How often a primary that has nothing to send sends a heartbeat.
pub const HEARTBEAT_MS: u64 = 250;
/// A new controller waits this long for first reports: the agents ask all voters while there is none.
pub const SETTLE_MS: u64 = 500;
/// When all groups have been healthy for this long, the controller may move to a better place.
pub const SEAT_CALM_MS: u64 = 500;
/// After a move that failed, the next attempt.
pub const SEAT_RETRY_MS: u64 = 30_000;
/// How long a committed renewal lets the primary take writes (S2).
pub const LEASE_MS: u64 = 3_000;
/// How often the primary's agent renews.
pub const LEASE_RENEW_EVERY_MS: u64 = 500;
/// The holder stops this much before its lease ends, to have time to cut clients (S2, S3).
pub const LEASE_MARGIN_MS: u64 = 500;
/// A primary whose lease was not renewed for this long asks the members (S14). Longer than the store is without a leader when
/// the controller moves: who vouches does not open for a lease, and a switchover just then would wait for that.
pub const VOUCH_AFTER_MS: u64 = 1_500;
/// How often it then asks, and how long an answer may take.
pub const VOUCH_EVERY_MS: u64 = REPORT_EVERY_MS;
pub const VOUCH_ANSWER_MS: u64 = 400;
/// How far two hosts' monotonic clocks may drift apart over one lease (S2).
pub const CLOCK_DRIFT_MS: u64 = 200;
/// How long a proxy may route writes on a snapshot it could not renew. Less than what the holder has, so that a
/// proxy cut off from the control plane stops before a new epoch can start.
pub const ROUTE_VALID_MS: u64 = 2_500;
/// An answer to a proxy that asks for its route is received within this time, or not at all.
pub const ROUTE_ANSWER_MS: u64 = 1_500;
/// Where it is the proxies that wait for acknowledgements: this long after the primary was told that they must, none sends
/// a write by an older route any more, and what was sent by one has been executed.
pub const ROUTES_TURNED_MS: u64 = ROUTE_VALID_MS + ROUTE_ANSWER_MS + CLOCK_DRIFT_MS + UNRESPONSIVE_MS;
/// An agent cannot be trusted to have stopped its engine from acknowledging before this long out of contact: the
/// replication threads give up after `REPLICA_RETRIES` tries a second apart.
pub const ACKER_GIVES_UP_AFTER_MS: u64 = 10_000;
/// A replica begins to acknowledge only while a controller confirmed its assignment this recently: one that was cut
/// off for long may be out of the recorded set by now.
pub const ACKER_TRUST_MS: u64 = 2_000;
/// `--master-retry-count` of managed replicas.
pub const REPLICA_RETRIES: u64 = 5;

/// Closing a primary in order (cut, then read-only) may take this long before it is killed (S3).
pub const FENCE_MS: u64 = 400;
/// A process that is to be restarted may take this long to end before it counts as trouble. It is not killed.
pub const RESTART_STOP_MS: u64 = 120_000;
/// How often an agent looks whether other programs are installed.
pub const PROGRAMS_EVERY_MS: u64 = 1_000;
/// In a planned switchover, transactions in flight may take this long before they are cut.
pub const SWITCHOVER_DRAIN_MS: u64 = 1_000;
/// And then refusing writes without cutting anybody this long, so that proxies that have not heard yet get a no instead of a cut.
pub const REFUSE_WRITES_MS: u64 = 150;
/// A planned switchover refuses to start if the candidate is further behind than this.
pub const SWITCHOVER_LAG_MS: u64 = 2_000;
/// A handover that takes longer (drain, close, catch up) is turned into a takeover, in which the old primary is as
/// good a candidate as any.
pub const HANDOVER_MS: u64 = 4_000;
/// A named primary that has not opened by then is given up. Longer than `LEASE_MS + CLOCK_DRIFT_MS`, which a
/// candidate that vouched for the old primary waits out (S14).
pub const OPEN_MS: u64 = 15_000;
/// Under `async`, a takeover that is known to lose something waits this long for the old primary, while its agent is
/// there to start it again.
/// A managed engine is back within a few hundred ms; more would break the bound of a killed engine's outage.
pub const RETURN_MS: u64 = 700;
/// Under `sync`, a primary whose disk is full is its own successor only after its ackers had this long to say what they have:
/// an engine that is just connecting or stopping may not answer a look or two. The outage of a full disk has 5 s.
pub const FULL_WAIT_MS: u64 = 3_000;
/// Under `sync`, how long writes wait for an acker to come back before the policy degrades durability.
pub const DEGRADE_AFTER_MS: u64 = 3_000;
/// A primary that waits for nobody waits again when a replica has what it had this long ago, or half as long. Under load no
/// replica ever has all that it has now; the writes of that moment wait for as long as the replica takes for the rest.
pub const NEARLY_MS: u64 = 1_000;
/// And for the rest they wait this long at most.
pub const RESTORE_MS: u64 = 3_000;
/// A replica that fell behind because it acknowledged is tried again after this time.
pub const REJOIN_MS: u64 = 30_000;
/// After a failover, another automatic one of the same group waits this long unless the new primary's own agent
/// saw it die (S12). Default of a service's `cool_down_s`.
pub const COOL_DOWN_MS: u64 = 60_000;
/// Largest `cool_down_s`; who wants no automatic failover at all pauses it.
pub const COOL_DOWN_MAX_S: u64 = 3_600;
/// A service goes home when its home has followed well for this long. Default of `hand_back_after_s`.
pub const HAND_BACK_AFTER_MS: u64 = 30_000;
/// After a hand-back that failed its home has to be well for this long, and twice as long after each further one.
pub const HAND_BACK_RETRY_MS: u64 = 600_000;
/// Largest `hand_back_after_s`.
pub const HAND_BACK_AFTER_MAX_S: u64 = 86_400;
/// A service that goes home at a time of the day does so within this long of it, or the next day.
pub const HAND_BACK_MINUTES: u16 = 60;
/// If more than this share of all groups needs a failover at once, none is done automatically (S12).
pub const MASS_FAILURE_PERCENT: u64 = 50;
/// ... but only from this many groups on; below, one failing group is already half.
pub const MASS_FAILURE_MIN_GROUPS: usize = 4;

/// A replica further behind serves no reads. Default of a service's `read_lag_ms`.
pub const READ_LAG_MS: u64 = 5_000;
/// Smallest `read_lag_ms`: engines tell their lag in whole seconds.
pub const READ_LAG_MIN_MS: u64 = 1_000;
/// Largest `read_lag_ms`.
pub const READ_LAG_MAX_MS: u64 = 3_600_000;
/// A read that must see its session's own writes waits this long for a replica to have them. Default of a service's
/// `read_wait_ms`.
pub const READ_WAIT_MS: u64 = 100;
/// Largest `read_wait_ms`.
pub const READ_WAIT_MAX_MS: u64 = 10_000;
/// A replica that did not have them by then is not waited for again for this long, lest every read pay the wait.
pub const READER_LATE_MS: u64 = 1_000;
/// For a connection to a reader and the login there; the read goes to the primary at its end.
pub const READER_CONNECT_MS: u64 = 500;
/// A reader that could not be connected to is left alone for this long.
pub const READER_AVOID_MS: u64 = 1_000;

/// A proxy holds a command this long before it answers with an error.
pub const HOLD_MS: u64 = 10_000;
/// Client connections of one proxy listener.
pub const PROXY_CONNECTIONS: usize = 4_000;
/// Bytes of held commands in one proxy, over all connections.
pub const PROXY_HELD_BYTES: usize = 64 << 20;
/// How long a client may take to log in.
pub const PROXY_LOGIN_MS: u64 = 10_000;

/// How often a node that answers as a Sentinel asks the controller how members and hosts are.
pub const SENTINEL_PICTURE_EVERY_MS: u64 = 1_000;
/// What it was told says nothing any more after this long. Who is primary does not hang on it.
pub const SENTINEL_PICTURE_VALID_MS: u64 = 3_000;

/// With less than this, an engine cannot be trusted to finish a commit.
pub const DISK_FULL_BYTES: u64 = 4 << 20;
/// A member needs this much to take over from one whose disk is full, and to be started or to follow again: what comes free when
/// an engine ends on a full disk (its temporary files, a voter's reserve) is gone as soon as it runs. Below it, `status` warns.
pub const DISK_ROOM_BYTES: u64 = 64 << 20;

/// Plans kept in a group's history.
pub const HISTORY_PLANS: usize = 200;
/// Nodes in a topology.
pub const NODES: usize = 64;
/// Highest number of a node: a MariaDB server id holds it in its lowest bits, beside the epoch.
pub const NODE_ID_MAX: u32 = 127;
/// Services in a topology.
pub const SERVICES: usize = 256;
/// Seconds for which a drill may break a host; then it heals by itself.
pub const FAULT_S_MAX: u64 = 300;
/// From an agent's word that a fault will begin to its beginning, so that the word still gets through.
pub const FAULT_BEGINS_AFTER_MS: u64 = 200;

/// Bytes of a topology file.
pub const TOPOLOGY_BYTES: usize = 1 << 20;
/// Bytes of a JSON request or answer of the API (streams excepted).
pub const API_BODY_BYTES: usize = 4 << 20;

const _: () = assert!(REPORT_EVERY_MS * 2 < SILENT_AFTER_MS, "one lost report must not look like silence");
const _: () = assert!(HEARTBEAT_MS * 5 < STREAM_SILENT_AFTER_MS * 2, "one late heartbeat is no silence");
const _: () = assert!(STREAM_SILENT_AFTER_MS < SILENT_AFTER_MS, "a stream is known to be broken by then");
const _: () = assert!(REPORT_EVERY_MS * 2 <= SETTLE_MS, "a first report may be lost");
const _: () =
    assert!(LEASE_RENEW_EVERY_MS * 3 < LEASE_MS - LEASE_MARGIN_MS, "a lease survives two lost renewals");
const _: () = assert!(
    VOUCH_AFTER_MS + VOUCH_EVERY_MS * 2 + VOUCH_ANSWER_MS < LEASE_MS - LEASE_MARGIN_MS,
    "vouchers are there before the holder stops, though one question finds nobody in time"
);
const _: () =
    assert!(SENTINEL_PICTURE_EVERY_MS * 2 < SENTINEL_PICTURE_VALID_MS, "one lost picture is nobody's fall");
const _: () = assert!(FENCE_MS < LEASE_MARGIN_MS, "the holder is closed before its lease ends");
const _: () = assert!(READ_LAG_MIN_MS <= READ_LAG_MS && READ_LAG_MS <= READ_LAG_MAX_MS);
const _: () = assert!(READ_WAIT_MS * 5 < READER_LATE_MS, "most reads of a late reader do not wait");
const _: () = assert!(READER_CONNECT_MS <= READER_AVOID_MS, "few of a dead reader's sessions try it");
const _: () = assert!(ROUTE_VALID_MS <= LEASE_MS - LEASE_MARGIN_MS, "proxies stop no later than the holder");
const _: () = assert!(CLOCK_DRIFT_MS < LEASE_MS / 10, "drift is small against the lease");
const _: () = assert!(ACKER_GIVES_UP_AFTER_MS > (REPLICA_RETRIES + 2) * 1_000, "replicas give up first");
const _: () =
    assert!(ACKER_TRUST_MS * 4 < ACKER_GIVES_UP_AFTER_MS, "trust ends long before the record forgets");
const _: () =
    assert!(HOLD_MS > LEASE_MS + CLOCK_DRIFT_MS + SILENT_AFTER_MS, "a held command outlives a failover");
