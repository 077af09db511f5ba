//! The driver matrix: what steth counts of each driver, over each transport, attached before its connection opens and
//! in mid-stream, from both ends, against what PostgreSQL itself counts and logs and what the driver's clock says.
//! What the programs do is said in `drivers/README.md`.

use std::{collections::BTreeSet, sync::LazyLock};

use anyhow::{Context, Result};
use steth_tests::{
    agent::{Agent, Options},
    drivers::{Attach, Driver, Prepared, Report, Transport},
    exposition::Exposition,
    need_postgres, need_program,
    postgres::Postgres,
    program_missing, skipped,
    truth::{self, Counts, Since, Truth, fingerprint},
};

const DURATION: &str = "steth_postgres_query_duration_seconds";
const STATEMENTS: &str = "steth_postgres_statements_total";
const ROWS: &str = "steth_postgres_rows_total";
const INFO: &str = "steth_postgres_query_info";
const ERRORS: &str = "steth_postgres_errors_total";
const ROLES: [&str; 2] = ["server", "client"];
const UNSEEN: &str = "steth_postgres_encrypted_unseen_total";
const UNKNOWN: &str = "unknown";

/// One driver's run under one agent.
struct Row {
    driver: Driver,
    transport: Transport,
    attach: Attach,
    /// Its executable's name.
    service: String,
    database: String,
    report: Report,
    truth: Truth,
}

/// All that ran under one agent.
struct Phase {
    rows: Vec<Row>,
    /// Programs that did not get to their end, and why.
    broken: Vec<(Driver, String)>,
    metrics: Exposition,
    /// The service of the server.
    cluster: String,
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
    need_program!("openssl");
    assert!(rows().any(|(_, row)| row.transport == Transport::Tls));
}

/// Statements prepared before the agent came that pipelines execute: the server's process notes the last of a pipeline only, and
/// that is not asked which of them it was.
const PIPED: [&str; 2] = ["select piped_one()", "select piped_number($1)"];

/// A server does not know the database of a connection that is older than the agent, so its rows are added up.
#[test]
fn servers_of_connections_older_than_the_agent() {
    need_postgres!();
    let mut wrong = Vec::new();
    for phase in matrix().phases.iter().filter(|phase| phase.rows.iter().any(|row| row.attach == Attach::Midstream)) {
        wrong.extend(phase.broken.iter().map(|(_, why)| why.clone()));
        let mut servers = phase.metrics.clone();
        // The harness asks in other databases, on connections that are younger.
        let databases: Vec<_> = phase.rows.iter().map(|row| row.database.as_str()).chain([UNKNOWN]).collect();
        servers
            .samples
            .retain(|sample| sample.labels.get("database").is_none_or(|one| databases.contains(&one.as_str())));
        let (what, labels) = (format!("{:?} servers", phase.rows[0].transport), [("service", phase.cluster.as_str())]);
        let truth = Truth::sum(phase.rows.iter().map(|row| &row.truth));
        compare(&what, &truth, &servers, &labels, &Unknown::These(&PIPED), &mut wrong);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
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
        let unseen = row.driver.unseen(row.transport);
        let readable = unseen.is_none();
        match row.attach {
            Attach::Before => {
                for role in ROLES.into_iter().filter(|role| readable || *role == "server") {
                    let (what, labels) =
                        (format!("{what} {role}"), [("role", role), ("database", row.database.as_str())]);
                    compare(&what, &row.truth, &phase.metrics, &labels, &Unknown::None, &mut wrong);
                }
            }
            Attach::Midstream if readable => {
                let labels = [("role", "client"), ("service", row.service.as_str())];
                let unknown = match row.driver {
                    // Its script ran once before, and prepared all of it.
                    Driver::Pgbench => Unknown::Any,
                    _ => Unknown::These(&["select name from items where id = $1"]),
                };
                compare(&what, &row.truth, &phase.metrics, &labels, &unknown, &mut wrong);
            }
            Attach::Midstream => {}
        }
        if readable {
            compare_durations(&what, row, &phase.metrics, &mut wrong);
        }
        compare_unseen(&what, row, phase, unseen, &mut wrong);
        let (truth, told) = (&row.truth.errors, &row.report.errors);
        if truth != told {
            wrong.push(format!("{what}: the driver was told {told:?} of {truth:?}"));
        }
        for sqlstate in ["22012", "23505", "42601"] {
            if !truth.contains_key(sqlstate) {
                wrong.push(format!("{what}: the workload holds no {sqlstate}"));
            }
        }
        println!("{what}: {} statements of PostgreSQL", row.truth.calls.values().sum::<u64>());
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Which statements' text went by before the agent came, so that they may be unknown.
enum Unknown {
    None,
    These(&'static [&'static str]),
    Any,
}

/// Statements as themselves or, where that may be, as unknown; never as another, and none is missing. Rows and errors.
fn compare(
    what: &str,
    truth: &Truth,
    metrics: &Exposition,
    labels: &[(&str, &str)],
    unknown: &Unknown,
    wrong: &mut Vec<String>,
) {
    let before = wrong.len();
    let counted = counts(metrics, STATEMENTS, labels, "query");
    let mut expected = truth.clone();
    for (fingerprint, calls) in &truth.calls {
        let may_be_unknown = match unknown {
            Unknown::None => false,
            Unknown::These(texts) => texts.iter().any(|text| *fingerprint == truth::fingerprint(text)),
            Unknown::Any => true,
        };
        let known = of(&counted, fingerprint).min(*calls);
        if may_be_unknown && known < *calls {
            expected.calls.insert(fingerprint.clone(), known);
            *expected.calls.entry(UNKNOWN.to_owned()).or_default() += calls - known;
        }
    }
    let all: BTreeSet<_> = expected.calls.keys().chain(counted.keys()).collect();
    for fingerprint in all {
        let [truth, counted] = [&expected.calls, &counted].map(|calls| of(calls, fingerprint));
        if truth != counted {
            let text = expected.texts.get(fingerprint).map_or("not in pg_stat_statements", String::as_str);
            let summary =
                metrics.matching(INFO, &[("query", fingerprint)]).next().map(|info| info.labels["summary"].clone());
            wrong.push(format!("{what}: {counted} of {truth}: {fingerprint} {}: {text}", summary.unwrap_or_default()));
        }
    }
    let rows = metrics.sum(ROWS, labels);
    if rows != truth.rows as f64 {
        wrong.push(format!("{what}: {rows} of {} rows", truth.rows));
    }
    let errors = counts(metrics, ERRORS, labels, "sqlstate");
    if errors != truth.errors {
        wrong.push(format!("{what}: errors {errors:?} of {:?}", truth.errors));
    }
    if wrong.len() > before {
        wrong.push(format!("{what}: the agent itself counts as lost: {}", losses(metrics)));
    }
}

fn of(calls: &Counts, fingerprint: &str) -> u64 {
    calls.get(fingerprint).copied().unwrap_or_default()
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

/// A client's end that cannot be read is counted as that, with its reason, and nothing is made up; of all others, and of
/// the server's ends, nothing is unseen.
fn compare_unseen(what: &str, row: &Row, phase: &Phase, why: Option<&str>, wrong: &mut Vec<String>) {
    let unseen = |service: &str| counts(&phase.metrics, UNSEEN, &[("service", service)], "reason");
    let (client, server) = (unseen(&row.service), unseen(&phase.cluster));
    // That a connection which is older than the agent is Postgres' is not known; those that cancel are younger.
    let must_show = why.filter(|_| row.attach == Attach::Before);
    if client.keys().any(|reason| Some(reason.as_str()) != why) || must_show.is_some_and(|why| of(&client, why) == 0) {
        wrong.push(format!("{what}: the client's end is unseen for {client:?} instead of {why:?}"));
    }
    let statements = counts(&phase.metrics, STATEMENTS, &[("service", row.service.as_str())], "query");
    if why.is_some() && !statements.is_empty() {
        wrong.push(format!("{what}: statements of an end that cannot be read: {statements:?}"));
    }
    if !server.is_empty() {
        wrong.push(format!("{what}: the server's end is unseen for {server:?}"));
    }
}

/// Counts by the value of a label, those that are none left out.
fn counts(metrics: &Exposition, name: &str, labels: &[(&str, &str)], by: &str) -> Counts {
    let sums = metrics.sums_by(name, labels, by);
    sums.into_iter().filter(|(_, sum)| *sum > 0.0).map(|(key, sum)| (key, sum as u64)).collect()
}

impl Row {
    fn name(&self) -> String {
        format!("{:?} {:?} {:?}", self.driver, self.transport, self.attach)
    }
}

/// What the agent itself says is missing.
fn losses(metrics: &Exposition) -> String {
    let names = ["steth_records_lost_total", "steth_cells_full_total"];
    let lost = metrics.samples.iter().filter(|one| names.contains(&one.name.as_str()) && one.value > 0.0);
    lost.map(|one| format!("{:?} {}", one.labels, one.value)).collect::<Vec<_>>().join(", ")
}

fn run() -> Result<Matrix> {
    let mut matrix = Matrix::default();
    let postgres = Postgres::start()?;
    truth::log_all(&postgres)?;
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
    if program_missing("openssl").is_none() {
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
    // Statements in such number, twice where two runs meet, and the system calls of all the services of a busy host would
    // not have room together.
    let agent = Agent::start(&Options { sections: "[probes]\nsyscalls = false\n".to_owned(), ..Options::default() })?;
    let since = Since::now(postgres)?;
    // One after the other, so that none waits for the other's CPU while it looks at its clock.
    for (prepared, database, running) in waiting {
        match running.finish() {
            Ok(report) => finished.push((prepared, database, report)),
            Err(error) => note(prepared.driver, &error),
        }
    }
    let metrics = settled(&agent, postgres)?;
    let long = format!("select long_length('{}')", "x".repeat(65_536));
    let mut rows = Vec::new();
    for (prepared, database, report) in finished {
        let truth = since.truth(&database, ("long_length", &long))?;
        let (driver, service) = (prepared.driver, prepared.service.clone());
        rows.push(Row { driver, transport, attach, service, database, report, truth });
    }
    let folder = postgres.folder().file_name().context("the cluster has no folder")?;
    Ok(Phase { rows, broken, metrics, cluster: format!("postgres:{}/cluster", folder.display()) })
}

/// What [`Agent::settled`] does, without system calls: a statement in a database of its own shows, then a second one.
fn settled(agent: &Agent, postgres: &Postgres) -> Result<Exposition> {
    let mark = || {
        let database = postgres.create_database()?;
        postgres.psql(&database, "select 1")?;
        let labels = [("role", "server"), ("database", database.as_str())];
        agent.scrape_until("a statement of the test's own", |metrics| metrics.sum(STATEMENTS, &labels) > 0.0)
    };
    mark()?;
    mark()
}
