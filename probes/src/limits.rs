//! Every bound in one place: what a kernel program may hold, copy or walk at most.
//! Those of maps are the most that there can be: the agent makes them as large as its memory budget lets it.

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
/// Counter cells among them that are kept for what found no room: one for each kind and each of its second labels.
pub const COUNTERS_OTHER: u32 = 64;
/// Sockets that are followed at one time; the least recently used one is forgotten first.
pub const CONNECTIONS: u32 = 262_144;
/// Sockets that are taken out of the map in one pass, if they have ended without a word.
pub const ENDED_SOCKETS: usize = 8192;
/// Peer addresses that are told apart; further ones are counted under peer 0, "other".
pub const PEERS: u32 = 1024;
/// Bytes of the ring buffer for records.
pub const RING_BYTES: u32 = 1 << 20;
/// Postgres conversations that are followed at one time; the least recently used one is forgotten first.
pub const WIRES: u32 = 131_072;
/// `SSL`s of OpenSSL whose socket is remembered.
pub const SSLS: u32 = 131_072;
/// Files of code that are remembered as looked at.
pub const CODE_FILES: u32 = 4096;
/// Walks behind TLS that may be under way on one CPU: what runs them may be interrupted by another one.
pub const TLS_WALKS: u32 = 3;
/// Prepared statements and portals that are remembered, of all connections together.
pub const PREPARED: u32 = 262_144;
/// Cycles that are put off because many are under way on their connection, of all connections together.
pub const CYCLES_PUT_OFF: u32 = 4096;
/// Postgres clusters whose processes can be asked what they run.
pub const CLUSTERS: u32 = 64;
/// Statements that are told apart; further ones are counted as "other".
pub const STATEMENTS: u32 = 4096;
/// Statements whose wall split is told apart, of all services, roles and databases; each takes 128 bytes per possible CPU.
pub const WALLS: u32 = 1024;
/// Names of databases and users that are told apart.
pub const DATABASES: u32 = 512;
/// Bytes of the ring buffer for what is traced: 11,000 cycles, a quarter of a second at the highest rate of two cores.
pub const TRACE_BYTES: u32 = 1 << 20;
/// Bytes of the ring buffer for samples: some thousand stacks, seconds of them at a hundred hertz.
pub const SAMPLES_BYTES: u32 = 2 << 20;
/// Least length of a ring buffer: a page.
pub const LEAST_RING_BYTES: u32 = 4096;
/// Files of code whose unwind tables are at hand.
pub const UNWIND_FILES: u32 = 4096;
/// Rows of unwind tables, of all files together; each takes eight bytes. By their measured sizes on Debian 12: PostgreSQL, the C
/// library, Python and OpenSSL have 210,000 together.
pub const UNWIND_ROWS: u32 = 1 << 20;
/// Processes whose frames of Python are told at one time.
pub const PYTHONS: u32 = 1024;
/// Processes and services whose samples are taken at one time, if not everybody's.
pub const TARGETS: u32 = 4096;
/// Buffers of one `readv` or `sendmsg` that are looked at.
pub const BUFFERS: u32 = 1024;
