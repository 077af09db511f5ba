//! How plain data crosses between kernel and user space: the one macro that lays it out, the one
//! unsafe trait that vouches for it, the one function that reads it back.

/// Plain old data: any bit pattern of the right length is a valid value, and there is no padding.
///
/// # Safety
/// Only [`record!`] implements this. It asserts that the fields fill the type without a gap and
/// that each of them is plain data itself.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers have no invalid bit patterns and no padding.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for i64 {}
// SAFETY: an array of plain values has no gaps between them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Declares a `#[repr(C)]` struct of plain fields that both sides share, and checks at compile time
/// that it has no hidden padding.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* pub $field:ident : $ty:ty, )+
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )+
        }

        const _: () = {
            const fn plain<T: $crate::record::Plain>() -> usize { size_of::<T>() }
            assert!(size_of::<$name>() == 0 $( + plain::<$ty>() )+, "hidden padding");
        };

        // SAFETY: every field is plain and the assertion above rules out gaps.
        unsafe impl $crate::record::Plain for $name {}

        impl $name {
            /// The value whose every byte is zero.
            #[allow(dead_code, reason = "not every record starts empty")]
            pub const fn zeroed() -> Self {
                // SAFETY: all bit patterns are valid for plain data.
                unsafe { core::mem::zeroed() }
            }
        }
    };
}
pub(crate) use record;

/// Reads a value from the start of `bytes`; `None` if there are too few. Longer input is allowed, so
/// that a record can be followed by text.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the length was checked, `read_unaligned` needs no alignment, and any bits make a `T`.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of a value, for writing it to a map.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: plain data has no padding, so all its bytes are initialised.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Sets every byte to zero, eight at a time. What the compiler makes of an assignment of zeros for BPF is a call of a loop
/// over single bytes, several nanoseconds in programs that have few.
#[inline(always)]
pub fn clear<T: Plain>(value: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8, "not made of words") };
    let words = core::ptr::from_mut(value).cast::<u64>();
    for at in 0..size_of::<T>() / 8 {
        // SAFETY: `at` is within the value.
        let word = unsafe { words.add(at) };
        // SAFETY: the alignment was checked, and all bit patterns are valid.
        unsafe { word.write_volatile(0) };
    }
}

/// Copies words one by one, without the stack: the compiler would load many of them before it writes the first.
#[inline(always)]
pub fn copy<const N: usize>(from: &[u64; N], to: &mut [u64; N]) {
    for (from, to) in from.iter().zip(to) {
        // SAFETY: a reference.
        let word = unsafe { core::ptr::from_ref(from).read_volatile() };
        // SAFETY: a reference.
        unsafe { core::ptr::from_mut(to).write_volatile(word) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// Two fields, for the tests.
        pub struct Pair { pub a: u32, pub b: [u8; 4], }
    }

    #[test]
    fn zeroed_is_zero_in_every_byte() {
        assert_eq!(bytes_of(&Pair::zeroed()), [0; 8]);
    }

    #[test]
    fn a_copy_is_the_same() {
        let mut copied = [0; 3];
        copy(&[1, 2, u64::MAX], &mut copied);
        assert_eq!(copied, [1, 2, u64::MAX]);
    }

    #[test]
    fn clear_leaves_only_zeros() {
        let mut words = [u64::MAX; 3];
        clear(&mut words);
        assert_eq!(words, [0; 3]);
    }

    #[test]
    fn a_short_slice_reads_as_nothing_and_a_long_one_as_its_head() {
        let pair = Pair { a: 7, b: [1, 2, 3, 4] };
        let bytes = bytes_of(&pair);
        for len in 0..bytes.len() {
            assert!(read::<Pair>(&bytes[..len]).is_none());
        }
        let mut long = bytes.to_vec();
        long.push(9);
        let back = read::<Pair>(&long).unwrap();
        assert_eq!((back.a, back.b), (7, [1, 2, 3, 4]));
    }
}
