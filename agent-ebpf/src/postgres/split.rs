//! What a server's requests spent their time with goes into cells here.

use aya_ebpf::bindings::BPF_NOEXIST;
use steth_probes::{
    cell::{CellKey, HistogramKind, Loss},
    postgres::{STATEMENT_OTHER, Wire},
    wall::{STATES, StatementWall},
};

use super::sink::{Sink, key};
use crate::{
    cells::{add, lost},
    maps::STATEMENT_WALLS,
    wall,
};

impl Sink {
    /// Finds out what the request spent that has just ended. Not within [`Sink::add_split`]: before Linux 6.13 all calls under
    /// way have 512 bytes of stack together.
    #[inline(never)]
    pub fn split(&mut self, wire: &Wire, duration_ns: u64) {
        // SAFETY: a map value; this CPU's own work space.
        let (sock, split) = unsafe { ((*self.entry).sock, &mut (*self.scratch).split) };
        wall::request_ended(sock, wire.ended().begun_ns, duration_ns, wire.is_active(), split);
    }

    /// Adds it to what the statement's requests spent.
    #[inline(never)]
    pub fn add_split(&mut self, wire: &Wire, statement: u32) -> Option<()> {
        let walk = self.walk();
        let mut key = key(HistogramKind::PostgresQuery, walk.role as u8, walk.service, wire.database, statement);
        let cell = match STATEMENT_WALLS.get_ptr_mut(&key) {
            Some(cell) => cell,
            None => first(&mut key)?,
        };
        // SAFETY: this CPU's own work space.
        let split = unsafe { &(*self.scratch).split };
        for at in 0..STATES {
            let ns = split.ns[at];
            if ns != 0 {
                // SAFETY: a map value of this CPU; the index is within it.
                add(unsafe { (&raw mut (*cell).ns).cast::<u64>().add(at) }, ns);
            }
        }
        None
    }
}

/// Makes a cell. Where there is no room, what is spent goes under "other".
#[inline(never)]
fn first(key: &mut CellKey) -> Option<*mut StatementWall> {
    static NONE: StatementWall = StatementWall::zeroed();
    let own = key.b;
    // First, so that a statement without a cell of its own can always be counted under this one.
    key.b = STATEMENT_OTHER;
    let _ = STATEMENT_WALLS.insert(&*key, &NONE, BPF_NOEXIST.into());
    key.b = own;
    let _ = STATEMENT_WALLS.insert(&*key, &NONE, BPF_NOEXIST.into());
    if let Some(cell) = STATEMENT_WALLS.get_ptr_mut(&*key) {
        return Some(cell);
    }
    lost(Loss::WallsFull);
    key.b = STATEMENT_OTHER;
    STATEMENT_WALLS.get_ptr_mut(&*key)
}
