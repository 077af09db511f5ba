//! Bytes that no honest peer sends. `Conversation` checks after every step that all bounds hold and that it led on.

use steth_probes::cell::{Loss, Role};

use crate::{conversation::Conversation, detection::connected, messages::*};

#[test]
fn impossible_lengths_break_the_conversation() {
    for length in [0_u32, 3, 1 << 31, u32::MAX, (1 << 30) + 1] {
        for tag in *b"QPBEDCFHSXcdfp" {
            let mut conversation = connected();
            conversation.sends(&[&[tag], &length.to_be_bytes()[..]].concat());
            assert!(conversation.wire.is_none(), "{} {length}", tag as char);
            assert_eq!(conversation.findings().lost, [Loss::PostgresOutOfStep]);
        }
        for tag in *b"123ACDEGHIKNRSTVWZcdnstv" {
            let mut conversation = connected();
            conversation.sends(&query("select 1")).gets(&[&[tag], &length.to_be_bytes()[..]].concat());
            assert!(conversation.wire.is_none(), "{} {length}", tag as char);
            assert_eq!(conversation.findings().lost, [Loss::PostgresOutOfStep]);
        }
        let mut conversation = Conversation::new(Role::Client);
        conversation.sends(&[&length.to_be_bytes()[..], &[0, 3, 0, 0, 0]].concat());
        assert!(conversation.wire.is_none());
        conversation.sends(&[b"Q", &length.to_be_bytes()[..], b"select 1\0"].concat());
        assert!(conversation.wire.is_none());
    }
}

#[test]
fn messages_that_end_too_early_are_survived() {
    for tag in *b"QPBEDCFdfp" {
        for body in [&b""[..], b"x", b"\0", b"x\0", b"\0\0", b"S", b"S\0", b"\0x", b"\0\0\0"] {
            let mut conversation = connected();
            conversation.sends(&message(tag, body)).sends(&sync()).gets(&all([error("08P01"), ready(b'I')]));
            conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
            assert_eq!(conversation.done().len(), 1);
        }
    }
    for reply in [message(b'C', b"SELECT 5"), message(b'E', b"C"), message(b'E', b"C42"), message(b'E', b"\0\0\0\0")] {
        let mut conversation = connected();
        conversation.sends(&query("select 1")).gets(&reply).gets(&ready(b'I'));
        assert_eq!(conversation.statements(), ["select 1"]);
    }
}

#[test]
fn row_counts_too_large_for_a_cell_stay_at_its_limit() {
    let mut conversation = connected();
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 99999999999999999999"), ready(b'I')]));
    assert_eq!(conversation.done(), [("select 1", u32::MAX)]);
}

/// A linear congruential generator (Knuth, MMIX), so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = 1 + self.below(most);
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    fn one_of<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        choices[self.below(N as u64) as usize]
    }

    /// A message that is mostly valid.
    fn request(&mut self) -> Vec<u8> {
        if self.below(100) == 0 {
            return match self.below(4) {
                0 => startup(3 << 16, &[("user", "ann"), ("database", "shop")]),
                1 => ssl_request(),
                2 => message(self.one_of(*b"QPBEDCFHSXcdfp"), &self.bytes(20)),
                _ => self.bytes(20),
            };
        }
        match self.below(14) {
            0 => query("select 1"),
            1 | 2 => parse(self.one_of(["", "s", "t"]), self.one_of(["a", "b"])),
            3 | 4 => bind(self.one_of(["", "p"]), self.one_of(["", "s", "t"])),
            5..=7 => execute(self.one_of(["", "p"]), 0),
            8 | 9 => sync(),
            10 => describe(""),
            11 => close_statement("s"),
            12 => flush(),
            _ => message(b'c', b""),
        }
    }

    fn reply(&mut self) -> Vec<u8> {
        if self.below(100) == 0 {
            return match self.below(4) {
                0 => welcome(),
                1 => vec![self.one_of(*b"NSGE")],
                2 => message(self.one_of(*b"123ACDEGHIKNRSTVWZcdnstv"), &self.bytes(20)),
                _ => self.bytes(20),
            };
        }
        match self.below(16) {
            0..=3 => ready(self.one_of(*b"ITE")),
            4..=7 => complete(self.one_of(["SELECT 1", "BEGIN", "COMMIT", "ROLLBACK"])),
            8 => parsed(),
            9 => bound(),
            10 => closed(),
            11 => error("42601"),
            12 => suspended(),
            13 => notice(),
            14 => row("1"),
            _ => message(b'I', b""),
        }
    }
}

#[test]
fn random_bytes_never_panic_or_stand_still() {
    let mut random = Random(1);
    for case in 0..100_000 {
        let mut conversation = if case % 2 == 0 { connected() } else { Conversation::new(Role::Server) };
        for _ in 0..1 + random.below(4) {
            let bytes = random.bytes(64);
            conversation.moves(random.below(2) == 0, &bytes);
        }
    }
}

#[test]
fn random_messages_in_random_order_and_pieces_never_leave_the_bounds() {
    let mut random = Random(2);
    let (mut seen, mut deep) = (0, 0);
    for case in 0..20_000 {
        let mut conversation = if case % 2 == 0 { connected() } else { Conversation::new(Role::Server) };
        // Some have more requests than replies, so that they pile up.
        conversation.has_room_for(1);
        let replies = 1 + random.below(3);
        for _ in 0..1 + random.below(100) {
            let up = random.below(4) >= replies;
            let mut bytes = if up { random.request() } else { random.reply() };
            if random.below(200) == 0 {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            if random.below(100) == 0 {
                conversation.needs_room();
            }
            let at = random.below(bytes.len() as u64) as usize;
            for piece in [&bytes[..at], &bytes[at..]].into_iter().filter(|piece| !piece.is_empty()) {
                conversation.moves(up, piece);
            }
        }
        seen += conversation.findings().queries.len();
        deep += usize::from(conversation.findings().lost.contains(&Loss::PipelineTooDeep));
    }
    assert!(seen > 10_000 && deep > 500, "the cases must get to the bounds: {seen} queries, {deep} too deep");
}
