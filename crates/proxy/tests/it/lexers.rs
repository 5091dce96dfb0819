//! What the proxy takes for a plain read, held against what real servers make of the same text.

use crate::client::Client;
use crate::engine::Engine;
use crate::front::Front;
use crate::group::Flavour;
use holdfast_core::Gate;
use holdfast_core::topology::ReadConsistency;
use holdfast_wire::command;

/// Pieces that lexers, SQL modes and character sets read in different ways.
const PIECES: [&[u8]; 56] = [
    b"'",
    b"'",
    b"''",
    b"\"",
    b"\"",
    b"`",
    b"\\",
    b"\\'",
    b"/*",
    b"*/",
    b"/*!",
    b"/*!50000 ",
    b"/*!99999 ",
    b"/*M!",
    b"/*M!100000 ",
    b"/*+ ",
    b"*/",
    b"--",
    b"-- ",
    b"--\t",
    b"#",
    b"\n",
    b"\n",
    b"\r",
    b" ",
    b" ",
    b",",
    b"(",
    b")",
    b"{fn ",
    b"}",
    b"@",
    b"$$",
    b"$a$",
    b"0x",
    b"1e5",
    b"1",
    b".",
    b"?",
    b";",
    b"+",
    b"-",
    b"/",
    b"*",
    b"%",
    b"||",
    b"N",
    b"_gbk",
    b"x'00'",
    b"a",
    b"AS a",
    b"\xc2\xa0",
    b"\xa1",
    b"\xe3\x80\x80",
    b"\0",
    b"\x1a",
];
const QUOTES: [&[u8]; 11] = [b"'", b"'", b"''", b"\\", b"\\", b" ", b"\xa1", b"\"", b"# ", b"'\\''", b"# '"];
/// Calls of what must never be called at a reader.
const CALLS: [&[u8]; 8] =
    [b"f()", b"f ()", b"`f`()", b"d.f()", b"now (1)", b"\"f\"()", b"{fn f()}", b"f/**/()"];

/// Good enough to stir a soup with, and the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
    /// Either anything, or much of what opens, closes and escapes.
    fn soup(&mut self, quotes: bool) -> Vec<u8> {
        if quotes {
            return (0..self.roll(4)).flat_map(|_| QUOTES[self.roll(QUOTES.len())].iter().copied()).collect();
        }
        (0..self.roll(4)).flat_map(|_| PIECES[self.roll(PIECES.len())].iter().copied()).collect()
    }
}

async fn strong(flavour: Flavour, engine: &Engine) -> Front {
    let front = Front::start_with(|o| o.engine = flavour.engine()).await;
    front.open(1, engine);
    front
}

async fn nothing_is_called_at_a_reader(flavour: Flavour) {
    let start = || match flavour {
        Flavour::MariaDb => Engine::start(),
        Flavour::MySql => Engine::mysql_with(&["--log-bin-trust-function-creators=1"]),
    };
    let (writer, reader) = tokio::task::block_in_place(|| {
        std::thread::scope(|s| {
            let writer = s.spawn(start);
            (writer.join().unwrap(), start())
        })
    });
    for engine in [&writer, &reader] {
        for (name, takes) in [("f", ""), ("now ", "x INT")] {
            engine.sql(&format!(
                "CREATE FUNCTION d.{name}({takes}) RETURNS INT NO SQL RETURN GET_LOCK('called', 0)"
            ));
        }
    }
    let front = Front::start_with(|o| {
        o.engine = flavour.engine();
        o.read_consistency = ReadConsistency::Eventual;
    })
    .await;
    front.route(1, Gate::Open, Some(writer.endpoint("a")), vec![reader.endpoint("a")], 600_000);
    let beside = strong(flavour, &reader).await;
    let mut looker = Client::connect(beside.addr).await;
    let mut dice = Dice(7);
    let modes =
        ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "IGNORE_SPACE", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES"];
    for names in ["utf8mb4", "latin1", "gbk"] {
        for mode in modes {
            let mut client = Client::connect(front.addr).await;
            client.query(&format!("SET NAMES {names}; SET SESSION sql_mode='{mode}'")).await.unwrap();
            for i in 0..500 {
                let call = CALLS[dice.roll(CALLS.len())];
                let sql =
                    [b"SELECT 1 ", &*dice.soup(i % 2 == 0), b", ", call, &*dice.soup(i % 2 == 0)].concat();
                client.send(&[&[command::QUERY], &*sql].concat()).await;
                client.reply(command::QUERY).await.unwrap();
                let called = looker.value("SELECT IS_USED_LOCK('called')").await;
                let sql = String::from_utf8_lossy(&sql);
                assert_eq!(called, "NULL", "taken for a plain read under {names} and {mode:?}: {sql:?}");
            }
        }
    }
    let stats = front.handle.stats();
    assert!(stats.reads_at_replicas + stats.reads_returned > 50, "hardly any was tried: {stats:?}");
    every_function_is_the_engines_own(&mut Client::connect(front.addr).await).await;
}

/// No listed name can be a stored function's when it is called without space.
async fn every_function_is_the_engines_own(client: &mut Client) {
    let mut strangers = Vec::new();
    for name in include_str!("../../src/mysql/functions.txt").split_whitespace() {
        for arguments in ["", "1", "1, 1", "1, 1, 1", "1, 1, 1, 1", "DISTINCT 1", "*"] {
            let answer = client.query(&format!("SELECT {name}({arguments})")).await;
            if answer.is_err_and(|refused| refused.0 == 1305) {
                strangers.push(name);
            }
        }
    }
    assert!(strangers.is_empty(), "not native: {strangers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_called_at_a_mariadb_reader() {
    nothing_is_called_at_a_reader(Flavour::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_called_at_a_mysql_reader() {
    nothing_is_called_at_a_reader(Flavour::MySql).await;
}
