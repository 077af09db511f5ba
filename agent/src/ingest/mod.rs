//! From bytes to typed events: reads the kernel's maps and its ring of records. Everything that cannot be decoded is
//! counted; nothing here knows what a figure means.

mod backends;
mod cells;
mod records;
mod samples;
mod sockets;

pub use backends::find as find_backends;
pub use cells::Cells;
pub use records::{Records, Traces};
pub use samples::Samples;
