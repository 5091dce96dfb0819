//! The simulator against thousands of seeds, and against itself: bugs put in on purpose must be found.

mod sim;
