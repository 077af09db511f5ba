//! The incidents of every day: what weights and thresholds were chosen with. Knows what is expected of each.

use std::{fs, time::Duration};

use anyhow::Result;

use super::{
    Made, Parts, Row, SOON, Stage, cluster_of, nothing,
    parts::{Networks, Sessions, is_on_disk, pair, pile, session, sh},
    quiet,
};
use crate::{
    cgroup::Group,
    postgres::Postgres,
    process::{self, Process},
    programs::{ACTOR, Program},
    unique_name,
};

/// The table.
pub const EVERYDAY: &[Row] = &[
    Row { name: "open files leak", wave: 0, make: file_leak },
    Row { name: "memory leaks", wave: 0, make: memory_leak },
    Row { name: "a dependency becomes slow", wave: 0, make: slow_dependency },
    Row { name: "a dependency of a dependency becomes slow", wave: 0, make: slow_chain },
    Row { name: "a new build is slower", wave: 0, make: new_build },
    Row { name: "a deployment makes it slower", wave: 0, make: deployment },
    Row { name: "a dependency is gone", wave: 0, make: refused },
    Row { name: "the limit of open files is reached", wave: 0, make: file_limit },
    Row { name: "the accept queue overflows", wave: 0, make: accept_queue },
    Row { name: "connections wait to be accepted", wave: 0, make: late_accept },
    Row { name: "a dependency computes more", wave: 2, make: busy_dependency },
    Row { name: "a lossy network", wave: 0, make: lossy_network },
    Row { name: "an open transaction holds a lock", wave: 0, make: lock_pile_up },
    Row { name: "a noisy neighbour on the core", wave: 1, make: noisy_neighbour },
    Row { name: "statements fail", wave: 2, make: failing_statements },
    Row { name: "a neighbour fills the disk's queue", wave: 2, make: disk_hog },
    Row { name: "a configuration that was read again makes it slower", wave: 0, make: reload },
    Row {
        name: "the kernel kills it for lack of memory, and it begins anew with nothing cached",
        wave: 0,
        make: out_of_memory,
    },
    Row { name: "a server has no connections left", wave: 0, make: connections },
    Row { name: "many come at once", wave: 0, make: storm },
];

fn file_leak(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "fdlk", &["leak-files", "250000"])?;
    Ok(quiet(&name, vec![("leak", "open_files", &name)], parts, nothing, nothing))
}

fn memory_leak(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    // 8 MiB a second: within an hour more than a host of 24 GiB has.
    let name = parts.add(stage, "mmlk", &["leak-memory", "2097152", "250000"])?;
    let calm = |parts: &mut Parts, _: &str| parts.processes.iter().try_for_each(|process| process.signal("KILL"));
    Ok(quiet(&name, vec![("leak", "memory", &name)], parts, nothing, calm))
}

fn slow_dependency(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "slsv", "slcl")?;
    let expected = vec![("dependency", "slow_answer", server.as_str()), ("change", "wall_sleep", &server)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "delay 40000"), |parts, _| parts.say(0, "delay 0")))
}

fn slow_chain(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    // The one in the middle answers when the last has; so does a proxy.
    let last = parts.add(stage, "chls", &["serve", "127.0.0.1", "0", "100"])?;
    let last_port = parts.port()?;
    let middle = parts.add(stage, "chmi", &["relay", "127.0.0.1", "0", &last_port])?;
    let port = parts.port()?;
    let client = parts.add(stage, "chcl", &["call", "127.0.0.1", &port, "20000"])?;
    let expected = vec![("dependency", "slow_answer", middle.as_str()), ("dependency", "slow_answer", &last)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "delay 40000"), |parts, _| parts.say(0, "delay 0")))
}

fn new_build(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let program = stage.actor.under_another_name("nbsv")?;
    let port = crate::network::free_port()?.to_string();
    parts.start(&program, &["serve", "127.0.0.1", &port, "100"], None)?;
    parts.port()?;
    let client = parts.add(stage, "nbcl", &["call", "127.0.0.1", &port, "20000"])?;
    let name = program.name.clone();
    let strike = move |parts: &mut Parts, _: &str| {
        // The same source, linked with another build id, in the place of the old one.
        let other = Program::build_with("nbnw", ACTOR, &["-O0", "-static", "-Wl,--build-id=sha1"])?;
        fs::remove_file(&program.path)?;
        // By another process: while this one had it open for writing, no child of any thread could execute it.
        let mut copy = process::command("cp", None);
        copy.args([&other.path, &program.path]);
        Process::start("cp", copy)?.finish(SOON)?;
        parts.processes.remove(0).signal("KILL")?;
        parts.start(&program, &["serve", "127.0.0.1", &port, "10000"], None)
    };
    Ok(quiet(&client, vec![("event", "new_build", &name)], parts, strike, nothing))
}

fn deployment(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "dpsv", "dpcl")?;
    let name = server.clone();
    let strike = move |parts: &mut Parts, agent: &str| {
        let event = serde_json::json!({"service": name, "text": "deploy 1.2"}).to_string();
        let answer = crate::http::post_json(&format!("http://{agent}/api/v1/events"), &event)?;
        anyhow::ensure!(answer.status == 201, "{answer:?}");
        parts.say(0, "delay 40000")
    };
    Ok(quiet(&client, vec![("event", "posted", &server)], parts, strike, |parts, _| parts.say(0, "delay 0")))
}

fn refused(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (_, client) = pair(&mut parts, stage, "rfsv", "rfcl")?;
    let strike = |parts: &mut Parts, _: &str| parts.processes[0].signal("KILL");
    Ok(quiet(&client, vec![("change", "tcp_connect_failed", &client)], parts, strike, nothing))
}

fn file_limit(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "fdlm", &["hold-files", "128", "122"])?;
    Ok(quiet(&name, vec![("saturation", "open_files", &name)], parts, |parts, _| parts.say(0, "go"), nothing))
}

fn accept_queue(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "deaf", &["deaf", "0"])?;
    let port = parts.port()?;
    parts.add(stage, "knck", &["knock", &port, "50000"])?;
    let expected = vec![("saturation", "accept_queue", name.as_str())];
    Ok(quiet(&name, expected, parts, |parts, _| parts.say(0, "go"), |parts, _| parts.say(0, "rest")))
}

fn late_accept(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "late", &["deaf", "0"])?;
    let port = parts.port()?;
    parts.add(stage, "lknk", &["knock", &port, "150000"])?;
    let expected = vec![("change", "tcp_accept_queue", name.as_str())];
    Ok(quiet(&name, expected, parts, |parts, _| parts.say(0, "delay 50000"), |parts, _| parts.say(0, "delay 0")))
}

fn busy_dependency(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "bdsv", "bdcl")?;
    // Where others compute as well, it is the last straw.
    let expected = vec![("change", "cpu", server.as_str()), ("saturation", "cpu", &server)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "work 80000"), |parts, _| parts.say(0, "work 100")))
}

fn lossy_network(stage: &Stage) -> Result<Made> {
    let networks = match Networks::make() {
        Ok(networks) => networks,
        Err(error) => return Ok(Made::Skipped(format!("{error:#}"))),
    };
    let mut parts = Parts::default();
    let name = networks.stream(&mut parts, stage, "strm", "12")?;
    // Where the kernel cannot lose at random, a narrow queue on the way loses what does not fit.
    let (loses, narrow) = (networks.queue("netem loss 15%"), networks.queue("tbf rate 400kbit burst 3k limit 6k"));
    parts.kept.push(Box::new(networks));
    let strike = move |_: &mut Parts, _: &str| sh(&format!("{loses} 2>/dev/null || {narrow}"));
    Ok(quiet(&name, vec![("change", "tcp_retransmits", &name)], parts, strike, nothing))
}

fn lock_pile_up(stage: &Stage) -> Result<Made> {
    let Some(postgres) = &stage.postgres else { return Ok(Made::Skipped(Postgres::missing().unwrap_or_default())) };
    pile(postgres)?;
    let mut parts = Parts::default();
    parts.processes.push(session(postgres, "holder")?);
    let clients = Sessions::start(postgres, 10, Duration::from_millis(100), "update pile set n = n + 1 where id = 1;")?;
    parts.kept.push(Box::new(clients));
    let cluster = stage.cluster.as_str();
    let expected = vec![("lock", "idle_in_transaction", cluster), ("change", "postgres_lock_wait", cluster)];
    let strike = |parts: &mut Parts, _: &str| parts.say(0, "begin; update pile set n = 0 where id = 1;");
    Ok(quiet(cluster, expected, parts, strike, |parts, _| parts.say(0, "rollback;")))
}

fn failing_statements(stage: &Stage) -> Result<Made> {
    let Some(postgres) = &stage.postgres else { return Ok(Made::Skipped(Postgres::missing().unwrap_or_default())) };
    let mut parts = Parts::default();
    parts.processes.push(session(postgres, "failing")?);
    let cluster = stage.cluster.as_str();
    let strike = |parts: &mut Parts, _: &str| {
        // One after the other, as fast as the server fails them: more than the incident lasts.
        let line = "do $$ begin perform pg_sleep(0.02); end $$; select 1 / 0;\n".repeat(2_000);
        parts.say(0, line.trim_end())
    };
    let calm = |parts: &mut Parts, _: &str| parts.processes.iter().try_for_each(|process| process.signal("KILL"));
    Ok(quiet(cluster, vec![("change", "postgres_errors", cluster)], parts, strike, calm))
}

fn noisy_neighbour(stage: &Stage) -> Result<Made> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        return Ok(Made::Skipped("needs two cores".into()));
    }
    let mut parts = Parts::default();
    let core = Some(cores - 1);
    parts.add_on(stage, "vict", &["serve", "127.0.0.1", "0", "10000"], core)?;
    let port = parts.port()?;
    let client = parts.add(stage, "vcli", &["call", "127.0.0.1", &port, "30000"])?;
    let noisy = parts.add_on(stage, "nois", &["burn", "6"], core)?;
    let expected = vec![("saturation", "cpu", noisy.as_str())];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(2, "go"), |parts, _| parts.say(2, "rest")))
}

fn disk_hog(stage: &Stage) -> Result<Made> {
    if !is_on_disk(stage.folder.path()) {
        return Ok(Made::Skipped("the folder for temporary files is on no disk".into()));
    }
    let mut parts = Parts::default();
    let path = |name: &str| stage.folder.path().join(name).display().to_string();
    let victim = parts.add(stage, "sync", &["sync", &path("victim")])?;
    let hog = parts.add(stage, "dhog", &["hog", &path("hog"), "6"])?;
    let expected = vec![("saturation", "disk", hog.as_str())];
    Ok(quiet(&victim, expected, parts, |parts, _| parts.say(1, "go"), |parts, _| parts.say(1, "rest")))
}

fn reload(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let program = stage.actor.under_another_name("rlsv")?;
    let mut command = program.command(&["serve", "127.0.0.1", "0", "100"]);
    command.env("ON_HANGUP", "30000");
    parts.run(&program.name, command)?;
    let (port, name) = (parts.port()?, program.name.clone());
    parts.programs.push(program);
    let client = parts.add(stage, "rlcl", &["call", "127.0.0.1", &port, "20000"])?;
    let strike = |parts: &mut Parts, _: &str| parts.processes[0].signal("HUP");
    Ok(quiet(&client, vec![("event", "reload", &name)], parts, strike, |parts, _| parts.say(0, "delay 0")))
}

fn out_of_memory(stage: &Stage) -> Result<Made> {
    let group = match Group::with_memory(&unique_name("oom"), 64 << 20) {
        Ok(group) => group,
        Err(error) => return Ok(Made::Skipped(format!("no group with little memory: {error:#}"))),
    };
    let mut parts = Parts::default();
    let program = stage.actor.under_another_name("oosv")?;
    let port = crate::network::free_port()?.to_string();
    let serve = ["serve", "127.0.0.1", port.as_str(), "100"];
    parts.run(&program.name, group.command(&program.path, &serve))?;
    parts.port()?;
    let (name, path, port_again) = (program.name.clone(), program.path.clone(), port.clone());
    parts.programs.push(program);
    let client = parts.add(stage, "oocl", &["call", "127.0.0.1", &port, "20000"])?;
    let own = name.clone();
    let strike = move |parts: &mut Parts, _: &str| {
        parts.say(0, "take 200")?;
        let status = parts.processes.remove(0).wait(SOON)?;
        anyhow::ensure!(!status.success(), "it has more memory than it may");
        // Whoever looks after it starts it again.
        let serve = ["serve", "127.0.0.1", &port_again, "15000"];
        parts.run(&own, group.command(&path, &serve))?;
        parts.port().map(drop)
    };
    Ok(quiet(&client, vec![("event", "oom_kill", &name)], parts, strike, nothing))
}

fn connections(_: &Stage) -> Result<Made> {
    if let Some(why) = Postgres::missing() {
        return Ok(Made::Skipped(why));
    }
    let postgres = Postgres::start_set(&["max_connections=20"])?;
    let mut parts = Parts::default();
    parts.processes.push(session(&postgres, "always")?);
    let cluster = cluster_of(&postgres);
    let strike = move |parts: &mut Parts, _: &str| {
        // A pool somewhere opens one after the other and closes none.
        parts.processes.extend((0..18).map(|_| session(&postgres, "pooled")).collect::<Result<Vec<_>>>()?);
        parts.processes.iter_mut().try_for_each(|session| session.say("select 1;"))
    };
    Ok(quiet(&cluster, vec![("saturation", "connections", &cluster)], parts, strike, nothing))
}

fn storm(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    // Each new connection costs as much as a login does.
    let name = parts.add(stage, "lgsv", &["serve", "127.0.0.1", "0", "1500"])?;
    let port = parts.port()?;
    parts.add(stage, "lgcl", &["storm", "127.0.0.1", &port, "4000"])?;
    let expected = vec![("change", "tcp_accepts", name.as_str())];
    Ok(quiet(&name, expected, parts, |parts, _| parts.say(1, "go"), |parts, _| parts.say(1, "rest")))
}
