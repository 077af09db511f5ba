//! Reads the ring of samples.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{MapData, RingBuf};
use steth_probes::{
    cell::Role,
    message::Header,
    profile::{self, NO_CALL, SampleKind},
    record::read,
    unwind::Stop,
};

use crate::model::sample::{NoTable, Request, Sample, Told};

/// The ring's reader.
pub struct Samples {
    ring: RingBuf<MapData>,
    malformed: u64,
}

impl Samples {
    /// A reader of this ring.
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, malformed: 0 }
    }

    /// What can be waited for: the kernel says that it is to be read when code is run that has no unwind table.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn file(&self) -> io::Result<OwnedFd> {
        self.ring.as_fd().try_clone_to_owned()
    }

    /// Takes all that is there.
    pub fn drain(&mut self) -> Vec<Told> {
        let mut all = Vec::new();
        while let Some(item) = self.ring.next() {
            match decode(&item) {
                Some(told) => all.push(told),
                None => self.malformed += 1,
            }
        }
        all
    }

    /// Records that could not be decoded.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

fn decode(bytes: &[u8]) -> Option<Told> {
    let header: Header = read(bytes)?;
    let kind = SampleKind::from_u8(u8::try_from(header.kind).ok()?)?;
    if kind == SampleKind::NoTable {
        let told: profile::NoTable = read(bytes)?;
        return Some(Told::NoTable(NoTable { file: told.file, slot: told.slot, pid: told.pid, start: told.start }));
    }
    let head: profile::Sample = read(bytes)?;
    let words = bytes.get(size_of::<profile::Sample>()..)?;
    let mut words = words.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes);
    let kernel: Box<[u64]> = words.by_ref().take(head.kernel_frames.into()).collect();
    let user: Box<[u64]> = words.by_ref().take(head.user_frames.into()).collect();
    let python: Box<[u64]> = words.take(head.python_frames.into()).collect();
    if kernel.len() != usize::from(head.kernel_frames)
        || user.len() != usize::from(head.user_frames)
        || python.len() != usize::from(head.python_frames)
    {
        return None;
    }
    let request = Role::from_u8(head.role).filter(|_| head.connection != 0).map(|role| Request {
        connection: head.connection,
        begun_ns: head.request_ns,
        statement: head.statement,
        role,
    });
    Some(Told::Sample(Sample {
        kind,
        at_ns: header.at_ns,
        weight_ns: head.weight_ns,
        thread: head.thread,
        pid: head.pid,
        tid: head.tid,
        service: head.service,
        request,
        kernel,
        user,
        python,
        stop: Stop::from_u8(head.stop),
        walk_ns: head.walk_ns,
        call: Some(head.call).filter(|call| *call != NO_CALL),
    }))
}

#[cfg(test)]
mod tests {
    use steth_probes::record::bytes_of;

    use super::*;

    fn bytes(head: &profile::Sample, frames: &[u64]) -> Vec<u8> {
        let mut bytes = bytes_of(head).to_vec();
        frames.iter().for_each(|frame| bytes.extend(frame.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_stack_is_cut_into_its_parts() {
        let mut head = profile::Sample::zeroed();
        head.header.kind = SampleKind::Demand as u32;
        (head.kernel_frames, head.user_frames, head.python_frames) = (1, 2, 1);
        (head.stop, head.call) = (Stop::End as u8, NO_CALL);
        let Some(Told::Sample(sample)) = decode(&bytes(&head, &[7, 8, 9, 10])) else { panic!("no sample") };
        assert_eq!((&*sample.kernel, &*sample.user, &*sample.python), (&[7][..], &[8, 9][..], &[10][..]));
        assert_eq!((sample.stop, sample.call, sample.request), (Some(Stop::End), None, None));
        assert!(decode(&bytes(&head, &[7, 8, 9])).is_none(), "a frame is missing");
    }

    #[test]
    fn what_is_no_record_is_none() {
        let mut head = profile::Sample::zeroed();
        for kind in [0, 99, 256 + SampleKind::Demand as u32] {
            head.header.kind = kind;
            assert!(decode(&bytes(&head, &[])).is_none(), "{kind}");
        }
        assert!(decode(&[]).is_none());
    }
}
