//! Profiles for whoever asks: which samples the kernel takes, whose they are, and when a profile is finished.

mod always;
mod steering;

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use steth_probes::{
    cell::Role,
    limits,
    profile::{KERNEL_SLOTS, SampleKind, Sampling, Target},
};

use super::{
    past::{Always, OnPiece},
    pythons::Pythons,
    sampled::Sampled,
    session::{Session, names_in, title},
    unwinding::{News, Unwinding},
    wakes::Wakes,
};
use crate::{
    aggregate::Names,
    config::Config,
    host::Patience,
    ingest::Samples,
    kernel::{self, Kernel, LoadError, sampling::Sampler},
    model::{
        code::FileId,
        profile::Kind,
        sample::{ProfileRefused, ProfileRequest, Request, Told},
        snapshot::Series,
    },
    profile::{
        build::{Files, Recipe},
        code::CodeTable,
        gather::{Gathered, Joiner},
        symbols::{Limits, Symbolizer},
    },
};

/// Profiles that are taken at one time.
const MOST_SESSIONS: usize = 8;
/// Profiles that are over and being made, each on a thread of its own.
const MOST_MADE: usize = 4 * MOST_SESSIONS;
/// Longest profile.
pub const MOST_LENGTH: Duration = Duration::from_secs(600);
/// Samples in a second and CPU, at most.
pub const MOST_HERTZ: u32 = 999;
/// Shortest system call and request that is told: more of them would cost those who make them too much.
const LEAST_WHOLE: Duration = Duration::from_millis(1);
/// How often samples are taken from their ring where nobody wakes who takes them: at most and at least.
const SOON: Duration = Duration::from_millis(20);
const LATE: Duration = Duration::from_millis(100);
/// Samples a second of which the ring has room for a multiple of what comes meanwhile.
const FEW: u64 = 2_000;
/// Files of code that are held open.
const OPEN_FILES: usize = 512;
/// How long those stay open that nobody has mapped any more, beyond the longest profile, whose names are found at its end.
const FILES_KEPT: Duration = Duration::from_secs(60);
/// How long the start of a profile waits for unwind tables at most; on a host that is not overloaded they take milliseconds.
const TABLE_PATIENCE: Duration = Duration::from_secs(2);
/// The same for a profile of all processes, some of which may have large files that hardly run.
const TABLES_OF_ALL_PATIENCE: Duration = Duration::from_millis(150);
/// How long the stacks of threads that wait still are waited for; before that, those that could not be walked are told without.
const WALK_PATIENCE: Duration = Duration::from_secs(50);

/// What takes and makes profiles.
pub struct Profiles {
    samples: Samples,
    sampled: Sampled,
    sampler: Sampler,
    unwinding: Unwinding,
    pythons: Pythons,
    /// With those whose samples come.
    patience: Patience,
    symbolizer: Symbolizer,
    codes: Arc<Mutex<CodeTable>>,
    /// How long a file of code stays open after the last process that had it mapped.
    files_kept: Duration,
    files: Files,
    joiner: Joiner,
    sessions: Vec<Session>,
    /// Held by each thread that makes a profile.
    making: Arc<()>,
    /// The piece under way, of what the clock takes that always runs.
    always: Option<Always>,
    /// Who is told of finished pieces, also when the clock ticks otherwise.
    told: Option<OnPiece>,
    /// What the kernel was told.
    sampling: Sampling,
    targets: Vec<(Target, u32)>,
    /// Hertz of the clock on demand; 0 while it stands.
    hertz: u32,
    waits: bool,
    /// Whether Python was among what was taken last: its names are to be found while it lives.
    was_python: bool,
}

impl Profiles {
    /// Ready to take profiles.
    ///
    /// # Errors
    /// If the maps cannot be used, or no thread can be made.
    pub fn new(kernel: &mut Kernel, config: &Config) -> Result<Self, LoadError> {
        let (sampler, ring) = kernel.sampler()?;
        let codes = Arc::new(Mutex::new(CodeTable::new(OPEN_FILES)));
        let cache = Some(PathBuf::from(CACHE));
        let rows = kernel.unwind_rows();
        let mut profiles = Self {
            samples: Samples::new(ring),
            sampled: Sampled::default(),
            sampler,
            unwinding: Unwinding::start(rows, Arc::clone(&codes), cache)?,
            pythons: Pythons::new(Arc::clone(&codes)),
            patience: Patience::default(),
            symbolizer: Symbolizer::start(Limits::default(), Arc::clone(&codes))?,
            codes,
            files_kept: config.profile.piece.max(MOST_LENGTH) + FILES_KEPT,
            files: Files::default(),
            joiner: Joiner::default(),
            sessions: Vec::new(),
            making: Arc::new(()),
            always: None,
            told: None,
            sampling: Sampling::zeroed(),
            targets: Vec::new(),
            hertz: 0,
            waits: false,
            was_python: false,
        };
        if config.profile.hertz > 0
            && let Err(error) = profiles.start_always(kernel, config)
        {
            tracing::warn!("there are no profiles of the past: {error}; profiles on demand are not concerned");
        }
        Ok(profiles)
    }

    /// Forgets files that no frame can stand for any more; all of them before there is no room, or no number, for others. For when
    /// nobody holds frames.
    fn forget_files(&mut self) {
        self.forget_changed();
        let forgotten = self.sampler.files().and_then(|files| {
            let crowded = files.len() as u32 > limits::UNWIND_FILES / 4 * 3;
            if crowded || self.sampler.slots()? > KERNEL_SLOTS / 4 * 3 {
                self.sampler.forget_files()?;
                self.unwinding.forget_files();
                return Ok(HashSet::new());
            }
            Ok(files.into_iter().map(|(_, file)| file.slot).collect())
        });
        match forgotten {
            Ok(known) => self.files.retain(|slot| known.contains(&slot)),
            Err(error) => tracing::warn!("files of code cannot be forgotten: {error}"),
        }
    }

    /// Closes files of code that nobody runs any more and that no piece needs.
    pub fn let_go(&mut self, mapped: &HashSet<FileId>) {
        if self.codes.lock().unwrap_or_else(PoisonError::into_inner).let_go(mapped, self.files_kept) > 0 {
            self.forget_changed();
        }
    }

    /// Has files met anew that are not any more what they were: written over, or others by the same number. Frames that are held keep the
    /// file that they were of.
    fn forget_changed(&mut self) {
        let forgotten = self.sampler.files().and_then(|mut met| {
            // What was taken for memory is looked at anew.
            let is_other = |slot| slot == 0 || self.files.code(slot).is_some_and(|code| !code.is_unchanged());
            met.retain(|(_, file)| is_other(file.slot));
            met.iter().try_for_each(|(code, _)| self.sampler.forget_file(code))
        });
        if let Err(error) = forgotten {
            tracing::warn!("files of code that have changed cannot be forgotten: {error}");
        }
    }

    /// What is told of samples and unwind tables; records that could not be decoded are for the caller.
    pub fn series(&self, series: &mut Vec<Series>) -> u64 {
        self.sampled.series(series);
        self.unwinding.series(series);
        self.pythons.series(series);
        self.samples.malformed()
    }

    /// Whether samples come that someone waits for.
    pub fn is_busy(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// What tells that samples are to be taken before the next pause is over. For where tokio runs.
    ///
    /// # Errors
    /// If they cannot be waited for.
    pub fn wakes(&self) -> io::Result<Wakes> {
        Wakes::new(self.samples.file()?, self.unwinding.made())
    }

    /// How long samples may wait in their ring.
    pub fn pause(&self) -> Duration {
        // Which requests were slow is told by another ring, which many of them fill soon.
        let is_urgent = |session: &Session| {
            session.preparing.is_some() || session.closing.is_some() || session.request.slow.is_some()
        };
        // All kinds but those of the clocks come as often as they like.
        let clocks = SampleKind::Demand.bit() | SampleKind::Always.bit();
        let ticks = u64::from(self.hertz).saturating_mul(kernel::cpus() as u64);
        let are_few = self.sampling.any & !clocks == 0 && ticks <= FEW;
        if !are_few || self.was_python || self.sessions.iter().any(is_urgent) {
            return SOON;
        }
        let now = Instant::now();
        let ends = self.sessions.iter().map(|session| session.until.saturating_duration_since(now)).min();
        ends.map_or(LATE, |ends| ends.min(LATE))
    }

    /// Begins a profile; the answer comes when it is over. `lost` counts the samples that found no room so far.
    pub fn begin(&mut self, request: ProfileRequest, kernel: &mut Kernel, names: &Names, lost: u64) {
        if let Err(refused) = self.check(&request, kernel) {
            let _ = request.answer.send(Err(refused));
            return;
        }
        let until = Instant::now() + request.length;
        let patience = if request.whose.is_everybody() { TABLES_OF_ALL_PATIENCE } else { TABLE_PATIENCE };
        let session = Session {
            hertz: request.hertz,
            request,
            began: SystemTime::now(),
            until,
            lasted: Duration::ZERO,
            gathered: Gathered::default(),
            slow: HashSet::new(),
            slow_beyond: 0,
            lost,
            preparing: Some(Instant::now() + patience),
            span_ns: (u64::MAX, 0),
            closing: None,
        };
        self.forget_changed();
        self.pythons.begin(session.request.whose.pids(), &self.sampler, &mut self.patience);
        self.sessions.push(session);
        let prepared = self.steer(kernel, names).and_then(|()| kernel.tell_files().map_err(|error| error.to_string()));
        if let Err(error) = prepared {
            if let Some(session) = self.sessions.pop() {
                let _ = session.request.answer.send(Err(ProfileRefused::Kernel(error)));
            }
            let _ = self.steer(kernel, names);
        }
    }

    fn check(&self, request: &ProfileRequest, kernel: &Kernel) -> Result<(), ProfileRefused> {
        if let Some(why) = kernel.cannot_sample(request.kind) {
            return Err(ProfileRefused::Impossible(why));
        }
        // One whose names lie on a file system that hangs is being made for as long.
        if self.sessions.len() >= MOST_SESSIONS || Arc::strong_count(&self.making) > MOST_MADE {
            return Err(ProfileRefused::TooMany(MOST_SESSIONS));
        }
        if request.length > MOST_LENGTH || request.length.is_zero() {
            let text = format!("a profile may last up to {} s", MOST_LENGTH.as_secs());
            return Err(ProfileRefused::OutOfRange(text));
        }
        if !(1..=MOST_HERTZ).contains(&request.hertz) {
            return Err(ProfileRefused::OutOfRange(format!("a frequency is from 1 to {MOST_HERTZ} Hz")));
        }
        let whole = match request.kind {
            Kind::Syscalls => Some("system calls"),
            Kind::Queries => Some("Postgres requests"),
            Kind::Cpu | Kind::OffCpu | Kind::Wall => None,
        };
        if let Some(what) = whole.filter(|_| request.least < LEAST_WHOLE) {
            let text = format!("{what} are told from {} ms on", LEAST_WHOLE.as_millis());
            return Err(ProfileRefused::OutOfRange(text));
        }
        let gone = request.whose.pids.iter().find(|pid| !PathBuf::from(format!("/proc/{pid}")).exists());
        gone.map_or(Ok(()), |pid| Err(ProfileRefused::NoProcess(*pid)))
    }

    /// A Postgres request has ended that took this long.
    pub fn ended(&mut self, connection: u64, begun_ns: u64, took: Duration) {
        for session in &mut self.sessions {
            if session.request.slow.is_some_and(|slow| took >= slow) {
                session.keep_slow((connection, begun_ns));
            }
        }
    }

    /// The shortest request that someone waits for, of those who ask for slow ones.
    pub fn slow(&self) -> Option<Duration> {
        self.sessions.iter().filter_map(|session| session.request.slow).min()
    }

    /// Takes what samples there are, and finishes what is due. `lost` counts the samples that found no room so far.
    pub fn tick(&mut self, kernel: &mut Kernel, names: &Names, lost: u64) {
        self.drain(names);
        let now = Instant::now();
        let due: Vec<bool> = self.sessions.iter().map(|it| it.closing.is_none() && it.is_over(now)).collect();
        if due.contains(&true) {
            if self.waits
                && let Err(error) = kernel.tell_waiting()
            {
                tracing::warn!("threads that wait still are missing in a profile: {error}");
            }
            self.drain(names);
            for (session, due) in self.sessions.iter_mut().zip(due) {
                if due {
                    session.closing = Some(now + WALK_PATIENCE);
                    session.span_ns.1 = monotonic_ns();
                    session.lost = lost - session.lost;
                    session.lasted = session.began.elapsed().unwrap_or_default();
                }
            }
        }
        if let Err(error) = self.begin_prepared(kernel, names) {
            for session in self.sessions.extract_if(.., |session| session.span_ns.0 == u64::MAX) {
                let _ = session.request.answer.send(Err(ProfileRefused::Kernel(error.clone())));
            }
        }
        if let Err(error) = self.steer(kernel, names) {
            tracing::warn!("cannot steer sampling: {error}");
        }
        let ready =
            |session: &mut Session| session.closing.is_some_and(|late| !self.unwinding.is_walking() || now >= late);
        let finished: Vec<Session> = self.sessions.extract_if(.., |session| ready(session)).collect();
        let is_last = !finished.is_empty() && self.sessions.is_empty();
        for session in finished {
            self.finish(session, names);
        }
        if is_last && self.always.is_none() {
            self.pythons.rest(&self.sampler);
        }
    }

    fn drain(&mut self, names: &Names) {
        let (mut finished, mut no_tables, mut still, mut always) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut samples = Vec::new();
        let mut news = News::default();
        for told in self.samples.drain() {
            if let Told::Sample(sample) = &told {
                self.sampled.count(sample);
            }
            match told {
                Told::NoTable(told) => no_tables.push(told),
                Told::Sample(sample) if sample.kind == SampleKind::Still => still.push(sample),
                Told::Sample(sample) => samples.push(sample),
            }
        }
        self.unwinding.met(no_tables, &self.sampler, &mut self.patience, &mut news);
        self.unwinding.take(&mut self.sampler, &mut news);
        let was_told_who_waits = !still.is_empty();
        if was_told_who_waits {
            self.unwinding.walk(still, &mut news);
        }
        for (slot, code) in news.files {
            self.pythons.set_file(slot, code.as_deref());
            self.files.set(slot, code);
        }
        if !samples.is_empty() {
            self.was_python = samples.iter().any(|sample| !sample.python.is_empty());
        }
        self.pythons.take(&samples, &self.sampler, &mut self.patience);
        for sample in samples {
            let to = if sample.kind == SampleKind::Always { &mut always } else { &mut finished };
            self.joiner.take(sample, to);
        }
        if was_told_who_waits {
            self.joiner.flush(&mut finished);
        }
        self.pythons.take(&news.walked, &self.sampler, &mut self.patience);
        for sample in news.walked {
            self.joiner.take(sample, &mut finished);
        }
        if let Some(gathering) = &mut self.always {
            always.into_iter().for_each(|taken| gathering.add(taken));
        }
        for taken in finished {
            for session in &mut self.sessions {
                if session.wants(&taken, names) {
                    let by_request = session.request.slow.is_some();
                    session.gathered.add(taken.clone(), by_request);
                }
            }
        }
    }

    /// Makes the profile, on a thread where that may take its time.
    fn finish(&mut self, mut session: Session, names: &Names) {
        let fingerprint = |request: &Request| names.fingerprint(request.statement);
        let Session { request, slow, gathered, .. } = &mut session;
        // At the client's end the thread only waits.
        let server_only = request.whose.is_everybody();
        if request.query.is_some() || request.slow.is_some() {
            gathered.retain(|it| {
                (!server_only || it.role == Role::Server)
                    && request.query.as_deref().is_none_or(|query| fingerprint(it) == Some(query))
                    && request.slow.is_none_or(|_| slow.contains(&(it.connection, it.begun_ns)))
            });
        }
        let (services, queries) = names_in(gathered, names);
        let title = title(&session);
        let python = self.pythons.names(&session.gathered);
        let (gathered, files) = (session.gathered, self.files.clone());
        let recipe = Recipe { gathered, files, services, queries, python, title };
        let (symbolizer, answer) = (self.symbolizer.clone(), session.request.answer);
        let making = Arc::clone(&self.making);
        let make = move || {
            let _making = making;
            let made = recipe.make(&symbolizer).map(Arc::new);
            let _ = answer.send(made.map_err(|error| ProfileRefused::Impossible(error.to_string())));
        };
        if let Err(error) = std::thread::Builder::new().name("steth-profile".into()).spawn(make) {
            tracing::warn!("a profile is lost: no thread can be made for it: {error}");
        }
        if self.sessions.is_empty() && self.always.is_none() {
            self.forget_files();
        }
    }
}

/// Where unwind tables are kept.
const CACHE: &str = "/var/cache/steth/unwind";

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl std::fmt::Debug for Profiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profiles").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}
