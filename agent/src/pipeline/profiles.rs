//! Profiles for whoever asks: which samples the kernel takes, whose they are, and when a profile is finished.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use steth_probes::{
    cell::Role,
    profile::{SampleKind, Sampling, TARGET_PROCESS, TARGET_SERVICE, Target},
    unwind::VDSO_SLOT,
};

use super::{
    pythons::Pythons,
    unwinding::{News, Unwinding},
};
use crate::{
    aggregate::Names,
    config::Config,
    ingest::Samples,
    kernel::{
        Kernel, LoadError,
        sampling::{Clock, Sampler},
    },
    model::{
        profile::Kind,
        sample::{ProfileRefused, ProfileRequest, Request, Told, Whose},
    },
    profile::{
        build::{Files, Recipe, Title},
        code::CodeTable,
        gather::{Gathered, Joiner, Stack, Taken},
        symbols::{Limits, Symbolizer},
    },
};

/// Profiles that are taken at one time.
const MOST_SESSIONS: usize = 8;
/// Longest profile.
pub const MOST_LENGTH: Duration = Duration::from_secs(600);
/// Samples in a second and CPU, at most.
pub const MOST_HERTZ: u32 = 999;
/// Files of code that are held open.
const OPEN_FILES: usize = 512;
/// How long the start of a profile waits for unwind tables.
const TABLE_PATIENCE: Duration = Duration::from_millis(250);
/// How long the stacks of threads that wait still are waited for.
const WALK_PATIENCE: Duration = Duration::from_secs(5);

/// What takes and makes profiles.
pub struct Profiles {
    samples: Samples,
    sampler: Sampler,
    unwinding: Unwinding,
    pythons: Pythons,
    symbolizer: Symbolizer,
    files: Files,
    joiner: Joiner,
    sessions: Vec<Session>,
    /// What the kernel was told.
    sampling: Sampling,
    targets: Vec<(Target, u32)>,
    /// Hertz of the clock on demand; 0 while it stands.
    hertz: u32,
    waits: bool,
}

/// A profile that is being taken.
struct Session {
    request: ProfileRequest,
    began: SystemTime,
    until: Instant,
    lasted: Duration,
    gathered: Gathered,
    /// Postgres requests that were slow enough.
    slow: HashSet<(u64, u64)>,
    /// Set when its time is over and only stacks of threads that wait still are missing.
    closing: Option<Instant>,
}

impl Session {
    fn has(&self, kind: SampleKind) -> bool {
        match kind {
            SampleKind::Demand => self.request.kind != Kind::OffCpu,
            SampleKind::Always | SampleKind::NoTable => false,
            _ => self.request.kind != Kind::Cpu,
        }
    }

    fn wants(&self, taken: &Taken, names: &Names) -> bool {
        let of_kind = match taken.stack.state {
            crate::model::profile::State::OnCpu => self.request.kind != Kind::OffCpu,
            crate::model::profile::State::OffCpu => self.request.kind != Kind::Cpu,
        };
        let Whose { pids, services } = &self.request.whose;
        let service = || names.service_name(taken.stack.service);
        let everybody = pids.is_empty() && services.is_empty();
        let whose = match everybody {
            // Whoever looks at all others does not look at itself.
            true => taken.stack.pid != std::process::id(),
            false => {
                pids.contains(&taken.stack.pid) || service().is_some_and(|name| services.iter().any(|it| it == name))
            }
        };
        of_kind && whose && (!self.is_of_requests() || taken.request.is_some())
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.until || self.request.answer.is_closed() || self.request.enough.load(Ordering::Relaxed)
    }

    /// Whether only samples taken while a request was being served are wanted.
    fn is_of_requests(&self) -> bool {
        self.request.query.is_some() || self.request.slow.is_some()
    }
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
            sampler,
            unwinding: Unwinding::start(rows, Arc::clone(&codes), cache)?,
            pythons: Pythons::new(Arc::clone(&codes)),
            symbolizer: Symbolizer::start(Limits::default(), codes)?,
            files: Files::default(),
            joiner: Joiner::default(),
            sessions: Vec::new(),
            sampling: Sampling::zeroed(),
            targets: Vec::new(),
            hertz: 0,
            waits: false,
        };
        profiles.start_always(kernel, config);
        Ok(profiles)
    }

    fn start_always(&mut self, _kernel: &mut Kernel, _config: &Config) {}

    /// Whether samples come that someone waits for.
    pub fn is_busy(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// Begins a profile; the answer comes when it is over.
    pub fn begin(&mut self, request: ProfileRequest, kernel: &mut Kernel, names: &Names) {
        if let Err(refused) = self.check(&request, kernel) {
            let _ = request.answer.send(Err(refused));
            return;
        }
        let until = Instant::now() + request.length;
        let session = Session {
            request,
            began: SystemTime::now(),
            until,
            lasted: Duration::ZERO,
            gathered: Gathered::default(),
            slow: HashSet::new(),
            closing: None,
        };
        self.sessions.push(session);
        let steered = self.steer(kernel, names);
        if let Some(session) = self.sessions.last_mut() {
            // From here on samples are taken.
            session.began = SystemTime::now();
            session.until = Instant::now() + session.request.length;
            if let Some(begun) = session.request.begun.take() {
                let _ = begun.send(());
            }
        }
        if let Err(error) = steered {
            if let Some(session) = self.sessions.pop() {
                let _ = session.request.answer.send(Err(ProfileRefused::Kernel(error)));
            }
            let _ = self.steer(kernel, names);
        }
    }

    fn check(&self, request: &ProfileRequest, kernel: &Kernel) -> Result<(), ProfileRefused> {
        let lacking = [(false, Kind::OffCpu), (true, Kind::Cpu)]
            .into_iter()
            .find_map(|(waits, without)| if request.kind == without { None } else { kernel.cannot_sample(waits) });
        if let Some(why) = lacking {
            return Err(ProfileRefused::Impossible(why));
        }
        if self.sessions.len() >= MOST_SESSIONS {
            return Err(ProfileRefused::TooMany(MOST_SESSIONS));
        }
        if request.length > MOST_LENGTH || request.length.is_zero() {
            let text = format!("a profile may last up to {} s", MOST_LENGTH.as_secs());
            return Err(ProfileRefused::OutOfRange(text));
        }
        if !(1..=MOST_HERTZ).contains(&request.hertz) {
            return Err(ProfileRefused::OutOfRange(format!("a frequency is from 1 to {MOST_HERTZ} Hz")));
        }
        let gone = request.whose.pids.iter().find(|pid| !PathBuf::from(format!("/proc/{pid}")).exists());
        gone.map_or(Ok(()), |pid| Err(ProfileRefused::NoProcess(*pid)))
    }

    /// Tells the kernel what all who wait want together.
    fn steer(&mut self, kernel: &mut Kernel, names: &Names) -> Result<(), String> {
        let taking = || self.sessions.iter().filter(|session| session.closing.is_none());
        let hertz = taking().filter(|it| it.has(SampleKind::Demand)).map(|it| it.request.hertz).max().unwrap_or(0);
        let waits = taking().any(|session| session.has(SampleKind::Back));
        let (mut all, mut targets) = (0, HashMap::<Target, u32>::new());
        for session in taking() {
            let mut bits = 0;
            bits |= if session.has(SampleKind::Demand) { SampleKind::Demand.bit() } else { 0 };
            bits |= if session.has(SampleKind::Back) { SampleKind::WAITS } else { 0 };
            let Whose { pids, services } = &session.request.whose;
            if pids.is_empty() && services.is_empty() {
                all |= bits;
            }
            for pid in pids {
                *targets.entry(Target { what: TARGET_PROCESS, number: *pid }).or_default() |= bits;
            }
            for (number, name) in names.services() {
                if services.iter().any(|wanted| **wanted == **name) {
                    *targets.entry(Target { what: TARGET_SERVICE, number }).or_default() |= bits;
                }
            }
        }
        let mut targets: Vec<_> = targets.into_iter().collect();
        targets.sort_by_key(|(target, _)| (target.what, target.number));
        let mut sampling = self.sampling;
        sampling.all = all | SampleKind::Always.bit();
        sampling.any = sampling.all | targets.iter().fold(0, |any, (_, bits)| any | bits);
        let fastest = taking().map(|session| session.request.hertz).max().unwrap_or(1);
        sampling.demand_ns = 1_000_000_000 / u64::from(hertz.max(1));
        // As often as on a CPU.
        sampling.interval_ns = 1_000_000_000 / u64::from(fastest.max(1));
        let changed = (sampling.all, sampling.any) != (self.sampling.all, self.sampling.any)
            || (sampling.demand_ns, sampling.interval_ns) != (self.sampling.demand_ns, self.sampling.interval_ns)
            || targets != self.targets;
        if changed {
            if self.waits {
                // What has been waited for so far is settled; everybody begins anew.
                kernel.tell_waiting().map_err(|error| error.to_string())?;
            }
            sampling.epoch_ns = monotonic_ns();
            self.sampler.set(&sampling, &targets).map_err(|error| error.to_string())?;
            (self.sampling, self.targets) = (sampling, targets);
        }
        let begins = (hertz != 0 && self.hertz == 0) || (waits && !self.waits);
        if changed && begins {
            let is_all = self.sampling.any & self.sampling.all & !SampleKind::Always.bit() != 0;
            let pids = self.targets.iter().map(|(target, _)| target).filter(|it| it.what == TARGET_PROCESS);
            let pids: Vec<u32> = pids.map(|target| target.number).collect();
            let has_services = pids.len() != self.targets.len();
            let pids = if is_all || has_services { None } else { Some(&*pids) };
            self.pythons.begin(pids, &self.sampler);
            kernel.tell_files().map_err(|error| error.to_string())?;
            self.await_tables(names);
        }
        if hertz != self.hertz {
            if hertz == 0 {
                kernel.stop_clock(Clock::Demand);
            } else {
                kernel.start_clock(Clock::Demand, hertz).map_err(|error| error.to_string())?;
            }
            self.hertz = hertz;
        }
        if waits != self.waits {
            if waits {
                kernel.start_waits().map_err(|error| error.to_string())?;
                // That took its time, in which nobody was looked at.
                self.sampling.epoch_ns = monotonic_ns();
                self.sampler.set(&self.sampling, &self.targets).map_err(|error| error.to_string())?;
            } else {
                kernel.stop_waits();
            }
            self.waits = waits;
        }
        Ok(())
    }

    /// Gives unwind tables some time, so that the first samples have whole stacks.
    fn await_tables(&mut self, names: &Names) {
        let late = Instant::now() + TABLE_PATIENCE;
        self.drain(names);
        while self.unwinding.is_busy() && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(2));
            self.drain(names);
        }
    }

    /// A Postgres request has ended that took this long.
    pub fn ended(&mut self, connection: u64, begun_ns: u64, took: Duration) {
        for session in &mut self.sessions {
            if session.request.slow.is_some_and(|slow| took >= slow) {
                session.slow.insert((connection, begun_ns));
            }
        }
    }

    /// The shortest request that someone waits for, of those who ask for slow ones.
    pub fn slow(&self) -> Option<Duration> {
        self.sessions.iter().filter_map(|session| session.request.slow).min()
    }

    /// Takes what samples there are, and finishes what is due.
    pub fn tick(&mut self, kernel: &mut Kernel, names: &Names) {
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
                    session.lasted = session.began.elapsed().unwrap_or_default();
                }
            }
        }
        if !self.sessions.is_empty()
            && let Err(error) = self.steer(kernel, names)
        {
            tracing::warn!("cannot steer sampling: {error}");
        }
        let ready =
            |session: &mut Session| session.closing.is_some_and(|late| !self.unwinding.is_busy() || now >= late);
        let finished: Vec<Session> = self.sessions.extract_if(.., |session| ready(session)).collect();
        let is_last = !finished.is_empty() && self.sessions.is_empty();
        for session in finished {
            self.finish(session, names);
        }
        if is_last {
            self.pythons.rest();
        }
    }

    fn drain(&mut self, names: &Names) {
        let (mut finished, mut no_tables, mut still) = (Vec::new(), Vec::new(), Vec::new());
        let mut samples = Vec::new();
        let mut news = News::default();
        for told in self.samples.drain() {
            match told {
                Told::NoTable(told) => no_tables.push(told),
                Told::Sample(sample) if sample.kind == SampleKind::Still => still.push(sample),
                Told::Sample(sample) => samples.push(sample),
            }
        }
        self.unwinding.met(no_tables, &self.sampler, &mut news);
        self.unwinding.take(&mut self.sampler, &mut news);
        for (slot, code) in news.files {
            self.pythons.set_file(slot, code.as_deref());
            self.files.set(slot, code);
        }
        self.pythons.take(&samples, &self.sampler);
        for sample in samples {
            self.joiner.take(sample, &mut finished);
        }
        if !still.is_empty() {
            self.joiner.flush(&mut finished);
            self.unwinding.walk(still);
        }
        self.pythons.take(&news.walked, &self.sampler);
        for sample in news.walked {
            self.joiner.take(sample, &mut finished);
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
        let server_only = request.whose == Whose::default();
        if request.query.is_some() || request.slow.is_some() {
            gathered.retain(|it| {
                (!server_only || it.role == Role::Server)
                    && request.query.as_deref().is_none_or(|query| fingerprint(it) == Some(query))
                    && request.slow.is_none_or(|_| slow.contains(&(it.connection, it.begun_ns)))
            });
        }
        let mut services: HashMap<u32, Arc<str>> = HashMap::new();
        let mut queries: HashMap<u32, Arc<str>> = HashMap::new();
        for (stack, request, _) in session.gathered.iter() {
            if let Some(name) = names.service_name(stack.service) {
                services.entry(stack.service).or_insert_with(|| name.into());
            }
            if let Some((request, name)) = request.and_then(|request| Some((request, fingerprint(request)?))) {
                queries.entry(request.statement).or_insert_with(|| name.into());
            }
        }
        let title = title(&session);
        let words = |stack: &Stack| stack.python.iter().map(|word| (stack.pid, *word)).collect::<Vec<_>>();
        let python = self.pythons.names(session.gathered.iter().flat_map(|(stack, ..)| words(stack)));
        let (gathered, files) = (session.gathered, self.files.clone());
        let recipe = Recipe { gathered, files, services, queries, python, title };
        let (symbolizer, answer) = (self.symbolizer.clone(), session.request.answer);
        std::thread::spawn(move || {
            let made = recipe.make(&symbolizer).map(Arc::new);
            let _ = answer.send(made.map_err(|error| ProfileRefused::Impossible(error.to_string())));
        });
        self.files.retain(|slot| slot != VDSO_SLOT);
    }
}

/// Where unwind tables are kept.
const CACHE: &str = "/var/cache/steth/unwind";

fn title(session: &Session) -> Title {
    let Whose { pids, services } = &session.request.whose;
    let process = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        match name.trim() {
            "" => format!("process {pid}"),
            name => format!("{name} (PID {pid})"),
        }
    };
    let parts: Vec<String> =
        pids.iter().map(process).chain(services.iter().map(|service| format!("service {service}"))).collect();
    let mut target = if parts.is_empty() { "all processes".into() } else { parts.join(", ") };
    if let Some(query) = &session.request.query {
        target.push_str(&format!(", query {query}"));
    }
    if let Some(slow) = session.request.slow {
        target.push_str(&format!(", requests of {} ms and more", slow.as_millis()));
    }
    let mut notes = Vec::new();
    if session.gathered.is_empty() {
        notes.push(why_empty(session));
    }
    Title {
        target,
        kind: session.request.kind,
        began: session.began,
        lasted: session.lasted,
        hertz: session.request.hertz,
        several: pids.len() != 1 || !services.is_empty(),
        notes,
    }
}

fn why_empty(session: &Session) -> String {
    let Whose { pids, services } = &session.request.whose;
    let living = pids.iter().any(|pid| PathBuf::from(format!("/proc/{pid}")).exists());
    if let Some(query) = &session.request.query {
        return format!("no sample was taken while a statement with fingerprint {query} was being served");
    }
    if session.request.slow.is_some() {
        return "no sample was taken while a slow request was being served".into();
    }
    if !pids.is_empty() && !living {
        return "the process ended before a sample was taken".into();
    }
    if !services.is_empty() {
        return format!("no thread of {} was met", services.join(", "));
    }
    match session.request.kind {
        Kind::Cpu => "it used no CPU time while it was looked at; --off-cpu or --wall show where it waits".into(),
        Kind::OffCpu => "it waited for nothing while it was looked at".into(),
        Kind::Wall => "nothing of it ran or waited while it was looked at".into(),
    }
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl std::fmt::Debug for Profiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profiles").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}
