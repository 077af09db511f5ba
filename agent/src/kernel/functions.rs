//! Where in a file of code functions are probed: finds them by symbol, and of each the address that costs least. Knows ELF
//! and x86-64, not what the functions do.
//!
//! The kernel replaces the instruction under a probe by a breakpoint. What it can emulate it does; anything else it runs
//! elsewhere in a single step, which is ten times as slow (`arch/x86/kernel/uprobes.c`: `branch_setup_xol_ops`,
//! `push_setup_xol_ops`). So the first instruction that it can emulate is looked for, as far as arguments and stack are
//! as at the beginning; where there is none, in the function that this one hands its arguments to.

use std::{fs::File, io, path::Path};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, SymbolKind};
use steth_probes::tls::CountPlace;
use thiserror::Error;

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
    let cache = ReadCache::new(File::open(path)?);
    let file = object::File::parse(&cache)?;
    if file.architecture() != object::Architecture::X86_64 || !names_any(&file, wanted) {
        return Ok(Vec::new());
    }
    let mut addresses: Vec<Option<u64>> = vec![None; wanted.len()];
    for symbol in file.dynamic_symbols().chain(file.symbols()) {
        if !symbol.is_definition() || symbol.kind() != SymbolKind::Text {
            continue;
        }
        let Ok(name) = symbol.name_bytes() else { continue };
        // A static table may bear the version: `SSL_read@@OPENSSL_3.0.0`.
        let name = name.split(|byte| *byte == b'@').next().unwrap_or_default();
        if let Some(at) = wanted.iter().position(|wanted| wanted.symbol.as_bytes() == name)
            && let Some(address) = addresses.get_mut(at)
        {
            *address = Some(symbol.address());
        }
    }
    if addresses.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let code = Code { file: &file };
    Ok(addresses.into_iter().zip(wanted).map(|(address, wanted)| code.site(address?, wanted)).collect())
}

/// Whether any of the names stands in a table of names: much faster than going through the symbols.
fn names_any<'a>(file: &impl object::Object<'a>, wanted: &[Wanted]) -> bool {
    let tables = file.sections().filter(|section| matches!(section.name_bytes(), Ok(b".dynstr" | b".strtab")));
    let mut names = tables.filter_map(|section| section.data().ok());
    names.any(|names| wanted.iter().any(|wanted| memchr::memmem::find(names, wanted.symbol.as_bytes()).is_some()))
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
            (inside < size).then(|| start + inside)
        })
    }

    fn bytes(&self, address: u64) -> Option<&'d [u8]> {
        self.file.segments().find_map(|segment| {
            let end = segment.address() + segment.file_range().1;
            let length = end.checked_sub(address)?.min(LOOK_BYTES);
            segment.data_range(address, length).ok().flatten()
        })
    }

    fn look(&self, address: u64, counts: bool) -> Look {
        match self.bytes(address) {
            Some(bytes) => look(bytes, address, counts),
            None => Look::Neither,
        }
    }
}

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

/// `counts`: the function's fourth argument is a pointer to a count.
fn look(bytes: &[u8], address: u64, counts: bool) -> Look {
    let mut info = InstructionInfoFactory::new();
    let mut holds = [Holds::Argument, Holds::Argument, Holds::Argument, Holds::Other, Holds::Other];
    if counts {
        holds[COUNT] = Holds::Count;
    }
    let mut intact = true;
    for instruction in Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).iter() {
        if instruction.is_invalid() {
            return Look::Neither;
        }
        if intact && is_emulated(&instruction) {
            return Look::Here(instruction.ip());
        }
        match instruction.flow_control() {
            // A branch that is not taken; it is where a length below zero goes.
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            FlowControl::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
                return through(instruction.near_branch_target(), holds);
            }
            _ => return Look::Neither,
        }
        for used in info.info(&instruction).used_registers() {
            if !matches!(
                used.access(),
                OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
            ) {
                continue;
            }
            let register = used.register().full_register();
            intact &= register != Register::RSP && !ARGUMENTS.contains(&register);
            let Some(at) = ARGUMENTS.iter().position(|argument| *argument == register) else { continue };
            let now = written(&instruction, at, &holds);
            if let Some(slot) = holds.get_mut(at) {
                *slot = now;
            }
        }
    }
    Look::Neither
}

/// What an argument's register holds after an instruction that writes it.
fn written(instruction: &Instruction, at: usize, before: &[Holds; ARGUMENTS.len()]) -> Holds {
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

/// A call that hands on the first three arguments, and with them a pointer to a count.
fn through(callee: u64, holds: [Holds; ARGUMENTS.len()]) -> Look {
    let [ssl, buffer, length, fourth, fifth] = holds;
    if [ssl, buffer, length] != [Holds::Argument; 3] {
        return Look::Neither;
    }
    match (fourth, fifth) {
        (Holds::Count, Holds::Other) => Look::Through(callee, CountPlace::Argument(3)),
        (Holds::Other, Holds::Count) => Look::Through(callee, CountPlace::Argument(4)),
        _ => Look::Neither,
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
