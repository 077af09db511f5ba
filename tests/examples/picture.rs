//! Makes docs/picture.svg: a terminal with commands that were run, and what they said. Knows how it looks, not what
//! is shown. `cargo xtask picture` starts it.

use std::{fmt::Write, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use steth_tests::{
    agent::{Agent, Options},
    prometheus::Prometheus,
    wait,
    workload::Workload,
};

/// What is typed. Numbers of ports are those of the defaults; they are run with those of the day.
const COMMANDS: [&str; 4] = [
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
    let mut lines = Vec::new();
    for command in COMMANDS {
        let said = run(command, agent.address(), &format!("127.0.0.1:{}", prometheus.port))?;
        let typed = command.lines().enumerate();
        lines.extend(
            typed.map(|(at, line)| Line { is_typed: true, text: [["> ", "# "][usize::from(at == 0)], line].concat() }),
        );
        lines.extend(said.lines().map(|line| Line { is_typed: false, text: line.to_owned() }));
        lines.push(Line { is_typed: false, text: String::new() });
    }
    lines.pop();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/picture.svg");
    std::fs::write(&file, picture(&lines)).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("wrote docs/picture.svg");
    Ok(())
}

fn run(command: &str, agent: &str, prometheus: &str) -> Result<String> {
    let now = command.replace(AGENT, agent).replace(PROMETHEUS, prometheus);
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &now]).output().context("cannot run bash")?;
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

fn picture(lines: &[Line]) -> String {
    let columns = lines.iter().map(|line| line.text.chars().count()).max().unwrap_or_default();
    let (width, height) = (columns * CHARACTER_WIDTH + 2 * MARGIN, lines.len() * LINE_HEIGHT + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <title>What steth says of a busy PostgreSQL</title>\n\
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
