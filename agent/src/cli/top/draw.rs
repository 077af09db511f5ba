//! How a view looks: on a terminal with colours and bars, elsewhere as plain columns. Knows nothing of where figures come from.

use std::fmt::Write as _;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Paragraph, Row, Table, TableState},
};

use super::figures::{Core, Host, Order, Service, View};
use crate::model::figure::figure;

/// What a terminal shows.
pub struct Screen<'a> {
    pub view: &'a View,
    /// Where the agent is, and how often it is asked.
    pub title: &'a str,
    pub order: Order,
    /// Why the figures are not of now.
    pub trouble: Option<&'a str>,
}

/// Headings, with the order that the column stands for.
const COLUMNS: [(&str, Option<Order>, u16); 13] = [
    ("SERVICE", Some(Order::Name), 24),
    ("PROCS", None, 5),
    ("CPU", Some(Order::Cpu), 6),
    ("RUNQ", Some(Order::Waits), 6),
    ("DISK", Some(Order::Waits), 6),
    ("LOCK", Some(Order::Waits), 6),
    ("MEMORY", Some(Order::Memory), 9),
    ("FILES", None, 6),
    ("CALLS/s", Some(Order::Calls), 8),
    ("ERR/s", None, 7),
    ("QUERY/s", Some(Order::Queries), 8),
    ("P95", Some(Order::P95), 9),
    ("FAIL/s", None, 7),
];

/// The keys, as the last line says them.
pub const KEYS: &str =
    "q quit  c CPU  w waits  m memory  s system calls  u queries  l p95  n name  ↑ ↓ PgUp PgDn move  space pause";

/// A share from which it is shown as a warning, and one from which it is shown as a trouble.
const HIGH: [f64; 2] = [0.7, 0.9];
/// Columns that the bar of one core takes.
const CORE_WIDTH: u16 = 26;

/// Draws a whole terminal.
pub fn screen(frame: &mut Frame<'_>, screen: &Screen<'_>, state: &mut TableState, colours: bool) {
    let host = &screen.view.host;
    let across = (frame.area().width / CORE_WIDTH).max(1);
    // At most a third of the lines for cores.
    let rows =
        u16::try_from(host.cores.len()).unwrap_or(u16::MAX).div_ceil(across).min((frame.area().height / 3).max(1));
    let [title, cores, line, table, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let paint = Paint(colours);
    let mut words = vec![Span::styled("steth top", Style::new().add_modifier(Modifier::BOLD)), Span::raw("  ")];
    words.push(match screen.trouble {
        Some(trouble) => Span::styled(trouble.to_owned(), paint.trouble(HIGH[1])),
        None => Span::raw(format!("{}  {}", screen.title, agent(host))),
    });
    if let Some(firing) = host.alerts_firing.filter(|firing| *firing > 0.0) {
        words.push(Span::styled(format!("  {firing:.0} alerts fire: steth alerts"), paint.trouble(HIGH[1])));
    }
    frame.render_widget(Line::from(words), title);
    draw_cores(frame, &host.cores, cores, across, paint);
    frame.render_widget(Paragraph::new(host_line(host)), line);
    draw_services(frame, screen, state, table, paint);
    frame.render_widget(Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM)), keys);
}

fn draw_cores(frame: &mut Frame<'_>, cores: &[Core], area: Rect, across: u16, paint: Paint) {
    let room = usize::from(area.height) * usize::from(across);
    // What does not fit is told in the last place.
    let fit = if cores.len() > room { room.saturating_sub(1) } else { cores.len() };
    for (place, core) in (0_u16..).zip(&cores[..fit]) {
        draw_bar(frame, cell(area, across, place), &format!("{:>3}", core.cpu), busy(core), paint);
    }
    if fit < cores.len() {
        let rest = &cores[fit..];
        let mean = rest.iter().map(busy).sum::<f64>() / rest.len() as f64;
        let place = cell(area, across, u16::try_from(fit).unwrap_or(u16::MAX));
        draw_bar(frame, place, &format!("+{}", rest.len()), mean, paint);
    }
}

fn cell(area: Rect, across: u16, place: u16) -> Rect {
    Rect { x: area.x + place % across * CORE_WIDTH, y: area.y + place / across, width: CORE_WIDTH - 1, height: 1 }
        .intersection(area)
}

fn draw_bar(frame: &mut Frame<'_>, area: Rect, name: &str, share: f64, paint: Paint) {
    let length = usize::from(area.width.saturating_sub(12));
    let filled = (share.clamp(0.0, 1.0) * length as f64).round() as usize;
    let line = Line::from(vec![
        Span::raw(format!("{name:<4}[")),
        Span::styled("|".repeat(filled), paint.trouble(share)),
        Span::raw(format!("{}]{:>4.0} %", " ".repeat(length - filled), share * 100.0)),
    ]);
    frame.render_widget(line, area);
}

fn draw_services(frame: &mut Frame<'_>, screen: &Screen<'_>, state: &mut TableState, area: Rect, paint: Paint) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    // Figures stand to the right, names to the left.
    let aligned = |number: usize, line: Line<'static>| if number == 0 { line } else { line.right_aligned() };
    let heading = COLUMNS.iter().enumerate().map(|(number, (name, order, _))| {
        let sorted = *order == Some(screen.order);
        aligned(number, Line::styled(*name, if sorted { bold.add_modifier(Modifier::UNDERLINED) } else { bold }))
    });
    let rows = screen.view.services.iter().map(|service| {
        let cells = cells(service).into_iter().enumerate().map(|(number, cell)| aligned(number, Line::raw(cell)));
        let hot = service.worst_open_files_ratio.unwrap_or(0.0);
        let style = if hot >= HIGH[0] { paint.trouble(hot) } else { Style::new() };
        Row::new(cells).style(style)
    });
    let mut widths = COLUMNS.map(|(_, _, width)| Constraint::Length(width));
    widths[0] = Constraint::Min(COLUMNS[0].2);
    let table = Table::new(rows, widths)
        .header(Row::new(heading))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, state);
}

/// The view as plain lines: the host, a heading, the services.
pub fn plain(view: &View) -> String {
    let mut text = String::new();
    let busy: Vec<String> =
        view.host.cores.iter().map(|core| format!("{}: {:.0} %", core.cpu, busy(core) * 100.0)).collect();
    let _ = writeln!(text, "cores {}", if busy.is_empty() { "unknown".into() } else { busy.join(", ") });
    let _ = writeln!(text, "{}", host_line(&view.host));
    let _ = writeln!(text, "{}", agent(&view.host));
    let heading = COLUMNS.map(|(name, _, _)| name.to_owned());
    let rows = std::iter::once(heading).chain(view.services.iter().map(cells));
    let name = view.services.iter().map(|service| service.service.chars().count()).max().unwrap_or(0);
    for row in rows {
        let mut line = String::new();
        for (cell, (_, _, width)) in row.iter().zip(COLUMNS) {
            let _ = match line.is_empty() {
                true => write!(line, "{cell:<0$}", name.max(width.into())),
                false => write!(line, " {cell:>0$}", usize::from(width)),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// One service, a text for each column; what is not known is empty.
fn cells(service: &Service) -> [String; 13] {
    let with = |value: Option<f64>, text: fn(f64) -> String| value.map(text).unwrap_or_default();
    [
        service.service.clone(),
        with(service.processes, |count| format!("{count:.0}")),
        with(service.cpu_cores, share),
        with(service.run_queue_seconds_per_second, share),
        with(service.disk_seconds_per_second, share),
        with(service.lock_seconds_per_second, share),
        with(service.resident_bytes, |bytes| figure(bytes, "B")),
        with(service.open_files, |count| format!("{count:.0}")),
        with(service.syscalls_per_second, rate),
        with(service.syscall_errors_per_second, rate),
        with(service.queries_per_second, rate),
        with(service.query_p95_seconds, |seconds| figure(seconds, "s")),
        with(service.query_errors_per_second, rate),
    ]
}

fn host_line(host: &Host) -> String {
    let mut parts = Vec::new();
    if let (Some(used), Some(all)) = (host.memory_used_bytes, host.memory_bytes) {
        parts.push(format!("memory {} of {}", figure(used, "B"), figure(all, "B")));
    }
    if let Some([one, five, fifteen]) = host.load {
        parts.push(format!("load {one:.2} {five:.2} {fifteen:.2}"));
    }
    let pair = |name: &str, left: Option<f64>, right: Option<f64>, words: [&str; 2]| {
        let (left, right) = (figure(left?, "B/s"), figure(right?, "B/s"));
        Some(format!("{name} {} {left}, {} {right}", words[0], words[1]))
    };
    parts.extend(pair(
        "disk",
        host.disk_read_bytes_per_second,
        host.disk_written_bytes_per_second,
        ["read", "written"],
    ));
    parts.extend(pair(
        "network",
        host.network_received_bytes_per_second,
        host.network_sent_bytes_per_second,
        ["in", "out"],
    ));
    parts.join("   ")
}

/// What the agent itself takes, and what it lost.
fn agent(host: &Host) -> String {
    let mut parts = Vec::new();
    if let Some(share) = host.agent_cpu_ratio {
        parts.push(format!("agent {} of a core", figure(share, "ratio")));
    }
    if let Some(bytes) = host.agent_resident_bytes {
        parts.push(figure(bytes, "B"));
    }
    if let Some(lost) = host.records_lost {
        parts.push(format!("{lost:.0} records lost"));
    }
    parts.join(", ")
}

/// Without the time that nobody could use: waiting for a disk is not being busy.
fn busy(core: &Core) -> f64 {
    core.user_ratio + core.system_ratio + core.steal_ratio
}

/// Seconds per second, or cores.
fn share(value: f64) -> String {
    format!("{value:.2}")
}

/// Events per second.
fn rate(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.1}k", value / 1e3),
        value if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// Colours, where they are wanted.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn trouble(self, share: f64) -> Style {
        match share {
            _ if !self.0 => Style::new(),
            share if share >= HIGH[1] => Style::new().fg(Color::Red),
            share if share >= HIGH[0] => Style::new().fg(Color::Yellow),
            _ => Style::new().fg(Color::Green),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn view(cores: u32, services: usize) -> View {
        let core = |cpu| Core { cpu, user_ratio: 0.5, system_ratio: 0.25, iowait_ratio: 0.25, steal_ratio: 0.0 };
        let service = |number: usize| Service {
            service: format!("service-{number}"),
            processes: Some(3.0),
            cpu_cores: Some(1.234),
            resident_bytes: Some(3.0 * 1_048_576.0),
            syscalls_per_second: Some(123_456.0),
            query_p95_seconds: Some(0.0123),
            ..Service::default()
        };
        View {
            seconds: 2.0,
            host: Host {
                cores: (0..cores).map(core).collect(),
                alerts_firing: Some(2.0),
                load: Some([1.0, 2.0, 3.0]),
                ..Host::default()
            },
            services: (0..services).map(service).collect(),
        }
    }

    fn drawn(view: &View, size: (u16, u16), selected: usize) -> String {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        let mut state = TableState::new().with_selected(selected);
        let screen = Screen { view, title: "127.0.0.1:9464", order: Order::Cpu, trouble: None };
        terminal.draw(|frame| super::screen(frame, &screen, &mut state, true)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(size.0.into());
        lines.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>() + "\n").collect()
    }

    #[test]
    fn a_terminal_shows_cores_the_host_and_services() {
        let text = drawn(&view(2, 3), (140, 20), 0);
        for part in [
            "127.0.0.1:9464",
            "2 alerts fire",
            "0 [|||",
            "75 %",
            "load 1.00 2.00 3.00",
            "service-2",
            "1.23",
            "3 MiB",
            "123.5k",
            "12.3 ms",
            "q quit",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn more_cores_than_fit_are_told_together_and_services_scroll() {
        let text = drawn(&view(128, 200), (60, 30), 150);
        assert!(text.contains("+109[") && text.contains("service-150") && !text.contains("service-2 "), "{text}");
    }

    #[test]
    fn the_smallest_terminal_is_survived() {
        for size in [(1, 1), (5, 3), (300, 2)] {
            drawn(&view(64, 3), size, 0);
        }
    }

    #[test]
    fn plain_text_is_one_line_for_each_service() {
        let text = plain(&view(1, 2));
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.starts_with("cores 0: 75 %\n"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("service-1"), "{text}");
    }
}
