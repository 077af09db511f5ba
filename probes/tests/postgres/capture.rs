//! Reads a capture: the payload of its TCP connections, in the order in which it became available to the reading end.
//! Segments that came early wait for those before them, and what came twice counts once.

use std::{collections::HashMap, path::Path};

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use pcap_parser::{PcapBlockOwned, PcapError, traits::PcapReaderIterator};

/// A connection's payload.
pub struct Captured {
    /// The port that was called.
    pub port: u16,
    /// Towards the server or from it, and what was sent.
    pub moves: Vec<(bool, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct End([u8; 4], u16);

struct Flow {
    client: End,
    server: End,
    /// What comes next from the client and from the server.
    next: [Option<u32>; 2],
    early: Vec<(usize, u32, Vec<u8>)>,
    captured: Captured,
}

/// The connections of the capture with this name, by the time of their first segment.
pub fn read(name: &str) -> Vec<Captured> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pgwire").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = pcap_parser::LegacyPcapReader::new(1 << 20, bytes.as_slice()).unwrap();
    let mut flows: Vec<Flow> = Vec::new();
    let mut known: HashMap<(End, End), usize> = HashMap::new();
    loop {
        match reader.next() {
            Ok((size, block)) => {
                if let PcapBlockOwned::Legacy(packet) = block {
                    segment(packet.data, &mut flows, &mut known);
                }
                reader.consume(size);
            }
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert!(flows.iter().all(|flow| flow.early.is_empty()), "{name}: segments are missing");
    flows.into_iter().map(|flow| flow.captured).collect()
}

fn segment(packet: &[u8], flows: &mut Vec<Flow>, known: &mut HashMap<(End, End), usize>) {
    let headers = PacketHeaders::from_ethernet_slice(packet).unwrap();
    let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) = (headers.net, headers.transport) else {
        panic!("a packet that is not TCP over IPv4");
    };
    let from = End(ip.source, tcp.source_port);
    let to = End(ip.destination, tcp.destination_port);
    let opens = tcp.syn && !tcp.ack;
    let at = known.get(&(from, to)).copied().filter(|&at| !opens || flows[at].captured.moves.is_empty());
    let at = at.unwrap_or_else(|| {
        flows.push(Flow {
            client: from,
            server: to,
            next: [None; 2],
            early: Vec::new(),
            captured: Captured { port: to.1, moves: Vec::new() },
        });
        known.insert((from, to), flows.len() - 1);
        known.insert((to, from), flows.len() - 1);
        flows.len() - 1
    });
    let flow = &mut flows[at];
    assert!(from == flow.client && to == flow.server || from == flow.server && to == flow.client);
    let side = usize::from(from == flow.server);
    let sequence = tcp.sequence_number.wrapping_add(u32::from(tcp.syn));
    flow.next[side].get_or_insert(sequence);
    if !headers.payload.slice().is_empty() {
        flow.early.push((side, sequence, headers.payload.slice().to_vec()));
    }
    while let Some(at) = flow.early.iter().position(|(side, sequence, _)| ahead(flow.next[*side], *sequence) <= 0) {
        let (side, sequence, payload) = flow.early.remove(at);
        let seen = ahead(flow.next[side], sequence).unsigned_abs() as usize;
        if let Some(fresh) = payload.get(seen..).filter(|fresh| !fresh.is_empty()) {
            flow.next[side] = Some(sequence.wrapping_add(payload.len() as u32));
            flow.captured.moves.push((side == 0, fresh.to_vec()));
        }
    }
}

fn ahead(next: Option<u32>, sequence: u32) -> i32 {
    sequence.wrapping_sub(next.unwrap_or(sequence)) as i32
}
