//! Placeholder until merged.
use crate::record::record;
record! {
    /// state
    pub struct Shape {
    /// h
    pub hash: u64, }
}
impl Shape {
    /// new
    #[inline(always)]
    pub fn new() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325 }
    }
    /// push
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        self.hash = (self.hash ^ byte as u64).wrapping_mul(0x100000001B3)
    }
    /// finish
    #[inline(always)]
    pub fn finish(&self) -> u64 {
        self.hash | 1
    }
}
