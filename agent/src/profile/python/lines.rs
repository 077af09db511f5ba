//! From an instruction to its line, by the tables in code objects. Knows bytes, no memory and no objects.

/// The line of the instruction at so many bytes from the first, in a table of CPython 3.10 (`Objects/lnotab_notes.txt`):
/// pairs of a length in bytes and what the line differs by; -128 for instructions without a line.
pub fn of_pairs(table: &[u8], first_line: u32, instruction: u32) -> Option<u32> {
    let mut line = i64::from(first_line);
    let mut end = 0;
    for pair in table.chunks_exact(2) {
        let [length, delta] = pair else { continue };
        end += u32::from(*length);
        let delta = delta.cast_signed();
        if delta != i8::MIN {
            line += i64::from(delta);
        }
        if instruction < end {
            return if delta == i8::MIN { None } else { u32::try_from(line).ok() };
        }
    }
    None
}

/// The same in a table of CPython 3.11 and later (`Objects/locations.md`): entries of a first byte with its highest bit set,
/// with a kind and a length in units of two bytes, and what the kind asks for.
pub fn of_locations(table: &[u8], first_line: u32, instruction: u32) -> Option<u32> {
    let mut line = i64::from(first_line);
    let mut end = 0;
    let mut bytes = table.iter().copied().peekable();
    while let Some(head) = bytes.next() {
        let (kind, units) = ((head >> 3) & 15, u32::from(head & 7) + 1);
        let mut has_line = true;
        match kind {
            // No line at all.
            15 => has_line = false,
            // Long, and without columns.
            13 | 14 => line += signed(&mut bytes)?,
            // One byte says by how many lines, this one.
            10..=12 => line += i64::from(kind - 10),
            // Short: the same line.
            _ => {}
        }
        end += units * 2;
        if instruction < end {
            return if has_line { u32::try_from(line).ok() } else { None };
        }
        // Columns are passed over: all but a first byte have the highest bit clear.
        while bytes.next_if(|byte| byte & 0x80 == 0).is_some() {}
    }
    None
}

/// Six bits a byte, the lowest first, the seventh set if more follow; the lowest bit of all is the sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0_u64;
    let mut shift = 0;
    loop {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63).checked_shl(shift)?;
        shift += 6;
        if byte & 64 == 0 {
            break;
        }
        if shift > 36 {
            return None;
        }
    }
    let size = i64::try_from(value >> 1).ok()?;
    Some(if value & 1 == 0 { size } else { -size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_say_the_line_of_each_instruction() {
        // Two bytes on line 10, four on 12, two without, two on 9.
        let table = [2, 0, 4, 2, 2, 0x80, 2, 0xfd];
        let lines: Vec<_> = (0..12).step_by(2).map(|at| of_pairs(&table, 10, at)).collect();
        assert_eq!(lines, [Some(10), Some(12), Some(12), None, Some(9), None]);
    }

    #[test]
    fn locations_say_the_line_of_each_instruction() {
        // Kind 15; kind 11 with two bytes of columns; short; long by +70; without columns by -2.
        let table = [
            0x80 | 15 << 3,
            0x80 | 11 << 3 | 1,
            1,
            2,
            0x80 | 3 << 3,
            5,
            0x80 | 14 << 3,
            0b0100_1100,
            0b0000_0010,
            1,
            1,
            1,
            0x80 | 13 << 3,
            0b0000_0101,
        ];
        let lines: Vec<_> = (0..14).step_by(2).map(|at| of_locations(&table, 10, at)).collect();
        assert_eq!(lines, [None, Some(11), Some(11), Some(11), Some(81), Some(79), None]);
    }

    #[test]
    fn damaged_tables_are_survived() {
        for byte in 0..=255 {
            for length in 0..20 {
                let table = vec![byte; length];
                of_pairs(&table, u32::MAX, u32::MAX);
                of_locations(&table, u32::MAX, u32::MAX);
                of_locations(&table, 0, 3);
            }
        }
    }
}
