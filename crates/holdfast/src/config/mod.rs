//! The topology file: TOML in, a checked [`holdfast_core::topology::Topology`] out.
