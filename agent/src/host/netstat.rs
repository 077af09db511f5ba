//! Protocol counters: IP, ICMP, TCP, UDP. By hand: procfs lacks `/proc/net/netstat`, and `/proc/net/snmp`, which
//! it has, is of the same form.

use super::{Files, Problem, push};
use crate::model::{
    catalog::host::{self, Field},
    snapshot::Series,
};

/// Adds the catalog's fields that this kernel has.
pub(super) fn read(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    parse_tables(files.proc_text("net/netstat")?, out);
    parse_tables(files.proc_text("net/snmp")?, out);
    match files.proc_text("net/snmp6") {
        Ok(text) => parse_lines(text, out),
        // A kernel without IPv6.
        Err(Problem::Absent { .. }) => {}
        Err(problem) => return Err(problem),
    }
    Ok(())
}

/// Pairs of lines, names above numbers: `Tcp: InSegs …` and `Tcp: 15068 …`.
fn parse_tables(text: &str, out: &mut Vec<Series>) {
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let Some((group, names)) = names.split_once(':') else { continue };
        let Some((_, numbers)) = numbers.split_once(':') else { continue };
        let fields: Vec<&'static Field> = host::NETSTAT.iter().filter(|field| field.group == group).collect();
        for (name, number) in names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace()) {
            if let Some(field) = fields.iter().find(|field| field.source == name) {
                push_text(out, field, number);
            }
        }
    }
}

/// One field to a line, with the group as the beginning of the name: `Ip6InOctets  128`.
fn parse_lines(text: &str, out: &mut Vec<Series>) {
    for line in text.lines() {
        let Some((name, number)) = line.split_once(char::is_whitespace) else { continue };
        let is_named = |field: &&Field| name.strip_prefix(field.group) == Some(field.source);
        if let Some(field) = host::NETSTAT.iter().find(is_named) {
            push_text(out, field, number.trim());
        }
    }
}

fn push_text(out: &mut Vec<Series>, field: &'static Field, number: &str) {
    // Most are unsigned, Tcp's MaxConn is -1; all are within what a float holds exactly for centuries.
    if let Ok(number) = number.parse::<f64>() {
        push(out, &field.metric, &[], number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::values;

    #[test]
    fn columns_are_found_by_their_name() {
        let mut out = Vec::new();
        let text = "Tcp: RtoAlgorithm MaxConn ActiveOpens InSegs OutRsts\nTcp: 1 -1 81 15068 69\n\
                    TcpExt: SyncookiesSent ListenDrops Other\nTcpExt: 1 2 3\nMPTcpExt: MPCapableSYNRX\nMPTcpExt: 0\n";
        parse_tables(text, &mut out);
        assert_eq!(
            values(&out),
            [
                "node_netstat_Tcp_ActiveOpens 81",
                "node_netstat_Tcp_InSegs 15068",
                "node_netstat_Tcp_OutRsts 69",
                "node_netstat_TcpExt_SyncookiesSent 1",
                "node_netstat_TcpExt_ListenDrops 2",
            ]
        );
    }

    #[test]
    fn ipv6_has_one_field_to_a_line() {
        let mut out = Vec::new();
        parse_lines("Ip6InReceives   \t12\nIp6InOctets      \t128\nUdpLite6InErrors \t0\nUdp6InErrors\t4\n", &mut out);
        assert_eq!(
            values(&out),
            ["node_netstat_Ip6_InOctets 128", "node_netstat_UdpLite6_InErrors 0", "node_netstat_Udp6_InErrors 4"]
        );
    }
}
