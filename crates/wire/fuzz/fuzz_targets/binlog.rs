//! Any events can be looked at; a whole body says what its beginning says.
#![no_main]
use holdfast_wire::binlog::{Groups, HEADER_BYTES, Header, has_checksums, mariadb_gtid_list, rotate_to};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (mut groups, mut rest) = (Groups::default(), data);
    while let Some(header) = Header::read(rest) {
        rest = &rest[HEADER_BYTES..];
        let body = &rest[..rest.len().min((header.bytes % 512) as usize)];
        let _ = groups.next(&header, body);
        let _ = (rotate_to(data), has_checksums(body), mariadb_gtid_list(body));
        rest = &rest[body.len()..];
    }
});
