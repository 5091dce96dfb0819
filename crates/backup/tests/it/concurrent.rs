//! Backups, restores and prunes at the same time, in every order that a seed makes of their calls to the storage, with
//! actors that die. What must hold: whoever lives succeeds, every backup that is listed restores to what went in, no
//! restore ever meets something missing. Rules: docs/repository-format.md, "Who may remove what".

use crate::memory::Memory;
use crate::scene::{Files, NOW, PAGE, begin, last, noise, restored, store};
use holdfast_backup::{BackupId, Error, Prune, Repository, RepositoryKey};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const SEEDS: u64 = 250;
const ACTORS: usize = 5;
/// An actor that computes for longer is not waited for.
const COMPUTES: Duration = Duration::from_secs(10);

/// Gives the turns: one call at a time.
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Threads of each actor that wait for a turn.
    waiting: [usize; ACTORS],
    ended: [bool; ACTORS],
    turn: Option<usize>,
    calls: [u64; ACTORS],
    dies_at: [Option<u64>; ACTORS],
}

impl Turns {
    fn call(&self, actor: usize) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        state.waiting[actor] += 1;
        self.changed.notify_all();
        while state.turn != Some(actor) {
            state = self.changed.wait(state).unwrap();
        }
        state.turn = None;
        state.waiting[actor] -= 1;
        state.calls[actor] += 1;
        let dead = state.dies_at[actor].is_some_and(|at| state.calls[actor] > at);
        self.changed.notify_all();
        if dead { Err("this actor is dead".into()) } else { Ok(()) }
    }
    fn end(&self, actor: usize) {
        self.state.lock().unwrap().ended[actor] = true;
        self.changed.notify_all();
    }
    /// Lets one actor after the other go on, until all have ended.
    fn run(&self, mut random: impl FnMut() -> u64) {
        // In some runs an actor often has many turns in a row: then the others are as if suspended meanwhile.
        let (mut last, changes) = (None, [1, 8, 24][random() as usize % 3]);
        loop {
            let ready =
                |s: &mut State| (0..ACTORS).any(|a| !s.ended[a] && s.waiting[a] == 0) || s.turn.is_some();
            let state = self.state.lock().unwrap();
            let (mut state, late) = self.changed.wait_timeout_while(state, COMPUTES, ready).unwrap();
            assert!(!late.timed_out(), "an actor hangs");
            let able: Vec<usize> = (0..ACTORS).filter(|a| state.waiting[*a] > 0).collect();
            if able.is_empty() {
                return;
            }
            let again = last.filter(|a| able.contains(a) && !random().is_multiple_of(changes));
            last = again.or(Some(able[random() as usize % able.len()]));
            state.turn = last;
            self.changed.notify_all();
        }
    }
}

fn content(version: u64) -> Files {
    let mut pages = noise(4 * PAGE, 1);
    pages[..PAGE].copy_from_slice(&noise(PAGE, version + 100));
    BTreeMap::from([("t.ibd".to_owned(), pages)])
}

fn prune_last_one() -> Prune {
    let retention = BTreeMap::from([("shop".to_owned(), last(1))]);
    Prune { retention, now_unix_ms: NOW, ..Prune::default() }
}

type Made = Arc<Mutex<BTreeMap<BackupId, u64>>>;

/// What one actor does; `Err` says what must not be.
fn act(actor: usize, repository: &Repository, made: &Made, may_fail: bool) -> Result<(), String> {
    let wrong = |what: &str, e: &Error| {
        let gone = matches!(e, Error::NoBackup { .. } | Error::BeingRemoved(_) | Error::PruneUnderWay(_));
        if gone || may_fail { Ok(()) } else { Err(format!("{what}: {e:?}")) }
    };
    match actor {
        0 | 1 => {
            let version = actor as u64 + 2;
            let mut writer = match repository.begin(begin("shop")) {
                Ok(writer) => writer,
                Err(e) => return wrong("begin", &e),
            };
            // Known before it can be seen.
            made.lock().unwrap().insert(writer.id().clone(), version);
            let write = |w: &mut holdfast_backup::Writer| -> Result<(), Error> {
                for (path, bytes) in content(version) {
                    let file = w.open(&path, None, holdfast_backup::Cut::Pages)?;
                    w.write(file, &bytes)?;
                    w.close(file)?;
                }
                Ok(())
            };
            let done = write(&mut writer).and_then(|()| writer.commit(Default::default()));
            done.map(|_| ()).or_else(|e| wrong("backup", &e))
        }
        2 => {
            let latest = match repository.latest("shop") {
                Ok(latest) => latest,
                Err(e) => return wrong("latest", &e),
            };
            match restored(repository, &latest) {
                Ok(files) if files == content(made.lock().unwrap()[&latest.id]) => Ok(()),
                Ok(_) => Err("a restore brought something else".into()),
                Err(e) => wrong("restore", &e),
            }
        }
        _ => repository.prune(&prune_last_one()).map(|_| ()).or_else(|e| wrong("prune", &e)),
    }
}

/// One run. `Err` says which promise was broken.
fn run(seed: u64, blind_to: Option<&'static str>) -> Result<(), String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    };
    let memory = Memory::new();
    let repository = Repository::create(Arc::new(memory.clone()), RepositoryKey::PLAIN).unwrap();
    let made: Made = Arc::default();
    // Two backups: the first is to be pruned, the second is everybody's parent.
    for version in 0..2 {
        let backup = store(&repository, begin("shop"), &content(version)).unwrap();
        made.lock().unwrap().insert(backup.id, version);
    }
    let mut first = State::default();
    if random() % 2 == 0 {
        first.dies_at[random() as usize % ACTORS] = Some(random() % 25);
    }
    let dying = first.dies_at;
    let turns = Arc::new(Turns { state: Mutex::new(first), changed: Condvar::new() });
    let broken = std::thread::scope(|scope| {
        let mut actors = Vec::new();
        for (actor, dies) in dying.iter().enumerate() {
            let (turns, made) = (turns.clone(), made.clone());
            let called = turns.clone();
            let mut eyes = memory.seen(move |_, _| called.call(actor));
            eyes.blind_to = blind_to;
            let repository = repository.on(Arc::new(eyes));
            let dies = dies.is_some();
            actors.push(scope.spawn(move || {
                let outcome = act(actor, &repository, &made, dies);
                turns.end(actor);
                outcome
            }));
        }
        turns.run(&mut random);
        actors.into_iter().try_for_each(|a| a.join().unwrap())
    });
    broken?;
    let listing = repository.list(None).unwrap();
    if listing.backups.is_empty() || !listing.unreadable.is_empty() {
        return Err(format!("no backup is left, or some cannot be read: {listing:?}"));
    }
    for backup in &listing.backups {
        match restored(&repository, backup) {
            Ok(files) if files == content(made.lock().unwrap()[&backup.id]) => {}
            // A prune died before it could remove this one, or say that it will not.
            Err(Error::BeingRemoved(_)) if dying[3..].iter().any(Option::is_some) => {}
            other => return Err(format!("{} is listed and does not restore: {:?}", backup.id, other.err())),
        }
    }
    // A day later nothing is left of those who died.
    *memory.now.lock().unwrap() += 2 * 86_400_000;
    for _ in 0..2 {
        let prune = Prune { take_over: true, ..prune_last_one() };
        repository.prune(&prune).map_err(|e| format!("the last prune: {e:?}"))?;
    }
    let last = repository.latest("shop").map_err(|e| e.to_string())?;
    let left = memory.names();
    let expected = 2 + last.packs.len();
    if left.len() != expected { Err(format!("{expected} objects are needed: {left:?}")) } else { Ok(()) }
}

#[test]
fn backups_restores_and_prunes_do_not_harm_each_other() {
    for seed in 0..SEEDS {
        run(seed, None).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}

/// The test is tested: without pins, or with nobody looking at what is condemned, something breaks.
#[test]
fn without_the_rules_something_breaks() {
    for rule in ["pins", "condemned"] {
        let broken = (0..SEEDS).find_map(|seed| run(seed, Some(rule)).err());
        assert!(broken.is_some(), "nobody misses {rule}");
    }
}
