//! HTTP server loop and client.
