//! Makes the pictures of the README and the tour: terminals with commands that were run and what they said, and a page in a
//! browser. Knows how it looks, not what is shown. `cargo xtask picture` starts it.

use std::{fmt::Write, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use steth_tests::{
    agent::{Agent, Options, steth},
    browser::Browser,
    prometheus::Prometheus,
    wait,
    workload::Workload,
};

/// A terminal.
struct Terminal {
    /// Under docs.
    file: &'static str,
    title: &'static str,
    /// What is typed. Numbers of ports are those of the defaults; they are run with those of the day.
    commands: &'static [&'static str],
}

const TERMINALS: [Terminal; 2] = [
    Terminal { file: "picture.svg", title: "What steth says of a busy PostgreSQL", commands: &QUERIES },
    Terminal { file: "tour-top.svg", title: "Services, and single queries as they happen", commands: &TOUR },
];
const TOUR: [&str; 2] = ["steth top -n 1 | head -9", "steth trace postgres --min-duration 1ms -d 3s | head -8"];
const QUERIES: [&str; 4] = [
    r#"curl -s 127.0.0.1:9464/metrics | grep -E 'connect_duration_seconds_count.*psql|steth_postgres_errors.*client'"#,
    r#"promtool query instant http://127.0.0.1:9090 'sort_desc(round(histogram_quantile(0.95, sum by (query, le) (
    rate(steth_postgres_query_duration_seconds_bucket{role="server"}[1m]))), 1e-6)
    * on (query) group_left (summary) steth_postgres_query_info > 0)' | sed 's/ @.*//'"#,
    r#"promtool query instant http://127.0.0.1:9090 'topk(5, round(sum by (syscall, kind) (
    rate(steth_syscall_duration_seconds_sum{service="pgbench"}[1m])), 1e-4))' | sed 's/ @.*//'"#,
    r#"promtool query instant http://127.0.0.1:9090 'round(histogram_quantile(0.95, sum by (service, le) (
    rate(steth_socket_pickup_delay_seconds_bucket{service=~"pgbench|postgres:.*|psql"}[1m]))), 1e-6)
    > 0' | sed 's/ @.*//'"#,
];
const PROMETHEUS: &str = "127.0.0.1:9090";
const AGENT: &str = "127.0.0.1:9464";
/// So that a rate over a minute is one.
const MINUTE: f64 = 60.0;

fn main() -> Result<()> {
    if let Some(why) = steth_tests::bpf_missing() {
        bail!("a picture of the live kernel {why}");
    }
    let agent = Agent::start(&Options::default())?;
    let _workload = Workload::start("shop")?;
    let prometheus = Prometheus::start(agent.address())?;
    wait::poll("a minute of scrapes", Duration::from_secs(120), || {
        Ok(prometheus.query("count_over_time(up{job='steth'}[2m])")?.filter(|count| *count >= MINUTE))
    })?;
    for terminal in &TERMINALS {
        let lines = lines(terminal.commands, &agent, &prometheus)?;
        write(terminal.file, picture(terminal.title, &lines).as_bytes())?;
    }
    write("tour-flame.png", &page(&agent)?)
}

fn write(name: &str, bytes: &[u8]) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("wrote docs/{name}");
    Ok(())
}

/// A flame graph of the host in the page of its own, as PNG.
fn page(agent: &Agent) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("host.html");
    let path = file.to_str().context("no UTF-8")?;
    let (code, _, said) = steth(&["flame", "--agent", agent.address(), "--all", "-d", "5s", "-F", "499", "-o", path])?;
    anyhow::ensure!(code == Some(0), "{said}");
    let mut browser = Browser::start(1200, 640)?;
    browser.open(&file, "")?;
    Ok(BASE64_STANDARD.decode(browser.picture()?)?)
}

fn lines(commands: &[&str], agent: &Agent, prometheus: &Prometheus) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for command in commands {
        let said = run(command, agent.address(), &format!("127.0.0.1:{}", prometheus.port))?;
        let typed = command.lines().enumerate();
        lines.extend(
            typed.map(|(at, line)| Line { is_typed: true, text: [["> ", "# "][usize::from(at == 0)], line].concat() }),
        );
        lines.extend(said.lines().map(|line| Line { is_typed: false, text: shortened(line) }));
        lines.push(Line { is_typed: false, text: String::new() });
    }
    lines.pop();
    Ok(lines)
}

/// As a terminal of this width shows it.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(MOST_COLUMNS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.trim_end().to_owned(),
    }
}

fn run(command: &str, agent: &str, prometheus: &str) -> Result<String> {
    let mut now = command.replace(AGENT, agent).replace(PROMETHEUS, prometheus);
    for asks in ["steth top", "steth trace postgres"] {
        now = now.replace(asks, &format!("{asks} --agent {agent}"));
    }
    let program = std::env::var("STETH_BIN").context("STETH_BIN is not set: run `cargo xtask picture`")?;
    let folder = Path::new(&program).parent().context("STETH_BIN is a root")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.args(["-c", &now]).env("PATH", path).env_remove("STETH_BIN");
    let output = bash.output().context("cannot run bash")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!("{now}\n{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// One line of the terminal.
struct Line {
    is_typed: bool,
    text: String,
}

const FONT_SIZE: usize = 13;
/// Of the fonts named below none is wider than 0.61 of its size.
const CHARACTER_WIDTH: usize = 8;
const LINE_HEIGHT: usize = 19;
const MARGIN: usize = 18;
const MOST_COLUMNS: usize = 170;

fn picture(title: &str, lines: &[Line]) -> String {
    let columns = lines.iter().map(|line| line.text.chars().count()).max().unwrap_or_default();
    let (width, height) = (columns * CHARACTER_WIDTH + 2 * MARGIN, lines.len() * LINE_HEIGHT + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <title>{title}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#14181d\"/>\n\
         <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"{FONT_SIZE}\" xml:space=\"preserve\">\n"
    );
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.text.is_empty()) {
        let colour = if line.is_typed { "#8fd18f" } else { "#d6dbe0" };
        let y = MARGIN + at * LINE_HEIGHT + FONT_SIZE;
        let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\" fill=\"{colour}\">{}</text>", escaped(&line.text));
    }
    svg + "</g>\n</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
