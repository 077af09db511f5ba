//! Passes of the kernel over what it has: to read an iterator's file runs its program once for each of them. Knows files and threads,
//! not what a program does.

use std::{
    fs::File,
    io,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel},
    },
    thread,
    time::Duration,
};

use aya::programs::{Iter, ProgramError};

/// How long a pass over what processes have mapped is waited for; over those of one host it takes milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs an iterator once.
pub(super) fn run(program: &mut Iter) -> Result<(), ProgramError> {
    Ok(read(begin(program)?)?)
}

/// Runs an iterator over what processes have mapped once. The kernel waits for the memory lock of each (Linux,
/// kernel/bpf/task_iter.c, `task_vma_seq_get_next`), which somebody may hold for as long as a file system hangs. So it runs on a
/// thread of its own, and goes on after this has returned if it takes long; while it does, there is no other.
///
/// # Errors
/// If the kernel refuses it.
pub(super) fn run_over_mappings(program: &mut Iter) -> Result<(), ProgramError> {
    /// The one that takes long, whichever programs it was of: it holds on to them.
    static UNDER_WAY: Mutex<Option<Receiver<io::Result<()>>>> = Mutex::new(None);
    let mut under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(told) = &*under_way {
        match told.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Ok(Err(error)) => tracing::debug!("a pass over what processes have mapped ended late: {error}"),
            Ok(Ok(())) | Err(TryRecvError::Disconnected) => {}
        }
        *under_way = None;
    }
    let file = begin(program)?;
    let (tell, told) = channel();
    let pass = move || drop(tell.send(read(file)));
    thread::Builder::new().name("steth-pass".into()).spawn(pass)?;
    match told.recv_timeout(PATIENCE) {
        Ok(done) => done?,
        Err(RecvTimeoutError::Timeout) => {
            tracing::debug!("a pass over what processes have mapped takes long: the memory map of one may be locked");
            *under_way = Some(told);
        }
        Err(RecvTimeoutError::Disconnected) => {}
    }
    Ok(())
}

fn begin(program: &mut Iter) -> Result<File, ProgramError> {
    let link = program.attach()?;
    let link = program.take_link(link)?;
    Ok(link.into_file().map_err(io::Error::other)?)
}

/// The program writes nothing; reading runs it.
fn read(mut file: File) -> io::Result<()> {
    io::copy(&mut file, &mut io::sink()).map(drop)
}
