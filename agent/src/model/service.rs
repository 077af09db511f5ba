//! Which name a service bears: a systemd unit, a container, or else the executable. Pure rules on strings; where
//! the strings come from is the business of those who implement [`Services`].

use std::sync::Arc;

/// Whoever can say which service a process belongs to.
pub trait Services {
    /// The service of a process, which is told from a later one with the same number by its start time in clock
    /// ticks since boot. `None` when the process is gone or cannot be named.
    fn service_of(&mut self, pid: i32, start_ticks: u64) -> Option<Arc<str>>;
}

/// The service of all kernel threads: their names carry queue numbers that come and go.
pub const KERNEL: &str = "kernel";

/// Length of a container's short id, as `docker ps` prints it.
const SHORT_ID: usize = 12;

/// Length of a container's full id.
const FULL_ID: usize = 64;

/// The unit or container that the contents of a `/proc/PID/cgroup` speak of; `None` when the executable must
/// give the name.
///
/// On cgroup v2 there is one line, `0::/path`; on v1 one for each hierarchy, of which systemd's own
/// (`name=systemd`) knows the unit; a hybrid host has both. Container runtimes without systemd show up in the
/// other hierarchies only. See cgroups(7).
pub fn name_from_cgroups(cgroups: &str) -> Option<String> {
    let lines = || {
        cgroups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((controllers, path))
        })
    };
    let of = |wanted: &str| lines().find(|(controllers, _)| *controllers == wanted).map(|(_, path)| path);
    let (unified, systemd) = (of(""), of("name=systemd"));
    let unit_or_container = |path: Option<&str>| path.and_then(name_from_cgroup);
    unit_or_container(unified).or_else(|| unit_or_container(systemd)).or_else(|| {
        // A container that only the controllers' hierarchies know. Units are taken from them only on hosts
        // where nothing else knows units: systemd may leave a process of a session in another unit's group.
        let nobody_else = unified.is_none() && systemd.is_none();
        lines().filter(|(controllers, _)| !matches!(*controllers, "" | "name=systemd")).find_map(|(_, path)| {
            container_from_cgroup(path).or_else(|| unit_from_cgroup(path).filter(|_| nobody_else))
        })
    })
}

/// The unit or container that one cgroup path speaks of. What runs inside a container bears the container's
/// name, whatever units the container has of its own.
pub fn name_from_cgroup(path: &str) -> Option<String> {
    container_from_cgroup(path).or_else(|| unit_from_cgroup(path))
}

/// `docker:0123456789ab` and the like, for the outermost container on the path.
fn container_from_cgroup(path: &str) -> Option<String> {
    let mut parent = "";
    for component in components(path) {
        if let Some(name) = container_from_component(component, parent) {
            return Some(name);
        }
        parent = component;
    }
    None
}

fn container_from_component(component: &str, parent: &str) -> Option<String> {
    // systemd driver: <runtime>-<id>.scope. Podman's cgroupfs driver leaves out the `.scope`. The monitors
    // (`libpod-conmon-<id>.scope`, `crio-conmon-<id>.scope`) run on the host and are no container.
    let stem = component.strip_suffix(".scope").unwrap_or(component);
    for (prefix, runtime) in RUNTIMES {
        if let Some(id) = stem.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some(short(runtime, id));
        }
    }
    // A systemd-style name that a cgroupfs driver took literally: kubepods-…-pod<uid>.slice:cri-containerd:<id>.
    if let Some((rest, id)) = component.rsplit_once(':')
        && is_id(id)
    {
        let runtime = rest.rsplit(':').next().unwrap_or_default();
        let runtime = RUNTIMES.iter().find(|(prefix, _)| prefix.trim_end_matches('-') == runtime);
        return Some(short(runtime.map_or("container", |(_, runtime)| runtime), id));
    }
    if let Some(name) = component.strip_prefix("lxc.payload.") {
        return Some(format!("lxc:{}", unescape(name)));
    }
    if parent == "lxc" {
        return Some(format!("lxc:{}", unescape(component)));
    }
    // cgroupfs driver: /docker/<id>; /kubepods/burstable/pod<uid>/<id>, which does not tell the runtime.
    (is_id(component) && component.len() == FULL_ID)
        .then(|| short(if parent == "docker" { "docker" } else { "container" }, component))
}

/// Prefix of the group's name, and what the runtime is called.
const RUNTIMES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "crio"),
    ("libpod-", "podman"),
    ("cri-o-", "crio"),
];

fn is_id(text: &str) -> bool {
    text.len() >= SHORT_ID && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn short(runtime: &str, id: &str) -> String {
    format!("{runtime}:{}", id.get(..SHORT_ID).unwrap_or(id))
}

/// The outermost service unit on the path, but for `user@UID.service`, which stands around a user's own units.
fn unit_from_cgroup(path: &str) -> Option<String> {
    let mut user_manager = None;
    for component in components(path) {
        if component.ends_with(".service") {
            if component.starts_with("user@") {
                user_manager = Some(unescape(component));
            } else if is_transient(component) {
                return None;
            } else {
                return Some(unescape(component));
            }
        } else if component == "init.scope" {
            // user@1000.service/init.scope holds the manager itself; the other init.scope is process 1.
            return user_manager;
        } else if component.ends_with(".scope") {
            // A login session or what a desktop starts: programs that have nothing in common but who started
            // them, and numbers in the name.
            return None;
        }
    }
    user_manager
}

/// Units that `systemd-run` makes up: run-u12.service, run-r<32 hex>.service, run-p123-i456.service.
fn is_transient(unit: &str) -> bool {
    unit.strip_prefix("run-").and_then(|rest| rest.strip_suffix(".service")).is_some_and(|rest| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (kind, rest) = rest.split_at_checked(1).unwrap_or_default();
        match kind {
            "u" => digits(rest),
            "r" => rest.len() == 32 && is_id(rest),
            "p" => rest.split_once("-i").is_some_and(|(process, start)| digits(process) && digits(start)),
            _ => false,
        }
    })
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    // The kernel marks a removed group at the end of the path.
    path.trim_end_matches(" (deleted)").split('/').filter(|component| !matches!(*component, "" | "." | ".."))
}

/// Undoes systemd's escaping in unit names: `\x2d` is `-`. See systemd.unit(5), "string escaping".
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(r"\x") {
        let (before, escape) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        let code = escape.get(2..4).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = escape.get(4..).unwrap_or_default();
            }
            None => {
                bytes.extend_from_slice(br"\x");
                rest = escape.get(2..).unwrap_or_default();
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name that an executable's path gives: its last component. The kernel appends ` (deleted)` once the file
/// has been replaced, as every upgrade does.
pub fn name_from_executable(path: &str) -> Option<&str> {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().filter(|name| !name.is_empty())
}

/// Whether an executable's name is that of a PostgreSQL server, postmaster and backends alike.
pub fn is_postgres(executable: &str) -> bool {
    matches!(executable, "postgres" | "postmaster")
}

/// The name of a PostgreSQL cluster: the last two components of its data directory, `postgres:15/main`.
pub fn postgres_cluster(data_directory: &str) -> String {
    let mut components = data_directory.split('/').filter(|component| !component.is_empty()).rev();
    match (components.next(), components.next()) {
        (Some(last), Some(before)) => format!("postgres:{before}/{last}"),
        (Some(last), None) => format!("postgres:{last}"),
        _ => "postgres".to_owned(),
    }
}

/// The data directory that a postmaster was started with: `-D DIR`, `-DDIR`, `--data-directory=DIR` or
/// `-c data_directory=DIR`; the last one counts, as in the server.
pub fn postgres_data_directory<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut found = None;
    let mut arguments = arguments.into_iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "-D" {
            found = arguments.next().or(found);
        } else if let Some(setting) = argument.strip_prefix("--").or_else(|| argument.strip_prefix("-c")) {
            let setting = if setting.is_empty() { arguments.next().unwrap_or_default() } else { setting };
            if let Some((key, value)) = setting.split_once('=')
                && matches!(key, "data-directory" | "data_directory")
            {
                found = Some(value);
            }
        } else if let Some(directory) = argument.strip_prefix("-D") {
            found = Some(directory);
        }
    }
    found.filter(|directory| !directory.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn named(path: &str) -> Option<String> {
        name_from_cgroup(&path.replace("ID", ID))
    }

    #[track_caller]
    fn check(cases: &[(&str, Option<&str>)]) {
        for (path, name) in cases {
            assert_eq!(named(path).as_deref(), *name, "{path}");
        }
    }

    #[test]
    fn system_services_bear_their_unit() {
        check(&[
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/nginx.service (deleted)", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            ("/system.slice/system-postgresql.slice/postgresql@15-main.service", Some("postgresql@15-main.service")),
            ("/system.slice/systemd-udevd.service/udev", Some("systemd-udevd.service")),
            ("/../../system.slice/ssh.service", Some("ssh.service")),
        ]);
    }

    #[test]
    fn escapes_in_unit_names_are_decoded() {
        check(&[
            (r"/system.slice/my\x2dapp.service", Some("my-app.service")),
            (
                r"/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service",
                Some("serial-getty@ttyS0.service"),
            ),
            (r"/system.slice/caf\xc3\xa9.service", Some("café.service")),
            (r"/system.slice/odd\xzz\x2.service", Some(r"odd\xzz\x2.service")),
            (r"/system.slice/é\x.service", Some(r"é\x.service")),
        ]);
    }

    #[test]
    fn user_units_bear_their_own_name_and_not_the_managers() {
        check(&[
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service", Some("syncthing.service")),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/user@1000.service", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4242.scope", None),
        ]);
    }

    #[test]
    fn scopes_slices_and_the_root_leave_the_name_to_the_executable() {
        check(&[
            ("/", None),
            ("", None),
            ("/init.scope", None),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/system.slice", None),
            ("/user.slice", None),
            (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator", None),
            ("/process_api/719f0080212122ac074928a26735df33", None),
        ]);
    }

    #[test]
    fn units_that_systemd_run_makes_up_leave_the_name_to_the_executable() {
        check(&[
            ("/system.slice/run-u12.service", None),
            ("/system.slice/run-r0123456789abcdef0123456789abcdef.service", None),
            ("/system.slice/run-p4711-i4712.service", None),
            ("/system.slice/run-parts.service", Some("run-parts.service")),
            ("/system.slice/run-.service", Some("run-.service")),
        ]);
    }

    #[test]
    fn containers_bear_runtime_and_short_id() {
        check(&[
            ("/system.slice/docker-ID.scope", Some("docker:0123456789ab")),
            ("/docker/ID", Some("docker:0123456789ab")),
            ("/docker/ID/system.slice/nginx.service", Some("docker:0123456789ab")),
            ("/system.slice/docker-ID.scope/init.scope", Some("docker:0123456789ab")),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", Some("docker:0123456789ab")),
            ("/default/ID", Some("container:0123456789ab")),
            ("/actions_job/ID", Some("container:0123456789ab")),
        ]);
    }

    #[test]
    fn kubernetes_containers_are_found_under_every_driver() {
        check(&[
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b.slice/cri-containerd-ID.scope",
                Some("containerd:0123456789ab"),
            ),
            ("/kubepods.slice/kubepods-pod0a1b.slice/crio-ID.scope", Some("crio:0123456789ab")),
            ("/kubepods.slice/kubepods-pod0a1b.slice/crio-conmon-ID.scope", None),
            ("/kubepods/besteffort/pod6d7e0d9e-7c0e-4b0e-9a52-6f3f0a6d2d6a/ID", Some("container:0123456789ab")),
            (
                "/system.slice/containerd.service/kubepods-burstable-pod0a1b.slice:cri-containerd:ID",
                Some("containerd:0123456789ab"),
            ),
            ("/kubelet.slice/kubelet.service", Some("kubelet.service")),
        ]);
    }

    #[test]
    fn podman_containers_are_told_from_their_monitors() {
        check(&[
            ("/machine.slice/libpod-ID.scope", Some("podman:0123456789ab")),
            ("/machine.slice/libpod-ID.scope/container", Some("podman:0123456789ab")),
            ("/libpod_parent/libpod-ID", Some("podman:0123456789ab")),
            ("/machine.slice/libpod-conmon-ID.scope", None),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                Some("podman:0123456789ab"),
            ),
        ]);
    }

    #[test]
    fn lxc_containers_bear_their_own_name() {
        check(&[
            ("/lxc.payload.web", Some("lxc:web")),
            (r"/lxc.payload.my\x2dweb/system.slice/nginx.service", Some("lxc:my-web")),
            ("/lxc/web", Some("lxc:web")),
            ("/lxc/web/init.scope", Some("lxc:web")),
            ("/lxc.monitor.web", None),
        ]);
    }

    #[test]
    fn ids_that_are_too_short_or_not_hexadecimal_are_no_containers() {
        check(&[
            ("/system.slice/docker-0123.scope", None),
            ("/docker/buildkit", None),
            ("/system.slice/docker.service", Some("docker.service")),
            ("/docker/0123456789ABCDEF", None),
        ]);
    }

    #[test]
    fn cgroup_v2_has_one_line() {
        assert_eq!(name_from_cgroups("0::/system.slice/nginx.service\n").as_deref(), Some("nginx.service"));
        assert_eq!(name_from_cgroups("0::/\n"), None);
        assert_eq!(name_from_cgroups(""), None);
        assert_eq!(name_from_cgroups("nonsense\n1:\n"), None);
    }

    #[test]
    fn on_v1_and_hybrid_hosts_systemds_hierarchy_knows_the_unit() {
        let v1 =
            "12:pids:/system.slice/ssh.service\n5:memory:/system.slice\n1:name=systemd:/system.slice/cron.service\n";
        assert_eq!(name_from_cgroups(v1).as_deref(), Some("cron.service"));
        let hybrid = "9:name=systemd:/system.slice/cron.service\n4:memory:/\n0::/\n";
        assert_eq!(name_from_cgroups(hybrid).as_deref(), Some("cron.service"));
        let session =
            "9:name=systemd:/user.slice/user-0.slice/session-1.scope\n8:pids:/system.slice/ssh.service\n0::/\n";
        assert_eq!(name_from_cgroups(session), None);
    }

    #[test]
    fn containers_that_only_a_controllers_hierarchy_knows_are_found() {
        let text = format!("9:name=systemd:/\n4:memory:/docker/{ID}\n0::/\n");
        assert_eq!(name_from_cgroups(&text).as_deref(), Some("docker:0123456789ab"));
        assert_eq!(name_from_cgroups("3:cpu,cpuacct:/system.slice/a.service\n").as_deref(), Some("a.service"));
    }

    #[test]
    fn a_path_may_contain_colons() {
        assert_eq!(name_from_cgroups("0::/system.slice/a:b.service\n").as_deref(), Some("a:b.service"));
    }

    #[test]
    fn executables_keep_their_name_after_an_upgrade() {
        assert_eq!(name_from_executable("/usr/sbin/nginx"), Some("nginx"));
        assert_eq!(name_from_executable("/usr/sbin/nginx (deleted)"), Some("nginx"));
        assert_eq!(name_from_executable("/memfd:runc (deleted)"), Some("memfd:runc"));
        assert_eq!(name_from_executable("/"), None);
        assert_eq!(name_from_executable(""), None);
    }

    #[test]
    fn postgres_clusters_are_named_by_their_data_directory() {
        assert_eq!(postgres_cluster("/var/lib/postgresql/15/main"), "postgres:15/main");
        assert_eq!(postgres_cluster("/var/lib/postgresql/15/main/"), "postgres:15/main");
        assert_eq!(postgres_cluster("/data"), "postgres:data");
        assert_eq!(postgres_cluster("/"), "postgres");
    }

    #[test]
    fn the_data_directory_is_found_however_it_is_given() {
        for (line, directory) in [
            ("postgres -D /a/b -c config_file=/etc/x", Some("/a/b")),
            ("postgres -D/a/b", Some("/a/b")),
            ("postgres -c data_directory=/a/b", Some("/a/b")),
            ("postgres -cdata_directory=/a/b", Some("/a/b")),
            ("postgres --data-directory=/a/b", Some("/a/b")),
            ("postgres -D /etc/pg -c data_directory=/a/b", Some("/a/b")),
            ("postgres --config-file=/etc/x", None),
            ("postgres -D", None),
            ("-D /a/b", None),
            ("", None),
        ] {
            assert_eq!(postgres_data_directory(line.split(' ')), directory, "{line}");
        }
    }
}
