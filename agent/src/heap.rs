//! What the program allocates from.
//!
//! An agent holds little for long and much for a moment: programs' types as they are loaded, symbols while a profile is drawn. The C
//! library's heap keeps a page for one byte that is left on it, and what one thread has let go of from another; jemalloc keeps
//! sizes apart and gives pages back by itself. Measured after profiles of 2,000 programs (Linux 6.18, glibc 2.36): 81 MiB
//! resident, 138 with the C library's heap although that was bounded and told to give back; 29 and 47 after the start.

use std::ffi::c_char;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static HEAP: Jemalloc = Jemalloc;

/// A text for C.
#[repr(transparent)]
struct Text(*const c_char);

// SAFETY: it points to a constant.
unsafe impl Sync for Text {}

/// Two arenas, for it is rarely more than two threads that allocate; pages that are free go back after half a second, by a thread of
/// jemalloc's own, also when nobody allocates any more. It looks for a variable of this name.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Text = Text(c"narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0,background_thread:true".as_ptr());
