//! What a replica does next: how it comes to follow its primary, and goes on.

use super::{History, Member, Verb, applying_failed};
use crate::report::{Observed, Stream};
use crate::{Millis, NodeName, limits};

impl Member {
    pub(super) fn next_as_replica(
        &self,
        seen: &Observed,
        now: Millis,
        primary: &NodeName,
        acknowledges: bool,
        reclone: bool,
    ) -> Option<Verb> {
        // Who was cut off may be out of the recorded set by now: it acknowledges again when it was told so (S5).
        let trusted = self.confirmed.is_none_or(|sent| now.since(sent) < limits::ACKER_TRUST_MS);
        let rebuild = self.rebuild(reclone);
        let upstream = seen.upstream.as_ref().filter(|u| u.node.as_ref() == Some(primary));
        // A broken stream is the engine's to retry, or a sign that the primary is gone: it is reported, not mended.
        if !rebuild && upstream.is_some_and(|u| u.stream.tries() && u.apply_error.is_none()) {
            // Where the primary admits whom it counts, following is acknowledging.
            let may = seen.admits.is_none() && seen.acknowledges != acknowledges;
            return (may && (!acknowledges || trusted)).then_some(Verb::Acknowledge(acknowledges));
        }
        match self.next_before_following(seen, primary, reclone) {
            // Starting the replication threads purges the relay log (S7).
            None if self.fit_to_follow(seen, rebuild) => {
                let acknowledges = acknowledges && trusted;
                Some(Verb::Follow { primary: primary.clone(), acknowledges })
            }
            other => other,
        }
    }

    /// Its history is known to be the beginning of the primary's, and nothing is to be done about its data.
    pub(super) fn fit_to_follow(&self, seen: &Observed, rebuild: bool) -> bool {
        matches!(self.history, History::Fits { .. })
            && !rebuild
            && seen.running()
            && seen.unjudged == 0
            && seen.drained
            && !seen.receives()
    }

    pub(super) fn rebuild(&self, reclone: bool) -> bool {
        reclone && self.rebuilt_for != Some(self.session)
    }

    /// All that comes before [`Verb::Follow`].
    pub(super) fn next_before_following(
        &self,
        seen: &Observed,
        primary: &NodeName,
        reclone: bool,
    ) -> Option<Verb> {
        if seen.receives() {
            return Some(Verb::StopReceiving);
        }
        let rebuild = self.rebuild(reclone);
        let upstream = seen.upstream.as_ref().filter(|u| u.node.as_ref() == Some(primary));
        // Neither its own log nor the primary's has what comes next: only the data itself is left to follow from.
        let refused = upstream.is_some_and(|u| matches!(u.stream, Stream::Refused { .. }));
        match &self.history {
            History::Unknown => {
                (seen.drained || applying_failed(seen)).then(|| Verb::Compare { primary: primary.clone() })
            }
            History::Fits { theirs } if seen.unjudged > 0 => {
                Some(Verb::SaveDivergence { theirs: theirs.clone() })
            }
            // Also a wished-for rebuild is compared first: what only this instance has is saved (S10).
            History::Fits { .. } if rebuild || refused || applying_failed(seen) => {
                Some(Verb::Reclone { primary: primary.clone() })
            }
            History::Fits { .. } => None,
            History::Diverges { theirs } => Some(Verb::SaveDivergence { theirs: theirs.clone() }),
            History::Saved => Some(Verb::Reclone { primary: primary.clone() }),
            History::Unsaved => rebuild.then(|| Verb::Reclone { primary: primary.clone() }),
        }
    }
}
