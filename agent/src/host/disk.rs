//! Disk traffic and what udev knows of the disks.

use std::{collections::HashMap, path::PathBuf};

use procfs::{DiskStat, DiskStats, FromBufRead};

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, metric::Metric, snapshot::Series};

/// Sectors of the block layer, whatever the device's own are (Documentation/block/stat.rst).
const SECTOR_BYTES: u64 = 512;

/// Reads disks; remembers where udev's data lies.
pub(super) struct Disks {
    udev: PathBuf,
}

impl Disks {
    pub(super) fn new(udev: PathBuf) -> Self {
        Self { udev }
    }

    /// Adds all whole disks: partitions and RAM disks are left out as in node_exporter's default.
    pub(super) fn read(&self, files: &mut Files, out: &mut Vec<Series>) -> Result<(), Problem> {
        let path = files.in_proc("diskstats");
        let text = files.text(&path)?;
        let DiskStats(disks) = DiskStats::from_buf_read(text.as_bytes()).map_err(|error| malformed(&path, error))?;
        for disk in disks.iter().filter(|disk| !is_excluded(&disk.name)) {
            push_traffic(disk, out);
            let path = self.udev.join(format!("b{}:{}", disk.major, disk.minor));
            // No udev (a container, an initramfs): node_disk_info with empty labels, as node_exporter has it.
            push_properties(disk, &properties(files.text(&path).unwrap_or_default()), out);
        }
        Ok(())
    }
}

/// How a metric is had from a line of `/proc/diskstats`.
type Column = (&'static Metric, fn(&DiskStat) -> Option<f64>);

static COLUMNS: [Column; 17] = [
    (&host::DISK_READS, |disk| Some(disk.reads as f64)),
    (&host::DISK_READS_MERGED, |disk| Some(disk.merged as f64)),
    (&host::DISK_READ_BYTES, |disk| Some((disk.sectors_read * SECTOR_BYTES) as f64)),
    (&host::DISK_READ_TIME, |disk| Some(seconds(disk.time_reading))),
    (&host::DISK_WRITES, |disk| Some(disk.writes as f64)),
    (&host::DISK_WRITES_MERGED, |disk| Some(disk.writes_merged as f64)),
    (&host::DISK_WRITTEN_BYTES, |disk| Some((disk.sectors_written * SECTOR_BYTES) as f64)),
    (&host::DISK_WRITE_TIME, |disk| Some(seconds(disk.time_writing))),
    (&host::DISK_IO_NOW, |disk| Some(disk.in_progress as f64)),
    (&host::DISK_IO_TIME, |disk| Some(seconds(disk.time_in_progress))),
    (&host::DISK_IO_TIME_WEIGHTED, |disk| Some(seconds(disk.weighted_time_in_progress))),
    // Since Linux 4.18.
    (&host::DISK_DISCARDS, |disk| disk.discards.map(|count| count as f64)),
    (&host::DISK_DISCARDS_MERGED, |disk| disk.discards_merged.map(|count| count as f64)),
    (&host::DISK_DISCARDED_SECTORS, |disk| disk.sectors_discarded.map(|count| count as f64)),
    (&host::DISK_DISCARD_TIME, |disk| disk.time_discarding.map(seconds)),
    // Since Linux 5.5.
    (&host::DISK_FLUSHES, |disk| disk.flushes.map(|count| count as f64)),
    (&host::DISK_FLUSH_TIME, |disk| disk.time_flushing.map(seconds)),
];

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

fn push_traffic(disk: &DiskStat, out: &mut Vec<Series>) {
    for (metric, value) in &COLUMNS {
        if let Some(value) = value(disk) {
            push(out, metric, &[&disk.name], value);
        }
    }
}

fn push_properties(disk: &DiskStat, properties: &HashMap<&str, &str>, out: &mut Vec<Series>) {
    let device = disk.name.as_str();
    let property = |name: &str| properties.get(name).copied().unwrap_or_default();
    let (major, minor) = (disk.major.to_string(), disk.minor.to_string());
    // What is printed on the disk, or else what the bus gave; virtio has only the last.
    let serial = ["SCSI_IDENT_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"].map(property);
    let serial = serial.into_iter().find(|serial| !serial.is_empty()).unwrap_or_default();
    let info = [
        device,
        &major,
        &minor,
        property("ID_PATH"),
        property("ID_WWN"),
        property("ID_MODEL"),
        serial,
        property("ID_REVISION"),
    ];
    push(out, &host::DISK_INFO, &info, 1.0);
    if !property("ID_FS_TYPE").is_empty() {
        let [kind, usage, uuid, version] = ["ID_FS_TYPE", "ID_FS_USAGE", "ID_FS_UUID", "ID_FS_VERSION"].map(property);
        push(out, &host::DISK_FILESYSTEM_INFO, &[device, kind, usage, uuid, version], 1.0);
    }
    if !property("DM_NAME").is_empty() {
        let [name, uuid, group, volume, layer] =
            ["DM_NAME", "DM_UUID", "DM_VG_NAME", "DM_LV_NAME", "DM_LV_LAYER"].map(property);
        push(out, &host::DISK_DEVICE_MAPPER_INFO, &[device, name, uuid, group, volume, layer], 1.0);
    }
    if !property("ID_ATA").is_empty() {
        for (name, metric) in [
            ("ID_ATA_WRITE_CACHE", &host::DISK_ATA_WRITE_CACHE),
            ("ID_ATA_WRITE_CACHE_ENABLED", &host::DISK_ATA_WRITE_CACHE_ENABLED),
            ("ID_ATA_ROTATION_RATE_RPM", &host::DISK_ATA_ROTATION_RATE),
        ] {
            if let Ok(value) = property(name).parse::<f64>() {
                push(out, metric, &[device], value);
            }
        }
    }
}

/// The device properties in a file of udev's database: lines of `E:NAME=value`.
fn properties(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('=')).collect()
}

/// node_exporter's default: `^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$`.
fn is_excluded(name: &str) -> bool {
    let stem = name.trim_end_matches(|character: char| character.is_ascii_digit());
    if stem.len() == name.len() {
        return false;
    }
    let is_partition =
        |prefix: &str| stem.strip_prefix(prefix).is_some_and(|letter| matches!(letter.as_bytes(), [b'a'..=b'z']));
    let is_nvme_partition = || {
        let Some((controller, namespace)) =
            stem.strip_prefix("nvme").and_then(|rest| rest.strip_suffix('p')).and_then(|rest| rest.split_once('n'))
        else {
            return false;
        };
        [controller, namespace].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    matches!(stem, "ram" | "loop" | "fd")
        || ["hd", "sd", "vd", "xvd"].into_iter().any(is_partition)
        || is_nvme_partition()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::tests::values;

    #[test]
    fn partitions_and_ram_disks_are_left_out() {
        for name in ["ram0", "loop12", "fd0", "sda1", "hdb2", "vda15", "xvda1", "nvme0n1p1", "nvme10n2p12"] {
            assert!(is_excluded(name), "{name}");
        }
        for name in ["sda", "sdaa", "sdaa1", "vda", "nvme0n1", "dm-0", "md127", "zram0", "sr0", "mmcblk0", "mmcblk0p1"]
        {
            assert!(!is_excluded(name), "{name}");
        }
    }

    #[test]
    fn traffic_is_in_bytes_and_seconds_and_properties_are_udevs() {
        let root = tempfile::tempdir().unwrap();
        let line = "   8       0 sda 25354637 34367663 1003346126 18492372 28444756 11134226 505697032 63877960 0 9653880 \
                    82621804 68 0 1925173784 11130 1555 1944\n   8       1 sda1 1 2 3 4 5 6 7 8 9 10 11\n";
        fs::write(root.path().join("diskstats"), line).unwrap();
        let udev = "S:disk/by-id/x\nE:ID_MODEL=SAMSUNG\nE:ID_SERIAL_SHORT=S1\nE:ID_SERIAL=long\nE:ID_ATA=1\n\
                    E:ID_ATA_ROTATION_RATE_RPM=7200\nE:ID_FS_TYPE=ext4\nG:systemd\n";
        fs::write(root.path().join("b8:0"), udev).unwrap();
        let mut out = Vec::new();
        let mut files = Files::new(root.path().into(), root.path().into());
        Disks::new(root.path().into()).read(&mut files, &mut out).unwrap();
        let values = values(&out);
        for expected in [
            r#"node_disk_reads_completed_total{device="sda"} 25354637"#,
            r#"node_disk_read_bytes_total{device="sda"} 513713216512"#,
            r#"node_disk_read_time_seconds_total{device="sda"} 18492.372"#,
            r#"node_disk_io_time_weighted_seconds_total{device="sda"} 82621.804"#,
            r#"node_disk_discarded_sectors_total{device="sda"} 1925173784"#,
            r#"node_disk_flush_requests_time_seconds_total{device="sda"} 1.944"#,
            r#"node_disk_info{device="sda",major="8",minor="0",path="",wwn="",model="SAMSUNG",serial="S1",revision=""} 1"#,
            r#"node_disk_filesystem_info{device="sda",type="ext4",usage="",uuid="",version=""} 1"#,
            r#"node_disk_ata_rotation_rate_rpm{device="sda"} 7200"#,
        ] {
            assert!(values.iter().any(|value| value == expected), "{expected} is not in {values:#?}");
        }
        assert!(!values.iter().any(|value| value.contains("sda1")));
    }

    #[test]
    fn an_old_kernel_has_neither_discards_nor_flushes() {
        let disk = DiskStat::from_line("8 0 sda 1 2 3 4 5 6 7 8 9 10 11").unwrap();
        let mut out = Vec::new();
        push_traffic(&disk, &mut out);
        assert_eq!(out.len(), 11);
    }
}
