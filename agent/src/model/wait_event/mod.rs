//! The names of what Postgres' processes wait for, by the server's version. Does not know what each of them means.

mod names;

use names::{Names, Row};

/// A wait event as `pg_stat_activity` has it, such as `Lock:transactionid`. Of versions whose numbers are not known here only
/// the class is told. PostgreSQL 13 and before do not say what they wait for where that can be read.
pub fn wait_event_name(event: u32, version: Option<u32>) -> String {
    let known = match version {
        Some(14) => Some(&names::V14),
        Some(15) => Some(&names::V15),
        Some(16) => Some(&names::V16),
        Some(17) => Some(&names::V17),
        Some(18) => Some(&names::V18),
        _ => None,
    };
    let of = |row: fn(&Names) -> Row| known.map_or("", row);
    let (class, row) = match event >> 24 {
        0x01 => ("LWLock", of(|names| names.lwlocks)),
        0x03 => ("Lock", names::LOCKS),
        0x04 => ("BufferPin", "BufferPin"),
        0x05 => ("Activity", of(|names| names.activities)),
        0x06 => ("Client", of(|names| names.clients)),
        // Numbers beyond the first are given out by extensions as they come, from PostgreSQL 17 on.
        0x07 => ("Extension", "Extension"),
        0x08 => ("IPC", of(|names| names.ipc)),
        0x09 => ("Timeout", of(|names| names.timeouts)),
        0x0A => ("IO", of(|names| names.io)),
        _ => ("unknown", ""),
    };
    let number = usize::try_from(event & 0x00FF_FFFF).unwrap_or(usize::MAX);
    let name = row.split_whitespace().nth(number).filter(|name| *name != "-");
    format!("{class}:{}", name.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_as_the_server_names_them() {
        for (event, version, name) in [
            (0x0300_0005, Some(15), "Lock:transactionid"),
            (0x0300_0000, None, "Lock:relation"),
            (0x0300_000B, Some(16), "Lock:applytransaction"),
            (0x0100_0008, Some(15), "LWLock:WALWrite"),
            (0x0600_0000, Some(15), "Client:ClientRead"),
            (0x0900_0002, Some(15), "Timeout:PgSleep"),
            (0x0A00_0011, Some(15), "IO:DataFileRead"),
            (0x0A00_FFFF, Some(15), "IO:unknown"),
            (0x0100_0000, Some(15), "LWLock:unknown"),
            (0x0400_0000, None, "BufferPin:BufferPin"),
            (0xFFFF_FFFF, Some(15), "unknown:unknown"),
        ] {
            assert_eq!(wait_event_name(event, version), name, "{event:#x} of {version:?}");
        }
    }

    #[test]
    fn each_version_has_names_and_places_of_its_own() {
        // The last of each class, and one whose number or spelling differs between neighbours.
        for (version, names) in [
            (
                14,
                vec![
                    (0x0100_0037, "LWLock:WALInsert"),
                    (0x0100_0047, "LWLock:PerXactPredicateList"),
                    (0x0500_000C, "Activity:WalWriterMain"),
                    (0x0600_0007, "Client:WalSenderWriteData"),
                    (0x0800_0009, "IPC:ExecuteGather"),
                    (0x0800_002E, "IPC:XactGroupUpdate"),
                    (0x0900_0001, "Timeout:PgSleep"),
                    (0x0900_0006, "Timeout:RegisterSyncRequest"),
                    (0x0A00_000F, "IO:DataFileRead"),
                    (0x0A00_0049, "IO:LogicalSubxactWrite"),
                ],
            ),
            (
                15,
                vec![
                    (0x0100_0037, "LWLock:WALInsert"),
                    (0x0100_004A, "LWLock:PgStatsData"),
                    (0x0500_000B, "Activity:WalWriterMain"),
                    (0x0600_0007, "Client:WalSenderWriteData"),
                    (0x0800_000B, "IPC:ExecuteGather"),
                    (0x0800_0032, "IPC:XactGroupUpdate"),
                    (0x0900_0002, "Timeout:PgSleep"),
                    (0x0900_0007, "Timeout:VacuumTruncate"),
                    (0x0A00_0011, "IO:DataFileRead"),
                    (0x0A00_0049, "IO:VersionFileSync"),
                ],
            ),
            (
                16,
                vec![
                    (0x0100_0037, "LWLock:WALInsert"),
                    (0x0100_004C, "LWLock:LogicalRepLauncherHash"),
                    (0x0500_000C, "Activity:WalWriterMain"),
                    (0x0600_0007, "Client:WalSenderWriteData"),
                    (0x0800_000B, "IPC:ExecuteGather"),
                    (0x0800_0034, "IPC:XactGroupUpdate"),
                    (0x0900_0002, "Timeout:PgSleep"),
                    (0x0900_0008, "Timeout:VacuumTruncate"),
                    (0x0A00_0011, "IO:DataFileRead"),
                    (0x0A00_004A, "IO:VersionFileSync"),
                ],
            ),
            (
                17,
                vec![
                    (0x0100_003C, "LWLock:WALInsert"),
                    (0x0100_005B, "LWLock:ParallelVacuumDSA"),
                    (0x0500_000F, "Activity:WalWriterMain"),
                    (0x0600_0008, "Client:WalSenderWriteData"),
                    (0x0800_000D, "IPC:ExecuteGather"),
                    (0x0800_0038, "IPC:XactGroupUpdate"),
                    (0x0900_0002, "Timeout:PgSleep"),
                    (0x0900_0009, "Timeout:WalSummarizerError"),
                    (0x0A00_0011, "IO:DataFileRead"),
                    (0x0A00_004C, "IO:WalWrite"),
                ],
            ),
            (
                18,
                vec![
                    (0x0100_003D, "LWLock:WALInsert"),
                    (0x0100_005E, "LWLock:AioUringCompletion"),
                    (0x0500_0011, "Activity:WalWriterMain"),
                    (0x0600_0008, "Client:WalSenderWriteData"),
                    (0x0800_000D, "IPC:ExecuteGather"),
                    (0x0800_0038, "IPC:XactGroupUpdate"),
                    (0x0900_0002, "Timeout:PgSleep"),
                    (0x0900_0009, "Timeout:WalSummarizerError"),
                    (0x0A00_0015, "IO:DataFileRead"),
                    (0x0A00_0050, "IO:WalWrite"),
                ],
            ),
        ] {
            for (event, name) in names {
                assert_eq!(wait_event_name(event, Some(version)), name, "{event:#x} of {version}");
                let (class, _) = name.split_once(':').unwrap();
                let beyond = event | 0x0000_0F00;
                assert_eq!(
                    wait_event_name(beyond, Some(version)),
                    format!("{class}:unknown"),
                    "{beyond:#x} of {version}"
                );
            }
        }
    }

    #[test]
    fn of_a_version_that_is_not_known_only_the_class_is() {
        for version in [None, Some(13), Some(19)] {
            assert_eq!(wait_event_name(0x0A00_0011, version), "IO:unknown", "{version:?}");
            assert_eq!(wait_event_name(0x0100_0008, version), "LWLock:unknown", "{version:?}");
            assert_eq!(wait_event_name(0x0700_0001, version), "Extension:unknown", "{version:?}");
        }
    }
}
