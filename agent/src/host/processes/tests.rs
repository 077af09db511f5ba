use std::process::{Child, Command, Stdio};

use procfs::{FromRead, page_size};

use super::*;
use crate::{host::tests::values, model::snapshot::Value};

/// Knows some processes' names.
struct Named(HashMap<i32, Arc<str>>);

impl Named {
    fn new<const N: usize>(names: [(i32, &str); N]) -> Self {
        Self(names.into_iter().map(|(pid, name)| (pid, name.into())).collect())
    }
}

impl Services for Named {
    fn service_of(&mut self, pid: i32, _: u64) -> Option<Arc<str>> {
        self.0.get(&pid).cloned()
    }
}

fn reading(pid: i32, start_ticks: u64, user_ticks: u64, flags: u32) -> Reading {
    let zeros = "0 ".repeat(30);
    let text =
        format!("{pid} (a) b) S 1 1 1 0 -1 {flags} 0 0 0 0 {user_ticks} 0 0 0 20 0 3 0 {start_ticks} 4096 2 {zeros}");
    let stat = Stat::from_read(text.as_bytes()).unwrap();
    let mut counters = Counters::default();
    counters[0] = user_ticks;
    let resident_bytes = stat.rss * page_size();
    Reading {
        stat,
        counters,
        resident_bytes,
        swapped_bytes: 0,
        open_files: 10,
        files_limit: 40,
        memory_limit: None,
        was_denied: false,
    }
}

fn pass(processes: &mut Processes, readings: &[Reading], services: &mut Named) {
    processes.pass += 1;
    readings.iter().for_each(|reading| processes.add(reading, services));
    processes.forget();
}

fn user_ticks(processes: &Processes, service: &str) -> u64 {
    processes.groups[service].counters[0]
}

#[test]
fn counters_of_a_service_only_grow_while_its_processes_come_and_go() {
    let mut services = Named::new([(10, "web"), (11, "web"), (12, "web")]);
    let mut processes = Processes::new("/proc");
    pass(&mut processes, &[reading(10, 1, 100, 0), reading(11, 1, 50, 0)], &mut services);
    assert_eq!(user_ticks(&processes, "web"), 0, "what was before the agent is not its gain");
    pass(&mut processes, &[reading(10, 1, 110, 0), reading(11, 1, 50, 0)], &mut services);
    assert_eq!(user_ticks(&processes, "web"), 10);
    pass(&mut processes, &[reading(11, 1, 51, 0), reading(12, 9, 5, 0)], &mut services);
    assert_eq!(user_ticks(&processes, "web"), 16, "a new process brings its whole life, an old one is kept");
    pass(&mut processes, &[], &mut services);
    assert_eq!(user_ticks(&processes, "web"), 16);
    assert_eq!(processes.groups["web"].now.processes, 0);
    assert!(processes.seen.is_empty());
}

#[test]
fn a_number_that_is_used_again_is_another_process() {
    let mut services = Named::new([(10, "web")]);
    let mut processes = Processes::new("/proc");
    pass(&mut processes, &[reading(10, 1, 100, 0)], &mut services);
    pass(&mut processes, &[reading(10, 7, 3, 0)], &mut services);
    assert_eq!(user_ticks(&processes, "web"), 3);
}

#[test]
fn what_a_process_gains_after_exec_goes_to_its_new_service() {
    let mut processes = Processes::new("/proc");
    pass(&mut processes, &[], &mut Named::new([]));
    pass(&mut processes, &[reading(10, 1, 2, 0)], &mut Named::new([(10, "sh")]));
    pass(&mut processes, &[reading(10, 1, 7, 0)], &mut Named::new([(10, "psql")]));
    assert_eq!((user_ticks(&processes, "sh"), user_ticks(&processes, "psql")), (2, 5));
}

#[test]
fn a_counter_that_falls_or_was_denied_takes_nothing_away() {
    let mut services = Named::new([(10, "web")]);
    let mut processes = Processes::new("/proc");
    for user_ticks in [100, 0, 90, 103] {
        pass(&mut processes, &[reading(10, 1, user_ticks, 0)], &mut services);
    }
    assert_eq!(user_ticks(&processes, "web"), 3);
}

#[test]
fn kernel_threads_are_one_service_and_nobody_is_asked() {
    let mut processes = Processes::new("/proc");
    let threads = [reading(2, 0, 1, 0x0020_0000), reading(3, 0, 1, 0x0020_0000)];
    pass(&mut processes, &threads, &mut Named::new([]));
    assert_eq!(processes.groups[KERNEL].now.processes, 2);
}

#[test]
fn a_service_without_processes_is_forgotten_in_the_end() {
    let mut processes = Processes::new("/proc");
    pass(&mut processes, &[reading(10, 1, 0, 0)], &mut Named::new([(10, "job")]));
    for _ in 0..FORGET_AFTER_PASSES {
        pass(&mut processes, &[], &mut Named::new([]));
    }
    assert!(processes.groups.contains_key("job"));
    pass(&mut processes, &[], &mut Named::new([]));
    assert!(processes.groups.is_empty());
}

#[test]
fn every_service_has_process_exporters_series() {
    let mut processes = Processes::new("/proc");
    pass(&mut processes, &[reading(10, 100, 0, 0)], &mut Named::new([(10, "web")]));
    processes.boot_unix_seconds = Some(1_000_000);
    let mut out = Vec::new();
    processes.push(&mut out);
    let values = values(&out);
    let resident = 2 * page_size();
    let started = 1_000_000.0 + 100.0 / ticks_per_second() as f64;
    for expected in [
        r#"num_procs{groupname="web"} 1"#.to_owned(),
        r#"num_threads{groupname="web"} 3"#.to_owned(),
        r#"open_filedesc{groupname="web"} 10"#.to_owned(),
        r#"worst_fd_ratio{groupname="web"} 0.25"#.to_owned(),
        format!(r#"memory_bytes{{groupname="web",memtype="resident"}} {resident}"#),
        r#"memory_bytes{groupname="web",memtype="virtual"} 4096"#.to_owned(),
        r#"memory_bytes{groupname="web",memtype="swapped"} 0"#.to_owned(),
        r#"cpu_seconds_total{groupname="web",mode="system"} 0"#.to_owned(),
        r#"context_switches_total{groupname="web",ctxswitchtype="nonvoluntary"} 0"#.to_owned(),
        r#"states{groupname="web",state="Sleeping"} 1"#.to_owned(),
        r#"states{groupname="web",state="Zombie"} 0"#.to_owned(),
        format!(r#"oldest_start_time_seconds{{groupname="web"}} {started}"#),
    ] {
        let expected = format!("namedprocess_namegroup_{expected}");
        assert!(values.contains(&expected), "{expected} is not in {values:#?}");
    }
    assert_eq!(values.len(), 21);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_live_process_is_read_as_procfs_has_it_and_its_end_is_no_problem() {
    // `cat` waits for the end of its input.
    let mut cat = Command::new("cat");
    let child = cat.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let child = Running(child);
    let pid = child.0.id().cast_signed();
    let mut services = Named::new([(pid, "cat")]);
    let mut processes = Processes::new("/proc");
    let value = |series: &[Series], metric: &'static Metric| {
        let found = series.iter().find(|series| series.metric == metric && series.labels[0] == "cat");
        let Value::Number(number) = found.unwrap().value else { panic!() };
        number
    };
    let (series, _) = processes.read(&mut services);
    assert_eq!(value(&series, &host::PROCESS_COUNT), 1.0);
    assert_eq!(value(&series, &host::PROCESS_THREADS), 1.0);
    let files = Process::new(pid).unwrap().fd().unwrap().count() as f64;
    assert_eq!(value(&series, &host::PROCESS_OPEN_FILES), files);
    let LimitValue::Value(limit) = Process::new(pid).unwrap().limits().unwrap().max_open_files.soft_limit else {
        panic!()
    };
    assert_eq!(value(&series, &host::PROCESS_WORST_FILES_RATIO), files / limit as f64);
    drop(child);
    let (series, problems) = processes.read(&mut services);
    assert_eq!(value(&series, &host::PROCESS_COUNT), 0.0);
    assert!(problems.iter().all(|problem| matches!(problem, Problem::ProcessesDenied { .. })), "{problems:?}");
}
