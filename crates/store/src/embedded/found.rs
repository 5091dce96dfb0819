//! Founding a store, and keeping a wiped voter out of it.
//!
//! A store is founded once, when every configured voter has answered and none is part of one yet. The first entry
//! of its log records which directory votes under which id ([`StoreId`]), every message names the directories it
//! goes from and to, and nobody answers for another directory. So a voter whose directory was wiped can neither
//! vote nor acknowledge anything, whatever it asks for and whoever is away; here it also finds out and says so.
//! Requiring all voters at founding, and not a majority, is what keeps two wiped voters of three from founding
//! a second, empty store while the third is away.
//!
//! What this cannot detect: a directory replaced by an older copy of itself (it has the same id and has forgotten
//! votes and entries: never restore a voter from a backup or a machine snapshot), and the loss of every voter.

use super::network::{Sender, TransportError};
use super::types::{ProbeAnswer, RpcKind, StoreId, Types, Voter};
use futures_util::future::join_all;
use openraft::Raft;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// How long a voter may take to say who it is.
const PROBE_MS: u64 = 1_000;
/// Pause between two rounds.
const ROUND_MS: u64 = 200;

/// Where the store stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formation {
    /// Not yet part of a store.
    Waiting(Waiting),
    /// Part of a store.
    Formed,
    /// Will never be: this process should end with the error.
    Refused(Refused),
}

/// What a voter waits for before it is part of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    #[error("the store is about to be founded; asking the other voters")]
    Asking,
    #[error("the store is founded when every voter has answered once; missing: {}", list(.0))]
    Voters(BTreeMap<u64, TransportError>),
    #[error(
        "node {peer} has other voters in its topology file ({theirs:?}, here {ours:?}); give every host the same file"
    )]
    SameTopology { peer: u64, theirs: Vec<u64>, ours: Vec<u64> },
    #[error(
        "the store exists (node {peer} is part of it) and does not know this node yet; add it to the voters"
    )]
    Admission { peer: u64 },
    #[error("the store exists and knows this node; waiting for its leader")]
    Leader,
}

/// Why a voter is kept out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "this node's store directory is new, but node {peer} knows node id {id} by the directory {known}, not {own}: \
             the directory was wiped or replaced. A voter that forgot its votes could undo committed decisions, so \
             this id must not vote again. Put the old directory back, or give this host a new id in the topology file \
             and change the store's voters"
    )]
    Wiped { peer: u64, id: u64, known: StoreId, own: StoreId },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Wait(Waiting),
    Refuse(Refused),
    /// Everyone is here and nobody is part of a store: these are its voters.
    Found(BTreeMap<u64, Voter>),
}

/// What the other voters answered, or why not.
type Answers = BTreeMap<u64, Result<ProbeAnswer, TransportError>>;

/// Decides from what the other voters answered.
pub(crate) fn next((id, own): (u64, StoreId), voters: &BTreeMap<u64, String>, asked: Answers) -> Step {
    let mut missing = BTreeMap::new();
    let mut answers = BTreeMap::new();
    for (peer, answer) in asked {
        match answer {
            Ok(answer) => drop(answers.insert(peer, answer)),
            Err(error) => drop(missing.insert(peer, error)),
        }
    }
    for (peer, answer) in &answers {
        if let Some(known) = answer.formed.as_ref().and_then(|formed| formed.get(&id))
            && known.store != own
        {
            return Step::Refuse(Refused::Wiped { peer: *peer, id, known: known.store, own });
        }
    }
    let formed = |peer: &u64| answers[peer].formed.as_ref();
    if answers.keys().filter_map(formed).any(|formed| formed.contains_key(&id)) {
        return Step::Wait(Waiting::Leader);
    }
    if let Some(peer) = answers.keys().find(|peer| formed(peer).is_some()) {
        return Step::Wait(Waiting::Admission { peer: *peer });
    }
    let ours: Vec<u64> = voters.keys().copied().collect();
    if let Some((peer, answer)) = answers.iter().find(|(_, answer)| answer.configured != ours) {
        let theirs = answer.configured.clone();
        return Step::Wait(Waiting::SameTopology { peer: *peer, theirs, ours });
    }
    if !missing.is_empty() {
        return Step::Wait(Waiting::Voters(missing));
    }
    let store_of = |voter: &u64| if *voter == id { own } else { answers[voter].store };
    let voter = |(v, address): (&u64, &String)| (*v, Voter { address: address.clone(), store: store_of(v) });
    Step::Found(voters.iter().map(voter).collect())
}

/// Who this voter is and whom it asks.
pub(crate) struct Founder {
    pub raft: Raft<Types>,
    pub sender: Sender,
    pub voters: BTreeMap<u64, String>,
    pub formation: watch::Sender<Formation>,
}

impl Founder {
    /// Asks around until this voter is part of a store, or never can be.
    pub(crate) async fn run(self) {
        loop {
            match self.raft.is_initialized().await {
                Ok(true) => {
                    self.formation.send_replace(Formation::Formed);
                    return;
                }
                Ok(false) => {}
                // Stopped; the leadership channel says why.
                Err(_) => return,
            }
            let answers = self.ask().await;
            match next((self.sender.from, self.sender.from_store), &self.voters, answers) {
                Step::Found(voters) => {
                    // Every voter does this with the same members, as their directories have been recorded by
                    // then; whoever comes second is told so by openraft and follows.
                    match self.raft.initialize(voters).await {
                        Ok(()) => tracing::info!("store founded"),
                        Err(error) => tracing::debug!(%error, "somebody else founded the store"),
                    }
                    if self.raft.is_initialized().await.unwrap_or(false) {
                        continue;
                    }
                }
                Step::Wait(waiting) => self.say(Formation::Waiting(waiting)),
                Step::Refuse(refused) => {
                    self.say(Formation::Refused(refused));
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(ROUND_MS)).await;
        }
    }

    async fn ask(&self) -> Answers {
        let peers = self.voters.keys().copied().filter(|id| *id != self.sender.from);
        let calls: Vec<_> =
            peers.map(|peer| async move { (peer, probe(&self.sender, peer).await) }).collect();
        join_all(calls).await.into_iter().collect()
    }

    fn say(&self, formation: Formation) {
        self.formation.send_if_modified(|current| {
            let changed = *current != formation;
            *current = formation;
            changed
        });
    }
}

/// Asks a voter who it is.
pub(crate) async fn probe(sender: &Sender, peer: u64) -> Result<ProbeAnswer, TransportError> {
    sender.call((peer, None), RpcKind::Probe, (), Duration::from_millis(PROBE_MS)).await
}

fn list(missing: &BTreeMap<u64, TransportError>) -> String {
    missing.values().map(TransportError::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: (u64, StoreId) = (1, StoreId(10));

    fn pristine(id: u64) -> ProbeAnswer {
        ProbeAnswer { id, store: StoreId(u128::from(id) * 10), configured: vec![1, 2, 3], formed: None }
    }

    fn voter(store: u128) -> Voter {
        Voter { address: "a".into(), store: StoreId(store) }
    }

    fn part_of(id: u64, formed: &[(u64, u128)]) -> ProbeAnswer {
        let formed = formed.iter().map(|(id, store)| (*id, voter(*store))).collect();
        ProbeAnswer { formed: Some(formed), ..pristine(id) }
    }

    fn away(to: u64) -> TransportError {
        TransportError::Unreachable { to, what: "away".into() }
    }

    fn check(answers: [Result<ProbeAnswer, TransportError>; 2], expected: Step) {
        let voters = [1, 2, 3].map(|id| (id, "a".to_owned())).into();
        assert_eq!(next(ME, &voters, (2..).zip(answers).collect()), expected);
    }

    #[test]
    fn founding_table() {
        let all = [(1, voter(10)), (2, voter(20)), (3, voter(30))];
        check([Ok(pristine(2)), Ok(pristine(3))], Step::Found(all.into()));
        let missing = Step::Wait(Waiting::Voters([(3, away(3))].into()));
        check([Ok(pristine(2)), Err(away(3))], missing);
        let known = [(1, 10), (2, 20), (3, 30)];
        check([Err(away(2)), Ok(part_of(3, &known))], Step::Wait(Waiting::Leader));
        let wiped = Refused::Wiped { peer: 3, id: 1, known: StoreId(99), own: StoreId(10) };
        let wiped = Step::Refuse(wiped);
        check([Err(away(2)), Ok(part_of(3, &[(1, 99), (3, 30)]))], wiped.clone());
        check([Ok(pristine(2)), Ok(part_of(3, &[(1, 99), (3, 30)]))], wiped);
        check([Ok(pristine(2)), Ok(part_of(3, &[(3, 30)]))], Step::Wait(Waiting::Admission { peer: 3 }));
        let other = ProbeAnswer { configured: vec![1, 2], ..pristine(2) };
        let (theirs, ours) = (vec![1, 2], vec![1, 2, 3]);
        check([Ok(other), Ok(pristine(3))], Step::Wait(Waiting::SameTopology { peer: 2, theirs, ours }));
    }
}
