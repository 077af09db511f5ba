//! Where in a file of code functions are probed: finds them by symbol, and of each the address that costs least. Knows ELF
//! and x86-64, not what the functions do.
//!
//! The kernel replaces the instruction under a probe by a breakpoint. What it can emulate it does; anything else it runs
//! elsewhere in a single step, which is ten times as slow (`arch/x86/kernel/uprobes.c`: `branch_setup_xol_ops`,
//! `push_setup_xol_ops`). So the first instruction that it can emulate is looked for, as far as arguments and stack are
//! as at the beginning; where there is none, in the function that this one hands its arguments to.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, SymbolKind};
use steth_probes::tls::CountPlace;
use thiserror::Error;

use crate::files::{Parts, open_regular};

/// Bytes of a function that are looked at.
const LOOK_BYTES: u64 = 96;

/// Why a file cannot be looked at.
#[derive(Debug, Error)]
pub enum CodeError {
    /// The system.
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    /// The file.
    #[error("it is no ELF file that can be understood: {0}")]
    Elf(#[from] object::Error),
}

/// A function that is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Its symbol.
    pub symbol: &'static str,
    /// Whether its third argument is a length, and its fourth, if `counts`, a pointer to a count.
    pub counts: bool,
    /// Whether the function that it calls may stand for it.
    pub through: bool,
}

/// Where a function is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Offset in the file.
    pub offset: u64,
    /// Where the number of bytes is when it returns.
    pub count: CountPlace,
    /// Whether the kernel can emulate the instruction there.
    pub fast: bool,
}

/// The sites of those of the wanted functions that the file defines, in their order. Empty for nearly all files.
///
/// # Errors
/// If the file cannot be read.
pub fn sites(path: &Path, wanted: &[Wanted]) -> Result<Vec<Option<Site>>, CodeError> {
    let opened = open_regular(path)?;
    let parts = Parts::of(&opened);
    let file = object::File::parse(&parts)?;
    if file.architecture() != object::Architecture::X86_64 || !names_any(&opened, &file, wanted)? {
        return Ok(Vec::new());
    }
    let mut addresses: Vec<Option<u64>> = vec![None; wanted.len()];
    define(&mut addresses, file.dynamic_symbols(), wanted);
    // The other table is longer, and of what exports these functions says the same.
    if addresses.iter().all(Option::is_none) {
        define(&mut addresses, file.symbols(), wanted);
    }
    if addresses.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let code = Code { file: &file };
    Ok(addresses.into_iter().zip(wanted).map(|(address, wanted)| code.site(address?, wanted)).collect())
}

/// Fills in the addresses of those that a table of symbols defines.
fn define<'a>(
    addresses: &mut [Option<u64>],
    symbols: impl Iterator<Item = impl object::ObjectSymbol<'a>>,
    wanted: &[Wanted],
) {
    for symbol in symbols.filter(|symbol| symbol.is_definition() && symbol.kind() == SymbolKind::Text) {
        let Ok(name) = symbol.name_bytes() else { continue };
        // A static table may bear the version: `SSL_read@@OPENSSL_3.0.0`.
        let name = name.split(|byte| *byte == b'@').next().unwrap_or_default();
        if let Some(at) = wanted.iter().position(|wanted| wanted.symbol.as_bytes() == name)
            && let Some(address) = addresses.get_mut(at)
        {
            *address = Some(symbol.address());
        }
    }
}

/// Whether any of the names stands in a table of names: much faster than going through the symbols.
fn names_any<'a>(opened: &File, file: &impl object::Object<'a>, wanted: &[Wanted]) -> io::Result<bool> {
    for section in file.sections().filter(|section| matches!(section.name_bytes(), Ok(b".dynstr" | b".strtab"))) {
        if let Some((start, size)) = section.file_range()
            && size <= MOST_NAMES
            && names_any_within(opened, start, size, wanted)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A longer table of names no program has; a file with holes may say that it has.
const MOST_NAMES: u64 = 512 << 20;
/// Bytes of a table that are held at a time: whole ones take up to 100 MB.
const PIECE: usize = 64 << 10;
/// Longer than any name, so that one which lies in two pieces is found.
const OVERLAP: usize = 32;

fn names_any_within(opened: &File, start: u64, size: u64, wanted: &[Wanted]) -> io::Result<bool> {
    let mut piece = Vec::with_capacity(PIECE + OVERLAP);
    let (mut at, end) = (start, start.saturating_add(size));
    while at < end {
        let kept = piece.len();
        let length = (end - at).min(PIECE as u64);
        piece.resize(kept + length as usize, 0);
        let Some(room) = piece.get_mut(kept..) else { break };
        opened.read_exact_at(room, at)?;
        if wanted.iter().any(|wanted| memchr::memmem::find(&piece, wanted.symbol.as_bytes()).is_some()) {
            return Ok(true);
        }
        piece.drain(..piece.len().saturating_sub(OVERLAP));
        at += length;
    }
    Ok(false)
}

struct Code<'f, F> {
    file: &'f F,
}

/// How a look at a function ended.
enum Look {
    /// The kernel can emulate the instruction at this address, and all is as at the function's beginning.
    Here(u64),
    /// It calls this address with the same arguments, and with a pointer to a count in one of its own.
    Through(u64, CountPlace),
    /// It goes on at this address.
    Jump(u64, State),
    Neither,
}

impl<'d, F: object::Object<'d>> Code<'_, F> {
    fn site(&self, address: u64, wanted: &Wanted) -> Option<Site> {
        let count = if wanted.counts { CountPlace::Argument(3) } else { CountPlace::Returned };
        let slow = || Some(Site { offset: self.offset(address)?, count, fast: false });
        let fast = |address, count| Some(Site { offset: self.offset(address)?, count, fast: true });
        match self.look(address, wanted.counts) {
            Look::Here(address) => fast(address, count),
            Look::Through(callee, count) if wanted.through => match self.look(callee, true) {
                Look::Here(address) => fast(address, count),
                _ => slow(),
            },
            _ => slow(),
        }
    }

    /// Where in the file the byte at this address stands.
    fn offset(&self, address: u64) -> Option<u64> {
        self.file.segments().find_map(|segment| {
            let inside = address.checked_sub(segment.address())?;
            let (start, size) = segment.file_range();
            (inside < size).then(|| start.saturating_add(inside))
        })
    }

    fn bytes(&self, address: u64) -> Option<&'d [u8]> {
        self.file.segments().find_map(|segment| {
            let end = segment.address().saturating_add(segment.file_range().1);
            let length = end.checked_sub(address)?.min(LOOK_BYTES);
            segment.data_range(address, length).ok().flatten()
        })
    }

    fn look(&self, address: u64, counts: bool) -> Look {
        let mut look = Look::Jump(address, State::at_beginning(counts));
        for _ in 0..JUMPS {
            let Look::Jump(address, state) = look else { break };
            look = self.bytes(address).map_or(Look::Neither, |bytes| state.look(bytes, address));
        }
        look
    }
}

/// How often a function may go on elsewhere, its own beginning included.
const JUMPS: usize = 3;

/// Registers of the first five arguments (System V ABI, AMD64 supplement, 3.2.3).
const ARGUMENTS: [Register; 5] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8];
const LENGTH: usize = 2;
const COUNT: usize = 3;

/// What an argument's register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// The argument, perhaps widened.
    Argument,
    /// A pointer to a count: the fourth argument, or one to the function's own stack.
    Count,
    Other,
}

/// How far arguments and stack are as at the function's beginning.
#[derive(Clone, Copy, Debug)]
struct State {
    holds: [Holds; ARGUMENTS.len()],
    intact: bool,
}

impl State {
    /// `counts`: the function's fourth argument is a pointer to a count.
    fn at_beginning(counts: bool) -> Self {
        let fourth = if counts { Holds::Count } else { Holds::Other };
        let holds = [Holds::Argument, Holds::Argument, Holds::Argument, fourth, Holds::Other];
        Self { holds, intact: true }
    }

    fn look(mut self, bytes: &[u8], address: u64) -> Look {
        let mut info = InstructionInfoFactory::new();
        for instruction in Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).iter() {
            if instruction.is_invalid() {
                return Look::Neither;
            }
            if self.intact && is_emulated(&instruction) {
                return Look::Here(instruction.ip());
            }
            let near = instruction.op0_kind() == OpKind::NearBranch64;
            match instruction.flow_control() {
                // A branch that is not taken; it is where a length below zero goes.
                FlowControl::Next | FlowControl::ConditionalBranch => {}
                FlowControl::Call if near => return self.through(instruction.near_branch_target()),
                FlowControl::UnconditionalBranch if near => return Look::Jump(instruction.near_branch_target(), self),
                _ => return Look::Neither,
            }
            let written = info.info(&instruction).used_registers().iter().filter(|used| {
                matches!(
                    used.access(),
                    OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
                )
            });
            for register in written.map(|used| used.register().full_register()) {
                self.intact &= register != Register::RSP && !ARGUMENTS.contains(&register);
                let Some(at) = ARGUMENTS.iter().position(|argument| *argument == register) else { continue };
                let now = after(&instruction, at, &self.holds);
                if let Some(slot) = self.holds.get_mut(at) {
                    *slot = now;
                }
            }
        }
        Look::Neither
    }

    /// A call that hands on the first three arguments, and with them a pointer to a count.
    fn through(self, callee: u64) -> Look {
        let [ssl, buffer, length, fourth, fifth] = self.holds;
        if [ssl, buffer, length] != [Holds::Argument; 3] {
            return Look::Neither;
        }
        match (fourth, fifth) {
            (Holds::Count, Holds::Other) => Look::Through(callee, CountPlace::Argument(3)),
            (Holds::Other, Holds::Count) => Look::Through(callee, CountPlace::Argument(4)),
            _ => Look::Neither,
        }
    }
}

/// What an argument's register holds after an instruction that writes it.
fn after(instruction: &Instruction, at: usize, before: &[Holds; ARGUMENTS.len()]) -> Holds {
    let from = match instruction.op1_kind() {
        OpKind::Register => instruction.op1_register().full_register(),
        _ => Register::None,
    };
    match instruction.mnemonic() {
        Mnemonic::Movsxd if at == LENGTH && from == Register::RDX => before[LENGTH],
        Mnemonic::Mov if at >= COUNT && from == Register::RSP => Holds::Count,
        Mnemonic::Mov if at > COUNT && from == Register::RCX => before[COUNT],
        Mnemonic::Lea if at >= COUNT && instruction.memory_base() == Register::RSP => Holds::Count,
        _ => Holds::Other,
    }
}

/// Whether the kernel emulates this instruction; those only that it has emulated since Linux 4.16.
fn is_emulated(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Push => instruction.op0_kind() == OpKind::Register && instruction.len() <= 2,
        // Longer ones are emulated by newer kernels only.
        Mnemonic::Nop => instruction.len() == 1,
        _ => match instruction.flow_control() {
            FlowControl::ConditionalBranch => instruction.is_jcc_short_or_near(),
            FlowControl::UnconditionalBranch | FlowControl::Call => instruction.op0_kind() == OpKind::NearBranch64,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a function that begins with these bytes at 0x1000 is probed at.
    fn look(bytes: &[u8], counts: bool) -> Look {
        State::at_beginning(counts).look(bytes, 0x1000)
    }

    #[test]
    fn the_first_instruction_that_can_be_emulated_is_taken() {
        // push %rbp · endbr64, push %r13 · test %rdi,%rdi, je
        for (bytes, at) in [
            (&[0x55, 0x48, 0x89, 0xe5][..], 0),
            (&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x55], 4),
            (&[0x48, 0x85, 0xff, 0x0f, 0x84, 0, 1, 0, 0], 3),
        ] {
            let Look::Here(address) = look(bytes, false) else { panic!("{bytes:x?}") };
            assert_eq!(address, 0x1000 + at);
        }
    }

    #[test]
    fn arguments_and_stack_must_be_untouched() {
        // mov %rsi,%rdi, push %rbp · sub $8,%rsp, push %rbp, ret · pushf
        for bytes in [&[0x48, 0x89, 0xf7, 0x55, 0xc3][..], &[0x48, 0x83, 0xec, 8, 0x55, 0xc3], &[0x9c, 0xc3]] {
            assert!(matches!(look(bytes, false), Look::Neither), "{bytes:x?}");
        }
    }

    /// As compilers have made them of OpenSSL 1.1.1, 3.0 and 3.4.
    #[test]
    fn a_function_that_hands_its_arguments_on_is_looked_through() {
        let read_1_1: &[u8] = &[
            0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x19, 0x48, 0x8d, 0x4c, 0x24, 0x08, 0x48, 0x63, 0xd2, 0xe8, 0x10,
            0, 0, 0,
        ];
        let read_3_0: &[u8] = &[
            0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x48, 0x89, 0x44, 0x24, 0x08, 0x31,
            0xc0, 0x85, 0xd2, 0x78, 0x2f, 0x48, 0x89, 0xe1, 0x48, 0x63, 0xd2, 0xe8, 0x10, 0, 0, 0,
        ];
        let write_3_4: &[u8] = &[
            0x48, 0x83, 0xec, 0x18, 0x85, 0xd2, 0x78, 0x1b, 0x31, 0xc9, 0x48, 0x63, 0xd2, 0x4c, 0x8d, 0x44, 0x24, 0x08,
            0xe8, 0x10, 0, 0, 0,
        ];
        let read_ex: &[u8] = &[0x48, 0x83, 0xec, 0x08, 0xe8, 0x10, 0, 0, 0];
        for (bytes, counts, place) in
            [(read_1_1, false, 3), (read_3_0, false, 3), (write_3_4, false, 4), (read_ex, true, 3)]
        {
            let Look::Through(callee, count) = look(bytes, counts) else { panic!("{bytes:x?}") };
            assert_eq!((callee, count), (0x1000 + bytes.len() as u64 + 0x10, CountPlace::Argument(place)));
        }
        // The same without a pointer to a count: what it returns there is not known.
        assert!(matches!(look(read_ex, false), Look::Neither));
    }

    #[test]
    fn a_function_that_goes_on_elsewhere_is_followed() {
        // SSL_write_ex of OpenSSL 3.4: mov %rcx,%r8, xor %ecx,%ecx, jmp
        let bytes = [0x49, 0x89, 0xc8, 0x31, 0xc9, 0xeb, 0xd9];
        let Look::Jump(target, state) = look(&bytes, true) else { panic!("no jump") };
        assert_eq!(target, 0x1007 - 0x27);
        let Look::Through(_, count) = state.look(&[0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0], target) else { panic!() };
        assert_eq!(count, CountPlace::Argument(4));
    }

    #[test]
    fn what_is_no_code_is_survived() {
        for byte in 0..=255 {
            for length in 0..20 {
                look(&vec![byte; length], byte % 2 == 0);
            }
        }
        assert!(sites(Path::new("/nowhere"), &[]).is_err());
        assert!(sites(Path::new("/proc/self/status"), &[]).is_err());
    }

    #[test]
    fn a_name_is_found_wherever_it_lies_in_a_table() {
        let wanted = [Wanted { symbol: "SSL_read", counts: false, through: true }];
        let file = tempfile::tempfile().unwrap();
        for place in (0..40).map(|back| PIECE - back).chain([0, 3 * PIECE + 5]) {
            let mut bytes = vec![b'x'; 4 * PIECE];
            bytes.splice(place..place + 8, *b"SSL_read");
            file.write_all_at(&bytes, 0).unwrap();
            assert!(names_any_within(&file, 0, bytes.len() as u64, &wanted).unwrap(), "{place}");
            assert!(!names_any_within(&file, 0, place as u64 + 7, &wanted).unwrap(), "{place}");
        }
    }

    /// This test's own executable has symbols, and none of OpenSSL's.
    #[test]
    fn a_file_without_the_functions_has_no_sites() {
        let wanted = Wanted { symbol: "SSL_read", counts: false, through: true };
        let own = std::env::current_exe().unwrap();
        assert_eq!(sites(&own, &[wanted]).unwrap().iter().flatten().count(), 0);
    }
}
