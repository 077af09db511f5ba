use std::path::Path;

use super::{keys::KEYS, *};

fn complaints(text: &str) -> Vec<String> {
    match Config::parse(Path::new("steth.toml"), text) {
        Ok(_) => panic!("this was accepted:\n{text}"),
        Err(Complaints(all)) => all.iter().map(ToString::to_string).collect(),
    }
}

fn typed(environment: &[(&str, &str)], flags: &[(&'static str, &'static str, &str)]) -> Result<Config, Complaints> {
    // A path that does not exist, named as default, is what a host without a configuration file has.
    Config::load(&Given {
        file: Some(Path::new("/dev/null")),
        environment: environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        flags: flags.iter().map(|(flag, key, value)| (*flag, *key, value.to_string())).collect(),
    })
}

#[test]
fn the_shipped_file_holds_every_key_with_its_default_and_a_comment() {
    assert_eq!(Config::parse(Path::new("packaging/steth.toml"), SHIPPED), Ok(Config::default()));
    let (mut section, mut comment, mut found) = (String::new(), false, Vec::new());
    for line in SHIPPED.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((name, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let path = format!("{section}{name}");
            assert!(comment, "{path} has no comment above it");
            let key = KEYS.iter().find(|key| key.path == path).expect("a known key");
            assert_eq!(value, key.shape.show(&Config::default()), "{path}");
            found.push(path);
        }
        comment = line.starts_with('#');
    }
    assert_eq!(found, KEYS.iter().map(|key| key.path).collect::<Vec<_>>());
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse(Path::new("steth.toml"), ""), Ok(Config::default()));
}

#[test]
fn misspelt_keys_and_sections_are_errors_with_line_and_suggestion() {
    let text = "listne = \"127.0.0.1:1\"\n\n[kernel]\nmemmory = \"32MiB\"\nlive = \"1s\"\nlisten = 1\n\n[probe]\ntcp = true\n[zoo]\n";
    let expected = [
        "steth.toml:1: unknown key `listne`; did you mean `listen`? allowed: listen, run, window, http, audit, budget, kernel, probes, postgres, profile, correlate, send, alerts, limits, host, log",
        "steth.toml:4: unknown key `memmory` in [kernel]; did you mean `memory`? allowed: btf, without, memory, ring, ring_interval, open_files_interval, renew_interval",
        "steth.toml:5: unknown key `live` in [kernel]; `live` belongs to [window]; allowed: btf, without, memory, ring, ring_interval, open_files_interval, renew_interval",
        "steth.toml:6: unknown key `listen` in [kernel]; `listen` stands at the top, above all sections; allowed: btf, without, memory, ring, ring_interval, open_files_interval, renew_interval",
        "steth.toml:8: unknown section [probe]; did you mean `probes`? allowed: listen, run, window, http, audit, budget, kernel, probes, postgres, profile, correlate, send, alerts, limits, host, log",
        "steth.toml:10: unknown section [zoo]; allowed: listen, run, window, http, audit, budget, kernel, probes, postgres, profile, correlate, send, alerts, limits, host, log",
    ];
    assert_eq!(complaints(text), expected);
}

#[test]
fn wrong_values_are_reported_together_with_what_is_allowed() {
    let text = r#"
listen = "localhost:9464"
window = 5
[kernel]
memory = "32MB"
ring_interval = 100
btf = "vmlinux"
[probes]
tcp = "yes"
exclude_services = ["a", 3]
[limits]
services = 1.5
peers = -3
queries = 7
[host]
collectors = ["cpu", "mem_info"]
[log]
level = "warning"
format = "xml"
"#;
    let expected = [
        r#"steth.toml:2: listen = "localhost:9464": it is not an IP address with a port; allowed: an IP address and a port, such as "127.0.0.1:9464" or "[::1]:9464""#,
        "steth.toml:3: `window` is a section: write [window] and its keys below it",
        r#"steth.toml:5: kernel.memory = "32MB": `MB` is not a unit of size; allowed: a size from 4MiB to 1GiB, written "512B", "256KiB", "64MiB" or "1GiB""#,
        r#"steth.toml:6: kernel.ring_interval = 100: a duration needs a unit and quotes; allowed: a duration from 10ms to 1s, written "250ms", "10s", "5m" or "1h""#,
        r#"steth.toml:7: kernel.btf = "vmlinux": it is not an absolute path; allowed: an absolute path"#,
        r#"steth.toml:9: probes.tcp = "yes": true or false is needed here, not a value of type string; allowed: true or false"#,
        r#"steth.toml:10: probes.exclude_services = ["a", 3]: a name, in quotes, is needed here, not a value of type integer; allowed: a list of names, such as ["one", "two"]"#,
        "steth.toml:12: limits.services = 1.5: a whole number is needed here, not a value of type float; allowed: a whole number from 16 to 16384",
        "steth.toml:13: limits.peers = -3: it is not a whole number that a count can be; allowed: a whole number from 16 to 16384",
        "steth.toml:14: limits.queries = 7: it is too small; allowed: a whole number from 16 to 100000",
        r#"steth.toml:16: host.collectors = ["cpu", "mem_info"]: there is no "mem_info"; did you mean `meminfo`? allowed: a list of some of cpu, diskstats, entropy, filefd, filesystem, loadavg, meminfo, netclass, netdev, netstat, pressure, schedstat, sockstat, stat, time, uname, vmstat"#,
        r#"steth.toml:18: log.level = "warning": there is no "warning"; allowed: "error", "warn", "info", "debug", "trace""#,
        r#"steth.toml:19: log.format = "xml": there is no "xml"; allowed: "text", "json""#,
    ];
    assert_eq!(complaints(text), expected);
}

#[test]
fn combinations_that_cannot_work_are_errors_at_the_line_of_the_key() {
    let cases = [
        (
            "listen = \"0.0.0.0:9464\"",
            "steth.toml:1: listen = \"0.0.0.0:9464\": only loopback is served without TLS and tokens",
        ),
        ("[window]\nlive = \"3s\"", "default: window.kept = \"10s\": a kept window is made of live ones"),
        (
            "[window]\nlive = \"5s\"\nkept = \"2s\"",
            "steth.toml:3: window.kept = \"2s\": a kept window is made of live ones",
        ),
        ("[kernel]\nring = \"3MiB\"", "steth.toml:2: kernel.ring = \"3MiB\": the kernel takes only powers of two"),
        (
            "[kernel]\nmemory = \"4MiB\"\nring = \"4MiB\"",
            "steth.toml:3: kernel.ring = \"4MiB\": the two rings must leave half",
        ),
        ("[limits]\npeers = 16", "default: limits.shown_peers = 20: more would be shown than are told apart"),
    ];
    for (text, start) in cases {
        let found = complaints(text);
        assert!(matches!(&found[..], [one] if one.starts_with(start)), "{text}\n{found:?}");
    }
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    let found = complaints("[kernel]\nmemory = \n\n[window\n");
    assert!(found[0].starts_with("steth.toml:2: not TOML: "), "{found:?}");
    assert!(found.iter().any(|one| one.starts_with("steth.toml:4: not TOML: ")), "{found:?}");
    let twice = complaints("[window]\nlive = \"1s\"\nlive = \"2s\"\n");
    assert!(twice[0].starts_with("steth.toml:3: not TOML: duplicate key"), "{twice:?}");
}

#[test]
fn other_addresses_than_loopback_need_certificate_key_and_tokens() {
    let listens = |http: &str| format!("listen = \"0.0.0.0:9464\"\n[http]\n{http}");
    for lacking in
        ["", "tokens = '/t'", "certificate = '/c'\nkey = '/k'", "certificate = '/c'\nkey = '/k'\nclient_ca = '/a'"]
    {
        let said = complaints(&listens(lacking)).join("\n");
        assert!(said.contains("only loopback is served") && said.contains("steth token new"), "{lacking}: {said}");
    }
    let whole = Config::parse(Path::new("x"), &listens("certificate = '/c'\nkey = '/k'\ntokens = '/t'")).unwrap();
    assert_eq!(whole.http.tokens, Some("/t".into()));
    assert!(complaints("[http]\ncertificate = '/c'")[0].contains("certificate and key go together"));
    assert!(complaints("[http]\nclient_ca = '/c'")[0].contains("certificates of clients come with TLS"));
    assert!(complaints("[http]\ntokens = 'secret'")[0].contains("absolute path"));
    assert!(complaints("[budget]\nhard = \"0.5%\"")[0].contains("it is less than budget.soft"));
}

#[test]
fn one_key_is_changed_as_it_would_be_in_a_file() {
    let config = Config::default();
    let without_wall = config.with("probes.wall", "false").unwrap();
    assert!(!without_wall.probes.wall && without_wall.needs_other_probes_than(&config));
    assert!(!config.with("profile.hertz", "0").unwrap().needs_other_probes_than(&config));
    for (key, value, why) in [
        ("probes.wal", "false", "did you mean `probes.wall`?"),
        ("probes.wall", "no", "it is neither true nor false"),
        ("window.kept", "1500ms", "a multiple of window.live"),
    ] {
        let said = config.with(key, value).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn no_prefix_of_the_shipped_file_makes_the_reader_panic() {
    for end in (0..SHIPPED.len()).filter(|end| SHIPPED.is_char_boundary(*end)) {
        let _ = Config::parse(Path::new("steth.toml"), &SHIPPED[..end]);
    }
}

#[test]
fn environment_overrides_the_file_and_flags_override_both() {
    let environment =
        [("STETH_LISTEN", "127.0.0.1:1"), ("STETH_PROBES_TCP", "false"), ("STETH_CONFIG", "x"), ("HOME", "/")];
    let config = typed(&environment, &[]).unwrap();
    assert_eq!((config.listen.port(), config.probes.tcp), (1, false));
    let config = typed(&environment, &[("--listen", "listen", "127.0.0.1:2")]).unwrap();
    assert_eq!(config.listen.port(), 2);
    let lists = typed(&[("STETH_PROBES_EXCLUDE_SERVICES", "one, two"), ("STETH_HOST_COLLECTORS", "")], &[]).unwrap();
    assert_eq!(lists.probes.exclude_services, ["one", "two"]);
    assert_eq!(lists.host.collectors, Vec::<String>::new());
}

#[test]
fn wrong_variables_and_flags_are_named() {
    let Complaints(found) =
        typed(&[("STETH_LISTEM", "x"), ("STETH_WINDOW_LIVE", "1")], &[("--listen", "listen", "9464")])
            .expect_err("nothing of this is valid");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "environment variable STETH_LISTEM: there is no such key; did you mean `STETH_LISTEN`? all keys: steth docs config",
            "environment variable STETH_WINDOW_LIVE: window.live = 1: a duration needs a unit; allowed: a duration from 100ms to 1m, written \"250ms\", \"10s\", \"5m\" or \"1h\"",
            "--listen: listen = 9464: it is not an IP address with a port; allowed: an IP address and a port, such as \"127.0.0.1:9464\" or \"[::1]:9464\"",
        ]
    );
}

#[test]
fn a_named_file_that_cannot_be_read_is_an_error() {
    for (path, why) in [("/nonexistent/steth.toml", "No such file"), ("/proc", "it is a directory")] {
        let given = Given { file: Some(Path::new(path)), ..Given::default() };
        let message = Config::load(&given).expect_err("unreadable").to_string();
        assert!(message.starts_with(&format!("{path}: cannot read the configuration: {why}")), "{message}");
    }
}

#[test]
fn a_reload_takes_over_what_can_change_and_names_what_waits_for_a_restart() {
    let old = Config::default();
    let text =
        "listen = \"127.0.0.1:1\"\n[window]\nlive = \"2s\"\n[host]\ncollectors = [\"cpu\"]\n[log]\nlevel = \"debug\"\n";
    let new = Config::parse(Path::new("steth.toml"), text).unwrap();
    let (next, waiting) = old.reloaded(&new);
    assert_eq!(waiting, ["listen"]);
    assert_eq!(next, Config { listen: old.listen, ..new });
}
