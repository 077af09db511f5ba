//! What a running Postgres server was set to, without asking it: its command line and its configuration files. Knows their
//! syntax (PostgreSQL manual, "Setting Parameters"), not what a setting means.

use std::{
    fs,
    path::{Path, PathBuf},
};

use procfs::process::Process;

use crate::files::read_text;

/// `max_connections` where nothing sets it.
const DEFAULT_MAX_CONNECTIONS: u32 = 100;
/// How deep files may include each other: PostgreSQL's own `CONF_FILE_MAX_DEPTH`.
const MAX_DEPTH: usize = 10;
/// Files that are read for one server, and bytes of each.
const MAX_FILES: usize = 100;
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 10_000;
/// Bytes of the file with its version.
const MAX_VERSION_BYTES: u64 = 64;

/// How many connections the server with this postmaster lets in; `None` when its configuration cannot be read. It is what
/// the files say now: a change waits for a restart of the server.
pub fn max_connections(proc: &Path, postmaster: u32) -> Option<u32> {
    let folder = proc.join(postmaster.to_string());
    let arguments = Process::new_with_root(folder.clone()).ok()?.cmdline().ok()?;
    let given = |name: &str| from_arguments(&arguments, name);
    // The command line has precedence over `postgresql.auto.conf`, and that over the file.
    let number = |text: String| text.parse().ok();
    if let Some(number) = given("max_connections").and_then(number) {
        return Some(number);
    }
    // A server's working directory is its data directory.
    let data = folder.join("cwd");
    let within = |path: String| below(&folder, &data, Path::new(&path));
    let file = given("config_file").map_or_else(|| data.join("postgresql.conf"), within);
    let mut found = Found { name: "max_connections", value: None, files: 0, root: folder };
    found.read(&file, 0)?;
    // Missing where ALTER SYSTEM was never used and nobody keeps the comment that initdb writes.
    let _ = found.read(&data.join("postgresql.auto.conf"), 0);
    found.value.map_or(Some(DEFAULT_MAX_CONNECTIONS), number)
}

/// The major version of the server with this postmaster, as its data directory has it (`PG_VERSION`, from PostgreSQL 10 on a
/// whole number).
pub fn server_version(proc: &Path, postmaster: u32) -> Option<u32> {
    // A server's working directory is its data directory.
    let file = proc.join(postmaster.to_string()).join("cwd/PG_VERSION");
    read_text(&file, MAX_VERSION_BYTES).ok()?.trim().parse().ok()
}

/// A path as the server sees it: a container has its own root.
fn below(process: &Path, folder: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix("/") {
        Ok(rest) => process.join("root").join(rest),
        Err(_) => folder.join(path),
    }
}

/// The last value that the command line gives: `-c name=value`, `--name=value`, and `-N` for `max_connections`.
fn from_arguments(arguments: &[String], name: &str) -> Option<String> {
    let mut value = None;
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let setting = if let Some(long) = argument.strip_prefix("--") {
            Some(long.to_owned())
        } else if let Some(glued) = argument.strip_prefix("-c") {
            if glued.is_empty() { rest.next().cloned() } else { Some(glued.to_owned()) }
        } else if let Some(glued) = argument.strip_prefix("-N") {
            let number = if glued.is_empty() { rest.next().cloned() } else { Some(glued.to_owned()) };
            number.map(|number| format!("max_connections={number}"))
        } else {
            None
        };
        if let Some((key, given)) = setting.as_deref().and_then(|setting| setting.split_once('='))
            && is_name(key, name)
        {
            value = Some(given.to_owned());
        }
    }
    value
}

/// Names have no case; on the command line a dash stands for an underscore.
fn is_name(typed: &str, name: &str) -> bool {
    typed.trim().replace('-', "_").eq_ignore_ascii_case(name)
}

/// The last value of one setting in the files read so far.
struct Found {
    name: &'static str,
    value: Option<String>,
    files: usize,
    root: PathBuf,
}

impl Found {
    /// Reads a file and what it includes; `None` if it cannot be read.
    fn read(&mut self, file: &Path, depth: usize) -> Option<()> {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            return None;
        }
        let text = read_text(file, MAX_FILE_BYTES).ok()?;
        let folder = file.parent()?;
        for (name, value) in text.lines().filter_map(setting) {
            let path = below(&self.root, folder, Path::new(&value));
            match name.to_ascii_lowercase().as_str() {
                // What cannot be read would have kept the server from starting, or is not needed.
                "include" | "include_if_exists" => drop(self.read(&path, depth + 1)),
                "include_dir" => self.read_folder(&path, depth + 1),
                name if name == self.name => self.value = Some(value),
                _ => {}
            }
        }
        Some(())
    }

    /// Reads the files of a folder that end in `.conf`, by name.
    fn read_folder(&mut self, folder: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let names = entries.flatten().take(MAX_ENTRIES).filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".conf") && !name.starts_with('.')).collect();
        names.sort();
        for name in names {
            let _ = self.read(&folder.join(name), depth);
        }
    }
}

/// Name and value of a line such as `name = 'value' # why`.
fn setting(line: &str) -> Option<(&str, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let Some(quoted) = rest.strip_prefix('\'') else {
        let value = rest.split(|c: char| c == '#' || c.is_whitespace()).next().unwrap_or_default();
        return (!name.is_empty() && !value.is_empty()).then(|| (name, value.to_owned()));
    };
    let mut value = String::new();
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' if characters.peek() == Some(&'\'') => value.extend(characters.next()),
            '\'' => return (!name.is_empty()).then_some((name, value)),
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up procfs with one server, and its data directory.
    struct Server(tempfile::TempDir);

    impl Server {
        fn new(arguments: &str) -> Self {
            let server = Self(tempfile::tempdir().unwrap());
            for folder in ["proc/7", "data", "host/etc/pg/conf.d"] {
                fs::create_dir_all(server.path(folder)).unwrap();
            }
            fs::write(server.path("proc/7/cmdline"), arguments.replace(' ', "\0")).unwrap();
            symlink(server.path("data"), server.path("proc/7/cwd")).unwrap();
            symlink(server.path("host"), server.path("proc/7/root")).unwrap();
            server
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn with(self, path: &str, text: &str) -> Self {
            fs::write(self.path(path), text).unwrap();
            self
        }

        fn max(&self) -> Option<u32> {
            max_connections(&self.path("proc"), 7)
        }
    }

    #[test]
    fn the_command_line_goes_before_the_files() {
        for (arguments, expected) in [
            ("postgres -D /data -c max_connections=7 -c port=1", 7),
            ("postgres -cmax_connections=8", 8),
            ("postgres --max-connections=9", 9),
            ("postgres -N 10", 10),
            ("postgres -N11 --MAX_CONNECTIONS=12", 12),
            ("postgres -D /data", 5),
        ] {
            let server = Server::new(arguments).with("data/postgresql.conf", "max_connections = 5\n");
            assert_eq!(server.max(), Some(expected), "{arguments}");
        }
    }

    #[test]
    fn what_alter_system_wrote_goes_before_the_file_and_a_missing_setting_is_the_default() {
        let server = Server::new("postgres").with("data/postgresql.conf", "#max_connections = 5\n");
        assert_eq!(server.max(), Some(100));
        let server = server.with("data/postgresql.conf", "Max_Connections 20 # more\nport = 5\n");
        assert_eq!(server.max(), Some(20));
        assert_eq!(server.with("data/postgresql.auto.conf", "max_connections = '300'\n").max(), Some(300));
    }

    #[test]
    fn included_files_count_where_they_are_included_as_the_server_sees_them() {
        let arguments = "postgres -D /data -c config_file=/etc/pg/postgresql.conf";
        let server = Server::new(arguments)
            .with(
                "host/etc/pg/postgresql.conf",
                "max_connections = 1\ninclude_dir = 'conf.d'\ninclude_if_exists 'no'\n",
            )
            .with("host/etc/pg/conf.d/20.conf", "max_connections = 3")
            .with("host/etc/pg/conf.d/10.conf", "max_connections = 2")
            .with("host/etc/pg/conf.d/30.conf.off", "max_connections = 4");
        assert_eq!(server.max(), Some(3));
        let server = server.with("host/etc/pg/conf.d/20.conf", "include '/etc/pg/conf.d/30.conf.off'");
        assert_eq!(server.max(), Some(4));
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_what_includes_itself_ends() {
        assert_eq!(Server::new("postgres").max(), None);
        assert_eq!(max_connections(Path::new("/nonexistent"), 7), None);
        let server =
            Server::new("postgres").with("data/postgresql.conf", "include 'postgresql.conf'\nmax_connections=6\n");
        assert_eq!(server.max(), Some(6));
        let hostile = "=\n'\n= 5\nmax_connections\nmax_connections =\nmax_connections = '5\nmax_connections = \\\n";
        let server = Server::new("postgres").with("data/postgresql.conf", hostile);
        assert_eq!(server.max(), None, "a value that is no number");
    }

    #[test]
    fn files_that_are_too_many_too_long_or_no_files_are_not_read() {
        let included = |count: usize| {
            let server = Server::new("postgres").with("data/postgresql.conf", "include_dir = 'conf.d'\n");
            fs::create_dir(server.path("data/conf.d")).unwrap();
            (0..count).fold(server, |server, number| {
                server.with(&format!("data/conf.d/{number:03}.conf"), &format!("max_connections = {}\n", number + 1))
            })
        };
        assert_eq!(included(MAX_FILES - 1).max(), Some(MAX_FILES as u32 - 1));
        assert_eq!(included(MAX_FILES + 50).max(), Some(MAX_FILES as u32 - 1));
        let long = format!("max_connections = 7\n{}", "#".repeat(MAX_FILE_BYTES as usize));
        assert_eq!(Server::new("postgres").with("data/postgresql.conf", &long).max(), None);
        for endless in ["/dev/zero", "/dev/tty"] {
            let server = Server::new("postgres");
            symlink(endless, server.path("data/postgresql.conf")).unwrap();
            symlink(endless, server.path("data/PG_VERSION")).unwrap();
            assert_eq!((server.max(), server_version(&server.path("proc"), 7)), (None, None), "{endless}");
        }
    }
}
