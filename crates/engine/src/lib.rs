//! Database drivers behind one trait: observe, fence, follow, promote, rewind, clone.
