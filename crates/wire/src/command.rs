//! Command bytes: the first byte of a packet that a client sends with sequence number 0.

pub const QUIT: u8 = 0x01;
pub const INIT_DB: u8 = 0x02;
pub const QUERY: u8 = 0x03;
pub const FIELD_LIST: u8 = 0x04;
pub const SHUTDOWN: u8 = 0x08;
pub const STATISTICS: u8 = 0x09;
pub const PROCESS_INFO: u8 = 0x0A;
pub const PROCESS_KILL: u8 = 0x0C;
pub const DEBUG: u8 = 0x0D;
pub const PING: u8 = 0x0E;
pub const CHANGE_USER: u8 = 0x11;
pub const BINLOG_DUMP: u8 = 0x12;
pub const TABLE_DUMP: u8 = 0x13;
pub const CONNECT_OUT: u8 = 0x14;
pub const REGISTER_SLAVE: u8 = 0x15;
pub const STMT_PREPARE: u8 = 0x16;
pub const STMT_EXECUTE: u8 = 0x17;
pub const STMT_SEND_LONG_DATA: u8 = 0x18;
pub const STMT_CLOSE: u8 = 0x19;
pub const STMT_RESET: u8 = 0x1A;
pub const SET_OPTION: u8 = 0x1B;
pub const STMT_FETCH: u8 = 0x1C;
pub const BINLOG_DUMP_GTID: u8 = 0x1E;
pub const RESET_CONNECTION: u8 = 0x1F;
/// MariaDB: one statement, many rows of parameters.
pub const STMT_BULK_EXECUTE: u8 = 0xFA;
/// MariaDB: several commands in one packet; gone from its servers since.
pub const MULTI: u8 = 0xFE;

/// The statement id that MariaDB reads as "the one prepared last", for clients that send prepare and execute
/// without waiting in between.
pub const LAST_PREPARED: u32 = u32::MAX;

/// True for commands that a server never answers.
#[inline]
pub fn has_no_reply(command: u8) -> bool {
    matches!(command, QUIT | STMT_CLOSE | STMT_SEND_LONG_DATA)
}

/// True for commands that begin with a statement id (bytes 1 to 4 of the payload).
#[inline]
pub fn names_statement(command: u8) -> bool {
    matches!(
        command,
        STMT_EXECUTE | STMT_SEND_LONG_DATA | STMT_CLOSE | STMT_RESET | STMT_FETCH | STMT_BULK_EXECUTE
    )
}

/// True for commands by which a replica fetches a log.
pub fn is_replication(command: u8) -> bool {
    matches!(command, BINLOG_DUMP | BINLOG_DUMP_GTID | TABLE_DUMP | CONNECT_OUT | REGISTER_SLAVE)
}
