//! `steth top`: what a program takes stands in its line, as text, as JSON and on a terminal.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options, binary, steth, without_settings},
    need_bpf, need_program,
    programs::{Program, SPINS},
    wait,
};

#[test]
fn what_a_program_takes_stands_in_its_line() {
    need_bpf!();
    let spins = Program::build("top", SPINS).unwrap();
    let _running = spins.start(&["spin"]).unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    agent.settled().unwrap();
    let (code, said, talk) = steth(&["top", "--agent", agent.address(), "--json", "-n", "3", "-i", "1s"]).unwrap();
    assert_eq!(code, Some(0), "{talk}");
    let views: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(views.len(), 3, "{said}");
    let (mut wanted, mut seconds) = (0.0, 0.0);
    for view in &views {
        let services = view["services"].as_array().unwrap();
        let line = services.iter().find(|service| service["service"] == *spins.name);
        let line = line.unwrap_or_else(|| panic!("{view:#}"));
        let on_cpu = line["cpu_cores"].as_f64().unwrap();
        let ready = line["run_queue_seconds_per_second"].as_f64().unwrap_or(0.0);
        let lasted = view["seconds"].as_f64().unwrap();
        (wanted, seconds) = (wanted + (on_cpu + ready) * lasted, seconds + lasted);
        assert_eq!(line["processes"], 1.0, "{view:#}");
        let cores = view["host"]["cores"].as_array().unwrap();
        assert_eq!(cores.len(), std::thread::available_parallelism().unwrap().get(), "{view:#}");
        let busy: f64 = cores.iter().filter_map(|core| core["user_ratio"].as_f64()).sum();
        assert!(busy > 0.3 * on_cpu, "{view:#}");
        assert!(view["host"]["memory_used_bytes"].as_f64().unwrap() > 0.0, "{view:#}");
    }
    // It wants one core all the time: what it does not get it waits for. On a busy host answers come late, by some
    // hundredths of a second each: one interval can be longer than it seems, all together are not.
    assert!((0.9..1.1).contains(&(wanted / seconds)), "{wanted} in {seconds} s: {said}");
    let (code, said, talk) = steth(&["top", "--agent", agent.address(), "-i", "500ms"]).unwrap();
    assert_eq!(code, Some(0), "{talk}");
    assert!(said.lines().any(|line| line.starts_with(&spins.name)), "{said}");
}

#[test]
fn a_terminal_is_drawn_on_and_given_back() {
    need_bpf!();
    need_program!("script", "stty");
    let agent = Agent::start(&Options::default()).unwrap();
    agent.settled().unwrap();
    let top = format!("{} top --agent {} -i 500ms", binary().unwrap().display(), agent.address());
    let mut script = Command::new("script");
    script.args(["-qefc", &format!("stty rows 40 cols 160; {top}"), "/dev/null"]).env("TERM", "xterm");
    without_settings(&mut script);
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keys = script.stdin.take().unwrap();
    let mut screen = script.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        let mut piece = [0; 4096];
        let mut asked = false;
        while let Ok(count @ 1..) = screen.read(&mut piece) {
            shown.extend_from_slice(&piece[..count]);
            // Once there are services: sorted by memory, then the end.
            if !asked && String::from_utf8_lossy(&shown).contains("records lost") {
                asked = true;
                keys.write_all(b"mq").unwrap();
            }
        }
        String::from_utf8_lossy(&shown).into_owned()
    });
    let ended = wait::poll("the end of steth top", Duration::from_secs(60), || Ok(script.try_wait()?));
    if ended.is_err() {
        let _ = script.kill();
    }
    let shown = reader.join().unwrap();
    assert!(ended.unwrap().success(), "{shown:?}");
    for part in ["\x1b[?1049h", "SERVICE", "steth", "\x1b[?1049l"] {
        assert!(shown.contains(part), "{part:?}: {shown:?}");
    }
}

#[test]
fn without_an_agent_it_says_where_it_looked_and_what_to_do() {
    let (code, said, talk) = steth(&["top", "--agent", "127.0.0.1:1"]).unwrap();
    assert_eq!((code, &*said), (Some(1), ""), "{talk}");
    assert!(talk.contains("127.0.0.1:1") && talk.contains("steth run"), "{talk}");
    let (code, _, talk) = steth(&["top", "-i", "1ms"]).unwrap();
    assert_eq!(code, Some(2), "{talk}");
    assert!(talk.contains("200ms"), "{talk}");
}
