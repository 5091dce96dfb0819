//! OK, ERR and EOF packets, and what an OK packet says about the session.
#![no_main]
use holdfast_wire::Status;
use holdfast_wire::reply::{ErrPacket, OkPacket, eof_status, strip_session_state};
use holdfast_wire::session_track::each_change;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = eof_status(data);
    if let Ok(err) = ErrPacket::parse(data) {
        let built = err.build();
        assert_eq!(ErrPacket::parse(&built).map(|e| (e.code, e.message)), Ok((err.code, err.message)));
    }
    if let Ok(ok) = OkPacket::parse(data) {
        let _ = each_change(ok.session_state, |_| ());
        let mut bytes = data.to_vec();
        let len = strip_session_state(&mut bytes);
        let bare = OkPacket::parse(&bytes[..len]).expect("what is left is an OK packet");
        assert_eq!((bare.affected_rows, bare.last_insert_id), (ok.affected_rows, ok.last_insert_id));
        assert!(!bare.status.has(Status::SESSION_STATE_CHANGED));
    }
});
