//! Whether a command may go to the engine now, and to which one. Pure: everything known is handed in.
//!
//! Guarantees (S1, S3): nothing is sent to a writer under a closed gate, an expired snapshot, an epoch that was
//! closed locally, or over a connection of an older epoch than the snapshot's. The one exception is a planned
//! switchover: while the gate drains, an open transaction goes on with the writer it began on.

use holdfast_core::{Endpoint, Epoch, Gate, ZoneName};
use std::net::SocketAddr;

/// What a snapshot says, without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    pub epoch: Epoch,
    pub gate: Gate,
    pub writer: Option<Endpoint>,
    pub readers: Vec<Endpoint>,
    /// As in [`holdfast_core::RouteSnapshot`].
    pub acks: u32,
}

impl Routing {
    /// Reads may go there.
    pub fn lists(&self, addr: SocketAddr) -> bool {
        self.readers.iter().any(|r| r.addr == addr)
    }
}

/// Which port a session came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    ReadWrite,
    Read,
}

/// A session's connection to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The snapshot's epoch when it was made.
    pub epoch: Epoch,
    pub addr: SocketAddr,
    /// Made to the writer, so that writes could pass.
    pub writer: bool,
}

/// Everything the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub role: Role,
    pub routing: Option<&'a Routing>,
    /// The snapshot has not outlived its `valid_for_ms`.
    pub fresh: bool,
    /// Epochs up to this one were closed by this host's own agent.
    pub closed_through: Option<Epoch>,
    pub link: Option<Link>,
    pub in_transaction: bool,
    /// The session could be moved.
    pub movable: bool,
    /// None of the listed readers could be reached: the writer serves until there is another list.
    pub readers_refused: bool,
}

/// Why a command waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("the proxy has no route yet")]
    NoRoute,
    #[error("the proxy's route expired: it has lost touch with the control plane")]
    Expired,
    #[error("there is no primary at the moment")]
    NoPrimary,
    #[error("a switchover is under way")]
    Switchover,
    #[error("the primary does not accept connections")]
    Refused,
    #[error("the primary is read-only")]
    ReadOnly,
}

/// What to do with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admit {
    /// Over the connection there is.
    Send,
    /// The connection is not to be used any more; ask again without it.
    Leave,
    /// Connect to the writer first.
    ToWriter(Endpoint),
    /// Connect to one of the readers first.
    ToReader,
    Hold(Why),
}

/// True if a connection must be cut at once, whatever it is doing.
pub fn is_cut(link: Link, routing: Option<&Routing>, closed_through: Option<Epoch>) -> bool {
    if !link.writer {
        return false;
    }
    if closed_through.is_some_and(|closed| closed >= link.epoch) {
        return true;
    }
    let Some(r) = routing else { return false };
    let finishing = r.gate == Gate::Draining && r.writer.as_ref().is_some_and(|w| w.addr == link.addr);
    (r.epoch > link.epoch && !finishing)
        || (r.gate == Gate::Open && r.writer.as_ref().is_some_and(|w| w.addr != link.addr))
}

/// Decides. See [`Admit`].
pub fn admit(v: View<'_>) -> Admit {
    if v.link.is_some_and(|link| is_cut(link, v.routing, v.closed_through)) {
        return Admit::Leave;
    }
    match (v.role, v.link) {
        (Role::ReadWrite, _) => writer(v),
        (Role::Read, link) => {
            let readers = v.routing.map_or(&[][..], |r| &r.readers);
            match link {
                Some(link) if link.writer => {
                    let back = !readers.is_empty() && !v.in_transaction && v.movable && !v.readers_refused;
                    if back { Admit::Leave } else { writer(v) }
                }
                Some(link) => {
                    let listed = v.routing.is_some_and(|r| r.lists(link.addr));
                    let elsewhere = !readers.is_empty()
                        || v.routing.is_some_and(|r| r.gate == Gate::Open && r.writer.is_some());
                    if listed || v.in_transaction || !elsewhere { Admit::Send } else { Admit::Leave }
                }
                None if readers.is_empty() || v.readers_refused => writer(v),
                None => Admit::ToReader,
            }
        }
    }
}

fn writer(v: View<'_>) -> Admit {
    let Some(r) = v.routing else { return Admit::Hold(Why::NoRoute) };
    if !v.fresh {
        return Admit::Hold(Why::Expired);
    }
    if v.closed_through.is_some_and(|closed| closed >= r.epoch) {
        return Admit::Hold(Why::NoPrimary);
    }
    match (r.gate, &r.writer, v.link) {
        (Gate::Closed, ..) | (_, None, _) => Admit::Hold(Why::NoPrimary),
        (Gate::Draining, _, Some(_)) if v.in_transaction => Admit::Send,
        (Gate::Draining, ..) => Admit::Hold(Why::Switchover),
        (Gate::Open, _, Some(_)) => Admit::Send,
        (Gate::Open, Some(w), None) => Admit::ToWriter(w.clone()),
    }
}

/// The reader for a new session: of the proxy's own zone if there is one, then the one with the fewest sessions;
/// among equals, `turn` goes round.
pub fn choose_reader<'a>(
    readers: &'a [Endpoint],
    zone: &ZoneName,
    turn: usize,
    avoid: &[SocketAddr],
    sessions: impl Fn(SocketAddr) -> usize,
) -> Option<&'a Endpoint> {
    let n = readers.len().max(1);
    let round = (0..readers.len()).map(|i| &readers[(i + turn) % n]);
    round.filter(|r| !avoid.contains(&r.addr)).min_by_key(|r| (r.zone != *zone, sessions(r.addr)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::NodeName;

    fn at(n: u8) -> Endpoint {
        Endpoint {
            node: NodeName::new(&format!("db{n}")).unwrap(),
            zone: ZoneName::new(if n < 3 { "a" } else { "b" }).unwrap(),
            addr: SocketAddr::from(([127, 0, 0, n], 3306)),
        }
    }
    fn routing(epoch: u64, gate: Gate, writer: Option<u8>) -> Routing {
        Routing { epoch: Epoch(epoch), gate, writer: writer.map(at), readers: vec![], acks: 0 }
    }
    fn link(epoch: u64, n: u8) -> Link {
        Link { epoch: Epoch(epoch), addr: at(n).addr, writer: true }
    }
    fn view<'a>(r: &'a Routing, link: Option<Link>, in_transaction: bool) -> View<'a> {
        View {
            role: Role::ReadWrite,
            routing: Some(r),
            fresh: true,
            closed_through: None,
            link,
            in_transaction,
            movable: true,
            readers_refused: false,
        }
    }

    #[test]
    fn an_open_gate_sends_to_the_writer_of_its_epoch() {
        let r = routing(2, Gate::Open, Some(1));
        assert_eq!(admit(view(&r, None, false)), Admit::ToWriter(at(1)));
        assert_eq!(admit(view(&r, Some(link(2, 1)), true)), Admit::Send);
        assert_eq!(admit(view(&r, Some(link(1, 1)), false)), Admit::Leave, "older epoch, same address");
        assert_eq!(admit(view(&r, Some(link(2, 2)), false)), Admit::Leave, "not the writer");
    }

    #[test]
    fn a_switchover_lets_open_transactions_finish_on_the_old_writer() {
        // The claim of the new epoch comes first: the snapshot drains the old writer under the new number.
        let r = routing(3, Gate::Draining, Some(1));
        assert_eq!(admit(view(&r, Some(link(2, 1)), true)), Admit::Send);
        assert_eq!(admit(view(&r, Some(link(2, 1)), false)), Admit::Hold(Why::Switchover));
        assert_eq!(admit(view(&r, None, false)), Admit::Hold(Why::Switchover));
        let r = routing(3, Gate::Closed, None);
        assert_eq!(admit(view(&r, Some(link(2, 1)), true)), Admit::Leave);
    }

    #[test]
    fn nothing_passes_a_closed_or_expired_gate() {
        let closed = routing(2, Gate::Closed, None);
        assert_eq!(admit(view(&closed, Some(link(2, 1)), true)), Admit::Hold(Why::NoPrimary));
        let open = routing(2, Gate::Open, Some(1));
        let v = view(&open, Some(link(2, 1)), true);
        assert_eq!(admit(View { fresh: false, ..v }), Admit::Hold(Why::Expired));
        assert_eq!(admit(View { closed_through: Some(Epoch(2)), ..v }), Admit::Leave);
        assert_eq!(
            admit(View { closed_through: Some(Epoch(2)), link: None, ..v }),
            Admit::Hold(Why::NoPrimary)
        );
        assert_eq!(admit(View { closed_through: Some(Epoch(1)), ..v }), Admit::Send);
        assert_eq!(admit(View { routing: None, link: None, ..v }), Admit::Hold(Why::NoRoute));
    }

    #[test]
    fn reads_follow_the_list_and_survive_its_loss() {
        let mut r = routing(2, Gate::Open, Some(1));
        let reader = Link { writer: false, ..link(2, 2) };
        let v = View { role: Role::Read, ..view(&r, Some(reader), false) };
        assert_eq!(admit(v), Admit::Leave, "the writer can take over");
        let none = routing(3, Gate::Closed, None);
        assert_eq!(admit(View { routing: Some(&none), ..v }), Admit::Send, "nothing better is known");
        assert_eq!(admit(View { routing: None, fresh: false, ..v }), Admit::Send);
        assert_eq!(admit(View { link: None, ..v }), Admit::ToWriter(at(1)));
        r.readers = vec![at(2), at(3)];
        let v = View { role: Role::Read, ..view(&r, Some(reader), false) };
        assert_eq!(admit(v), Admit::Send);
        assert_eq!(admit(View { link: None, ..v }), Admit::ToReader);
        assert_eq!(admit(View { link: Some(link(2, 1)), ..v }), Admit::Leave, "back from the writer");
        assert_eq!(admit(View { link: Some(link(2, 1)), movable: false, ..v }), Admit::Send);
    }

    #[test]
    fn readers_of_the_zone_first_then_the_least_used() {
        let readers = [at(1), at(2), at(3)];
        let zone = |z: &str| ZoneName::new(z).unwrap();
        let pick = |z: &str, turn, avoid: &[SocketAddr], busy: u8| {
            let used = |a| if a == at(busy).addr { 5 } else { 0 };
            choose_reader(&readers, &zone(z), turn, avoid, used).map(|e| e.addr)
        };
        assert_eq!(pick("b", 0, &[], 3), Some(at(3).addr));
        assert_eq!(pick("a", 0, &[], 1), Some(at(2).addr));
        assert_ne!(pick("a", 0, &[], 9), pick("a", 1, &[], 9));
        assert_eq!(pick("b", 0, &[at(3).addr], 1), Some(at(2).addr));
        assert_eq!(pick("b", 0, &[at(1).addr, at(2).addr, at(3).addr], 1), None);
    }
}
