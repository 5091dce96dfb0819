//! A reader written from docs/repository-format.md alone restores what this crate wrote.

use crate::scene::{PAGE, Scene, begin, database, noise, store, tree};
use holdfast_backup::RepositoryKey;
use std::path::Path;
use std::process::{Command, Output};

fn reader(scene: &Scene, key: &RepositoryKey, arguments: &[&str]) -> Output {
    let key_file = scene.dir.path().join("key");
    std::fs::write(&key_file, format!("{}\n", key.to_text())).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/reader.py");
    // Debian's own: it has the modules that `make setup` installs.
    let mut python = Command::new("/usr/bin/python3");
    python.arg(script).arg(scene.path()).arg(key_file).args(arguments).output().unwrap()
}

#[test]
fn another_program_restores_what_the_specification_says() {
    let scene = Scene::new();
    let mut files = database(1);
    store(&scene.repository, begin("shop"), &files).unwrap();
    files.get_mut("shop/orders.ibd").unwrap()[70 * PAGE..71 * PAGE].copy_from_slice(&noise(PAGE, 9));
    let increment = store(&scene.repository, begin("shop"), &files).unwrap();
    let into = scene.dir.path().join("by-python");
    let said =
        reader(&scene, &scene.key, &["restore", "shop", increment.id.as_str(), into.to_str().unwrap()]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(tree(&into), files);
    let said = reader(&scene, &scene.key, &["list"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains(&format!("shop {} 2", increment.id)));
    let refused = reader(&scene, &RepositoryKey::generate(), &["list"]);
    assert!(!refused.status.success());
    let lines = include_str!("reader.py").lines().count();
    assert!(lines <= 300, "the format is small: {lines} lines read it");
}
