//! The tracker against a model that writes replies as servers do, cut at arbitrary places.

use super::*;
use crate::codec::{put_lenenc, put_lenenc_bytes};
use crate::packet;
use crate::reply::build_eof;
use proptest::prelude::*;

/// One result of a reply.
#[derive(Debug, Clone)]
enum Part {
    Ok { info: Vec<u8>, tracked: bool },
    Rows { columns: u8, rows: Vec<Vec<u8>>, cursor: bool },
    Infile,
    Progress,
}

fn ok_payload(first: u8, info: &[u8], status: Status) -> Vec<u8> {
    let state: &[u8] = if status.has(Status::SESSION_STATE_CHANGED) { b"\x01\x02\x01d" } else { b"" };
    let ok =
        OkPacket { affected_rows: 3, last_insert_id: 300, status, warnings: 1, info, session_state: state };
    let mut bytes = ok.build();
    bytes[0] = first;
    bytes
}

/// Writes packets with running sequence numbers.
struct Server {
    out: Vec<u8>,
    seq: u8,
    deprecate_eof: bool,
}

impl Server {
    fn new(deprecate_eof: bool) -> Server {
        Server { out: Vec::new(), seq: 1, deprecate_eof }
    }
    fn packet(&mut self, payload: &[u8]) {
        self.seq = packet::put(&mut self.out, self.seq, payload);
    }
    fn end(&mut self, status: Status) {
        let payload = match self.deprecate_eof {
            true => ok_payload(0xFE, b"", status),
            false => build_eof(0, status),
        };
        self.packet(&payload);
    }
    fn part(&mut self, part: &Part, more: bool) {
        let more = if more { Status::MORE_RESULTS } else { Status(0) };
        match part {
            Part::Ok { info, tracked } => {
                let tracked = if *tracked { Status::SESSION_STATE_CHANGED } else { Status(0) };
                self.packet(&ok_payload(0, info, more.with(tracked).with(Status::AUTOCOMMIT)));
            }
            Part::Rows { columns, rows, cursor } => {
                self.packet(&[*columns]);
                (0..*columns).for_each(|_| self.packet(b"\x03def\0\0\0"));
                if *cursor {
                    return self.end(more.with(Status::CURSOR_EXISTS));
                }
                if !self.deprecate_eof {
                    self.packet(&build_eof(0, more));
                }
                rows.iter().for_each(|row| {
                    let mut payload = Vec::new();
                    (0..*columns).for_each(|_| put_lenenc_bytes(&mut payload, row));
                    self.packet(&payload);
                });
                self.end(more);
            }
            Part::Infile => self.packet(b"\xfbname.csv"),
            Part::Progress => self.packet(b"\xff\xff\xff#HY000\x01\x01\x01\0\0\0\x02ab"),
        }
    }
}

fn capabilities(deprecate_eof: bool) -> Capabilities {
    let caps = Capabilities::PROTOCOL_41.with(Capabilities::MARIADB_PROGRESS);
    if deprecate_eof { caps.with(Capabilities::DEPRECATE_EOF) } else { caps }
}

/// Feeds `bytes` in pieces of the given sizes (the last repeats); returns the events and how much was consumed.
fn run(command: u8, deprecate_eof: bool, bytes: &[u8], sizes: &[usize]) -> (Vec<Event>, usize, Outcome) {
    let mut tracker = Tracker::new(command, capabilities(deprecate_eof));
    let (mut from, mut to, mut events) = (0, 0, Vec::new());
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(sizes.last().copied().unwrap_or(1)));
    loop {
        let step = tracker.feed(&bytes[from..to]).unwrap();
        let shift = |r: Range<usize>| r.start + from..r.end + from;
        let event = match step.event {
            Event::Ok { packet } => Event::Ok { packet: shift(packet) },
            Event::Err { packet } => Event::Err { packet: shift(packet) },
            Event::Prepared { packet, statement, params } => {
                Event::Prepared { packet: shift(packet), statement, params }
            }
            other => other,
        };
        from += step.consumed;
        assert!(to - from <= WHOLE_BYTES_MAX + HEADER_BYTES || event != Event::More);
        match event {
            Event::More if to == bytes.len() => return (events, from, tracker.outcome()),
            Event::More => to = (to + sizes.next().unwrap_or(1).max(1)).min(bytes.len()),
            Event::Done => {
                events.push(Event::Done);
                return (events, from, tracker.outcome());
            }
            other => events.push(other),
        }
    }
}

fn any_part() -> impl Strategy<Value = Part> {
    let bytes = |n| proptest::collection::vec(any::<u8>(), 0..n);
    prop_oneof![
        (bytes(40), any::<bool>()).prop_map(|(info, tracked)| Part::Ok { info, tracked }),
        (1u8..5, proptest::collection::vec(bytes(300), 0..6), any::<bool>())
            .prop_map(|(columns, rows, cursor)| Part::Rows { columns, rows, cursor }),
        Just(Part::Infile),
        Just(Part::Progress),
    ]
}

proptest! {
    #[test]
    fn a_reply_ends_at_the_same_place_however_it_is_cut(
        parts in proptest::collection::vec(any_part(), 0..5), last_ok: bool, deprecate_eof: bool,
        sizes in proptest::collection::vec(1usize..400, 1..40), tail: Vec<u8>,
    ) {
        let mut server = Server::new(deprecate_eof);
        parts.iter().for_each(|p| server.part(p, true));
        match last_ok {
            true => server.part(&Part::Ok { info: b"done".to_vec(), tracked: false }, false),
            false => server.packet(&ErrPacket { code: 1064, sqlstate: b"42000", message: b"no" }.build()),
        }
        let end = server.out.len();
        server.out.extend_from_slice(&tail);
        let whole = run(command::QUERY, deprecate_eof, &server.out, &[server.out.len()]);
        prop_assert_eq!(whole.1, end);
        prop_assert_eq!(whole.0.last(), Some(&Event::Done));
        prop_assert_eq!(whole.2.error, (!last_ok).then_some(1064));
        prop_assert_eq!(&run(command::QUERY, deprecate_eof, &server.out, &sizes), &whole);
        prop_assert_eq!(&run(command::STMT_EXECUTE, deprecate_eof, &server.out, &[1]), &whole);
    }

    #[test]
    fn a_prepare_ends_behind_its_definitions(params in 0u16..4, columns in 0u16..4, deprecate_eof: bool,
                                             sizes in proptest::collection::vec(1usize..40, 1..10)) {
        let mut server = Server::new(deprecate_eof);
        let mut head = vec![0, 7, 0, 0, 0];
        head.extend_from_slice(&columns.to_le_bytes());
        head.extend_from_slice(&params.to_le_bytes());
        head.extend_from_slice(&[0, 0, 0]);
        server.packet(&head);
        for n in [params, columns] {
            (0..n).for_each(|_| server.packet(b"\x03def\0"));
            if n > 0 && !deprecate_eof { server.packet(&build_eof(0, Status(2))); }
        }
        let (events, consumed, _) = run(command::STMT_PREPARE, deprecate_eof, &server.out, &sizes);
        prop_assert_eq!(consumed, server.out.len());
        prop_assert_eq!(events, [Event::Prepared { packet: 0..16, statement: 7, params }, Event::Done]);
    }

    #[test]
    fn garbage_ends_in_an_error_or_waits(command: u8, caps: u64, bytes: Vec<u8>) {
        let mut tracker = Tracker::new(command, Capabilities(caps));
        let mut at = 0;
        while let Ok(step) = tracker.feed(&bytes[at..]) {
            at += step.consumed;
            if matches!(step.event, Event::More | Event::Done) { break }
        }
    }
}

#[test]
fn rows_over_several_frames_are_hopped_over() {
    for deprecate_eof in [false, true] {
        let mut server = Server::new(deprecate_eof);
        server.packet(&[1]);
        server.packet(b"\x03def");
        if !deprecate_eof {
            server.packet(&build_eof(0, Status(0)));
        }
        // A first column of 16 MiB starts with 0xFE, as the end of rows does.
        let mut row = Vec::new();
        put_lenenc(&mut row, (1 << 24) + 10);
        row.resize(row.len() + (1 << 24) + 10, b'x');
        server.packet(&row);
        server.packet(&vec![1; FRAME_BYTES_MAX]);
        server.end(Status::IN_TRANS);
        let (events, consumed, outcome) = run(command::QUERY, deprecate_eof, &server.out, &[70_000]);
        assert_eq!(consumed, server.out.len());
        assert_eq!(events.last(), Some(&Event::Done));
        assert_eq!(outcome.status, Some(Status::IN_TRANS));
    }
}

#[test]
fn single_packet_commands() {
    let mut server = Server::new(false);
    server.packet(b"Uptime: 7  Threads: 1");
    for command in [command::STATISTICS, command::PING, 0x99] {
        let (events, consumed, _) = run(command, false, &server.out, &[3]);
        assert_eq!((events, consumed), (vec![Event::Done], server.out.len()));
    }
    let mut server = Server::new(false);
    server.packet(&build_eof(0, Status::AUTOCOMMIT));
    let (_, _, outcome) = run(command::SET_OPTION, false, &server.out, &[1]);
    assert_eq!(outcome.status, Some(Status::AUTOCOMMIT));
    assert_eq!(run(command::STMT_CLOSE, false, b"", &[1]).0, [Event::Done]);
}

#[test]
fn field_lists_and_fetches_end_at_eof() {
    let mut server = Server::new(false);
    server.packet(b"\x03def\x00");
    server.packet(b"\x03def\x00");
    server.packet(&build_eof(0, Status::LAST_ROW_SENT));
    for command in [command::FIELD_LIST, command::STMT_FETCH] {
        let (events, consumed, outcome) = run(command, false, &server.out, &[2]);
        assert_eq!((events, consumed), (vec![Event::Done], server.out.len()));
        assert_eq!(outcome.status, Some(Status::LAST_ROW_SENT));
    }
}

#[test]
fn an_overlong_ok_is_hopped_over_and_reported() {
    let mut server = Server::new(false);
    server.packet(&ok_payload(0, &vec![b'x'; WHOLE_BYTES_MAX], Status::AUTOCOMMIT));
    let (events, consumed, outcome) = run(command::QUERY, false, &server.out, &[100]);
    assert_eq!((events, consumed), (vec![Event::Done], server.out.len()));
    assert!(outcome.overlong);
}
