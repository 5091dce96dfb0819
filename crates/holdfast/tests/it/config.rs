//! The topology file: each `config/*.toml` beside this file with what `holdfast config check` says about it, and no
//! panic on anything. `UPDATE_EXPECT=1 cargo test` rewrites the answers; read the difference.

use expect_test::expect_file;
use holdfast::config::{self, Config, Report};
use holdfast_core::topology::PasswordSource;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/config")
}

/// The answer as it stands in the terminal, and for a good file what was understood.
fn answer(result: Result<Config, Report>) -> String {
    match result {
        Err(report) => {
            assert!(report.errors() > 0, "refused without an error");
            report.render(false, 100)
        }
        Ok(config) => {
            assert_eq!(config.warnings.errors(), 0, "accepted with errors");
            format!("{}{:#?}\n", config.warnings.render(false, 100), config.topology)
        }
    }
}

#[test]
fn every_mistake_is_named_with_its_place_and_a_hint() {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(cases()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
    assert!(files.len() > 10, "the cases are missing");
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        expect_file![file.with_extension("txt")].assert_eq(&answer(config::parse(name, &text)));
    }
}

fn full() -> String {
    std::fs::read_to_string(cases().join("full.toml")).expect("it is committed")
}

#[test]
fn a_file_that_is_no_text_or_no_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str| config::load(&dir.path().join(name)).unwrap_err();
    std::fs::write(dir.path().join("latin1.toml"), b"name = \"caf\xe9\"\n").unwrap();
    let report = refused("latin1.toml");
    assert_eq!(report.findings[0].code, "not-utf-8");
    assert_eq!(report.findings[0].line(), Some(1));
    std::fs::write(dir.path().join("huge.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(refused("huge.toml").findings[0].code, "too-large");
    assert_eq!(refused("absent.toml").findings[0].code, "unreadable");
    assert_eq!(refused("").findings[0].code, "unreadable", "a directory is no file");
    // /dev/zero never ends.
    assert_eq!(config::load(Path::new("/dev/zero")).unwrap_err().findings[0].code, "too-large");
}

#[test]
fn load_doubts_passwords_that_cannot_be_read_or_that_all_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    let closed = dir.path().join("closed");
    for (file, mode) in [(&open, 0o644), (&closed, 0o600)] {
        std::fs::write(file, "s3cret\r\nsecond line\n").unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let text = full()
        .replace("/etc/holdfast/app.password", open.to_str().unwrap())
        .replace("/etc/holdfast/repl.password", closed.to_str().unwrap());
    let file = dir.path().join("t.toml");
    std::fs::write(&file, text).unwrap();
    let config = config::load(&file).unwrap();
    let codes: Vec<&str> = config.warnings.findings.iter().map(|f| f.code).collect();
    assert_eq!(codes, ["no-password", "exposed-password"]);
    let read = config::secrets::resolve(&PasswordSource::File(closed)).unwrap();
    assert_eq!(read.expose(), "s3cret");
    for wrong in ["\nsecret", "", "a\tb", &"x".repeat(300)] {
        std::fs::write(&open, wrong).unwrap();
        assert!(config::secrets::resolve(&PasswordSource::File(open.clone())).is_err(), "{wrong:?}");
    }
}

#[test]
fn no_report_shows_a_password() {
    let text = full().replace("allow_plaintext_passwords = true", "").replace("in clear", "s3cret-1");
    let report = config::parse("t.toml", &text).unwrap_err();
    let shown = format!("{} {report:?}", report.render(false, 100));
    assert!(shown.contains("plaintext-password") && shown.contains("password = \"********\""), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_file_full_of_mistakes_is_answered_in_short() {
    let text = (0..50_000).map(|i| format!("field_{i} = 1\n")).collect::<String>();
    let report = config::parse("t.toml", &text).unwrap_err();
    assert_eq!(report.findings.len(), 100);
    assert!(report.left_out > 49_000);
    assert!(config::parse("t.toml", &"[".repeat(1 << 20)).is_err());
    assert!(config::parse("t.toml", &format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(config::parse("t.toml", &format!("{} = 1", "a.".repeat(100_000) + "a")).is_err());
}

/// What any text must leave intact: an answer, drawn without trouble, and a topology that keeps its promises.
fn survives(text: &str) {
    match config::parse("t.toml", text) {
        Err(report) => {
            assert!(report.errors() > 0);
            assert!(report.findings.iter().all(|f| f.code != "internal"));
            report.render(false, 80);
        }
        Ok(config) => {
            config.warnings.render(true, 80);
            let t = &config.topology;
            assert!(t.nodes.iter().any(|n| n.voter));
            for (i, n) in t.nodes.iter().enumerate() {
                assert!(
                    t.nodes[..i].iter().all(|m| m.name != n.name && m.id != n.id && m.address != n.address)
                );
                assert!(t.tls_dir.is_some() || n.address.is_loopback());
                assert!(n.id > 0 && n.data_dir.is_absolute());
            }
            for s in &t.services {
                assert!(s.members.iter().all(|m| t.node(m).is_some()));
                assert!(s.sync_replicas < s.members.len());
                let ports = [s.port, s.read_port, s.engine_port, t.api_port];
                assert!(ports.iter().all(|p| *p > 0));
                assert!((0..4).all(|i| !ports[..i].contains(&ports[i])));
            }
        }
    }
}

/// Pieces that topology files are made of, to get past the first line of defence more often than noise does.
const PIECES: [&str; 32] = [
    "[[node]]",
    "[node]",
    "[[service]]",
    "[service]",
    "[[service.user]]",
    "[service.replication]",
    "[tls]",
    "\n",
    "name",
    "id",
    "address",
    "members",
    "port",
    "managed",
    "grants",
    "password",
    " = ",
    "=",
    "\"",
    "'''",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"a\"",
    "\"127.0.0.1\"",
    "0",
    "65536",
    "true",
    "1e400",
    "\u{feff}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        survives(&text);
    }

    #[test]
    fn no_heap_of_pieces_makes_it_panic(picks in proptest::collection::vec(0..PIECES.len(), 0..60)) {
        survives(&picks.iter().map(|i| PIECES[*i]).collect::<String>());
    }

    #[test]
    fn no_change_to_a_good_file_makes_it_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..20, 0..PIECES.len()), 1..4)
    ) {
        let mut text: Vec<char> = full().chars().collect();
        for (at, len, piece) in cuts {
            let start = at.index(text.len());
            let end = (start + len).min(text.len());
            text.splice(start..end, PIECES[piece].chars());
        }
        survives(&text.iter().collect::<String>());
    }

    #[test]
    fn no_value_in_a_good_file_makes_it_panic(line in any::<prop::sample::Index>(), value in "[ -~]{0,12}|-?[0-9]{1,30}|\"[^\"]{0,8}\"") {
        let text = full();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = line.index(lines.len());
        if let Some((key, _)) = lines[at].clone().split_once('=') {
            lines[at] = format!("{key}= {value}");
        }
        survives(&lines.join("\n"));
    }
}
