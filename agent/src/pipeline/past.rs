//! Profiles of the past: what the clock takes that always runs becomes pieces, and pieces become answers. Names are found and
//! files are read on a thread of their own, one thing after the other, so that an answer has the piece that was just finished.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{pythons::Pythons, session::names_in};
use crate::{
    aggregate::Names,
    config::{Config, moment::shown},
    model::{
        profile::{Kind, Profile},
        sample::{Past, PastRequest, Period, ProfileRefused},
    },
    profile::{
        build::{Files, Recipe, Title},
        gather::{Gathered, Taken},
        merge::{coverage, merge},
        symbols::Symbolizer,
    },
    store::{Found, Pieces, period_of},
};

/// Different stacks that one piece holds: some 10 MB, and ten minutes of 19 Hz on sixteen CPUs if no two are the same.
const MOST_STACKS: usize = 20_000;
/// Pieces and questions that may wait for the thread.
const WAITING: usize = 8;

/// The folder that a configuration names.
pub fn pieces(config: &Config) -> Pieces {
    Pieces::new(config.profile.folder.clone(), config.profile.kept_bytes)
}

/// Answers from the files alone.
pub fn answer(pieces: &Pieces, request: PastRequest) {
    let made = made(pieces, None, &request);
    let _ = request.answer.send(made);
}

/// The piece under way.
pub struct Always {
    keeper: Keeper,
    hertz: u32,
    piece: Duration,
    gathered: Gathered,
    began: SystemTime,
    started: Instant,
    until: Instant,
}

impl Always {
    /// The first piece begins.
    pub fn begin(keeper: Keeper, hertz: u32, piece: Duration) -> Self {
        let (began, started) = (SystemTime::now(), Instant::now());
        let gathered = Gathered::with_room(MOST_STACKS);
        Self { keeper, hertz, piece, gathered, began, started, until: started + rest_of(piece, began) }
    }

    /// Adds a sample. Who looks at all others does not look at itself.
    pub fn add(&mut self, mut taken: Taken) {
        if taken.stack.pid != std::process::id() {
            taken.stack.forget_process();
            self.gathered.add(taken, false);
        }
    }

    /// How often in a second samples are taken.
    pub fn hertz(&self) -> u32 {
        self.hertz
    }

    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// The piece ends, and the next one begins. If the thread has too much to do already, it goes on instead.
    pub fn hand_on(&mut self, files: &Files, pythons: &Pythons, names: &Names) -> bool {
        let is_taken = self.keeper.keep(|| self.recipe(files, pythons, names));
        if is_taken {
            (self.began, self.started) = (SystemTime::now(), Instant::now());
            self.gathered = Gathered::with_room(MOST_STACKS);
        }
        self.until = Instant::now() + rest_of(self.piece, SystemTime::now());
        is_taken
    }

    /// Answers with what there is, this piece too.
    pub fn answer(&self, request: PastRequest, files: &Files, pythons: &Pythons, names: &Names) {
        let now = Period { from: self.began, to: SystemTime::now() };
        let touches = request.period.overlaps(&now) || request.against.is_some_and(|against| against.overlaps(&now));
        let current = touches.then(|| self.recipe(files, pythons, names));
        self.keeper.ask(current, request);
    }

    /// Who is told when a piece is finished; the first who says so.
    pub fn tell_pieces(&self, told: OnPiece) {
        let _ = self.keeper.told.set(told);
    }

    /// Pieces that could not be written.
    pub fn lost(&self) -> u64 {
        self.keeper.lost.load(Ordering::Relaxed)
    }

    /// Who writes what was handed on.
    pub fn into_keeper(self) -> Keeper {
        self.keeper
    }

    fn recipe(&self, files: &Files, pythons: &Pythons, names: &Names) -> Recipe {
        let (services, queries) = names_in(&self.gathered, names);
        let title = Title {
            target: "all processes".into(),
            kind: Kind::Cpu,
            began: self.began,
            lasted: self.started.elapsed(),
            hertz: self.hertz,
            several: true,
            notes: Vec::new(),
        };
        let python = pythons.names(&self.gathered);
        Recipe { gathered: self.gathered.clone(), files: files.clone(), services, queries, python, title }
    }
}

/// How long it is until a piece ends: they are cut where the clock shows multiples of their length.
fn rest_of(piece: Duration, now: SystemTime) -> Duration {
    let (length, at) = (piece.as_millis().max(1), now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis());
    Duration::from_millis((length - at % length).try_into().unwrap_or(u64::MAX))
}

/// The last piece may take this long to be written where nobody waits for it.
const PIECE_PATIENCE: Duration = Duration::from_secs(10);

/// Told when a piece is finished, on the thread that finishes it.
pub type OnPiece = Arc<dyn Fn(&Profile) + Send + Sync>;

/// What the thread is asked for.
enum Work {
    Keep(Recipe),
    Answer(Option<Recipe>, PastRequest),
}

/// The thread that writes pieces and reads them again.
pub struct Keeper {
    work: mpsc::SyncSender<Work>,
    done: mpsc::Receiver<()>,
    lost: Arc<AtomicU64>,
    /// Whether a piece was handed over that is not written yet.
    has_piece: Arc<AtomicBool>,
    told: Arc<OnceLock<OnPiece>>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(config: &Config, symbolizer: Symbolizer) -> io::Result<Self> {
        let (work, asked) = mpsc::sync_channel(WAITING);
        let (end, done) = mpsc::channel();
        let (lost, has_piece) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let told = Arc::new(OnceLock::new());
        let mut worker = Worker {
            pieces: pieces(config),
            told: Arc::clone(&told),
            symbolizer,
            lost: Arc::clone(&lost),
            has_piece: Arc::clone(&has_piece),
            failing: false,
        };
        thread::Builder::new().name("steth-pieces".into()).spawn(move || {
            while let Ok(work) = asked.recv() {
                worker.work(work);
            }
            // Whoever is told ends before who waits for the end.
            drop(worker);
            let _ = end.send(());
        })?;
        Ok(Self { work, done, lost, has_piece, told })
    }

    /// The same behind everybody's back, for who goes on without it; `rest` goes first.
    pub fn finish_apart(keeper: Option<Self>, rest: impl Send + 'static) {
        let finish = move || {
            drop(rest);
            keeper.into_iter().for_each(|keeper| keeper.finish(Instant::now() + PIECE_PATIENCE));
        };
        // Without a thread all of it is dropped here and now, and with it the last piece.
        if let Err(error) = thread::Builder::new().name("steth-ending".into()).spawn(finish) {
            tracing::warn!("the last piece of the profiles of the past may be lost: {error}");
        }
    }

    /// Waits until all is written, but not for long.
    pub fn finish(self, late: Instant) {
        let Self { work, done, told, .. } = self;
        drop((work, told));
        if done.recv_timeout(late.saturating_duration_since(Instant::now())).is_err() {
            tracing::warn!("the last minutes of profiles of the past are lost: their names were not found in time");
        }
    }

    /// One at a time, so that pieces leave room for questions.
    fn keep(&self, recipe: impl FnOnce() -> Recipe) -> bool {
        if self.has_piece.swap(true, Ordering::Relaxed) {
            return false;
        }
        let is_taken = self.work.try_send(Work::Keep(recipe())).is_ok();
        if !is_taken {
            self.has_piece.store(false, Ordering::Relaxed);
        }
        is_taken
    }

    fn ask(&self, current: Option<Recipe>, request: PastRequest) {
        if let Err(
            mpsc::TrySendError::Full(Work::Answer(_, request))
            | mpsc::TrySendError::Disconnected(Work::Answer(_, request)),
        ) = self.work.try_send(Work::Answer(current, request))
        {
            let _ = request.answer.send(Err(ProfileRefused::TooMany(WAITING)));
        }
    }
}

/// What runs on the thread.
struct Worker {
    pieces: Pieces,
    symbolizer: Symbolizer,
    lost: Arc<AtomicU64>,
    has_piece: Arc<AtomicBool>,
    /// Whether that has been said.
    failing: bool,
    told: Arc<OnceLock<OnPiece>>,
}

impl Worker {
    fn work(&mut self, work: Work) {
        match work {
            Work::Keep(recipe) => {
                let named = self.named(recipe);
                // Also if there is no room for it on the disk.
                if let (Ok(piece), Some(told)) = (&named, self.told.get()) {
                    told(piece);
                }
                let kept = named.and_then(|piece| self.pieces.put(&piece).map_err(|error| error.to_string()));
                if let Err(error) = &kept {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    if !self.failing {
                        let folder = self.pieces.folder().display();
                        tracing::warn!("profiles of the past are not kept in {folder}: {error}; see `profile.folder`");
                    }
                }
                self.failing = kept.is_err();
                self.has_piece.store(false, Ordering::Relaxed);
            }
            Work::Answer(recipe, request) => {
                if request.answer.is_closed() {
                    return;
                }
                let current = recipe.map(|recipe| self.named(recipe)).transpose();
                let made = current.map_err(ProfileRefused::Impossible).and_then(|it| made(&self.pieces, it, &request));
                let _ = request.answer.send(made);
            }
        }
    }

    /// With names, and what is the same by them as one.
    fn named(&self, recipe: Recipe) -> Result<Profile, String> {
        let piece = recipe.make(&self.symbolizer).map_err(|error| error.to_string())?;
        let mut merged = merge(vec![piece], &[]).ok_or("there is none")?;
        // That a piece is empty is no note for those that it is merged with.
        merged.notes.clear();
        Ok(merged)
    }
}

fn made(pieces: &Pieces, current: Option<Profile>, request: &PastRequest) -> Result<Past, ProfileRefused> {
    let of = |period| one(pieces, current.as_ref(), period, &request.services);
    let against = request.against.map(of).transpose()?;
    Ok(Past { profile: of(request.period)?, against })
}

fn one(
    pieces: &Pieces,
    current: Option<&Profile>,
    period: Period,
    services: &[String],
) -> Result<Profile, ProfileRefused> {
    let unreadable = |error: &io::Error| {
        let folder = pieces.folder().display();
        format!("profiles of the past in {folder} cannot be read: {error}")
    };
    // The piece under way is there all the same.
    let mut found =
        pieces.within(&period).unwrap_or_else(|error| Found { notes: vec![unreadable(&error)], ..Found::default() });
    found.pieces.extend(current.filter(|current| period_of(current).overlaps(&period)).cloned());
    let covered: Vec<Period> = found.pieces.iter().map(period_of).collect();
    let Some(mut profile) = merge(found.pieces, services) else {
        let reach = pieces.reach().map_err(|error| ProfileRefused::NoPast(unreadable(&error)))?;
        let reach = reach.into_iter().chain(current.map(period_of)).reduce(|a, b| Period { from: a.from, to: b.to });
        let mut asked = format!("no profile is kept of {} to {}", shown(period.from), shown(period.to));
        found.notes.iter().for_each(|note| asked.push_str(&format!("; {note}")));
        return Err(ProfileRefused::NoPast(match reach {
            Some(reach) => {
                format!("{asked}; what is kept begins at {} and ends at {}", shown(reach.from), shown(reach.to))
            }
            None => format!(
                "{asked}: there is none in {}. An agent keeps them while it runs with `profile.hertz` above 0",
                pieces.folder().display()
            ),
        }));
    };
    profile.notes.insert(0, coverage(&covered));
    profile.notes.extend(found.notes);
    Ok(profile)
}
