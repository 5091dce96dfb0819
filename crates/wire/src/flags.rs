//! Capability and status bits by name. MariaDB's own capabilities are bits 32 and up.

macro_rules! bit_set {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(pub $int);
        impl $name {
            $($(#[$bit_doc])* pub const $bit: $name = $name($value);)*
            /// True if every bit of `bits` is set.
            #[inline]
            pub const fn has(self, bits: $name) -> bool {
                self.0 & bits.0 == bits.0
            }
            #[must_use]
            pub const fn with(self, bits: $name) -> $name {
                $name(self.0 | bits.0)
            }
            #[must_use]
            pub const fn without(self, bits: $name) -> $name {
                $name(self.0 & !bits.0)
            }
            /// The bits set in both.
            #[must_use]
            pub const fn both(self, bits: $name) -> $name {
                $name(self.0 & bits.0)
            }
        }
    };
}

bit_set! {
    /// What a side can do, agreed at login.
    Capabilities(u64) {
        /// Called LONG_PASSWORD in old times. A MariaDB server leaves it out to say that bits 32 and up mean something.
        CLIENT_MYSQL = 1;
        FOUND_ROWS = 1 << 1;
        LONG_FLAG = 1 << 2;
        CONNECT_WITH_DB = 1 << 3;
        NO_SCHEMA = 1 << 4;
        COMPRESS = 1 << 5;
        ODBC = 1 << 6;
        LOCAL_FILES = 1 << 7;
        IGNORE_SPACE = 1 << 8;
        PROTOCOL_41 = 1 << 9;
        INTERACTIVE = 1 << 10;
        SSL = 1 << 11;
        IGNORE_SIGPIPE = 1 << 12;
        TRANSACTIONS = 1 << 13;
        RESERVED = 1 << 14;
        SECURE_CONNECTION = 1 << 15;
        MULTI_STATEMENTS = 1 << 16;
        MULTI_RESULTS = 1 << 17;
        PS_MULTI_RESULTS = 1 << 18;
        PLUGIN_AUTH = 1 << 19;
        CONNECT_ATTRS = 1 << 20;
        PLUGIN_AUTH_LENENC_DATA = 1 << 21;
        CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22;
        SESSION_TRACK = 1 << 23;
        DEPRECATE_EOF = 1 << 24;
        REMEMBER_OPTIONS = 1 << 31;
        MARIADB_PROGRESS = 1 << 32;
        MARIADB_STMT_BULK = 1 << 34;
        MARIADB_EXTENDED_METADATA = 1 << 35;
        MARIADB_CACHE_METADATA = 1 << 36;
    }
}

bit_set! {
    /// The server's state after a reply.
    Status(u16) {
        IN_TRANS = 1;
        AUTOCOMMIT = 1 << 1;
        MORE_RESULTS = 1 << 3;
        CURSOR_EXISTS = 1 << 6;
        LAST_ROW_SENT = 1 << 7;
        SESSION_STATE_CHANGED = 1 << 14;
    }
}
