//! Who did it: programs in groups, in disguise, before the agent, and left out.

use std::time::Duration;

use steth_tests::{
    agent::{Agent, Options, binary},
    cgroup::Group,
    exposition::Exposition,
    need_bpf, need_program,
    pgbench::{Endpoint, Mode, Pgbench},
    postgres::Postgres,
    process::Process,
    programs::{ASKER, CONNECT, GUISES, HOLD_CONNECTIONS, Program, READER, SHORT_LIVED, SPAWNER, said_number},
    skipped, unique_name, wait,
};

const SOON: Duration = Duration::from_secs(20);
const CELLS: &str = "steth_cells_full_total";

fn syscalls(metrics: &Exposition, service: &str, syscall: &str) -> f64 {
    metrics.sum("steth_syscall_duration_seconds_count", &[("service", service), ("syscall", syscall)])
}

fn start_asker(program: &Program) -> Process {
    let asker = program.start(&[]).unwrap();
    asker.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    asker
}

fn ask(asker: &mut Process, times: u32) {
    asker.say(&times.to_string()).unwrap();
    let answer = format!("asked={times}");
    asker.wait_for_line(&answer, SOON, |line| (line == answer).then_some(())).unwrap();
}

/// Runs a program with children of a moment in a group: all of them are of the group's service, whatever they run.
fn assert_named_by_its_group(group: &Group, service: &str) {
    let agent = Agent::start(&Options::default()).unwrap();
    let (spawner, short) = (Program::build("spwn", SPAWNER).unwrap(), Program::build("shrt", SHORT_LIVED).unwrap());
    let command = group.command(&spawner.path, &["50", "30", short.path.to_str().unwrap()]);
    assert_eq!(Process::start("spawner", command).unwrap().finish(SOON).unwrap(), "forked=50 executed=30");
    let metrics = agent.settled().unwrap();
    let counted = [service, &spawner.name, &short.name].map(|service| syscalls(&metrics, service, "getppid"));
    assert_eq!(counted, [80.0, 0.0, 0.0]);
}

#[test]
fn a_program_in_a_units_group_is_of_that_unit() {
    need_bpf!();
    need_program!("gcc");
    let (slice, unit) = (unique_name("slc"), format!("{}.service", unique_name("demo")));
    match Group::make("", &format!("stethtest-{slice}.slice/{unit}")) {
        Ok(group) => assert_named_by_its_group(&group, &unit),
        Err(error) => skipped!("{error:#}"),
    }
}

#[test]
fn a_program_in_a_containers_group_of_version_1_is_of_that_container() {
    need_bpf!();
    need_program!("gcc");
    // A container's id is 64 random hexadecimal digits; docker shows the first 12.
    let digits: String = unique_name("c").bytes().filter(u8::is_ascii_hexdigit).map(char::from).collect();
    let id = format!("{digits:0<12}{}", "5".repeat(52));
    match Group::make("pids", &format!("docker/{id}")) {
        Ok(group) => assert_named_by_its_group(&group, &format!("docker:{}", &id[..12])),
        Err(error) => skipped!("{error:#}"),
    }
}

#[test]
fn the_agent_leaves_itself_out_and_not_who_bears_its_name() {
    need_bpf!();
    need_program!("gcc");
    let group = match Group::make("", &unique_name("grp")) {
        Ok(group) => group,
        Err(error) => skipped!("{error:#}"),
    };
    // Under a name that no other agent of this host has.
    let (folder, name) = (tempfile::tempdir().unwrap(), unique_name("agnt"));
    let own = folder.path().join(&name);
    std::fs::copy(binary().unwrap(), &own).unwrap();
    let (program, sections) = (Some(own), "[probes]\nown = false\n".to_owned());
    let agent = Agent::start(&Options { program, sections, ..Options::default() }).unwrap();
    let impostor = folder.path().join("elsewhere").join(&name);
    std::fs::create_dir(impostor.parent().unwrap()).unwrap();
    std::fs::copy(&Program::build("shrt", SHORT_LIVED).unwrap().path, &impostor).unwrap();
    let count = "steth_syscall_duration_seconds_count";
    assert_eq!(agent.settled().unwrap().sum(count, &[("service", &name)]), 0.0);
    Process::start("impostor", group.command(&impostor, &[])).unwrap().finish(SOON).unwrap();
    let metrics = agent.settled().unwrap();
    assert_eq!(syscalls(&metrics, &name, "getppid"), 1.0);
    // What the agent does all the time, and that program never.
    assert_eq!(syscalls(&metrics, &name, "epoll_wait") + syscalls(&metrics, &name, "bpf"), 0.0);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn threads_and_children_are_of_the_executable_and_exec_changes_it() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let (guises, short) = (Program::build("guis", GUISES).unwrap(), Program::build("shrt", SHORT_LIVED).unwrap());
    guises.run(&["300", "70", "40", short.path.to_str().unwrap()]).unwrap();
    let metrics = agent.settled().unwrap();
    let counted = [&guises.name, "impostor", &short.name].map(|service| syscalls(&metrics, service, "getppid"));
    assert_eq!(counted, [410.0, 0.0, 1.0]);
}

#[test]
fn two_clusters_are_two_services() {
    need_bpf!();
    if let Some(why) = Postgres::missing() {
        skipped!("{why}");
    }
    let agent = Agent::start(&Options::default()).unwrap();
    let clusters = [Postgres::start().unwrap(), Postgres::start().unwrap()];
    let run = |postgres: &Postgres| {
        let database = postgres.create_database().unwrap();
        let script = "select 1;\n";
        let bench = Pgbench { mode: Mode::Simple, endpoint: Endpoint::Tcp, script, clients: 2, transactions: 50 };
        bench.run(postgres, &database).unwrap();
        database
    };
    let databases = clusters.each_ref().map(run);
    let metrics = agent.settled().unwrap();
    for (postgres, database) in clusters.iter().zip(&databases) {
        // The last two components of its data directory.
        let service = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
        let labels = [("role", "server"), ("database", database.as_str())];
        let counted = metrics.sums_by("steth_postgres_query_duration_seconds_count", &labels, "service");
        assert_eq!(counted.into_iter().collect::<Vec<_>>(), [(service, 100.0)]);
    }
}

#[test]
fn a_process_that_waited_before_the_agent_came_is_attributed() {
    need_bpf!();
    need_program!("gcc");
    let program = Program::build("wait", ASKER).unwrap();
    let mut asker = start_asker(&program);
    let agent = Agent::start(&Options::default()).unwrap();
    ask(&mut asker, 1234);
    let metrics = agent.settled().unwrap();
    assert_eq!(syscalls(&metrics, &program.name, "getppid"), 1234.0);
    // The read that it waited in began before the agent: nobody knows for how long. The next has not returned.
    assert_eq!((syscalls(&metrics, &program.name, "read"), syscalls(&metrics, &program.name, "write")), (0.0, 1.0));
}

#[test]
fn sockets_that_were_there_before_are_in_the_first_scrape() {
    need_bpf!();
    need_program!("gcc");
    let program = Program::build("hold", HOLD_CONNECTIONS).unwrap();
    let holder = program.start(&["7"]).unwrap();
    holder.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let states = agent.scrape().unwrap().sums_by("steth_tcp_connections", &[("service", &program.name)], "state");
    let states: Vec<(String, f64)> = states.into_iter().collect();
    assert_eq!(states, [("established".to_owned(), 14.0), ("listen".to_owned(), 1.0)]);
}

#[test]
fn a_peer_that_listens_here_bears_its_services_name() {
    need_bpf!();
    need_program!("gcc");
    const BYTES: f64 = 54_321.0;
    let server = Program::build("serv", READER).unwrap();
    let client = Program::build("clnt", CONNECT).unwrap();
    let reader = server.start(&[]).unwrap();
    let port = reader.wait_for_line("its port", SOON, |line| said_number(line, "port").ok()).unwrap().to_string();
    let agent = Agent::start(&Options::default()).unwrap();
    let caller = client.start(&["127.0.0.1", &port, &BYTES.to_string(), "0"]).unwrap();
    caller.finish(SOON).unwrap();
    let read = reader.wait_for_line("what it read", SOON, |line| said_number(line, "read").ok()).unwrap();
    assert_eq!(read as f64, BYTES);
    let metrics = agent.settled().unwrap();
    let bytes = |service: &Program, direction: &str| {
        let labels = [("service", service.name.as_str()), ("direction", direction)];
        metrics.sums_by("steth_tcp_bytes_total", &labels, "peer").into_iter().collect::<Vec<_>>()
    };
    assert_eq!(bytes(&client, "sent"), [(server.name.clone(), BYTES)]);
    // Who called is known by its address: its port tells nothing.
    assert_eq!(bytes(&server, "received"), [("127.0.0.1".to_owned(), BYTES)]);
}

#[test]
fn nothing_of_an_excluded_service_is_counted() {
    need_bpf!();
    need_program!("gcc");
    let (excluded, other) = (Program::build("excl", ASKER).unwrap(), Program::build("othr", ASKER).unwrap());
    let mut before = start_asker(&excluded);
    let sections = format!("[probes]\nexclude_services = [\"{}\"]\n", excluded.name);
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    ask(&mut before, 1000);
    let metrics = agent.settled().unwrap();
    let all = metrics.sums_by("steth_syscall_duration_seconds_count", &[("service", &excluded.name)], "syscall");
    assert!(all.values().all(|count| *count == 0.0), "{all:?}");

    // One that comes later is of a service whose number is known by now.
    let (mut later, mut unconcerned) = (start_asker(&excluded), start_asker(&other));
    ask(&mut later, 1000);
    ask(&mut unconcerned, 1000);
    let metrics = agent.settled().unwrap();
    let all = metrics.sums_by("steth_syscall_duration_seconds_count", &[("service", &excluded.name)], "syscall");
    assert!(all.values().all(|count| *count == 0.0), "{all:?}");
    assert_eq!(syscalls(&metrics, &other.name, "getppid"), 1000.0);
}

#[test]
fn nothing_of_an_excluded_services_calls_over_tcp_is_counted() {
    need_bpf!();
    need_program!("gcc");
    let excluded = Program::build("excl", CONNECT).unwrap();
    let other = excluded.under_another_name("othr").unwrap();
    let sections = format!("[probes]\nexclude_services = [\"{}\"]\n", excluded.name);
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    // Nobody listens on port 1.
    let call = |program: &Program| drop(program.run(&["127.0.0.1", "1", "0", "0"]).unwrap());
    let of = |metrics: &Exposition, program: &Program| {
        ["steth_tcp_connect_duration_seconds_count", "steth_tcp_resets_total", "steth_tcp_connections"]
            .map(|name| metrics.sum(name, &[("service", &program.name)]))
    };
    // A service that is not known yet is counted until it has a name.
    call(&excluded);
    let before = of(&agent.settled().unwrap(), &excluded);
    for _ in 0..3 {
        call(&excluded);
        call(&other);
    }
    let metrics = agent.settled().unwrap();
    assert_eq!(of(&metrics, &excluded), before);
    assert_eq!(of(&metrics, &other), [3.0, 3.0, 0.0]);
    assert!(agent.stop().unwrap().success());
}

/// Each start of a unit, and each program within one, takes a number; a host runs out of them in a day.
#[test]
fn numbers_of_services_that_ended_are_given_back() {
    need_bpf!();
    need_program!("gcc");
    /// `limits.services`, unless it is set.
    const NUMBERS: usize = 1024;
    let long = Program::build("asks", ASKER).unwrap();
    let mut asker = start_asker(&long);
    let sections = "[kernel]\nmemory = \"64MiB\"\nrenew_interval = \"1s\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let short = Program::build("shrt", SHORT_LIVED).unwrap();
    for _ in 0..NUMBERS {
        short.under_another_name("s").unwrap().run(&[]).unwrap();
    }
    wait::poll("the probes being loaded anew", SOON, || Ok(agent.log().contains("are loaded anew").then_some(())))
        .unwrap();
    // Both who came before and who comes after has a number of its own from then on.
    let found = agent.scrape_until("a service with a number of its own", |metrics| {
        short.run(&[]).unwrap();
        syscalls(metrics, &short.name, "getppid") > 0.0
    });
    assert!(found.is_ok(), "{found:?}");
    ask(&mut asker, 77);
    let metrics = agent.settled().unwrap();
    assert_eq!(syscalls(&metrics, &long.name, "getppid"), 77.0);
    assert_eq!(metrics.sum(CELLS, &[("map", "services")]), 0.0);
    assert!(agent.stop().unwrap().success());
}
