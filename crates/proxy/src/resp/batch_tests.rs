//! What becomes of a batch whose engine was lost, and of replies that wait.

use super::*;

/// A batch of commands of ten bytes each, of which so many bytes were sent and so many replies have come.
fn batch(kinds: &[Kind], sent: usize, answered: usize) -> Batch {
    let mut batch = Batch::default();
    kinds.iter().enumerate().for_each(|(n, kind)| batch.push((n + 1) * 10, *kind));
    (batch.sent, batch.answered) = (sent, answered);
    batch
}

fn fates(kinds: &[Kind], sent: usize, answered: usize, in_transaction: bool) -> Vec<Fate> {
    batch(kinds, sent, answered).fates(in_transaction).into_iter().map(|(_, fate)| fate).collect()
}

#[test]
fn what_was_sent_and_writes_is_of_unknown_outcome() {
    use Fate::{Again, Unknown};
    use Kind::{Plain, Read, Write};
    assert_eq!(fates(&[Write, Read, Write, Plain], 40, 1, false), [Again, Unknown, Unknown]);
    assert_eq!(fates(&[Write, Read, Write, Plain], 29, 1, false), [Again, Again, Again], "not sent whole");
    let ranges: Vec<_> = batch(&[Write, Read], 20, 1).fates(false).into_iter().map(|(at, _)| at).collect();
    assert_eq!(ranges.as_slice(), std::slice::from_ref(&(10..20)));
}

#[test]
fn a_transaction_is_one() {
    use Fate::{Again, Unknown};
    use Kind::{Exec, Multi, Queued, Read, Write};
    let whole = [Multi, Queued, Queued, Exec, Read];
    assert_eq!(fates(&whole, 50, 0, false), [Unknown, Unknown, Unknown, Unknown, Again]);
    assert_eq!(fates(&whole, 50, 2, true), [Unknown, Unknown, Again], "part of it was answered");
    assert_eq!(fates(&whole, 39, 0, false), [Again; 5], "EXEC was not sent whole");
    assert_eq!(fates(&[Queued, Exec, Write], 30, 0, true), [Unknown, Unknown, Unknown]);
    assert_eq!(fates(&[Multi, Queued], 20, 0, false), [Again, Again], "it has no EXEC yet");
    assert_eq!(fates(&[Queued, Kind::Discard], 20, 0, true), [Again, Again]);
    assert_eq!(fates(&[Exec], 10, 0, true), [Unknown]);
}

#[test]
fn what_was_refused_goes_again() {
    use Fate::{Again, Unknown};
    use Kind::{Read, Write};
    let mut b = batch(&[Read, Write, Read, Write, Write], 50, 1);
    assert!(b.note_refused(ClientError(b"READONLY".to_vec())));
    b.answered = 3;
    let fates: Vec<_> = b.fates(false).into_iter().map(|(_, fate)| fate).collect();
    assert_eq!(fates, [Again, Again, Unknown, Unknown], "lost before the rest was answered");
    b.answered = 5;
    assert!(b.fates(false).iter().all(|(_, fate)| *fate == Again));
    assert!(!batch(&[Write, Kind::Multi], 20, 0).note_refused(ClientError(vec![])));
}

#[test]
fn the_question_follows_the_last_write() {
    use Kind::{Read, Wait, Write};
    let mut b = batch(&[Read, Write, Read, Write, Read], 0, 0);
    assert_eq!(b.place_of_wait(), Some((3, Write)));
    b.insert_own(4, &[(Kind::Nudge, 3), (Wait, 4)]);
    let ends: Vec<_> = b.entries.iter().map(|e| (e.end, e.kind)).collect();
    assert_eq!(ends[3..], [(40, Write), (43, Kind::Nudge), (47, Wait), (57, Read)]);
    assert_eq!(b.bytes, 57);
    assert!(!b.withholds(), "what was read before the first write waits for nothing");
    b.answered = 1;
    assert!(b.withholds());
    b.note_confirmed();
    assert!(!b.withholds());
    b.sent = b.bytes;
    // The proxy's own commands are nobody's.
    assert_eq!(b.fates(false).len(), 4);
    assert_eq!(batch(&[Read, Kind::Queued], 0, 0).place_of_wait(), None);
}

fn released(withheld: &mut Withheld, failure: Option<&[u8]>) -> String {
    let mut out = Vec::new();
    withheld.release(failure, b"<large>", |bytes| out.extend_from_slice(bytes));
    String::from_utf8(out).unwrap()
}

fn three() -> Withheld {
    let mut withheld = Withheld::default();
    withheld.push(b"+O");
    withheld.push(b"K");
    withheld.end(OnFailure::Replace);
    withheld.push(b"$1");
    withheld.end(OnFailure::Keep);
    withheld.push(b"-ERR");
    withheld.end(OnFailure::Replace);
    withheld.push(b"+half");
    withheld
}

#[test]
fn replies_wait_and_are_replaced_where_something_was_written() {
    assert_eq!(released(&mut three(), None), "+OK$1-ERR");
    assert_eq!(released(&mut three(), Some(b"<no>")), "<no>$1-ERR");
    let mut withheld = three();
    withheld.overflow();
    withheld.push(b"more of it");
    withheld.end(OnFailure::Replace);
    withheld.push(b":1");
    withheld.end(OnFailure::Keep);
    assert_eq!(released(&mut withheld, None), "+OK$1-ERR<large>:1");
    assert_eq!(released(&mut withheld, None), "", "nothing is left");
}
