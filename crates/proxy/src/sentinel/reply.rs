//! Replies as a client reads them, in RESP2 or RESP3.

use holdfast_wire::resp::{put_bulk, put_error, put_header};

/// Fields and their values, in order.
pub type Row = Vec<(&'static str, String)>;

/// Appends replies.
pub struct Replies<'a> {
    pub out: &'a mut Vec<u8>,
    /// 2 or 3.
    pub version: u8,
}

impl Replies<'_> {
    /// A status. The text has no line end.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }
    pub fn error(&mut self, text: &str) {
        put_error(self.out, text.as_bytes());
    }
    pub fn int(&mut self, n: usize) {
        put_header(self.out, b':', n);
    }
    pub fn bulk(&mut self, bytes: impl AsRef<[u8]>) {
        put_bulk(self.out, bytes.as_ref());
    }
    pub fn nil(&mut self) {
        self.out.extend_from_slice(if self.version == 3 { b"_\r\n" } else { b"$-1\r\n" });
    }
    /// Nil where an array was asked for.
    pub fn nil_array(&mut self) {
        self.out.extend_from_slice(if self.version == 3 { b"_\r\n" } else { b"*-1\r\n" });
    }
    pub fn array(&mut self, items: usize) {
        put_header(self.out, b'*', items);
    }
    /// Keys and values follow in turn.
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            3 => put_header(self.out, b'%', pairs),
            _ => put_header(self.out, b'*', pairs * 2),
        }
    }
    /// Something that the client did not ask for.
    pub fn push(&mut self, items: usize) {
        put_header(self.out, if self.version == 3 { b'>' } else { b'*' }, items);
    }
    pub fn texts(&mut self, texts: &[&str]) {
        self.array(texts.len());
        texts.iter().for_each(|t| self.bulk(t));
    }
    pub fn row(&mut self, row: &Row) {
        self.map(row.len());
        for (field, value) in row {
            self.bulk(field);
            self.bulk(value);
        }
    }
    pub fn rows(&mut self, rows: &[Row]) {
        self.array(rows.len());
        rows.iter().for_each(|r| self.row(r));
    }
}
