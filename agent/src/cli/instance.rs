//! One agent on a host: a lock that the kernel releases when its process dies, however it dies.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Held while the agent runs. The file stays: to remove it would let two others lock two files of one name.
#[derive(Debug)]
pub struct Instance {
    _lock: File,
}

/// Why this agent cannot be the only one.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another one runs.
    #[error(
        "another steth agent runs on this host: {holder} holds {}. Read its numbers, or stop it first (systemctl stop steth, or \
         kill its pid). To run a second one all the same, give it a `lock` in [run] and a `listen` of its own", .path.display()
    )]
    Taken {
        /// The lock.
        path: PathBuf,
        /// The holder, as far as known.
        holder: String,
    },
    /// This user cannot write there.
    #[error("cannot write {}: permission denied", .path.display())]
    Denied {
        /// The lock.
        path: PathBuf,
    },
    /// The system refuses for another reason.
    #[error("cannot lock {}: {source}. The key `lock` in [run] names another file", .path.display())]
    Refused {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Instance {
    /// Takes the lock and writes this process's id into it.
    ///
    /// # Errors
    /// When another agent has it, or when it cannot be written.
    pub fn lock(path: &Path) -> Result<Self, InstanceError> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => InstanceError::Denied { path: path.into() },
            _ => InstanceError::Refused { path: path.into(), source },
        };
        // systemd makes the default's folder for its service; who starts an agent by hand finds none.
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::create_dir(folder).map_err(refused)?;
        }
        // Not truncated: until the lock is ours, what stands there is the holder's.
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(InstanceError::Taken { path: path.into(), holder: holder(path) });
            }
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(refused)?;
        Ok(Self { _lock: file })
    }
}

/// Who wrote the lock, if it can be read.
fn holder(path: &Path) -> String {
    let pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    pid.map_or_else(|| "a process".into(), |pid| format!("pid {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_has_the_lock_and_gets_it_when_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steth.lock");
        let first = Instance::lock(&path).unwrap();
        let message = Instance::lock(&path).unwrap_err().to_string();
        let start =
            format!("another steth agent runs on this host: pid {} holds {}.", std::process::id(), path.display());
        assert!(message.starts_with(&start), "{message}");
        drop(first);
        Instance::lock(&path).unwrap();
    }

    #[test]
    fn what_a_dead_agent_left_in_the_lock_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steth.lock");
        fs::write(&path, "123456789\nand more\n").unwrap();
        let _instance = Instance::lock(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn the_folder_of_a_lock_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steth/lock");
        let _instance = Instance::lock(&path).unwrap();
        assert!(path.exists());
    }

    #[test]
    fn a_lock_that_cannot_be_made_is_named() {
        let message = Instance::lock(Path::new("/nonexistent/steth/lock")).unwrap_err().to_string();
        assert!(message.starts_with("cannot lock /nonexistent/steth/lock: No such file"), "{message}");
    }
}
