//! Printing for people, into what may be a closed pipe: `holdfast history | head` ends quietly, where `println!` would
//! panic.

/// Prints to standard output; what nobody reads any more is no error.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!($($text)*));
        let _ = std::io::Write::flush(&mut std::io::stdout());
    }};
}

/// As [`say!`], with the line's end.
#[macro_export]
macro_rules! sayln {
    () => { $crate::say!("\n") };
    ($($text:tt)*) => { $crate::say!("{}\n", format_args!($($text)*)) };
}
