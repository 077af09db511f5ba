//! The kernel's name, the clock, and entropy: one-line facts.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::system::uname;

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, snapshot::Series};

/// Adds what uname(2) says.
pub(super) fn read_uname(out: &mut Vec<Series>) -> Result<(), Problem> {
    let name = uname();
    let [sysname, release, version, machine, nodename, domainname] =
        [name.sysname(), name.release(), name.version(), name.machine(), name.nodename(), name.domainname()]
            .map(|text| text.to_string_lossy());
    push(out, &host::UNAME, &[&sysname, &release, &version, &machine, &nodename, &domainname], 1.0);
    Ok(())
}

/// Adds the time and which clock it comes from.
///
/// node_exporter's `node_time_zone_offset_seconds` is left out: it would need the time zone database.
pub(super) fn read_time(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    push(out, &host::TIME, &[], now.as_secs_f64());
    let folder = files.in_sys("devices/system/clocksource");
    for name in files.names(&folder) {
        let Some(device) = name.strip_prefix("clocksource") else { continue };
        for (file, metric) in [
            ("available_clocksource", &host::CLOCKSOURCE_AVAILABLE),
            ("current_clocksource", &host::CLOCKSOURCE_CURRENT),
        ] {
            let sources = files.attribute(&folder.join(&name).join(file)).unwrap_or_default();
            for source in sources.split_ascii_whitespace() {
                push(out, metric, &[device, source], 1.0);
            }
        }
    }
    Ok(())
}

/// Adds the state of the kernel's entropy pool. By hand: procfs has the files, but only at `/proc`.
pub(super) fn read_entropy(files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
    for (file, metric) in [
        ("sys/kernel/random/entropy_avail", &host::ENTROPY_AVAILABLE),
        ("sys/kernel/random/poolsize", &host::ENTROPY_POOL_SIZE),
    ] {
        let path = files.in_proc(file);
        let text = files.text(&path)?.trim();
        let bits = text.parse::<u32>().map_err(|error| malformed(&path, error))?;
        push(out, metric, &[], f64::from(bits));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::tests::values;

    #[test]
    fn each_clock_source_is_one_series() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("devices/system/clocksource/clocksource0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("available_clocksource"), "kvm-clock tsc \n").unwrap();
        fs::write(folder.join("current_clocksource"), "tsc\n").unwrap();
        let mut out = Vec::new();
        read_time(&mut Files::new(root.path().into(), root.path().into()), &mut out).unwrap();
        assert_eq!(
            values(&out)[1..],
            [
                r#"node_time_clocksource_available_info{device="0",clocksource="kvm-clock"} 1"#,
                r#"node_time_clocksource_available_info{device="0",clocksource="tsc"} 1"#,
                r#"node_time_clocksource_current_info{device="0",clocksource="tsc"} 1"#,
            ]
        );
    }

    #[test]
    fn the_kernels_name_is_that_of_this_machine() {
        let mut out = Vec::new();
        read_uname(&mut out).unwrap();
        assert_eq!(out[0].labels[0], "Linux");
        assert_eq!(out[0].labels[1], fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    }
}
