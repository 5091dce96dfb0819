//! The state machine against a naive one that copies everything and checks afterwards.

use crate::harness::{grant, is_done, put, renew, write};
use holdfast_store::state::{KEY_BYTES, KEYS, STATE_BYTES, TXN_OPERATIONS, VALUE_BYTES};
use holdfast_store::{Expect, LeaseOp, Outcome, Refusal, State, Txn, Write};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Key → (value, revision); lease → (token, holder, entitlements).
#[derive(Clone, Default, Debug, PartialEq)]
struct Naive {
    revision: u64,
    keys: BTreeMap<String, (Vec<u8>, u64)>,
    leases: BTreeMap<String, (u64, Option<String>, u64)>,
}

impl Naive {
    /// True if applied.
    fn apply(&mut self, txn: &Txn) -> bool {
        let before = self.clone();
        let mut next = self.clone();
        let mut names: Vec<&str> = txn.writes.iter().map(|w| w.key.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut fits = names.len() == txn.writes.len();
        let mut names: Vec<&str> = txn.leases.iter().map(LeaseOp::lease).collect();
        names.sort_unstable();
        names.dedup();
        fits &= names.len() == txn.leases.len();
        next.revision += u64::from(!txn.writes.is_empty());
        for w in &txn.writes {
            let now = before.keys.get(&w.key).map(|k| k.1);
            fits &= match w.expect {
                Expect::Any => true,
                Expect::Absent => now.is_none(),
                Expect::Revision(r) => now == Some(r),
            };
            next.keys.remove(&w.key);
            if let Some(value) = &w.value {
                next.keys.insert(w.key.clone(), (value.clone(), next.revision));
            }
        }
        for op in &txn.leases {
            let now = before.leases.get(op.lease()).cloned();
            let held = now.clone().unwrap_or((0, None, 0));
            match op.clone() {
                LeaseOp::Grant { lease, token, holder } => {
                    let same_token = token == held.0 && (held.1.is_none() || held.1 == holder);
                    fits &= now.is_none() || token > held.0 || same_token;
                    let entitled = held.2 + u64::from(holder.is_some());
                    next.leases.insert(lease, (token, holder, entitled));
                }
                LeaseOp::Renew { lease, token, holder } => {
                    fits &= now.is_some() && (token, Some(holder)) == (held.0, held.1.clone());
                    next.leases.insert(lease, (held.0, held.1, held.2 + 1));
                }
            }
        }
        if fits {
            *self = next;
        }
        fits
    }

    fn of(state: &State) -> Naive {
        Naive {
            revision: state.revision(),
            keys: state.range("").map(|(k, v)| (k.to_owned(), (v.bytes.to_vec(), v.revision))).collect(),
            leases: state
                .leases()
                .map(|(name, l)| (name.to_owned(), (l.token, l.holder.clone(), l.renewals)))
                .collect(),
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("ab".to_owned()), Just("b".to_owned()), Just("c".to_owned())]
}

fn any_write() -> impl Strategy<Value = Write> {
    let expect = prop_oneof![
        3 => Just(Expect::Any),
        2 => Just(Expect::Absent),
        3 => (0..12_u64).prop_map(Expect::Revision),
    ];
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..4));
    (name(), expect, value).prop_map(|(key, expect, value)| Write { key, expect, value })
}

fn any_lease_op() -> impl Strategy<Value = LeaseOp> {
    let grant = (name(), 0..4_u64, prop::option::of(name()));
    let renew = (name(), 0..4_u64, name());
    prop_oneof![
        grant.prop_map(|(lease, token, holder)| LeaseOp::Grant { lease, token, holder }),
        renew.prop_map(|(lease, token, holder)| LeaseOp::Renew { lease, token, holder }),
    ]
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let writes = prop::collection::vec(any_write(), 0..3);
    let leases = prop::collection::vec(any_lease_op(), 0..3);
    (writes, leases).prop_map(|(writes, leases)| Txn { writes, leases })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_one(txns in prop::collection::vec(any_txn(), 0..40)) {
        let (mut state, mut naive) = (State::default(), Naive::default());
        for txn in &txns {
            let before = state.clone();
            let done = is_done(&state.apply(txn));
            prop_assert_eq!(done, naive.apply(txn), "{:?}", txn);
            prop_assert!(done || before == state, "not applied, but changed by {:?}", txn);
            prop_assert_eq!(&Naive::of(&state), &naive);
            let prefixed: Vec<_> = state.range("a").map(|(key, _)| key.to_owned()).collect();
            let expected: Vec<_> = naive.keys.keys().filter(|k| k.starts_with('a')).cloned().collect();
            prop_assert_eq!(prefixed, expected);
        }
        prop_assert_eq!(State::decode(&state.encode().unwrap()).unwrap(), state);
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), version in any::<bool>()) {
        let bytes = if version { [&[1], bytes.as_slice()].concat() } else { bytes };
        let _ = State::decode(&bytes);
    }
}

#[test]
fn a_damaged_or_newer_state_is_refused() {
    let mut state = State::default();
    state.apply(&put("k", b"v"));
    let good = state.encode().unwrap();
    for len in 0..good.len() {
        assert!(State::decode(&good[..len]).is_err(), "cut at {len}");
    }
    let newer = [&[2], &good[1..]].concat();
    assert!(State::decode(&newer).unwrap_err().to_string().contains("format 2"));
    assert!(State::decode(&[good.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn compare_and_set() {
    let mut state = State::default();
    assert_eq!(state.apply(&write("k", Expect::Absent, Some(b"1"))), Outcome::Done { revision: 1 });
    let conflict = Outcome::Conflict { key: "k".into(), actual: Some(1) };
    assert_eq!(state.apply(&write("k", Expect::Absent, Some(b"2"))), conflict);
    assert_eq!(state.apply(&write("k", Expect::Revision(1), None)), Outcome::Done { revision: 2 });
    let gone = Outcome::Conflict { key: "k".into(), actual: None };
    assert_eq!(state.apply(&write("k", Expect::Revision(1), Some(b"3"))), gone);
    // Written again, it has a revision it never had.
    assert_eq!(state.apply(&write("k", Expect::Absent, Some(b"4"))), Outcome::Done { revision: 3 });
}

#[test]
fn a_token_has_at_most_one_holder() {
    let mut state = State::default();
    let refused = |token, holder: Option<&str>| Outcome::LeaseRefused {
        lease: "l".into(),
        token,
        holder: holder.map(str::to_owned),
    };
    assert_eq!(state.apply(&renew("l", 0, "a")), refused(0, None));
    assert!(is_done(&state.apply(&grant("l", 1, Some("a")))));
    assert!(is_done(&state.apply(&grant("l", 1, Some("a")))), "the same again changes nothing");
    assert_eq!(state.apply(&grant("l", 1, Some("b"))), refused(1, Some("a")));
    assert_eq!(state.apply(&grant("l", 1, None)), refused(1, Some("a")));
    assert!(is_done(&state.apply(&grant("l", 2, None))), "revoked");
    assert_eq!(state.apply(&renew("l", 1, "a")), refused(2, None));
    assert_eq!(state.apply(&renew("l", 2, "a")), refused(2, None));
    assert!(is_done(&state.apply(&grant("l", 2, Some("b")))), "then given to the next");
    assert!(is_done(&state.apply(&renew("l", 2, "b"))));
    assert_eq!(state.apply(&grant("l", 1, Some("a"))), refused(2, Some("b")));
}

#[test]
fn everything_has_a_limit() {
    let mut state = State::default();
    let mut refused = |txn: &Txn| match state.apply(txn) {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&put("", b"")), Refusal::Name { .. }));
    assert!(matches!(refused(&put(&"k".repeat(KEY_BYTES + 1), b"")), Refusal::Name { .. }));
    assert!(matches!(refused(&put("k", &vec![0; VALUE_BYTES + 1])), Refusal::Value { .. }));
    let many = |count: usize, value: &[u8], from: usize| Txn {
        writes: (0..count).map(|i| put(&format!("k{}", i + from), value).writes.remove(0)).collect(),
        leases: vec![],
    };
    assert!(matches!(refused(&many(TXN_OPERATIONS + 1, b"", 0)), Refusal::Operations { .. }));
    assert!(matches!(refused(&many(5, &vec![0; VALUE_BYTES], 0)), Refusal::Bytes { .. }));
    let twice = Txn { writes: [put("k", b"").writes, put("k", b"").writes].concat(), leases: vec![] };
    assert_eq!(refused(&twice), Refusal::Twice { name: "k".into() });

    let mut full = State::default();
    for n in 0..STATE_BYTES / (3 << 20) {
        assert!(is_done(&full.apply(&many(3, &vec![0; VALUE_BYTES - 8], 3 * n))));
    }
    let megabyte = vec![0; VALUE_BYTES];
    assert!(is_done(&full.apply(&put("fits", &megabyte[..VALUE_BYTES / 2]))));
    assert_eq!(full.apply(&put("more", &megabyte)), Outcome::Refused(Refusal::State));
    assert!(is_done(&full.apply(&write("k0", Expect::Any, None))), "deleting is always possible");
    assert!(is_done(&full.apply(&put("more", &megabyte))));

    let mut full = State::default();
    for n in 0..KEYS / TXN_OPERATIONS {
        assert!(is_done(&full.apply(&many(TXN_OPERATIONS, b"", n * TXN_OPERATIONS))));
    }
    assert_eq!(full.apply(&put("more", b"")), Outcome::Refused(Refusal::Keys));
    assert!(is_done(&full.apply(&put("k0", b"changed"))));
}
