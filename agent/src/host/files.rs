//! Reads small files of procfs and sysfs into one buffer that is kept. Knows no file's contents.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    str,
};

use super::Problem;

/// The mount points of procfs and sysfs, and the buffer.
pub(super) struct Files {
    proc: PathBuf,
    sys: PathBuf,
    buffer: Vec<u8>,
}

/// Room for the usual file in one read; `/proc/stat` of a large host makes it grow once.
const FIRST_BUFFER_BYTES: usize = 16 * 1024;

impl Files {
    pub(super) fn new(proc: PathBuf, sys: PathBuf) -> Self {
        Self { proc, sys, buffer: vec![0; FIRST_BUFFER_BYTES] }
    }

    /// The path of a file in procfs.
    pub(super) fn in_proc(&self, relative: impl AsRef<OsStr>) -> PathBuf {
        self.proc.join(Path::new(&relative))
    }

    /// The path of a file in sysfs.
    pub(super) fn in_sys(&self, relative: impl AsRef<OsStr>) -> PathBuf {
        self.sys.join(Path::new(&relative))
    }

    /// The contents of a file. What is not UTF-8 (a device may be called anything) is replaced by U+FFFD, so that
    /// one odd name does not cost the whole file.
    pub(super) fn text(&mut self, path: &Path) -> Result<&str, Problem> {
        let length =
            File::open(path).and_then(|file| read_all(file, &mut self.buffer)).map_err(|error| problem(path, error))?;
        if str::from_utf8(&self.buffer[..length]).is_err() {
            let text = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
            self.buffer.clear();
            self.buffer.extend_from_slice(text.as_bytes());
            return Ok(str::from_utf8(&self.buffer).unwrap_or_default());
        }
        Ok(str::from_utf8(&self.buffer[..length]).unwrap_or_default())
    }

    /// The contents of a file in procfs.
    pub(super) fn proc_text(&mut self, relative: &str) -> Result<&str, Problem> {
        let path = self.in_proc(relative);
        self.text(&path)
    }

    /// The contents of a one-line file, without the white space around it; `None` when it cannot be read. For
    /// sysfs attributes, which a driver may lack or refuse at any time.
    pub(super) fn attribute(&mut self, path: &Path) -> Option<&str> {
        self.text(path).ok().map(str::trim)
    }

    /// The number in a one-line file, decimal or, after `0x`, hexadecimal.
    pub(super) fn number(&mut self, path: &Path) -> Option<i64> {
        self.attribute(path).and_then(parse_number)
    }

    /// The names in a directory, sorted; empty when it cannot be read.
    pub(super) fn names(&self, path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }
}

/// Fills the buffer, growing it when the file is larger; the rest of the buffer is left as it was. std's
/// `read_to_end` would ask procfs for a size first, in two system calls that tell nothing.
pub(super) fn read_all(mut file: impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if length == buffer.len() {
            buffer.resize(FIRST_BUFFER_BYTES.max(2 * length), 0);
        }
        match file.read(&mut buffer[length..]) {
            Ok(0) => return Ok(length),
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse_number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16).ok(),
        None => text.parse().ok(),
    }
}

fn problem(path: &Path, error: io::Error) -> Problem {
    // Pressure answers EOPNOTSUPP when it is compiled in but switched off (kernel/sched/psi.c).
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::Unsupported => Problem::Absent { path: path.to_owned() },
        _ => Problem::Unreadable { path: path.to_owned(), error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files::new("/proc".into(), "/sys".into())
    }

    #[test]
    fn a_file_larger_than_the_buffer_is_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let long = "0123456789".repeat(FIRST_BUFFER_BYTES);
        fs::write(file.path(), &long).unwrap();
        let mut files = files();
        assert_eq!(files.text(file.path()).unwrap(), long);
        fs::write(file.path(), "short").unwrap();
        assert_eq!(files.text(file.path()).unwrap(), "short");
    }

    #[test]
    fn odd_bytes_cost_no_more_than_themselves() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"eth\xff: 1\nlo: 2\n").unwrap();
        let mut files = files();
        assert_eq!(files.text(file.path()).unwrap(), "eth\u{fffd}: 1\nlo: 2\n");
        assert_eq!(files.text(file.path()).unwrap(), "eth\u{fffd}: 1\nlo: 2\n");
    }

    #[test]
    fn a_missing_file_is_absent_and_not_an_error() {
        assert!(matches!(files().proc_text("no/such"), Err(Problem::Absent { .. })));
        assert!(matches!(files().proc_text("self"), Err(Problem::Unreadable { .. })));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("1500"), Some(1500));
        assert_eq!(parse_number("-1"), Some(-1));
        assert_eq!(parse_number("0x1003"), Some(0x1003));
        assert_eq!(parse_number(""), None);
    }
}
