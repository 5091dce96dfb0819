//! Where blocks end. Pure.

use crate::manifest::Cut;
use fastcdc::v2020::FastCDC;

/// A database page, of InnoDB's default size.
pub(crate) const PAGE_BYTES: usize = 16 << 10;
pub(crate) const CONTENT_MIN_BYTES: usize = 8 << 10;
pub(crate) const CONTENT_AVERAGE_BYTES: usize = 32 << 10;
pub(crate) const CONTENT_MAX_BYTES: usize = 64 << 10;

/// Collects what comes in pieces until blocks are whole.
pub(crate) struct Cutter {
    cut: Cut,
    held: Vec<u8>,
}

impl Cutter {
    pub(crate) fn new(cut: Cut) -> Cutter {
        Cutter { cut, held: Vec::new() }
    }

    /// Bytes that wait for the rest of their block.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Hands every whole block to `take`.
    pub(crate) fn push<E>(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.cut == Cut::Content {
            self.held.extend_from_slice(bytes);
            return self.drain(CONTENT_MAX_BYTES, take);
        }
        if !self.held.is_empty() {
            let missing = (PAGE_BYTES - self.held.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(missing);
            self.held.extend_from_slice(head);
            bytes = rest;
            if self.held.len() == PAGE_BYTES {
                take(&self.held)?;
                self.held.clear();
            }
        }
        let mut pages = bytes.chunks_exact(PAGE_BYTES);
        pages.by_ref().try_for_each(&mut take)?;
        self.held.extend_from_slice(pages.remainder());
        Ok(())
    }

    /// Hands over what is left at the end of the file.
    pub(crate) fn finish<E>(&mut self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.cut == Cut::Content {
            return self.drain(1, take);
        }
        if !self.held.is_empty() {
            take(&self.held)?;
            self.held.clear();
        }
        Ok(())
    }

    /// Cuts while at least `least` bytes are held: a cut that does not see as far as a block may go would be another one.
    fn drain<E>(&mut self, least: usize, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut from = 0;
        while self.held.len() - from >= least {
            let rest = &self.held[from..];
            let cutter = FastCDC::new(rest, CONTENT_MIN_BYTES, CONTENT_AVERAGE_BYTES, CONTENT_MAX_BYTES);
            let (_, end) = cutter.cut(0, rest.len());
            take(&rest[..end])?;
            from += end;
        }
        self.held.drain(..from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(cut: Cut, bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let (mut cutter, mut out) = (Cutter::new(cut), Vec::new());
        let mut take = |b: &[u8]| -> Result<(), ()> {
            out.push(b.to_vec());
            Ok(())
        };
        bytes.chunks(step).for_each(|piece| cutter.push(piece, &mut take).unwrap());
        cutter.finish(&mut take).unwrap();
        out
    }

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn blocks_are_the_same_however_the_bytes_come(len in 0usize..300_000, step in 1usize..90_000, seed: u64) {
            let bytes = noise(len, seed);
            for (cut, max) in [(Cut::Pages, PAGE_BYTES), (Cut::Content, CONTENT_MAX_BYTES)] {
                let one = blocks(cut, &bytes, len.max(1));
                prop_assert_eq!(one.concat(), bytes.clone());
                prop_assert!(one.iter().all(|b| !b.is_empty() && b.len() <= max));
                prop_assert_eq!(blocks(cut, &bytes, step), one);
            }
        }
    }

    #[test]
    fn an_insertion_moves_few_blocks() {
        let bytes = noise(4 << 20, 5);
        let mut longer = bytes.clone();
        longer.splice(100_000..100_000, noise(10, 6));
        let (a, b) = (blocks(Cut::Content, &bytes, 1 << 20), blocks(Cut::Content, &longer, 1 << 20));
        let new = b.iter().filter(|block| !a.contains(block)).count();
        assert!(new <= 3, "{new} of {} blocks are new", b.len());
    }
}
