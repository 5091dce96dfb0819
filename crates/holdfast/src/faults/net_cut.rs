//! A host cut off from others by nftables: addresses in sets whose elements the kernel forgets by itself, so that a cut
//! ends on time whoever is left alive.
//!
//! One table of our own; what it holds besides the elements does nothing. Does not know: other tables, which go on to
//! have their say about what it lets pass.

use super::order::Cut;
use std::io::Write;
use std::process::{Command, Stdio};

const TABLE: &str = "inet holdfast_drill";

/// The empty sets and the rules that look into them. Before connection tracking, so that no rule about known connections
/// comes first; twice is as good as once.
fn frame() -> String {
    let mut text = format!("add table {TABLE}\n");
    for (chain, field) in [("in", "saddr"), ("out", "daddr")] {
        let hook = if chain == "in" { "input" } else { "output" };
        text += &format!(
            "add chain {TABLE} {chain} {{ type filter hook {hook} priority -300; policy accept; }}\n"
        );
        text += &format!("flush chain {TABLE} {chain}\n");
        for (family, kind) in [("ip", "ipv4_addr"), ("ip6", "ipv6_addr")] {
            text += &format!("add set {TABLE} {chain}_{family} {{ type {kind}; flags timeout; }}\n");
            text += &format!("flush set {TABLE} {chain}_{family}\n");
            text += &format!("add rule {TABLE} {chain} {family} {field} @{chain}_{family} drop\n");
        }
    }
    text
}

/// The addresses, each with its end.
fn elements(cut: &Cut, lasts_s: u64) -> String {
    let mut text = String::new();
    for chain in [cut.incoming.then_some("in"), cut.outgoing.then_some("out")].into_iter().flatten() {
        for (family, v4) in [("ip", true), ("ip6", false)] {
            let of = cut.peers.iter().filter(|p| p.is_ipv4() == v4);
            let of: Vec<String> = of.map(|p| format!("{p} timeout {lasts_s}s")).collect();
            if !of.is_empty() {
                text += &format!("add element {TABLE} {chain}_{family} {{ {} }}\n", of.join(", "));
            }
        }
    }
    text
}

/// Makes the table, or with `rehearsal` only asks the kernel whether it and the elements could be made.
pub(super) fn prepare(cut: &Cut, lasts_s: u64, rehearsal: bool) -> Result<(), String> {
    if rehearsal {
        return nft(&["-c", "-f", "-"], &(frame() + &elements(cut, lasts_s)));
    }
    nft(&["-f", "-"], &frame())
}

pub(super) fn cut(cut: &Cut, lasts_s: u64) -> Result<(), String> {
    nft(&["-f", "-"], &elements(cut, lasts_s))
}

pub(super) fn mend() -> Result<(), String> {
    nft(&["-f", "-"], &format!("delete table {TABLE}\n"))
}

fn nft(args: &[&str], script: &str) -> Result<(), String> {
    let mut command = Command::new("nft");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("`nft` cannot be started: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(|e| format!("`nft` does not listen: {e}"))?;
    }
    let output = child.wait_with_output().map_err(|e| format!("`nft` was lost: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    // It repeats the whole script; the first line says what is wrong.
    let says = String::from_utf8_lossy(&output.stderr);
    Err(format!("`nft` says: {}", says.lines().next().unwrap_or("nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn every_address_has_its_end() {
        let peers = ["10.0.0.12", "10.0.0.13", "fd00::7"].map(|p| p.parse().unwrap()).to_vec();
        let both = Cut { peers: peers.clone(), incoming: true, outgoing: true };
        expect![[r#"
            add element inet holdfast_drill in_ip { 10.0.0.12 timeout 15s, 10.0.0.13 timeout 15s }
            add element inet holdfast_drill in_ip6 { fd00::7 timeout 15s }
            add element inet holdfast_drill out_ip { 10.0.0.12 timeout 15s, 10.0.0.13 timeout 15s }
            add element inet holdfast_drill out_ip6 { fd00::7 timeout 15s }
        "#]]
        .assert_eq(&elements(&both, 15));
        let mute = Cut { peers: peers[2..].to_vec(), incoming: false, outgoing: true };
        expect![[r#"
            add element inet holdfast_drill out_ip6 { fd00::7 timeout 3s }
        "#]]
        .assert_eq(&elements(&mute, 3));
    }

    #[test]
    fn the_frame_alone_stops_nothing() {
        expect![[r#"
            add table inet holdfast_drill
            add chain inet holdfast_drill in { type filter hook input priority -300; policy accept; }
            flush chain inet holdfast_drill in
            add set inet holdfast_drill in_ip { type ipv4_addr; flags timeout; }
            flush set inet holdfast_drill in_ip
            add rule inet holdfast_drill in ip saddr @in_ip drop
            add set inet holdfast_drill in_ip6 { type ipv6_addr; flags timeout; }
            flush set inet holdfast_drill in_ip6
            add rule inet holdfast_drill in ip6 saddr @in_ip6 drop
            add chain inet holdfast_drill out { type filter hook output priority -300; policy accept; }
            flush chain inet holdfast_drill out
            add set inet holdfast_drill out_ip { type ipv4_addr; flags timeout; }
            flush set inet holdfast_drill out_ip
            add rule inet holdfast_drill out ip daddr @out_ip drop
            add set inet holdfast_drill out_ip6 { type ipv6_addr; flags timeout; }
            flush set inet holdfast_drill out_ip6
            add rule inet holdfast_drill out ip6 daddr @out_ip6 drop
        "#]]
        .assert_eq(&frame());
    }
}
