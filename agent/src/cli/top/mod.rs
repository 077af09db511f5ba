//! `steth top`: what host and services do right now, from a running agent, again and again.

mod draw;
mod exposition;
mod figures;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    widgets::TableState,
};
use tokio::runtime::Runtime;

use self::{
    draw::Screen,
    exposition::Scrape,
    figures::{METRICS, Order, View},
};
use super::{
    Failure, Outcome,
    agent::Agent,
    configuration,
    reach::{Target, Where},
    signals::Stop,
    terminal,
};
use crate::config::value::{parse_duration, show_duration};

/// What `steth top` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth top                      services by their CPU time, every two seconds
  steth top --sort waits -i 500ms
  steth top -n 1 | head          plain text, once
  steth top --json -n 5          for programs, one object a line

CPU is in cores. RUNQ, DISK and LOCK are seconds a second, summed over the threads of a service: ready while others had the
CPU, waiting for a disk, waiting for a lock. P95 is of Postgres queries, FAIL/s are those that ended with an error.")]
pub struct Arguments {
    /// Time between two looks, 200ms or more
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// What services are sorted by
    #[arg(short, long, value_enum, default_value_t)]
    sort: Order,
    /// Print so many intervals as plain text and end [default: 1 where stdout is no terminal]
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
    /// Configuration file [default: /etc/steth/steth.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "STETH_CONFIG")]
    config: Option<PathBuf>,
}

/// A scrape reads the kernel's maps anew: more often than this costs the host more than it tells.
const SHORTEST: Duration = Duration::from_millis(200);
/// How soon a key or a signal is noticed.
const TICK: Duration = Duration::from_millis(100);
/// Lines that a page key moves.
const PAGE: u16 = 20;

/// Looks and shows until it is told to end.
///
/// # Errors
/// When no agent answers at the start, or the terminal refuses.
pub fn top(arguments: &Arguments) -> Outcome {
    let config = configuration(arguments.config.as_deref(), vec![]).map_err(Failure::usage)?;
    let target = arguments.place.target(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let stopped = stopped(&runtime)?;
    let source = Source { runtime, target };
    // Before the terminal is taken, so that a missing agent is said where it can be read.
    let first = source.look()?;
    let on_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if on_terminal && !arguments.json && arguments.count.is_none() {
        let mut terminal = ratatui::try_init().map_err(refused)?;
        let outcome = Session::new(&source, first, arguments).run(&mut terminal, &stopped);
        ratatui::try_restore().map_err(refused)?;
        outcome
    } else {
        print(&source, first, arguments, &stopped)
    }
}

fn refused(error: io::Error) -> Failure {
    Failure::failed(format!("the terminal refuses: {error}; -n 1 prints plain text"))
}

fn interval(typed: &str) -> Result<Duration, String> {
    let interval = parse_duration(typed)?;
    if interval < SHORTEST {
        return Err(format!("the shortest is {}", show_duration(SHORTEST)));
    }
    Ok(interval)
}

/// Becomes true when a signal asks for the end.
fn stopped(runtime: &Runtime) -> Result<Arc<AtomicBool>, Failure> {
    let stopped = Arc::new(AtomicBool::new(false));
    let _inside = runtime.enter();
    let mut stop = Stop::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
    let noticed = stopped.clone();
    runtime.spawn(async move {
        stop.wait().await;
        noticed.store(true, Ordering::Relaxed);
    });
    Ok(stopped)
}

/// Where scrapes come from.
struct Source {
    runtime: Runtime,
    target: Target,
}

/// A scrape and when it was taken.
struct Look {
    scrape: Scrape,
    at: Instant,
}

impl Source {
    fn look(&self) -> Result<Look, Failure> {
        self.runtime.block_on(async {
            let agent = Agent::connect(&self.target).await?.ok_or_else(|| {
                Failure::failed(format!("no agent answers at {}; it has the figures: steth run", self.target))
            })?;
            let text = agent.ask("/metrics").await?.whole().await?;
            Ok(Look { scrape: Scrape::read(&String::from_utf8_lossy(&text), METRICS), at: Instant::now() })
        })
    }
}

/// Prints intervals, as text or JSON.
fn print(source: &Source, first: Look, arguments: &Arguments, stopped: &AtomicBool) -> Outcome {
    let mut before = first;
    for number in 0..arguments.count.unwrap_or(1) {
        while before.at.elapsed() < arguments.interval {
            if stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(TICK.min(arguments.interval.saturating_sub(before.at.elapsed())));
        }
        let now = source.look()?;
        let view = figures::view(&before.scrape, &now.scrape, now.at - before.at, arguments.sort);
        let text = if arguments.json {
            format!("{}\n", serde_json::to_string(&view).map_err(Failure::failed)?)
        } else {
            format!("{}{}", if number > 0 { "\n" } else { "" }, draw::plain(&view))
        };
        if !terminal::wanted(&text)? {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

/// What a terminal shows, and how it got there.
struct Session<'a> {
    source: &'a Source,
    interval: Duration,
    title: String,
    order: Order,
    before: Look,
    view: Option<View>,
    trouble: Option<String>,
    paused: bool,
    state: TableState,
}

/// What a key comes to.
#[derive(Debug, PartialEq)]
enum Step {
    Quit,
    Redraw,
    Nothing,
}

impl<'a> Session<'a> {
    fn new(source: &'a Source, first: Look, arguments: &Arguments) -> Self {
        Self {
            source,
            interval: arguments.interval,
            title: format!("{} every {}", source.target, show_duration(arguments.interval)),
            order: arguments.sort,
            before: first,
            view: None,
            trouble: None,
            paused: false,
            state: TableState::new().with_selected(0),
        }
    }

    fn run(mut self, terminal: &mut DefaultTerminal, stopped: &AtomicBool) -> Outcome {
        self.draw(terminal)?;
        let mut due = self.before.at + self.interval;
        while !stopped.load(Ordering::Relaxed) {
            let wait = TICK.min(due.saturating_duration_since(Instant::now()));
            if event::poll(wait).map_err(refused)? {
                let step = match event::read().map_err(refused)? {
                    Event::Key(key) => self.key(key),
                    Event::Resize(..) => Step::Redraw,
                    _ => Step::Nothing,
                };
                match step {
                    Step::Quit => return Ok(()),
                    Step::Redraw => self.draw(terminal)?,
                    Step::Nothing => {}
                }
            }
            if Instant::now() >= due {
                due = Instant::now() + self.interval;
                if !self.paused {
                    self.look();
                    self.draw(terminal)?;
                }
            }
        }
        Ok(())
    }

    /// Asks the agent. One that is gone leaves the last figures, and the reason above them.
    fn look(&mut self) {
        match self.source.look() {
            Ok(now) => {
                let (before, elapsed) = (&self.before, now.at - self.before.at);
                self.view = Some(figures::view(&before.scrape, &now.scrape, elapsed, self.order));
                self.before = now;
                self.trouble = None;
            }
            Err(failure) => self.trouble = Some(format!("figures stand still: {}", failure.message)),
        }
    }

    fn key(&mut self, key: KeyEvent) -> Step {
        if key.kind == KeyEventKind::Release {
            return Step::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Step::Quit } else { Step::Nothing };
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Step::Quit,
            KeyCode::Char('c') => self.sort(Order::Cpu),
            KeyCode::Char('w') => self.sort(Order::Waits),
            KeyCode::Char('m') => self.sort(Order::Memory),
            KeyCode::Char('s') => self.sort(Order::Calls),
            KeyCode::Char('u') => self.sort(Order::Queries),
            KeyCode::Char('l') => self.sort(Order::P95),
            KeyCode::Char('n') => self.sort(Order::Name),
            KeyCode::Char(' ') => {
                self.paused = !self.paused;
                self.trouble = self.paused.then(|| "paused, space goes on".to_owned());
            }
            KeyCode::Up | KeyCode::Char('k') => self.state.scroll_up_by(1),
            KeyCode::Down | KeyCode::Char('j') => self.state.scroll_down_by(1),
            KeyCode::PageUp => self.state.scroll_up_by(PAGE),
            KeyCode::PageDown => self.state.scroll_down_by(PAGE),
            KeyCode::Home => self.state.select_first(),
            KeyCode::End => self.state.select_last(),
            _ => return Step::Nothing,
        }
        Step::Redraw
    }

    fn sort(&mut self, order: Order) {
        self.order = order;
        self.state.select_first();
        if let Some(view) = &mut self.view {
            figures::sort(&mut view.services, order);
        }
    }

    fn draw(&mut self, terminal: &mut DefaultTerminal) -> Outcome {
        let empty = View::default();
        let waiting = format!("{}: the first figures come after {}", self.title, show_duration(self.interval));
        let screen = Screen {
            view: self.view.as_ref().unwrap_or(&empty),
            title: if self.view.is_some() { &self.title } else { &waiting },
            order: self.order,
            trouble: self.trouble.as_deref(),
        };
        let colours = terminal::Paint::stdout().0;
        terminal.draw(|frame| draw::screen(frame, &screen, &mut self.state, colours)).map_err(refused)?;
        Ok(())
    }
}
