//! A voter of the store: elections, votes and a replicated log, as a state machine without I/O.
//!
//! Guarantees, which `invariants/store.rs` watches: what a majority has on disk is never replaced, and a term has one
//! leader. It is a model of what the embedded store does (openraft over a file that is fsynced before anything is
//! answered), not that code; the state that entries are applied to is the real one. Modelled on purpose: a write that
//! reaches the disk late, or not at all before a crash; a directory that is lost; a leader that does not know yet
//! that it was replaced. Deliberately absent: what entries mean, snapshots, changes of membership.

use super::rng::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A leader beats this often.
pub const BEAT_MS: u64 = 150;
/// A follower that heard of a leader this recently votes for nobody else, and does not stand itself.
const ELECTION_MAX_MS: u64 = 350;
const ELECTION_MIN_MS: u64 = 200;
/// A leader acts as one while a majority answered this recently.
const QUORUM_MS: u64 = 2 * ELECTION_MAX_MS;
/// Entries in one message.
const BATCH: usize = 64;

/// One entry of the log.
#[derive(Debug)]
pub struct Entry<T> {
    pub term: u64,
    /// No other entry has it.
    pub id: u64,
    /// `None`: a new leader's first.
    pub what: Option<T>,
}

/// From voter to voter.
#[derive(Debug, Clone)]
pub enum Msg<T> {
    Vote {
        term: u64,
        last: (u64, usize),
    },
    Voted {
        term: u64,
        granted: bool,
    },
    Append {
        term: u64,
        prev: (u64, usize),
        entries: Vec<Arc<Entry<T>>>,
        commit: usize,
    },
    /// `end`: how far the log is the leader's, or how far at most it may be.
    Appended {
        term: u64,
        ok: bool,
        end: usize,
    },
}

/// What survives a crash.
#[derive(Debug, Clone)]
pub struct Disk<T> {
    pub term: u64,
    pub vote: Option<usize>,
    pub log: Vec<Arc<Entry<T>>>,
}

/// What is on its way to the disk, and who waits for it.
#[derive(Debug)]
struct Pending<T> {
    id: u64,
    term: u64,
    vote: Option<usize>,
    keep: usize,
    append: Vec<Arc<Entry<T>>>,
    replies: Vec<(usize, Msg<T>)>,
}

#[derive(Debug)]
enum Part {
    Follower,
    Candidate {
        votes: BTreeSet<usize>,
    },
    Leader {
        next: BTreeMap<usize, usize>,
        matched: BTreeMap<usize, usize>,
        heard: BTreeMap<usize, u64>,
        end: usize,
    },
}

/// See the module. Times are of one clock, whichever the caller uses.
#[derive(Debug)]
pub struct Voter<T> {
    me: usize,
    peers: Vec<usize>,
    disk: Disk<T>,
    term: u64,
    vote: Option<usize>,
    log: Vec<Arc<Entry<T>>>,
    pending: VecDeque<Pending<T>>,
    writes: u64,
    part: Part,
    commit: usize,
    applied: usize,
    leader_heard: u64,
    stand_at: u64,
    beat_at: u64,
    /// To be sent: to whom, and what.
    pub out: Vec<(usize, Msg<T>)>,
    /// Writes begun: the caller calls [`Voter::fsynced`] with each, in order.
    pub begun: Vec<u64>,
}

impl<T: Clone> Voter<T> {
    pub fn new(me: usize, voters: usize, disk: Disk<T>, now: u64, rng: &mut Rng) -> Voter<T> {
        let (term, vote, log) = (disk.term, disk.vote, disk.log.clone());
        Voter {
            me,
            peers: (0..voters).filter(|v| *v != me).collect(),
            disk,
            term,
            vote,
            log,
            pending: VecDeque::new(),
            writes: 0,
            part: Part::Follower,
            commit: 0,
            applied: 0,
            leader_heard: 0,
            stand_at: now + rng.range(ELECTION_MIN_MS, ELECTION_MAX_MS),
            beat_at: 0,
            out: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// What a crash leaves. `lands`: what was on its way to the disk got there.
    pub fn crashed(mut self, lands: bool) -> Disk<T> {
        while let Some(write) = self.pending.pop_front().filter(|_| lands) {
            self.disk.write(&write);
        }
        self.disk
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    /// Leads, has applied all that was there when it began to and an entry of its own, and has a majority's ear.
    pub fn leads(&self, now: u64) -> bool {
        let Part::Leader { heard, end, .. } = &self.part else { return false };
        let own = self.applied > 0 && self.log[self.applied - 1].term == self.term;
        let near = heard.values().filter(|t| now.saturating_sub(**t) <= QUORUM_MS).count();
        self.applied >= *end && own && (near + 1) * 2 > self.peers.len() + 1
    }

    /// Time passes.
    pub fn tick(&mut self, now: u64, fresh: &mut u64, rng: &mut Rng) {
        if matches!(self.part, Part::Leader { .. }) {
            if now >= self.beat_at {
                self.beat(now);
            }
        } else if now >= self.stand_at {
            self.stand(now, fresh, rng);
        } else if let Part::Candidate { votes } = &self.part
            && self.pending.is_empty()
        {
            // A question that was lost is asked again.
            let msg = Msg::Vote { term: self.term, last: self.last() };
            let silent = self.peers.iter().filter(|p| !votes.contains(p));
            self.out.extend(silent.map(|p| (*p, msg.clone())));
        }
    }

    /// Stands for election now.
    pub fn stand(&mut self, now: u64, fresh: &mut u64, rng: &mut Rng) {
        self.term += 1;
        self.vote = Some(self.me);
        self.part = Part::Candidate { votes: BTreeSet::new() };
        self.put_off(now, rng);
        let msg = Msg::Vote { term: self.term, last: self.last() };
        let asks = self.peers.iter().map(|p| (*p, msg.clone())).collect();
        self.persist(self.log.len(), Vec::new(), asks);
        if self.peers.is_empty() {
            self.lead(now, fresh);
        }
    }

    fn put_off(&mut self, now: u64, rng: &mut Rng) {
        self.stand_at = now + ELECTION_MAX_MS + rng.range(ELECTION_MIN_MS, ELECTION_MAX_MS);
    }

    fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |e| e.term), self.log.len())
    }

    fn persist(&mut self, keep: usize, append: Vec<Arc<Entry<T>>>, replies: Vec<(usize, Msg<T>)>) {
        self.writes += 1;
        let id = self.writes;
        self.pending.push_back(Pending { id, term: self.term, vote: self.vote, keep, append, replies });
        self.begun.push(id);
    }

    /// The disk has it: whoever waits is answered.
    pub fn fsynced(&mut self, id: u64) {
        while self.pending.front().is_some_and(|w| w.id <= id) {
            let write = self.pending.pop_front().expect("looked at just now");
            self.disk.write(&write);
            self.out.extend(write.replies);
        }
        self.count();
    }

    pub fn receive(&mut self, from: usize, msg: Msg<T>, now: u64, fresh: &mut u64, rng: &mut Rng) {
        match msg {
            Msg::Vote { term, last } => self.asked_for_vote(from, term, last, now, rng),
            Msg::Voted { term, granted } => {
                self.seen(term);
                if let Part::Candidate { votes } = &mut self.part
                    && granted
                    && term == self.term
                {
                    votes.insert(from);
                    if (votes.len() + 1) * 2 > self.peers.len() + 1 {
                        self.lead(now, fresh);
                    }
                }
            }
            Msg::Append { term, prev, entries, commit } => {
                self.asked_to_append(from, term, prev, entries, commit, now, rng);
            }
            Msg::Appended { term, ok, end } => self.appended(from, term, ok, end, now),
        }
    }

    fn seen(&mut self, term: u64) {
        if term > self.term {
            (self.term, self.vote, self.part) = (term, None, Part::Follower);
        }
    }

    fn asked_for_vote(&mut self, from: usize, term: u64, last: (u64, usize), now: u64, rng: &mut Rng) {
        // A leader that is heard of is protected from those who cannot hear it.
        let content = self.leader_heard > 0 && now.saturating_sub(self.leader_heard) < ELECTION_MAX_MS;
        if !content {
            self.seen(term);
        }
        let free = self.vote.is_none_or(|v| v == from);
        let granted = !content && term == self.term && free && last >= self.last();
        let reply = (from, Msg::Voted { term: self.term, granted });
        if !granted {
            return self.out.push(reply);
        }
        self.vote = Some(from);
        self.put_off(now, rng);
        self.persist(self.log.len(), Vec::new(), vec![reply]);
    }

    fn lead(&mut self, now: u64, fresh: &mut u64) {
        let end = self.log.len() + 1;
        self.part = Part::Leader {
            next: self.peers.iter().map(|p| (*p, self.log.len())).collect(),
            matched: self.peers.iter().map(|p| (*p, 0)).collect(),
            heard: BTreeMap::new(),
            end,
        };
        *fresh += 1;
        self.propose(*fresh, None, now);
    }

    /// Appends; whether it is committed shows later. Only where this voter takes itself for the leader.
    pub fn propose(&mut self, id: u64, what: Option<T>, now: u64) -> bool {
        if !matches!(self.part, Part::Leader { .. }) {
            return false;
        }
        let entry = Arc::new(Entry { term: self.term, id, what });
        self.log.push(entry.clone());
        self.persist(self.log.len() - 1, vec![entry], Vec::new());
        self.beat(now);
        true
    }

    fn beat(&mut self, now: u64) {
        self.beat_at = now + BEAT_MS;
        for peer in self.peers.clone() {
            self.append_to(peer);
        }
    }

    fn append_to(&mut self, peer: usize) {
        let Part::Leader { next, .. } = &self.part else { return };
        let from = next[&peer];
        let prev = (if from == 0 { 0 } else { self.log[from - 1].term }, from);
        let entries = self.log[from..].iter().take(BATCH).cloned().collect();
        self.out.push((peer, Msg::Append { term: self.term, prev, entries, commit: self.commit }));
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of one message, and the caller's clock and dice"
    )]
    fn asked_to_append(
        &mut self,
        from: usize,
        term: u64,
        prev: (u64, usize),
        entries: Vec<Arc<Entry<T>>>,
        commit: usize,
        now: u64,
        rng: &mut Rng,
    ) {
        self.seen(term);
        if term < self.term {
            return self.out.push((from, Msg::Appended { term: self.term, ok: false, end: 0 }));
        }
        self.part = Part::Follower;
        self.leader_heard = now;
        self.put_off(now, rng);
        let (prev_term, at) = prev;
        let fits = at == 0 || self.log.get(at - 1).is_some_and(|e| e.term == prev_term);
        if !fits {
            let end = self.log.len().min(at - 1);
            return self.out.push((from, Msg::Appended { term, ok: false, end }));
        }
        let same = entries.iter().enumerate().take_while(|(i, e)| {
            self.log.get(at + i).is_some_and(|mine| mine.term == e.term && mine.id == e.id)
        });
        let same = same.count();
        let end = at + entries.len();
        let news: Vec<_> = entries.into_iter().skip(same).collect();
        let reply = (from, Msg::Appended { term, ok: true, end });
        if news.is_empty() {
            match self.pending.is_empty() {
                true => self.out.push(reply),
                false => self.persist(self.log.len(), Vec::new(), vec![reply]),
            }
        } else {
            self.log.truncate(at + same);
            self.log.extend(news.iter().cloned());
            self.persist(at + same, news, vec![reply]);
        }
        self.commit = self.commit.max(commit.min(end));
    }

    fn appended(&mut self, from: usize, term: u64, ok: bool, end: usize, now: u64) {
        self.seen(term);
        let (len, mine) = (self.log.len(), self.term);
        let Part::Leader { next, matched, heard, .. } = &mut self.part else { return };
        if term != mine {
            return;
        }
        heard.insert(from, now);
        if ok {
            let m = matched.entry(from).or_default();
            *m = (*m).max(end.min(len));
            next.insert(from, *m);
            let more = *m < len && end < len;
            self.count();
            if more {
                self.append_to(from);
            }
        } else {
            next.insert(from, end.min(len));
            self.append_to(from);
        }
    }

    /// Commits what a majority has on disk, if the last of it is of this term.
    fn count(&mut self) {
        let Part::Leader { matched, .. } = &self.part else { return };
        let mut ends: Vec<usize> = matched.values().copied().collect();
        let kept = self.pending.iter().map(|w| w.keep).min().unwrap_or(self.log.len());
        ends.push(kept.min(self.disk.log.len()));
        ends.sort_unstable();
        let end = ends[(ends.len() - 1) / 2];
        if end > self.commit && self.log[end - 1].term == self.term {
            self.commit = end;
        }
    }

    /// The next committed entry with its place in the log, to be applied now.
    pub fn apply(&mut self) -> Option<(usize, Arc<Entry<T>>)> {
        if self.applied >= self.commit || self.applied >= self.log.len() {
            return None;
        }
        self.applied += 1;
        Some((self.applied - 1, self.log[self.applied - 1].clone()))
    }
}

impl<T> Disk<T> {
    pub fn empty() -> Disk<T> {
        Disk { term: 0, vote: None, log: Vec::new() }
    }
    fn write(&mut self, write: &Pending<T>) {
        (self.term, self.vote) = (write.term, write.vote);
        self.log.truncate(write.keep);
        self.log.extend(write.append.iter().cloned());
    }
}
