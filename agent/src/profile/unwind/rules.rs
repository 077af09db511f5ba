//! From what a file says of one stretch of code to a [`Rule`]. Knows DWARF's registers and expressions, not where they are
//! read from.

use gimli::{
    CfaRule, Encoding, EndianSlice, Format, LittleEndian, Operation, Register, RegisterRule, UnwindExpression,
    UnwindSection, UnwindTableRow, X86_64,
};
use steth_probes::unwind::{Lack, Rule, SavedBp, WORD};

/// Bytes of a section, in memory.
pub type Bytes<'data> = EndianSlice<'data, LittleEndian>;

/// Operations of an expression that are looked at; those that can become a rule have at most eight.
const MAX_OPERATIONS: usize = 12;
/// Offsets of the interrupted registers from RSP at a signal handler's return, see [`Rule::Signal`].
const SIGNAL_BP: i64 = 120;
const SIGNAL_SP: i64 = 160;
const SIGNAL_IP: i64 = 168;
const ENCODING: Encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };

/// The rule that a row of call frame information says. What has no [`Rule`] of its own is [`Rule::Unsupported`].
pub fn rule<'data, S>(row: &UnwindTableRow<usize>, section: &S, is_signal_frame: bool) -> Rule
where
    S: UnwindSection<Bytes<'data>>,
{
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return Rule::End,
        Some(RegisterRule::Offset(-8)) => {}
        Some(RegisterRule::Expression(ip)) if is_signal_frame => return signal(row, &ip, section),
        _ => return Rule::Unsupported(Lack::ReturnAddress),
    }
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Value::Register(*register, *offset),
        CfaRule::Expression(expression) => match evaluate(expression, section) {
            Some(value) => value,
            None => return Rule::Unsupported(Lack::Expression),
        },
    };
    let (register, a) = match cfa {
        Value::Register(register, offset) => (register, offset),
        Value::Word { register, a, .. } => (register, a),
        Value::Plt(threshold) => return Rule::Plt(threshold),
        Value::Constant(_) => return Rule::Unsupported(Lack::Expression),
    };
    let Some(a) = words(a) else { return Rule::Unsupported(Lack::Offset) };
    let is_other = register != X86_64::RSP && register != X86_64::RBP;
    match cfa {
        Value::Word { .. } if is_other => Rule::Unsupported(Lack::Register),
        Value::Word { b, .. } => of_word(register, a, b, row, section),
        _ if is_other => match u8::try_from(register.0) {
            Ok(number) if number < 16 => {
                Rule::Register { register: number, words: a, bp: saved_bp(row, section, Some((register, a))) }
            }
            _ => Rule::Unsupported(Lack::Register),
        },
        _ => {
            let Ok(words) = u32::try_from(a) else { return Rule::Unsupported(Lack::Offset) };
            let bp = saved_bp(row, section, Some((register, a)));
            if register == X86_64::RSP { Rule::Sp { words, bp } } else { Rule::Bp { words, bp } }
        }
    }
}

/// CFA = *(register + a) + b.
fn of_word<'data, S>(register: Register, a: i32, b: i64, row: &UnwindTableRow<usize>, section: &S) -> Rule
where
    S: UnwindSection<Bytes<'data>>,
{
    let Some(b) = words(b).and_then(|b| u32::try_from(b).ok()) else { return Rule::Unsupported(Lack::Offset) };
    if register == X86_64::RBP
        && let Some(RegisterRule::Expression(expression)) = row.register(X86_64::RBP)
        && let Some(Value::Register(X86_64::RBP, offset)) = evaluate(&expression, section)
        && let Some(bp) = words(offset)
    {
        return Rule::Realigned { a, b, bp };
    }
    let bp = saved_bp(row, section, None);
    if register == X86_64::RSP { Rule::SpWord { a, b, bp } } else { Rule::BpWord { a, b, bp } }
}

/// Where the caller's RBP is; `cfa` is the CFA's register and words, if it is made of these.
fn saved_bp<'data, S>(row: &UnwindTableRow<usize>, section: &S, cfa: Option<(Register, i32)>) -> SavedBp
where
    S: UnwindSection<Bytes<'data>>,
{
    let below = |words: i32| match u32::try_from(words) {
        Ok(words) if words > 0 => SavedBp::BelowCfa(words),
        _ => SavedBp::Lost,
    };
    match row.register(X86_64::RBP) {
        // A callee leaves it as it was (System V ABI for AMD64, section 3.2.1).
        None | Some(RegisterRule::SameValue | RegisterRule::Register(X86_64::RBP)) => SavedBp::Unchanged,
        Some(RegisterRule::Offset(offset)) => words(offset).map_or(SavedBp::Lost, |offset| below(-offset)),
        Some(RegisterRule::Expression(expression)) => {
            let Some(Value::Register(register, offset)) = evaluate(&expression, section) else { return SavedBp::Lost };
            let offset = cfa.filter(|&(of, _)| of == register).and_then(|(_, cfa)| Some(cfa - words(offset)?));
            offset.map_or(SavedBp::Lost, below)
        }
        Some(_) => SavedBp::Lost,
    }
}

/// The return of a signal handler, if the registers are where the kernel puts them.
fn signal<'data, S>(row: &UnwindTableRow<usize>, ip: &UnwindExpression<usize>, section: &S) -> Rule
where
    S: UnwindSection<Bytes<'data>>,
{
    let CfaRule::Expression(cfa) = row.cfa() else { return Rule::Unsupported(Lack::ReturnAddress) };
    let Some(RegisterRule::Expression(bp)) = row.register(X86_64::RBP) else {
        return Rule::Unsupported(Lack::ReturnAddress);
    };
    let found = (evaluate(cfa, section), evaluate(ip, section), evaluate(&bp, section));
    let expected = (
        Some(Value::Word { register: X86_64::RSP, a: SIGNAL_SP, b: 0 }),
        Some(Value::Register(X86_64::RSP, SIGNAL_IP)),
        Some(Value::Register(X86_64::RSP, SIGNAL_BP)),
    );
    if found == expected { Rule::Signal } else { Rule::Unsupported(Lack::ReturnAddress) }
}

/// An offset in words; `None` if it is no multiple of their size, or far from what any frame has.
fn words(bytes: i64) -> Option<i32> {
    let word = WORD.cast_signed();
    // Less than a quarter of what has room, so that sums and differences have as well.
    i32::try_from(bytes / word).ok().filter(|words| bytes % word == 0 && words.unsigned_abs() < 1 << 29)
}

/// What an expression computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Constant(i64),
    /// A register's value and an offset.
    Register(Register, i64),
    /// The word at a register's value and `a`, and `b` more.
    Word {
        register: Register,
        a: i64,
        b: i64,
    },
    /// What linkers write for their procedure linkage tables: RSP + 8, and 8 more if RIP's last four bits are not less than this.
    Plt(u8),
}

/// `None` if it is of no kind that there are rules of.
fn evaluate<'data, S>(expression: &UnwindExpression<usize>, section: &S) -> Option<Value>
where
    S: UnwindSection<Bytes<'data>>,
{
    let expression = expression.get(section).ok()?;
    let mut operations = expression.operations(ENCODING);
    let mut seen = Vec::with_capacity(MAX_OPERATIONS);
    while let Some(operation) = operations.next().ok()? {
        if seen.len() == MAX_OPERATIONS {
            return None;
        }
        seen.push(operation);
    }
    plt(&seen).or_else(|| {
        let mut stack = Vec::with_capacity(MAX_OPERATIONS);
        for operation in &seen {
            apply(operation, &mut stack)?;
        }
        stack.pop()
    })
}

fn plt(operations: &[Operation<Bytes<'_>>]) -> Option<Value> {
    use Operation::{And, Ge, Plus, RegisterOffset, Shl, UnsignedConstant};
    match operations {
        [
            RegisterOffset { register: X86_64::RSP, offset: 8, .. },
            RegisterOffset { register: X86_64::RA, offset: 0, .. },
            UnsignedConstant { value: 15 },
            And,
            UnsignedConstant { value: threshold },
            Ge,
            UnsignedConstant { value: 3 },
            Shl,
            Plus,
        ] => u8::try_from(*threshold).ok().filter(|&threshold| threshold < 16).map(Value::Plt),
        _ => None,
    }
}

fn apply(operation: &Operation<Bytes<'_>>, stack: &mut Vec<Value>) -> Option<()> {
    let value = match operation {
        Operation::RegisterOffset { register, offset, .. } => Value::Register(*register, *offset),
        Operation::UnsignedConstant { value } => Value::Constant(i64::try_from(*value).ok()?),
        Operation::SignedConstant { value } => Value::Constant(*value),
        Operation::PlusConstant { value } => plus(stack.pop()?, Value::Constant(i64::try_from(*value).ok()?))?,
        Operation::Plus => plus(stack.pop()?, stack.pop()?)?,
        Operation::Minus => {
            let Value::Constant(less) = stack.pop()? else { return None };
            plus(stack.pop()?, Value::Constant(less.checked_neg()?))?
        }
        Operation::Deref { size: 8, space: false, .. } => {
            let Value::Register(register, a) = stack.pop()? else { return None };
            Value::Word { register, a, b: 0 }
        }
        Operation::Nop => return Some(()),
        _ => return None,
    };
    stack.push(value);
    Some(())
}

fn plus(one: Value, other: Value) -> Option<Value> {
    match (one, other) {
        (Value::Constant(one), Value::Constant(other)) => one.checked_add(other).map(Value::Constant),
        (Value::Register(register, offset), Value::Constant(more))
        | (Value::Constant(more), Value::Register(register, offset)) => {
            offset.checked_add(more).map(|offset| Value::Register(register, offset))
        }
        (Value::Word { register, a, b }, Value::Constant(more))
        | (Value::Constant(more), Value::Word { register, a, b }) => {
            b.checked_add(more).map(|b| Value::Word { register, a, b })
        }
        _ => None,
    }
}
