//! The driver matrix: what steth counts of each driver, over each transport, attached before its connection opens and
//! in mid-stream, from both ends, against what PostgreSQL itself counts and logs and what the driver's clock says.
//! What the programs do is said in `drivers/README.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use anyhow::{Context, Result};
use steth::postgres::statement;
use steth_tests::{
    agent::{Agent, Options},
    drivers::{Attach, Driver, Prepared, Report, Transport},
    exposition::Exposition,
    need_postgres, need_program,
    postgres::{HARNESS_DATABASE, Postgres},
    program_missing, skipped,
};

const DURATION: &str = "steth_postgres_query_duration_seconds";
const STATEMENTS: &str = "steth_postgres_statements_total";
const ERRORS: &str = "steth_postgres_errors_total";
const ROLES: [&str; 2] = ["server", "client"];
const UNKNOWN: &str = "unknown";

/// Why the rows over TLS are switched off; `None` runs them.
const TLS_OFF: Option<&str> = Some("encrypted connections are not read yet");

/// What is known to be wrong, with the reason.
const KNOWN_GAPS: &[Gap] = &[
    Gap {
        why: "several statements in one simple query are counted under the fingerprint of the whole text",
        texts: &["select multi_one()", "select multi_two()"],
        counted_as: Some("select multi_one(); select multi_two()"),
    },
    Gap {
        why: "of more than eight Sync messages under way the kernel keeps no statements",
        texts: &["select piped_number($1)", "select piped_division($1)"],
        counted_as: None,
    },
];

/// Statements that are counted, but not each as itself.
#[derive(Clone, Copy)]
struct Gap {
    why: &'static str,
    texts: &'static [&'static str],
    /// What they are counted as; unknown if that is nothing.
    counted_as: Option<&'static str>,
}

/// Calls by fingerprint.
type Calls = BTreeMap<String, u64>;

/// One driver's run under one agent.
struct Row {
    driver: Driver,
    transport: Transport,
    attach: Attach,
    /// Its executable's name.
    service: String,
    database: String,
    report: Report,
    /// What PostgreSQL counted in this database.
    calls: Calls,
    /// Errors in this database by SQLSTATE, from the server's log.
    errors: Calls,
}

/// All that ran under one agent.
struct Phase {
    rows: Vec<Row>,
    /// Programs that did not get to their end, and why.
    broken: Vec<(Driver, String)>,
    metrics: Exposition,
    /// The service of the server.
    cluster: String,
    /// A statement's text by its fingerprint, to name it in a failure.
    texts: BTreeMap<String, String>,
}

#[derive(Default)]
struct Matrix {
    phases: Vec<Phase>,
    /// Drivers that cannot be had here, and why.
    missing: Vec<(Driver, String)>,
}

/// Run once, whichever test comes first: one cluster, one agent for each transport and attachment.
static MATRIX: LazyLock<Result<Matrix, String>> = LazyLock::new(|| run().map_err(|error| format!("{error:#}")));

fn matrix() -> &'static Matrix {
    match &*MATRIX {
        Ok(matrix) => matrix,
        Err(error) => panic!("the matrix did not run: {error}"),
    }
}

macro_rules! rows {
    ($($test:ident: $driver:ident),+ $(,)?) => {$(
        #[test]
        fn $test() {
            need_postgres!();
            if let Some((_, why)) = matrix().missing.iter().find(|(driver, _)| *driver == Driver::$driver) {
                skipped!("{why}");
            }
            check(Driver::$driver);
        }
    )+};
}

rows! {
    psql: Psql,
    pgbench: Pgbench,
    psycopg_2: Psycopg2,
    psycopg_3: Psycopg3,
    asyncpg: Asyncpg,
    tokio_postgres: TokioPostgres,
    node_postgres: NodePostgres,
    postgres_js: PostgresJs,
    jdbc: Jdbc,
}

#[test]
fn drivers_over_tls() {
    need_postgres!();
    if let Some(why) = TLS_OFF {
        skipped!("{why}");
    }
    need_program!("openssl");
    assert!(rows().any(|(_, row)| row.transport == Transport::Tls));
}

/// A server does not know the database of a connection that is older than the agent, so its rows are added up.
#[test]
fn servers_of_connections_older_than_the_agent() {
    need_postgres!();
    let mut wrong = Vec::new();
    for phase in matrix().phases.iter().filter(|phase| phase.rows.iter().any(|row| row.attach == Attach::Midstream)) {
        wrong.extend(phase.broken.iter().map(|(_, why)| why.clone()));
        let mut truth = [Calls::new(), Calls::new()];
        for row in &phase.rows {
            for (sums, part) in truth.iter_mut().zip([&row.calls, &row.errors]) {
                part.iter().for_each(|(key, count)| *sums.entry(key.clone()).or_default() += count);
            }
        }
        let mut servers = phase.metrics.clone();
        // The harness asks in a database of its own, on connections that are younger.
        servers.samples.retain(|sample| !sample.bears(&[("database", HARNESS_DATABASE)]));
        let (what, labels) = (format!("{:?} servers", phase.rows[0].transport), [("service", phase.cluster.as_str())]);
        compare_partly(&what, &truth[0], &counts(&servers, STATEMENTS, &labels, "query"), phase, &mut wrong);
        compare_errors(&what, &truth[1], &counts(&servers, ERRORS, &labels, "sqlstate"), &mut wrong);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// One that does not show any more goes from the list, or it would hide the next fault.
#[test]
fn known_gaps_still_show() {
    need_postgres!();
    let mut found = BTreeSet::new();
    for (phase, row) in rows().filter(|(_, row)| row.attach == Attach::Before) {
        let labels = [("role", "client"), ("database", row.database.as_str())];
        let counted = counts(&phase.metrics, STATEMENTS, &labels, "query");
        found.extend(without_gaps(&row.name(), &row.calls, &counted, KNOWN_GAPS).1);
    }
    let closed: Vec<_> = KNOWN_GAPS.iter().map(|gap| gap.why).filter(|why| !found.contains(why)).collect();
    assert!(closed.is_empty(), "closed: {closed:?}");
}

/// All rows of all drivers.
fn rows() -> impl Iterator<Item = (&'static Phase, &'static Row)> {
    matrix().phases.iter().flat_map(|phase| phase.rows.iter().map(move |row| (phase, row)))
}

fn check(driver: Driver) {
    let broken = matrix().phases.iter().flat_map(|phase| &phase.broken).filter(|(broken, _)| *broken == driver);
    let mut wrong: Vec<String> = broken.map(|(_, why)| why.clone()).collect();
    for (phase, row) in rows().filter(|(_, row)| row.driver == driver) {
        let what = row.name();
        let own = [("role", "client"), ("service", row.service.as_str())];
        let readable = row.driver.is_readable(row.transport);
        match row.attach {
            Attach::Before => {
                for role in ROLES.into_iter().filter(|role| readable || *role == "server") {
                    let labels = [("role", role), ("database", row.database.as_str())];
                    let counted = counts(&phase.metrics, STATEMENTS, &labels, "query");
                    compare(&format!("{what} {role}"), &row.calls, &counted, phase, &mut wrong);
                    let errors = counts(&phase.metrics, ERRORS, &labels, "sqlstate");
                    compare_errors(&format!("{what} {role}"), &row.errors, &errors, &mut wrong);
                }
            }
            Attach::Midstream if readable => {
                let counted = counts(&phase.metrics, STATEMENTS, &own, "query");
                compare_partly(&what, &row.calls, &counted, phase, &mut wrong);
                let errors = counts(&phase.metrics, ERRORS, &own, "sqlstate");
                compare_errors(&what, &row.errors, &errors, &mut wrong);
            }
            Attach::Midstream => {}
        }
        if readable {
            compare_durations(&what, row, &phase.metrics, &mut wrong);
        }
        compare_errors(&format!("{what}: its own report"), &row.errors, &row.report.errors, &mut wrong);
        for sqlstate in ["22012", "23505", "42601"] {
            if !row.errors.contains_key(sqlstate) {
                wrong.push(format!("{what}: the workload holds no {sqlstate}"));
            }
        }
        println!("{what}: {} statements of PostgreSQL", row.calls.values().sum::<u64>());
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Every statement was seen from its text to its end: each is counted as itself, none is missing.
fn compare(what: &str, truth: &Calls, counted: &Calls, phase: &Phase, wrong: &mut Vec<String>) {
    let (counted, _) = without_gaps(what, truth, counted, KNOWN_GAPS);
    let all: BTreeSet<_> = truth.keys().chain(counted.keys()).collect();
    let before = wrong.len();
    for fingerprint in all {
        let [truth, counted] = [truth, &counted].map(|calls| of(calls, fingerprint));
        if truth != counted {
            wrong.push(format!("{what}: {counted} of {truth}: {}", phase.name(fingerprint)));
        }
    }
    if wrong.len() > before {
        wrong.push(phase.losses());
    }
}

/// Statements whose text went by before the agent came may be unknown. None may be another, none is missing.
fn compare_partly(what: &str, truth: &Calls, counted: &Calls, phase: &Phase, wrong: &mut Vec<String>) {
    let gaps: Vec<_> = KNOWN_GAPS.iter().filter(|gap| gap.counted_as.is_some()).copied().collect();
    let (counted, _) = without_gaps(what, truth, counted, &gaps);
    let before = wrong.len();
    let sum = |calls: &Calls| calls.values().sum::<u64>();
    if sum(truth) != sum(&counted) {
        wrong.push(format!("{what}: {} of {} statements", sum(&counted), sum(truth)));
    }
    for (fingerprint, counted) in counted.iter().filter(|(fingerprint, _)| *fingerprint != UNKNOWN) {
        let truth = of(truth, fingerprint);
        if *counted > truth {
            wrong.push(format!("{what}: attributed wrongly: {counted} of {truth}: {}", phase.name(fingerprint)));
        }
    }
    if wrong.len() > before {
        for (fingerprint, truth) in truth.iter().filter(|(fingerprint, truth)| of(&counted, fingerprint) < **truth) {
            let counted = of(&counted, fingerprint);
            wrong.push(format!("{what}: known {counted} of {truth}: {}", phase.name(fingerprint)));
        }
        wrong.push(format!("{what}: unknown {}", of(&counted, UNKNOWN)));
        wrong.push(phase.losses());
    }
}

/// What was counted, with what the known gaps explain put where it belongs, and which gaps those were. A gap explains
/// only what is elsewhere in full number: it hides nothing that is missing.
fn without_gaps(what: &str, truth: &Calls, counted: &Calls, gaps: &[Gap]) -> (Calls, Vec<&'static str>) {
    let (mut counted, mut found) = (counted.clone(), Vec::new());
    for gap in gaps {
        let place = gap.counted_as.map_or(UNKNOWN.to_owned(), fingerprint);
        let there = of(&counted, &place);
        let missing: Vec<(String, u64)> = gap
            .texts
            .iter()
            .map(|text| fingerprint(text))
            .map(|fingerprint| {
                let missing = of(truth, &fingerprint).saturating_sub(of(&counted, &fingerprint));
                (fingerprint, missing)
            })
            .collect();
        let sum = missing.iter().map(|(_, count)| count).sum();
        if sum == 0 || there < sum {
            continue;
        }
        println!("{what}: known gap: {sum} statements: {}", gap.why);
        found.push(gap.why);
        *counted.entry(place.clone()).or_default() -= sum;
        counted.retain(|_, count| *count > 0);
        for (fingerprint, count) in missing {
            *counted.entry(fingerprint).or_default() += count;
        }
    }
    (counted, found)
}

fn of(calls: &Calls, fingerprint: &str) -> u64 {
    calls.get(fingerprint).copied().unwrap_or_default()
}

fn compare_errors(what: &str, truth: &Calls, counted: &Calls, wrong: &mut Vec<String>) {
    if truth != counted {
        wrong.push(format!("{what}: errors {counted:?} of {truth:?}"));
    }
}

/// Each timed statement has a name, and so a sum, of its own: the two clocks, which are one, are compared call by call.
/// What the wire took is inside what the driver took, always. How much of it, says the median, which is not moved by
/// a call after which the driver had to wait for a CPU. Statements of 100 ms, because the driver's clock also runs in its
/// own code, before the first byte goes out and after the last was read: some hundred microseconds of an interpreter on
/// a slow machine, which are no part of the wire, against the 1 % that is allowed.
fn compare_durations(what: &str, row: &Row, metrics: &Exposition, wrong: &mut Vec<String>) {
    let mut differences = Vec::new();
    for (number, driver_ns) in row.report.timed_ns.iter().enumerate() {
        let query = fingerprint(&format!("select timed_{number}()"));
        let labels = [("role", "client"), ("service", row.service.as_str()), ("query", query.as_str())];
        let ours = metrics.histogram(DURATION, &labels);
        let (ours_us, driver_us) = (ours.sum * 1e6, *driver_ns as f64 / 1e3);
        // psql's clock shows whole microseconds.
        if ours.count != 1.0 || ours_us > driver_us + 1.0 {
            wrong.push(format!("{what}: timed_{number}: {} times {ours_us:.1} µs of {driver_us:.1} µs", ours.count));
        }
        differences.push((driver_us - ours_us, driver_us));
    }
    differences.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let Some((difference_us, driver_us)) = differences.get(differences.len() / 2) else { return };
    println!("{what}: at the median {difference_us:.1} µs less than the driver's {driver_us:.1} µs");
    if *difference_us > f64::max(20.0, 0.01 * driver_us) {
        wrong.push(format!("{what}: {difference_us:.1} µs less than the driver at the median of {differences:?}"));
    }
}

/// Counts by the value of a label, those that are none left out.
fn counts(metrics: &Exposition, name: &str, labels: &[(&str, &str)], by: &str) -> Calls {
    let sums = metrics.sums_by(name, labels, by);
    sums.into_iter().filter(|(_, sum)| *sum > 0.0).map(|(key, sum)| (key, sum as u64)).collect()
}

impl Row {
    fn name(&self) -> String {
        format!("{:?} {:?} {:?}", self.driver, self.transport, self.attach)
    }
}

impl Phase {
    fn name(&self, fingerprint: &str) -> String {
        let text = self.texts.get(fingerprint).map_or("not in pg_stat_statements", String::as_str);
        let query = [("query", fingerprint)];
        let summary = self.metrics.matching("steth_postgres_query_info", &query).next();
        let summary = summary.and_then(|info| info.labels.get("summary")).map_or("", String::as_str);
        format!("{fingerprint} {summary}: {text}")
    }

    /// What the agent itself says is missing.
    fn losses(&self) -> String {
        let names = ["steth_records_lost_total", "steth_cells_full_total"];
        let lost = self.metrics.samples.iter().filter(|one| names.contains(&one.name.as_str()) && one.value > 0.0);
        let lost: Vec<String> = lost.map(|one| format!("{:?} {}", one.labels, one.value)).collect();
        format!("the agent counted as lost: {}", lost.join(", "))
    }
}

/// The fingerprint of a statement as it was sent, of which the agent sees the first 4 KiB.
fn fingerprint(text: &str) -> String {
    let seen = text.len().min(steth_probes::postgres::TEXT_LEN as usize);
    statement(&text.as_bytes()[..seen], seen < text.len()).fingerprint.to_string()
}

fn run() -> Result<Matrix> {
    let mut matrix = Matrix::default();
    let postgres = Postgres::start()?;
    // What pg_stat_statements leaves out, and the errors.
    for setting in ["log_statement = 'all'", "log_line_prefix = '%d|%e|'"] {
        postgres.psql(HARNESS_DATABASE, &format!("alter system set {setting}"))?;
    }
    postgres.psql(HARNESS_DATABASE, "select pg_reload_conf()")?;
    let template = postgres.create_database()?;
    postgres.psql(&template, include_str!("../drivers/template.sql"))?;
    let mut drivers = Vec::new();
    for driver in Driver::ALL {
        match driver.prepare(&postgres) {
            Ok(prepared) => drivers.push(prepared),
            // On one line, as it is counted.
            Err(why) => matrix.missing.push((driver, format!("{why:#}").replace('\n', " "))),
        }
    }
    let mut transports = vec![Transport::Tcp, Transport::Unix];
    if TLS_OFF.is_none() && program_missing("openssl").is_none() {
        postgres.encrypt()?;
        transports.push(Transport::Tls);
    }
    for transport in transports {
        for attach in [Attach::Before, Attach::Midstream] {
            matrix.phases.push(phase(&postgres, &template, &drivers, transport, attach)?);
        }
    }
    Ok(matrix)
}

fn phase(
    postgres: &Postgres,
    template: &str,
    drivers: &[Prepared],
    transport: Transport,
    attach: Attach,
) -> Result<Phase> {
    let (mut waiting, mut finished, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    let mut note = |driver: Driver, error: &anyhow::Error| {
        broken.push((driver, format!("{driver:?} {transport:?} {attach:?}: {error:#}")));
    };
    for prepared in drivers.iter().filter(|prepared| prepared.driver.can(transport)) {
        let database = postgres.create_database_like(template)?;
        match prepared.start(postgres, &database, transport, attach) {
            Ok(running) => waiting.push((prepared, database, running)),
            Err(error) => note(prepared.driver, &error),
        }
    }
    waiting.retain(|(prepared, _, running)| {
        let ready = running.wait_until_ready();
        ready.as_ref().err().map(|error| note(prepared.driver, error)).is_none()
    });
    let agent = Agent::start(&Options::default())?;
    postgres.reset_stat_statements()?;
    let logged = postgres.log()?.len();
    // One after the other, so that none waits for the other's CPU while it looks at its clock.
    for (prepared, database, running) in waiting {
        match running.finish() {
            Ok(report) => finished.push((prepared, database, report)),
            Err(error) => note(prepared.driver, &error),
        }
    }
    let metrics = agent.settled()?;
    let log = postgres.log()?;
    let log = &log[logged..];
    let mut texts = BTreeMap::new();
    let mut rows = Vec::new();
    for (prepared, database, report) in finished {
        let calls = calls(postgres, &database, log, &mut texts)?;
        let errors = logged_errors(&database, log);
        let (driver, service) = (prepared.driver, prepared.service.clone());
        rows.push(Row { driver, transport, attach, service, database, report, calls, errors });
    }
    let folder = postgres.folder().file_name().context("the cluster has no folder")?;
    Ok(Phase { rows, broken, metrics, cluster: format!("postgres:{}/cluster", folder.display()), texts })
}

/// What PostgreSQL ran in a database, as it was sent.
fn calls(postgres: &Postgres, database: &str, log: &str, texts: &mut BTreeMap<String, String>) -> Result<Calls> {
    let mut calls = Calls::new();
    let mut add = |sent: &str, text: &str, count: u64| {
        let fingerprint = fingerprint(sent);
        texts.entry(fingerprint.clone()).or_insert_with(|| text.to_owned());
        *calls.entry(fingerprint).or_default() += count;
    };
    for one in postgres.stat_statements(database)? {
        let text = one.text.as_str();
        if counted_by_log(text) {
            continue;
        }
        // It shows the literal of 64 KiB as `$1`.
        if text.contains("long_length") {
            add(&long_statement(), text, one.calls);
        } else {
            add(text, text, one.calls);
        }
    }
    for text in logged_statements(database, log).filter(|text| counted_by_log(text)) {
        add(text, text, 1);
    }
    Ok(calls)
}

/// What `pg_stat_statements` does not count as it was sent: of transaction control that is prepared only the first
/// execution (see [`Postgres::stat_statements`]), of PREPARE nothing, and EXECUTE as what was prepared. None of these
/// fails in the workload, so the log's "is about to run" stands for "ran".
fn counted_by_log(text: &str) -> bool {
    let word = text.split(|character: char| !character.is_ascii_alphabetic()).next().unwrap_or_default();
    let words = ["begin", "start", "commit", "rollback", "prepare", "execute", "deallocate"];
    words.contains(&word.to_ascii_lowercase().as_str())
}

/// The statements of one line that a database's backends logged: `database|00000|LOG:  statement: …`, or
/// `execute NAME: …` with the extended protocol.
fn logged_statements<'a>(database: &str, log: &'a str) -> impl Iterator<Item = &'a str> {
    let start = format!("{database}|00000|LOG:  ");
    log.lines().filter_map(move |line| {
        let message = line.strip_prefix(&start)?;
        let sent = message.strip_prefix("execute ").and_then(|rest| Some(rest.split_once(": ")?.1));
        sent.or_else(|| message.strip_prefix("statement: "))
    })
}

/// The errors that a database's backends told their clients, by SQLSTATE. Not `connection_failure` (08006), which says
/// that there was nobody left to tell.
fn logged_errors(database: &str, log: &str) -> Calls {
    let start = format!("{database}|");
    let mut errors = Calls::new();
    for line in log.lines() {
        if let Some((sqlstate, message)) = line.strip_prefix(&start).and_then(|line| line.split_once('|'))
            && (message.starts_with("ERROR:") || message.starts_with("FATAL:"))
            && sqlstate != "08006"
        {
            *errors.entry(sqlstate.to_owned()).or_default() += 1;
        }
    }
    errors
}

/// The statement of 64 KiB that all drivers send.
fn long_statement() -> String {
    format!("select long_length('{}')", "x".repeat(65_536))
}
