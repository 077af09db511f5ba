//! Space and file nodes of mounted file systems. A mount whose server is gone stops whoever asks it, so all asking
//! is done in threads that the reader does not wait for beyond [`PATIENCE`].

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{StatVfs, statvfs};

use super::{Files, Problem, push};
use crate::model::{catalog::host, snapshot::Series};

/// How long all mounts together may keep the reader waiting.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// How many silent mounts are waited for at once; each holds a thread and its small stack.
const MAX_SILENT: usize = 16;

/// A thread that does little but statvfs(2). What it does not use is not resident.
const STACK_BYTES: usize = 256 * 1024;

/// Reads file systems; remembers those that have not answered.
#[derive(Default)]
pub(super) struct FileSystems {
    asker: Option<Asker>,
    silent: Vec<(Mount, Asker)>,
}

/// One line of `/proc/1/mounts`: the labels of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    mountpoint: String,
    fstype: String,
    is_read_only: bool,
}

/// What a file system said.
type Answer = io::Result<StatVfs>;

impl FileSystems {
    /// Adds every file system that node_exporter's defaults let through.
    pub(super) fn read(
        &mut self,
        files: &mut Files,
        out: &mut Vec<Series>,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Problem> {
        // Process 1 sees the host's mounts even when this process has a mount namespace of its own.
        let text = match files.proc_text("1/mounts") {
            Ok(text) => text.to_owned(),
            Err(_) => files.proc_text("mounts")?.to_owned(),
        };
        self.ask_all(mounts(&text), PATIENCE, statvfs_of, out, problems);
        Ok(())
    }

    fn ask_all(
        &mut self,
        mounts: Vec<Mount>,
        patience: Duration,
        question: Question,
        out: &mut Vec<Series>,
        problems: &mut Vec<Problem>,
    ) {
        let deadline = Instant::now() + patience;
        let mut not_asked = 0;
        // Those that are no longer mounted are forgotten; their threads end when the kernel lets them go.
        self.silent.retain(|(mount, _)| mounts.contains(mount));
        for mount in mounts {
            let late = self.silent.iter().position(|(silent, _)| *silent == mount);
            let answer = match late {
                Some(position) => match self.silent[position].1.late_answer() {
                    Some(answer) => {
                        self.silent.swap_remove(position);
                        Some(answer)
                    }
                    None => None,
                },
                None if self.silent.len() >= MAX_SILENT => {
                    not_asked += 1;
                    continue;
                }
                None => self.ask(&mount, deadline, question),
            };
            match answer {
                Some(answer) => push_answer(&mount, &answer, out),
                None => {
                    push_error(&mount, 1.0, out);
                    problems.push(Problem::MountSilent { mountpoint: mount.mountpoint });
                }
            }
        }
        if not_asked > 0 {
            problems.push(Problem::MountsNotAsked { count: not_asked, silent: self.silent.len() });
        }
    }

    /// Asks one mount; when it does not answer in half of the time that is left, so that there is some for the
    /// next ones, sets it and its thread aside.
    fn ask(&mut self, mount: &Mount, deadline: Instant, question: Question) -> Option<Answer> {
        let asker = match self.asker.take().map_or_else(|| Asker::start(question), Ok) {
            Ok(asker) => asker,
            Err(error) => return Some(Err(error)),
        };
        let answer = asker.ask(&mount.mountpoint, deadline.saturating_duration_since(Instant::now()) / 2);
        match answer {
            Some(_) => self.asker = Some(asker),
            None => self.silent.push((mount.clone(), asker)),
        }
        answer
    }
}

/// What is asked of a mount point; another one in tests.
type Question = fn(&str) -> Answer;

fn statvfs_of(mountpoint: &str) -> Answer {
    Ok(statvfs(mountpoint)?)
}

/// A thread that asks, and the way to it. It ends when this is dropped, or when the mount that it hangs in
/// answers after that.
struct Asker {
    questions: Sender<String>,
    answers: Receiver<Answer>,
}

impl Asker {
    fn start(question: Question) -> io::Result<Self> {
        let (questions, asked) = channel::<String>();
        let (answered, answers) = channel();
        thread::Builder::new().name("steth-statvfs".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            for mountpoint in asked {
                if answered.send(question(&mountpoint)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers })
    }

    fn ask(&self, mountpoint: &str, patience: Duration) -> Option<Answer> {
        self.questions.send(mountpoint.to_owned()).map_err(|_| gone()).map_or_else(
            |error| Some(Err(error)),
            |()| match self.answers.recv_timeout(patience) {
                Ok(answer) => Some(answer),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Err(gone())),
            },
        )
    }

    fn late_answer(&self) -> Option<Answer> {
        match self.answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(gone())),
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the asking thread is gone")
}

fn push_answer(mount: &Mount, answer: &Answer, out: &mut Vec<Series>) {
    let Ok(answer) = answer else { return push_error(mount, 1.0, out) };
    push_error(mount, 0.0, out);
    let labels = mount.labels();
    // Blocks are counted in fragments (statvfs(3)); node_exporter multiplies by the block size, which is the same
    // but on some FUSE file systems, where it is wrong.
    let bytes = |blocks: u64| blocks as f64 * answer.f_frsize as f64;
    push(out, &host::FILESYSTEM_SIZE, &labels, bytes(answer.f_blocks));
    push(out, &host::FILESYSTEM_FREE, &labels, bytes(answer.f_bfree));
    push(out, &host::FILESYSTEM_AVAIL, &labels, bytes(answer.f_bavail));
    push(out, &host::FILESYSTEM_FILES, &labels, answer.f_files as f64);
    push(out, &host::FILESYSTEM_FILES_FREE, &labels, answer.f_ffree as f64);
    push(out, &host::FILESYSTEM_READONLY, &labels, f64::from(u8::from(mount.is_read_only)));
}

fn push_error(mount: &Mount, is_error: f64, out: &mut Vec<Series>) {
    push(out, &host::FILESYSTEM_DEVICE_ERROR, &mount.labels(), is_error);
}

impl Mount {
    fn labels(&self) -> [&str; 3] {
        [&self.device, &self.mountpoint, &self.fstype]
    }
}

/// The mounts that are not excluded, each set of labels once: what is mounted over another mount at the same place
/// has hidden it.
///
/// By hand: procfs leaves spaces escaped, as `\040`.
fn mounts(text: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(mountpoint), Some(fstype), Some(options)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let mount = Mount {
            device: unescape(device),
            mountpoint: unescape(mountpoint),
            fstype: fstype.to_owned(),
            is_read_only: options.split(',').any(|option| option == "ro"),
        };
        if !is_excluded_type(fstype)
            && !is_excluded_place(&mount.mountpoint)
            && !mounts.iter().any(|known| known.labels() == mount.labels())
        {
            mounts.push(mount);
        }
    }
    mounts
}

/// The kernel writes space, tab, line feed, backslash and `#` as three octal digits (fs/proc_namespace.c).
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let code = escape.get(1..4).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = escape.get(4..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = escape.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// node_exporter's default: `^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)`.
fn is_excluded_place(mountpoint: &str) -> bool {
    let below = |prefix: &str| mountpoint.strip_prefix(prefix);
    ["/dev", "/proc", "/sys"].into_iter().filter_map(below).any(|rest| rest.is_empty() || rest.starts_with('/'))
        || ["/run/credentials/", "/var/lib/docker/", "/var/lib/containers/storage/"]
            .into_iter()
            .filter_map(below)
            .any(|rest| !rest.is_empty())
}

/// node_exporter's default.
fn is_excluded_type(fstype: &str) -> bool {
    matches!(
        fstype,
        "autofs"
            | "binfmt_misc"
            | "bpf"
            | "cgroup"
            | "cgroup2"
            | "configfs"
            | "debugfs"
            | "devpts"
            | "devtmpfs"
            | "fusectl"
            | "hugetlbfs"
            | "iso9660"
            | "mqueue"
            | "nsfs"
            | "overlay"
            | "proc"
            | "procfs"
            | "pstore"
            | "rpc_pipefs"
            | "securityfs"
            | "selinuxfs"
            | "squashfs"
            | "sysfs"
            | "tracefs"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::host::tests::values;

    #[test]
    fn mounts_are_excluded_as_in_node_exporter() {
        let text = "proc /proc proc rw 0 0\n/dev/vda / ext4 rw,relatime 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n\
                    tmpfs /run tmpfs ro,nosuid 0 0\n/dev/vda /var/lib/docker/x ext4 rw 0 0\n\
                    /dev/vda /var/lib/docker ext4 rw 0 0\n/dev/vdb /my\\040disk xfs rw 0 0\n\
                    /dev/vda / ext4 rw,relatime 0 0\noverlay /merged overlay rw 0 0\nramfs /run/credentials/a ramfs rw 0 0\n\
                    /dev/vdc /device ext4 rw 0 0\n";
        let found: Vec<(String, bool)> =
            mounts(text).into_iter().map(|mount| (mount.mountpoint, mount.is_read_only)).collect();
        let expected =
            [("/", false), ("/run", true), ("/var/lib/docker", false), ("/my disk", false), ("/device", false)];
        assert_eq!(found, expected.map(|(place, read_only)| (place.to_owned(), read_only)));
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(unescape(r"/a\040b\011c\134d\043"), "/a b\tc\\d#");
        assert_eq!(unescape(r"/a\134040"), r"/a\040");
        assert_eq!(unescape(r"/a\9z\"), r"/a\9z\");
    }

    fn mount(mountpoint: &str) -> Mount {
        Mount { device: "dev".into(), mountpoint: mountpoint.into(), fstype: "nfs".into(), is_read_only: false }
    }

    /// Asks again and again, each time with this patience, until the answers are these.
    #[track_caller]
    fn await_errors(systems: &mut FileSystems, question: Question, patience: Duration, expected: [(&str, u8); 2]) {
        let started = Instant::now();
        let expected = expected.map(|(mountpoint, value)| {
            format!(r#"node_filesystem_device_error{{device="dev",mountpoint="{mountpoint}",fstype="nfs"}} {value}"#)
        });
        loop {
            let (mut out, mut problems) = (Vec::new(), Vec::new());
            let mounts = vec![mount("/silent"), mount("/well")];
            systems.ask_all(mounts, patience, question, &mut out, &mut problems);
            let mut errors = values(&out);
            errors.retain(|value| value.contains("device_error"));
            if errors == expected {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{errors:?} instead of {expected:?}");
        }
    }

    #[test]
    fn a_silent_mount_costs_the_reader_its_patience_once_and_is_heard_when_it_answers() {
        static SILENCE: Mutex<()> = Mutex::new(());
        fn question(mountpoint: &str) -> Answer {
            let _silence = (mountpoint == "/silent").then(|| SILENCE.lock().unwrap());
            statvfs_of("/")
        }
        let mut systems = FileSystems::default();
        let silence = SILENCE.lock().unwrap();
        await_errors(&mut systems, question, Duration::from_millis(100), [("/silent", 1), ("/well", 0)]);
        // Not asked again while it is silent: otherwise this would wait for half of it.
        let started = Instant::now();
        await_errors(&mut systems, question, Duration::from_secs(120), [("/silent", 1), ("/well", 0)]);
        assert!(started.elapsed() < Duration::from_secs(30));
        drop(silence);
        await_errors(&mut systems, question, Duration::from_secs(120), [("/silent", 0), ("/well", 0)]);
        assert!(systems.silent.is_empty());
    }

    #[test]
    fn the_number_of_waiting_threads_is_bounded() {
        static SILENCE: Mutex<()> = Mutex::new(());
        fn question(_: &str) -> Answer {
            let _silence = SILENCE.lock().unwrap();
            statvfs_of("/")
        }
        let mut systems = FileSystems::default();
        let mounts = (0..MAX_SILENT + 3).map(|number| mount(&format!("/{number}"))).collect();
        let (mut out, mut problems) = (Vec::new(), Vec::new());
        let silence = SILENCE.lock().unwrap();
        systems.ask_all(mounts, Duration::from_millis(5), question, &mut out, &mut problems);
        drop(silence);
        assert_eq!(systems.silent.len(), MAX_SILENT);
        assert!(matches!(problems.last(), Some(Problem::MountsNotAsked { count: 3, silent: MAX_SILENT })));
    }

    #[test]
    fn a_mount_that_is_gone_is_an_error_of_that_mount() {
        let (mut out, mut problems) = (Vec::new(), Vec::new());
        let mounts = vec![mount("/no/such/place")];
        FileSystems::default().ask_all(mounts, PATIENCE, statvfs_of, &mut out, &mut problems);
        assert_eq!(
            values(&out),
            [r#"node_filesystem_device_error{device="dev",mountpoint="/no/such/place",fstype="nfs"} 1"#]
        );
    }
}
