//! Every bound in one place: what a kernel program may hold, copy or walk at most.
//! The sizes of maps are defaults; the agent lowers or raises them at load within its memory budget.

/// Services that are told apart; further ones are counted under service 0, "other".
pub const SERVICES: u32 = 1024;
/// Length of an executable's name that tells services apart, with the closing zero byte.
pub const EXE_LEN: usize = 40;
/// System call numbers that are told apart: x86-64 uses up to 470 in Linux 6.18.
pub const SYSCALLS: usize = 512;
/// Histogram cells, of all kinds together; each takes 1,176 bytes per possible CPU.
pub const HISTOGRAMS: u32 = 4096;
/// Counter cells, of all kinds together.
pub const COUNTERS: u32 = 8192;
/// Sockets that are followed at one time; the least recently used one is forgotten first.
pub const CONNECTIONS: u32 = 32768;
/// Peer addresses that are told apart; further ones are counted under peer 0, "other".
pub const PEERS: u32 = 1024;
/// Bytes of the ring buffer for records.
pub const RING_BYTES: u32 = 1 << 20;
/// Postgres conversations that are followed at one time; the least recently used one is forgotten first.
pub const WIRES: u32 = 12_288;
/// Prepared statements and portals that are remembered, of all connections together.
pub const PREPARED: u32 = 32_768;
/// Statements that are told apart; further ones are counted as "other".
pub const STATEMENTS: u32 = 4096;
/// Names of databases and users that are told apart.
pub const DATABASES: u32 = 512;
/// Bytes of the ring buffer for what is traced: 11,000 cycles, a quarter of a second at the highest rate of two cores.
pub const TRACE_BYTES: u32 = 1 << 20;
/// Buffers of one `readv` or `sendmsg` that are looked at.
pub const BUFFERS: u32 = 1024;
