//! Certificates between hosts, tokens for people.
