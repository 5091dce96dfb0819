//! What clients are answered, without a socket.

use super::super::facts::tests::{endpoint, facts};
use super::*;
use holdfast_wire::resp::reply::Scanner;
use holdfast_wire::resp::value::Value;
use proptest::prelude::*;

struct Room {
    facts: Facts,
    doors: Doors,
    /// `None`: everybody is an operator.
    token: Option<&'static str>,
}

impl Room {
    fn new(primary: Primary) -> Room {
        Room { facts: facts(primary), doors: Doors { password: None }, token: None }
    }
    fn client(&self) -> Client {
        Client::new(7, true, &self.doors)
    }
    fn run(&self, client: &mut Client, args: &[Vec<u8>]) -> (Vec<u8>, Effect) {
        let knows = |token: &str| self.token.map(|t| t == token);
        let counts = Counts { version: "1", port: 26379, ..Counts::default() };
        let desk = Desk { facts: &self.facts, doors: &self.doors, knows: &knows, counts };
        let mut out = Vec::new();
        let effect = client.answer(args, &desk, &mut out);
        (out, effect)
    }
    /// The reply as it is written.
    fn raw(&self, client: &mut Client, line: &str) -> String {
        let args: Vec<Vec<u8>> = line.split(' ').map(|w| w.as_bytes().to_vec()).collect();
        String::from_utf8(self.run(client, &args).0).unwrap()
    }
    fn ask(&self, client: &mut Client, line: &str) -> Value {
        let raw = self.raw(client, line);
        let (value, end) = Value::next(&mut Scanner::default(), &mut 0, raw.as_bytes()).unwrap().unwrap();
        assert_eq!(end, raw.len(), "one reply: {raw}");
        value
    }
    fn effect(&self, client: &mut Client, line: &str) -> Effect {
        let args: Vec<Vec<u8>> = line.split(' ').map(|w| w.as_bytes().to_vec()).collect();
        self.run(client, &args).1
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.items().iter().map(|v| v.text().unwrap()).collect()
}

fn field(row: &Value, name: &str) -> String {
    let row = texts(row);
    row.chunks(2).find(|pair| pair[0] == name).unwrap_or_else(|| panic!("{name} in {row:?}"))[1].clone()
}

fn error(value: &Value) -> &str {
    match value {
        Value::Error(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_primary_is_named_while_it_is_open_and_nobody_else_is() {
    let open = Room::new(Primary::Open(endpoint(2)));
    let mut c = open.client();
    assert_eq!(texts(&open.ask(&mut c, "SENTINEL get-master-addr-by-name shop")), ["10.0.0.2", "6379"]);
    assert_eq!(open.ask(&mut c, "SENTINEL GET-MASTER-ADDR-BY-NAME other"), Value::Nil);
    for none in [Primary::Switching, Primary::None, Primary::Unknown] {
        let room = Room::new(none);
        assert_eq!(room.raw(&mut c, "SENTINEL get-master-addr-by-name shop"), "*-1\r\n");
        let masters = room.ask(&mut c, "SENTINEL MASTERS");
        let shop = &masters.items()[0];
        assert_eq!((field(shop, "ip"), field(shop, "port")), (String::new(), "0".into()));
        assert!(field(shop, "flags").contains("s_down"), "{shop:?}");
        let info = room.ask(&mut c, "INFO sentinel").text().unwrap();
        assert!(!info.contains("status=ok") && info.contains("address=:0"), "{info}");
    }
    let down = Room::new(Primary::None);
    assert!(field(&down.ask(&mut c, "SENTINEL MASTER shop"), "flags").ends_with("o_down"));
}

#[test]
fn masters_replicas_and_sentinels_have_what_clients_read() {
    let mut room = Room::new(Primary::Open(endpoint(1)));
    room.facts.masters[0].replicas[1].seen = None;
    room.facts.others[1].heard_ms_ago = Some(9_000);
    let mut c = room.client();
    let shop = room.ask(&mut c, "SENTINEL MASTER shop");
    for (name, value) in [
        ("name", "shop"),
        ("ip", "10.0.0.1"),
        ("flags", "master"),
        ("role-reported", "master"),
        ("config-epoch", "4"),
        ("num-slaves", "2"),
        ("num-other-sentinels", "2"),
        ("quorum", "2"),
    ] {
        assert_eq!(field(&shop, name), value, "{name}");
    }
    let replicas = room.ask(&mut c, "SENTINEL REPLICAS shop");
    assert_eq!(replicas, room.ask(&mut c, "SENTINEL SLAVES shop"));
    let [up, unknown] = replicas.items() else { panic!("{replicas:?}") };
    for (name, value) in [
        ("ip", "10.0.0.2"),
        ("port", "6379"),
        ("flags", "slave"),
        ("master-link-status", "ok"),
        ("master-host", "10.0.0.1"),
        ("slave-repl-offset", "77"),
        ("slave-priority", "100"),
    ] {
        assert_eq!(field(up, name), value, "{name}");
    }
    assert_eq!(field(unknown, "flags"), "slave,s_down,disconnected");
    let sentinels = room.ask(&mut c, "SENTINEL sentinels shop");
    let flags: Vec<String> = sentinels.items().iter().map(|s| field(s, "flags")).collect();
    assert_eq!(flags, ["sentinel", "sentinel,s_down"]);
    assert_eq!(room.ask(&mut c, "SENTINEL myid").text().unwrap(), room.facts.me);
    let info = room.ask(&mut c, "INFO").text().unwrap();
    assert!(info.contains("redis_mode:sentinel\r\n"), "{info}");
    assert!(
        info.ends_with("master0:name=shop,status=ok,address=10.0.0.1:6379,slaves=2,sentinels=3\r\n"),
        "{info}"
    );
    assert!(!room.ask(&mut c, "INFO sentinel").text().unwrap().contains("# Server"));
    assert_eq!(error(&room.ask(&mut c, "SENTINEL master other")), "ERR No such master with that name");
}

#[test]
fn quorum_is_what_voters_say() {
    let mut room = Room::new(Primary::Open(endpoint(1)));
    let mut c = room.client();
    assert!(room.raw(&mut c, "SENTINEL ckquorum shop").starts_with("+OK 3 usable Sentinels."));
    room.facts.voters_heard = 1;
    assert!(error(&room.ask(&mut c, "SENTINEL ckquorum shop")).starts_with("NOQUORUM 1 usable"));
    room.facts.leader = None;
    assert!(error(&room.ask(&mut c, "SENTINEL ckquorum shop")).contains("not heard from a controller"));
}

#[test]
fn only_operators_move_a_primary() {
    let mut room = Room::new(Primary::Open(endpoint(1)));
    let mut c = room.client();
    let moved = |room: &Room, c: &mut Client| room.effect(c, "SENTINEL FAILOVER shop");
    let name = super::super::facts::tests::name("shop");
    assert_eq!(moved(&room, &mut c), Effect::SwitchOver(name.clone()), "no certificates: this machine only");
    room.token = Some("secret");
    assert_eq!(moved(&room, &mut c), Effect::None);
    assert!(
        error(&room.ask(&mut c, "SENTINEL failover shop")).contains("holdfast switchover --service shop")
    );
    assert!(error(&room.ask(&mut c, "AUTH operator wrong")).starts_with("WRONGPASS"));
    let mut overheard = Client::new(8, false, &room.doors);
    assert!(error(&room.ask(&mut overheard, "AUTH operator secret")).contains("TLS"));
    assert_eq!(room.raw(&mut c, "AUTH operator secret"), "+OK\r\n");
    assert_eq!(moved(&room, &mut c), Effect::SwitchOver(name));
    assert_eq!(error(&room.ask(&mut c, "SENTINEL failover other")), "ERR No such master with that name");
}

#[test]
fn what_would_reconfigure_names_the_topology_file() {
    let room = Room::new(Primary::Open(endpoint(1)));
    let mut c = room.client();
    for line in [
        "SENTINEL SET shop down-after-milliseconds 1",
        "SENTINEL MONITOR x 10.0.0.1 6379 2",
        "SENTINEL REMOVE shop",
        "SENTINEL RESET *",
        "SENTINEL CONFIG SET a b",
        "SENTINEL FLUSHCONFIG",
    ] {
        assert!(error(&room.ask(&mut c, line)).contains("topology file"), "{line}");
    }
    assert!(error(&room.ask(&mut c, "SENTINEL nonsense")).contains("HELP"));
    assert!(error(&room.ask(&mut c, "GET key")).contains("unknown command 'get'"));
    assert!(error(&room.ask(&mut c, "SENTINEL")).contains("number of arguments"));
}

#[test]
fn a_password_is_needed_where_one_is_set() {
    let mut room = Room::new(Primary::Open(endpoint(1)));
    let mut open = room.client();
    assert!(error(&room.ask(&mut open, "AUTH x")).contains("without any password"));
    room.doors.password = Some(Password::new("let me in"));
    let mut c = room.client();
    assert!(!c.is_known());
    for line in ["PING", "SENTINEL masters", "SUBSCRIBE x", "nonsense", "HELLO 3"] {
        assert!(error(&room.ask(&mut c, line)).starts_with("NOAUTH"), "{line}");
    }
    let auth = |words: [&str; 3]| words.map(|w| w.as_bytes().to_vec());
    assert!(room.run(&mut c, &auth(["AUTH", "default", "wrong"])).0.starts_with(b"-WRONGPASS"));
    assert_eq!(room.run(&mut c, &auth(["AUTH", "default", "let me in"])).0, b"+OK\r\n");
    assert_eq!(room.raw(&mut c, "PING"), "+PONG\r\n");
    assert_eq!(room.raw(&mut c, "RESET"), "+RESET\r\n");
    assert!(error(&room.ask(&mut c, "PING")).starts_with("NOAUTH"));
}

#[test]
fn what_clients_send_on_connecting() {
    let room = Room::new(Primary::Open(endpoint(1)));
    let mut c = room.client();
    assert_eq!(room.raw(&mut c, "CLIENT SETNAME me"), "+OK\r\n");
    assert_eq!(room.raw(&mut c, "CLIENT SETINFO LIB-NAME x"), "+OK\r\n");
    assert_eq!(room.ask(&mut c, "CLIENT GETNAME").text().unwrap(), "me");
    assert_eq!(room.ask(&mut c, "CLIENT ID").int(), Some(7));
    assert_eq!(room.ask(&mut c, "COMMAND").items().len(), COMMANDS.len());
    assert_eq!(room.ask(&mut c, "COMMAND DOCS").items().len(), 0);
    assert_eq!(room.ask(&mut c, "ROLE").items()[0].text().unwrap(), "sentinel");
    assert!(error(&room.ask(&mut c, "HELLO 4")).starts_with("NOPROTO"));
    assert!(room.raw(&mut c, "HELLO 3 SETNAME you").starts_with("%6\r\n$6\r\nserver\r\n"));
    assert_eq!(room.raw(&mut c, "SENTINEL get-master-addr-by-name x"), "_\r\n");
    assert!(room.raw(&mut c, "SENTINEL master shop").starts_with('%'));
    assert_eq!(room.effect(&mut c, "QUIT"), Effect::Close);
}

#[test]
fn events_reach_who_asked_for_them() {
    let room = Room::new(Primary::Open(endpoint(1)));
    let mut c = room.client();
    let event = Event { channel: "+switch-master", text: "shop 10.0.0.1 6379 10.0.0.2 6379".into() };
    let heard = |c: &Client| {
        let mut out = Vec::new();
        c.deliver(&event, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(heard(&c), "");
    assert_eq!(
        room.raw(&mut c, "SUBSCRIBE +switch-master -sdown"),
        "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$6\r\n-sdown\r\n:2\r\n"
    );
    let message =
        "3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$32\r\nshop 10.0.0.1 6379 10.0.0.2 6379\r\n";
    assert_eq!(heard(&c), format!("*{message}"));
    assert!(error(&room.ask(&mut c, "SENTINEL masters")).contains("allowed in this context"));
    assert_eq!(room.raw(&mut c, "PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert!(room.raw(&mut c, "UNSUBSCRIBE").ends_with(":0\r\n"));
    assert!(room.raw(&mut c, "UNSUBSCRIBE").ends_with("$-1\r\n:0\r\n"));
    assert!(room.raw(&mut c, "PSUBSCRIBE +*").ends_with(":1\r\n"));
    assert!(heard(&c).starts_with("*4\r\n$8\r\npmessage\r\n$2\r\n+*\r\n"));
    room.raw(&mut c, "RESET");
    room.raw(&mut c, "HELLO 3");
    room.raw(&mut c, "SUBSCRIBE +switch-master");
    assert_eq!(heard(&c), format!(">{message}"));
    assert!(room.raw(&mut c, "SENTINEL myid").starts_with("$40"), "RESP3 clients may ask meanwhile");
    for n in 1..SUBSCRIPTIONS {
        assert!(!room.raw(&mut c, &format!("PSUBSCRIBE {n}")).starts_with('-'));
    }
    assert!(error(&room.ask(&mut c, "PSUBSCRIBE more")).contains("at most"));
    assert!(!room.raw(&mut c, "SUBSCRIBE +switch-master").starts_with('-'), "known already");
}

/// Words that reach far into the commands, and some that do not.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "sentinel",
        "hello",
        "auth",
        "client",
        "setname",
        "subscribe",
        "psubscribe",
        "unsubscribe",
        "punsubscribe",
        "info",
        "command",
        "docs",
        "list",
        "ping",
        "role",
        "reset",
        "masters",
        "master",
        "slaves",
        "sentinels",
        "shop",
        "failover",
        "ckquorum",
        "get-master-addr-by-name",
        "is-master-down-by-addr",
        "10.0.0.1",
        "6379",
        "operator",
        "default",
        "3",
        "2",
    ]);
    prop_oneof![
        8 => known.prop_map(|w| w.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..9),
    ]
}

proptest! {
    /// Whatever is sent, every command has whole replies, and only known clients hear of anything.
    #[test]
    fn anything_has_an_answer(
        commands in proptest::collection::vec(proptest::collection::vec(word(), 1..6), 1..12),
        password: bool,
    ) {
        let mut room = Room::new(Primary::Open(endpoint(1)));
        room.token = Some("secret");
        room.doors.password = password.then(|| Password::new("none of the words"));
        let mut client = room.client();
        for args in &commands {
            let (out, effect) = room.run(&mut client, args);
            prop_assert!(!matches!(effect, Effect::SwitchOver(_)), "nobody is an operator");
            prop_assert!(!out.is_empty());
            if password {
                prop_assert!(!client.is_known() && !client.listens());
                prop_assert!(!String::from_utf8_lossy(&out).contains("10.0.0.1 ") );
            }
            let mut scanner = Scanner::default();
            let mut at = 0;
            while at < out.len() {
                let (n, frame) = scanner.feed(&out[at..]).unwrap();
                at += n;
                prop_assert!(frame.is_some(), "cut short: {}", out.escape_ascii());
            }
        }
    }
}
