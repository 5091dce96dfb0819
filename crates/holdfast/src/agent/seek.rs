//! Finding the voter that leads.
//!
//! Guarantees: a voter that is silent does not keep the others from being asked, and its answer still counts if it comes;
//! after [`GIVE_UP`] more nobody is asked any more, and it ends when the last one asked has answered or run into its own
//! bound.
//! Does not know: what is asked.

use super::link::Error;
use crate::http;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A pause before all voters are asked once more: one of them is about to be elected.
const ROUND: Duration = Duration::from_millis(50);
/// Nobody is asked later than this after the first voter's patience: whoever asks has another way to go on (S14).
const GIVE_UP: Duration = Duration::from_millis(700);

/// Asks voter `first` of `voters`, and others where that one says that it does not lead or says nothing for
/// `patience`. `index_of` finds a voter by its id. Returns who answered.
pub(super) async fn seek<T, F>(
    voters: usize,
    first: usize,
    patience: Duration,
    index_of: impl Fn(u64) -> Option<usize>,
    ask: impl Fn(usize) -> F,
) -> Result<(usize, T), Error>
where
    F: Future<Output = Result<T, http::Error>>,
{
    let mut asked = FuturesUnordered::from_iter([one(first, ask(first))]);
    let mut waiting = BTreeSet::from([first]);
    let after = |i: usize, waiting: &BTreeSet<usize>| {
        (1..=voters).map(|n| (i + n) % voters).find(|n| !waiting.contains(n))
    };
    let (mut next, mut at) = (after(first, &waiting), Instant::now() + patience);
    let end = at + GIVE_UP;
    let mut outcome = Error::NoLeader;
    let mut refused = 0;
    loop {
        tokio::select! {
            biased;
            Some((i, answer)) = asked.next() => {
                waiting.remove(&i);
                let e = match answer {
                    Ok(answer) => return Ok((i, answer)),
                    Err(e) if e.is_refusal() && !e.is_not_leader() => return Err(Error::Refused(e)),
                    Err(e) => e,
                };
                let hinted = e.leader().and_then(&index_of);
                outcome = if e.is_refusal() { Error::NoLeader } else { Error::Unreachable(e) };
                refused += 1;
                if refused > voters && waiting.is_empty() {
                    return Err(outcome);
                }
                // Two that take each other for the leader are not asked in turn for ever.
                let hinted = hinted.filter(|h| *h != i && !waiting.contains(h) && refused <= voters);
                next = hinted.or_else(|| after(i, &waiting));
                let all = refused % (voters - waiting.len()) == 0;
                at = Instant::now() + if all { ROUND } else { Duration::ZERO };
            }
            () = sleep_until(at), if next.is_some() && at < end => {
                let Some(i) = next else { continue };
                waiting.insert(i);
                asked.push(one(i, ask(i)));
                next = after(i, &waiting);
                at = Instant::now() + patience;
            }
            else => return Err(outcome),
        }
    }
}

async fn one<T>(
    i: usize,
    asked: impl Future<Output = Result<T, http::Error>>,
) -> (usize, Result<T, http::Error>) {
    (i, asked.await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Target;
    use holdfast_core::NodeName;
    use std::cell::Cell;

    const PATIENCE: Duration = Duration::from_millis(300);
    /// How long the client waits for a host that is gone.
    const BOUND: Duration = Duration::from_secs(1);

    fn not_leader(leader: Option<u64>) -> http::Error {
        let target = Target {
            node: NodeName::new("v").unwrap(),
            addr: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        http::Error::Refused { target, problem: Box::new(crate::http::Problem::not_leader(leader)) }
    }

    /// Voter 0 never answers; voter 2 leads from 700 ms on.
    #[tokio::test(start_paused = true)]
    async fn a_silent_leader_does_not_hide_the_next_one() {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let found = seek(
            3,
            0,
            PATIENCE,
            |id| Some(id as usize),
            |i| {
                calls.set(calls.get() + 1);
                async move {
                    match i {
                        0 => {
                            tokio::time::sleep(BOUND).await;
                            Err(not_leader(None))
                        }
                        2 if start.elapsed() > Duration::from_millis(700) => Ok(()),
                        _ => Err(not_leader(Some(0))),
                    }
                }
            },
        )
        .await;
        assert_eq!(found.unwrap().0, 2);
        assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
        assert!(calls.get() < 30, "{} questions", calls.get());
    }

    /// The hosts of some voters are gone, all or all but one.
    #[tokio::test(start_paused = true)]
    async fn where_most_are_silent_it_ends() {
        for silent in [2, 3] {
            let start = Instant::now();
            let found: Result<(usize, ()), _> = seek(
                3,
                0,
                PATIENCE,
                |id| Some(id as usize),
                |i| async move {
                    if i < silent {
                        tokio::time::sleep(BOUND).await;
                    }
                    Err(not_leader(None))
                },
            )
            .await;
            assert!(found.is_err());
            assert!(start.elapsed() <= PATIENCE + GIVE_UP + BOUND, "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_leader_is_waited_for() {
        let found = seek(
            3,
            0,
            PATIENCE,
            |id| Some(id as usize),
            |i| async move {
                if i == 0 {
                    tokio::time::sleep(Duration::from_millis(900)).await;
                    return Ok(());
                }
                Err(not_leader(Some(0)))
            },
        )
        .await;
        assert_eq!(found.unwrap().0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_leader_it_ends() {
        let start = Instant::now();
        let nobody: Result<(usize, ()), _> =
            seek(3, 1, PATIENCE, |id| Some(id as usize), |_| async { Err(not_leader(None)) }).await;
        assert!(matches!(nobody, Err(Error::NoLeader)));
        assert!(start.elapsed() < BOUND);
        let alone: Result<(usize, ()), _> =
            seek(1, 0, PATIENCE, |_| None, |_| async { Err(not_leader(None)) }).await;
        assert!(matches!(alone, Err(Error::NoLeader)));
    }
}
