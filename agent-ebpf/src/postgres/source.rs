//! What a process read or wrote, fetched from its memory piece by piece.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use steth_probes::postgres::Source;

use super::scratch::{Scratch, WINDOW, Walk};
use crate::kernel::{opaque, read_user};

/// Bytes of one read or write as they lie in the process' memory.
pub struct UserBytes(pub *mut Scratch);

impl UserBytes {
    #[inline(always)]
    pub fn walk(&self) -> &'static mut Walk {
        // SAFETY: this CPU's own work space; a program is not interrupted by another that uses it.
        unsafe { &mut (*self.0).walk }
    }

    /// Fetches from the next byte on.
    #[inline(never)]
    fn fill(&mut self) -> bool {
        let walk = self.walk();
        // Hidden before it is compared, so that the comparison is what the verifier sees last.
        let mut count = opaque(walk.left);
        if count > WINDOW as u32 {
            count = WINDOW as u32;
        }
        walk.window_at = 0;
        walk.window_len = 0;
        // SAFETY: this CPU's own work space; `count` is at most the window's length.
        let result =
            unsafe { bpf_probe_read_user((&raw mut (*self.0).window).cast(), count, walk.address as *const c_void) };
        if result == 0 {
            walk.window_len = count;
        }
        result == 0
    }

    #[inline(always)]
    fn window_byte(&self, at: u32) -> u8 {
        // SAFETY: the index is cut to the window; that changes no valid one.
        unsafe { (&raw const (*self.0).window).cast::<u8>().add(at as usize & (WINDOW - 1)).read() }
    }

    /// Four bytes in network order.
    #[inline(always)]
    fn window_word(&self, at: u32) -> u32 {
        // SAFETY: as above; behind the window there is room for what a word at its end reaches.
        let place = unsafe { (&raw const (*self.0).window).cast::<u8>().add(at as usize & (WINDOW - 1)) };
        let word: u32;
        // SAFETY: as above. In assembly, because the compiler would load byte by byte: it does not know that x86-64 minds no
        // alignment.
        unsafe { asm!("{word} = *(u32 *)({place} + 0)", word = out(wreg) word, place = in(reg) place) };
        u32::from_be(word)
    }

    /// Goes on to the next buffer; false if there is none.
    #[inline(always)]
    pub fn next_buffer(&mut self) -> bool {
        let walk = self.walk();
        if walk.beyond == 0 || walk.vector_left == 0 {
            return false;
        }
        let Some([base, length]) = read_user::<[u64; 2]>(walk.vector) else { return false };
        walk.vector += 16;
        walk.vector_left -= 1;
        walk.address = base;
        walk.left = if length > walk.beyond as u64 { walk.beyond } else { length as u32 };
        walk.beyond -= walk.left;
        walk.window_at = 0;
        walk.window_len = 0;
        true
    }
}

impl Source for UserBytes {
    #[inline(always)]
    fn address(&self) -> u64 {
        self.walk().address
    }

    #[inline(always)]
    fn left(&self) -> u32 {
        self.walk().left
    }

    #[inline(always)]
    fn header(&mut self) -> Option<[u8; 5]> {
        let walk = self.walk();
        if walk.left < 5 {
            return None;
        }
        if walk.window_at + 5 > walk.window_len && !self.fill() {
            return None;
        }
        let at = walk.window_at;
        Some([
            self.window_byte(at),
            self.window_byte(at + 1),
            self.window_byte(at + 2),
            self.window_byte(at + 3),
            self.window_byte(at + 4),
        ])
    }

    #[inline(always)]
    fn whole(&mut self) -> Option<(u8, u32)> {
        let walk = self.walk();
        if walk.left < 5 || walk.window_at + 5 > walk.window_len && !self.fill() {
            return None;
        }
        let (tag, length) = (self.window_byte(walk.window_at), self.window_word(walk.window_at + 1));
        if length >= walk.left || length >= WINDOW as u32 {
            return None;
        }
        if walk.window_at + length >= walk.window_len && !self.fill() {
            return None;
        }
        Some((tag, length))
    }

    #[inline(always)]
    fn window(&self, offset: u32) -> u8 {
        self.window_byte(self.walk().window_at + offset)
    }

    #[inline(always)]
    fn byte_at(&mut self, offset: u32) -> Option<u8> {
        let walk = self.walk();
        if offset >= walk.left {
            return None;
        }
        if offset != 0 {
            return read_user::<u8>(walk.address + offset as u64);
        }
        if walk.window_at >= walk.window_len && !self.fill() {
            return None;
        }
        Some(self.window_byte(walk.window_at))
    }

    #[inline(always)]
    fn ahead(&mut self, offset: u32) -> Option<u8> {
        let walk = self.walk();
        if offset >= walk.left {
            return None;
        }
        read_user::<u8>(walk.address + offset as u64)
    }

    #[inline(always)]
    fn advance(&mut self, count: u32) {
        let walk = self.walk();
        walk.address += count as u64;
        walk.left = walk.left.saturating_sub(count);
        walk.window_at = walk.window_at.saturating_add(count);
    }
}
