//! Attaches the probes of OpenSSL to files that hold it. Knows which functions those are and what their arguments mean, not
//! which files there are.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        Program, ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
};
use steth_probes::{
    catalog::{Feature, LIBRARY_PROBES, LibraryProbe},
    tls::{TlsCallKind, cookie},
};

use super::{
    functions::{CodeError, Site, Wanted, sites},
    lacks::Lacks,
    report::refusal,
};
use crate::{
    files::{close_apart, open_regular},
    model::probe::ProbeState,
};

/// Files that are attached to at most. Each takes up to a dozen of the agent's descriptors.
const FILES: usize = 64;

/// What is looked for, and what it does; `SSL_free` only ends what the others began.
const FUNCTIONS: &[(Wanted, Option<TlsCallKind>)] = &[
    (wanted("SSL_read", false, true), Some(TlsCallKind::Read)),
    (wanted("SSL_read_ex", true, true), Some(TlsCallKind::Read)),
    (wanted("SSL_write", false, true), Some(TlsCallKind::Write)),
    (wanted("SSL_write_ex", true, true), Some(TlsCallKind::Write)),
    (wanted("SSL_do_handshake", false, false), Some(TlsCallKind::Handshake)),
    (wanted("SSL_free", false, false), None),
];

const fn wanted(symbol: &'static str, counts: bool, through: bool) -> Wanted {
    Wanted { symbol, counts, through }
}

/// What became of attaching to a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is attached to.
    Attached(Attached),
    /// It could not be attached to.
    Failed(String),
}

/// A file that holds OpenSSL.
#[derive(Debug)]
pub struct Found {
    /// What people know it by.
    pub name: PathBuf,
    file: File,
    sites: Vec<Option<Site>>,
}

/// Looks for OpenSSL in a file, which reads it; nothing if it holds none. May wait for the process that has it mapped, and for its
/// file system.
///
/// # Errors
/// If the file is not there any more.
pub fn search(path: &Path) -> io::Result<Option<Found>> {
    let wanted: Vec<Wanted> = FUNCTIONS.iter().map(|(wanted, _)| *wanted).collect();
    match sites(path, &wanted) {
        Ok(sites) if sites.iter().flatten().next().is_some() => {
            let name = fs::read_link(path).map_or_else(|_| path.to_owned(), |target| path.with_file_name(target));
            Ok(Some(Found { name, file: open_regular(path)?, sites }))
        }
        Ok(_) => Ok(None),
        Err(CodeError::Read(error)) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(error) => {
            tracing::debug!("{}: not looked at: {error}", path.display());
            Ok(None)
        }
    }
}

/// A file that is attached to.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached {
    /// Whether the kernel must run an instruction in single step at each call.
    pub slow: bool,
    links: Vec<(&'static str, UProbeLinkId)>,
}

/// The programs of the probes of OpenSSL, as the object has them.
pub type Programs<'a> = Vec<(&'static LibraryProbe, Option<&'a mut Program>)>;

/// The state of the probes of OpenSSL.
#[derive(Debug, Default)]
pub struct Library {
    files: usize,
    slow: usize,
    refused: usize,
}

impl Library {
    /// Loads the programs if they are wanted. They run nowhere yet.
    pub fn load(
        programs: Programs<'_>,
        lacks: &Lacks,
        features: &[Feature],
    ) -> Vec<(&'static LibraryProbe, ProbeState)> {
        let load = |program: Option<&mut Program>| {
            if !features.contains(&Feature::Tls) {
                return ProbeState::Off;
            }
            if let Some(reason) = lacks.refuse(Feature::Tls) {
                return ProbeState::Unavailable { reason };
            }
            let loaded = program.ok_or(ProgramError::NotLoaded).and_then(|program| {
                let program: &mut UProbe = program.try_into()?;
                program.load()
            });
            match loaded {
                Ok(()) => ProbeState::Attached,
                Err(error) => ProbeState::Unavailable { reason: refusal(&error) },
            }
        };
        programs.into_iter().map(|(probe, program)| (probe, load(program))).collect()
    }

    /// How the probes do that could be loaded.
    pub fn state(&self) -> ProbeState {
        let Self { files, slow, refused } = *self;
        if files == 0 {
            return ProbeState::Unavailable { reason: "no file with OpenSSL is in use on this host yet".into() };
        }
        if slow > 0 {
            let reason = format!(
                "in {slow} of {files} files with OpenSSL the kernel cannot emulate the first instructions: each call takes \
                 10 µs more"
            );
            return ProbeState::Partial { reason };
        }
        if refused > 0 {
            let reason = format!("{} files with OpenSSL are in use, and there is room for {FILES}", files + refused);
            return ProbeState::Partial { reason };
        }
        ProbeState::Attached
    }

    /// Attaches to a file that holds OpenSSL.
    pub fn attach(&mut self, ebpf: &mut Ebpf, found: Found) -> Looked {
        if self.files >= FILES {
            self.refused += 1;
            return Looked::Failed(format!("{FILES} files with OpenSSL are attached to already"));
        }
        let Found { file, sites, .. } = found;
        // Nobody else is on the way to it.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut attached = Attached { slow: false, links: Vec::new() };
        let done = attach(ebpf, &path, &sites, &mut attached);
        close_apart(file);
        match done {
            Ok(()) => {
                self.files += 1;
                self.slow += usize::from(attached.slow);
                Looked::Attached(attached)
            }
            Err(error) => {
                detach(ebpf, attached);
                Looked::Failed(reason(&error))
            }
        }
    }

    /// Leaves a file alone again.
    pub fn leave(&mut self, ebpf: &mut Ebpf, attached: Attached) {
        self.files -= 1;
        self.slow -= usize::from(attached.slow);
        detach(ebpf, attached);
    }
}

fn attach(ebpf: &mut Ebpf, path: &Path, sites: &[Option<Site>], into: &mut Attached) -> Result<(), ProgramError> {
    // Two functions may lead to one.
    let mut done = HashSet::new();
    for ((_, kind), site) in FUNCTIONS.iter().zip(sites) {
        let Some(site) = site.filter(|site| done.insert(site.offset)) else { continue };
        // A handshake is slow by itself.
        into.slow |= !site.fast && matches!(kind, Some(TlsCallKind::Read | TlsCallKind::Write));
        for probe in LIBRARY_PROBES.iter().filter(|probe| serves(probe, *kind)) {
            let point = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(site.offset),
                cookie: kind.map(|kind| cookie(kind, site.count)),
            };
            let link = program(ebpf, probe.name)?.attach(point, path, UProbeScope::AllProcesses)?;
            into.links.push((probe.name, link));
        }
    }
    Ok(())
}

/// Whether a probe is for functions of this kind.
fn serves(probe: &LibraryProbe, kind: Option<TlsCallKind>) -> bool {
    match kind {
        None => probe.functions == [FREE],
        // What is written is there at the beginning.
        Some(TlsCallKind::Write) => !probe.at_return && probe.functions != [FREE],
        Some(_) => probe.functions != [FREE],
    }
}

const FREE: &str = "SSL_free";

fn detach(ebpf: &mut Ebpf, attached: Attached) {
    for (name, link) in attached.links {
        match program(ebpf, name).and_then(|program| program.take_link(link)) {
            Ok(link) => close_apart(link),
            Err(error) => tracing::debug!("cannot detach {name}: {error}"),
        }
    }
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut UProbe, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn reason(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
