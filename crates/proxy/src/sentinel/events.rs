//! What is published when something changes, as Sentinel would: `+switch-master`, `+slave`, `±sdown`, `±odown`.
//!
//! Guarantees: `+switch-master` is published when another member is seen open, after it may be written to; it names the
//! last one that was seen open before. What a node did not see, because it was cut off, it publishes when it is back.
//! Pure: facts come in, events come out.

use super::facts::{Facts, MasterFacts, Primary};
use holdfast_core::GroupName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// A message on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub channel: &'static str,
    pub text: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tracker {
    masters: BTreeMap<GroupName, Tracked>,
    sentinels_down: BTreeSet<SocketAddr>,
}

#[derive(Debug, Default)]
struct Tracked {
    last: Option<SocketAddr>,
    s_down: bool,
    o_down: bool,
    replicas_down: BTreeSet<SocketAddr>,
}

fn spaced(addr: SocketAddr) -> String {
    format!("{} {}", addr.ip(), addr.port())
}

impl Tracker {
    /// What to publish now. Of what it sees for the first time nothing is published.
    pub fn look(&mut self, facts: &Facts) -> Vec<Event> {
        let mut out = Vec::new();
        for m in &facts.masters {
            let first = !self.masters.contains_key(&m.name);
            let tracked = self.masters.entry(m.name.clone()).or_default();
            tracked.primary(m, &mut out);
            tracked.replicas(m, first, &mut out);
        }
        let owner = self.masters.iter().find_map(|(name, t)| t.last.map(|at| (name, at)));
        let down: BTreeSet<SocketAddr> = facts.others.iter().filter(|s| !s.is_up()).map(|s| s.addr).collect();
        if let Some((name, at)) = owner {
            for s in &facts.others {
                let channel = turn(self.sentinels_down.contains(&s.addr), down.contains(&s.addr));
                let says = || format!("sentinel {} {} @ {name} {}", s.id, spaced(s.addr), spaced(at));
                out.extend(channel.map(|channel| Event { channel, text: says() }));
            }
        }
        self.sentinels_down = down;
        out
    }
}

fn turn(before: bool, now: bool) -> Option<&'static str> {
    match (before, now) {
        (false, true) => Some("+sdown"),
        (true, false) => Some("-sdown"),
        _ => None,
    }
}

impl Tracked {
    fn primary(&mut self, m: &MasterFacts, out: &mut Vec<Event>) {
        // A switchover that goes its way is nobody's fall.
        let s_down = matches!(m.primary, Primary::None | Primary::Unknown);
        let o_down = m.primary == Primary::None;
        if let Some(last) = self.last {
            let mut say = |channel| {
                out.push(Event { channel, text: format!("master {} {}", m.name, spaced(last)) });
            };
            // Of one that was replaced nothing more is said.
            let same = !matches!(&m.primary, Primary::Open(at) if at.addr != last);
            if s_down && !self.s_down {
                say("+sdown");
            }
            if o_down && !self.o_down {
                say("+odown");
            }
            if same && self.o_down && !o_down {
                say("-odown");
            }
            if same && self.s_down && !s_down {
                say("-sdown");
            }
            if let Primary::Open(at) = &m.primary
                && at.addr != last
            {
                let text = format!("{} {} {}", m.name, spaced(last), spaced(at.addr));
                out.push(Event { channel: "+switch-master", text });
                out.extend(m.replicas.iter().map(|r| Event {
                    channel: "+slave",
                    text: format!("slave {} {} @ {} {}", r.addr, spaced(r.addr), m.name, spaced(at.addr)),
                }));
                self.replicas_down.clear();
            }
        }
        if let Primary::Open(at) = &m.primary {
            self.last = Some(at.addr);
        }
        (self.s_down, self.o_down) = (s_down, o_down);
    }

    fn replicas(&mut self, m: &MasterFacts, first: bool, out: &mut Vec<Event>) {
        let down: BTreeSet<SocketAddr> = m.replicas.iter().filter(|r| !r.is_up()).map(|r| r.addr).collect();
        if let Some(last) = self.last.filter(|_| !first) {
            for r in &m.replicas {
                let channel = turn(self.replicas_down.contains(&r.addr), down.contains(&r.addr));
                let says = || format!("slave {} {} @ {} {}", r.addr, spaced(r.addr), m.name, spaced(last));
                out.extend(channel.map(|channel| Event { channel, text: says() }));
            }
        }
        self.replicas_down = down;
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{endpoint, facts};
    use super::*;

    fn said(tracker: &mut Tracker, facts: &Facts) -> Vec<String> {
        tracker.look(facts).into_iter().map(|e| format!("{} {}", e.channel, e.text)).collect()
    }

    #[test]
    fn a_failover_as_it_is_published() {
        let mut t = Tracker::default();
        assert_eq!(said(&mut t, &facts(Primary::Unknown)), [""; 0]);
        assert_eq!(said(&mut t, &facts(Primary::Open(endpoint(1)))), [""; 0], "nobody was switched");
        assert_eq!(
            said(&mut t, &facts(Primary::None)),
            ["+sdown master shop 10.0.0.1 6379", "+odown master shop 10.0.0.1 6379"]
        );
        assert_eq!(said(&mut t, &facts(Primary::None)), [""; 0]);
        assert_eq!(
            said(&mut t, &facts(Primary::Open(endpoint(2)))),
            [
                "+switch-master shop 10.0.0.1 6379 10.0.0.2 6379",
                "+slave slave 10.0.0.1:6379 10.0.0.1 6379 @ shop 10.0.0.2 6379",
                "+slave slave 10.0.0.3:6379 10.0.0.3 6379 @ shop 10.0.0.2 6379",
            ]
        );
        assert_eq!(said(&mut t, &facts(Primary::Switching)), [""; 0]);
        assert_eq!(
            said(&mut t, &facts(Primary::Open(endpoint(3))))[0],
            "+switch-master shop 10.0.0.2 6379 10.0.0.3 6379"
        );
    }

    #[test]
    fn who_comes_back_is_up_again() {
        let mut t = Tracker::default();
        said(&mut t, &facts(Primary::Open(endpoint(1))));
        assert_eq!(said(&mut t, &facts(Primary::Unknown)), ["+sdown master shop 10.0.0.1 6379"]);
        assert_eq!(said(&mut t, &facts(Primary::Open(endpoint(1)))), ["-sdown master shop 10.0.0.1 6379"]);
        let mut f = facts(Primary::Open(endpoint(1)));
        f.masters[0].replicas[1].seen = None;
        f.others[0].heard_ms_ago = Some(5_000);
        let id = &f.others[0].id.clone();
        assert_eq!(
            said(&mut t, &f),
            [
                "+sdown slave 10.0.0.3:6379 10.0.0.3 6379 @ shop 10.0.0.1 6379".to_string(),
                format!("+sdown sentinel {id} 10.0.0.2 26379 @ shop 10.0.0.1 6379"),
            ]
        );
        assert_eq!(
            said(&mut t, &facts(Primary::Open(endpoint(1)))),
            [
                "-sdown slave 10.0.0.3:6379 10.0.0.3 6379 @ shop 10.0.0.1 6379".to_string(),
                format!("-sdown sentinel {id} 10.0.0.2 26379 @ shop 10.0.0.1 6379"),
            ]
        );
    }
}
