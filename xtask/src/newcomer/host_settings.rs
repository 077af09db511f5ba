//! How this host reaches mirrors and registries: sources, proxies, certificates and tokens of apt, cargo, pip and npm. Taken along so
//! that a clean Debian works behind them; kept in memory, and shown to nobody. Knows no namespace.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::workspace;

/// Files of the system that are taken as they are; of folders, the files in them.
const OF_SYSTEM: &[&str] = &[
    "etc/resolv.conf",
    "etc/hosts",
    "etc/apt/auth.conf",
    "etc/apt/auth.conf.d",
    "etc/pip.conf",
    "etc/npmrc",
    "usr/etc/npmrc",
    "usr/local/share/ca-certificates",
];
/// Files of the user, in the home folder.
const OF_USER: &[&str] = &[".npmrc", ".pip/pip.conf", ".config/pip/pip.conf"];
/// What a configuration of cargo says about where crates come from; the rest, such as compilers and flags, is no newcomer's.
const OF_CARGO: &[&str] = &["source", "registries", "registry", "http", "net"];
/// The same of apt, as `apt-config dump` names it, in small letters.
const OF_APT: &[&str] = &["http", "https", "proxy", "check-", "max-", "retries", "forceipv"];
/// Environment variables that say it.
const VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "RUSTUP_DIST_SERVER",
    "RUSTUP_UPDATE_ROOT",
];
const VARIABLE_BEGINNINGS: &[&str] =
    &["PIP_", "NPM_CONFIG_", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
/// Files in which any long word may be a secret.
const SECRET: &[&str] = &["npmrc", "credentials.toml", "auth.conf"];
const SECRET_LETTERS: usize = 12;
/// The release that is made.
const RELEASE: &str = "bookworm";

/// What was taken, as a folder that is laid out like a root; root's home is the user's.
pub struct HostSettings {
    tree: TempDir,
    /// Debian's own mirrors as this host has them; none if it is no Debian 12.
    sources: Vec<PathBuf>,
    pub environment: Vec<(OsString, OsString)>,
    pub hidden: Hidden,
}

impl HostSettings {
    /// Reads it all.
    ///
    /// # Errors
    /// What is there cannot be read, or there is no room in memory.
    pub fn read() -> Result<Self> {
        // Not on a disk: there are tokens among it.
        let tree = tempfile::Builder::new().prefix("steth-newcomer-").tempdir_in("/dev/shm");
        let tree = tree.context("cannot make a folder in /dev/shm")?;
        let mut settings = Self { tree, sources: Vec::new(), environment: Vec::new(), hidden: Hidden::default() };
        OF_SYSTEM.iter().try_for_each(|path| settings.take(&Path::new("/").join(path), Path::new(path)))?;
        let home = PathBuf::from(env::var_os("HOME").context("HOME is not set")?);
        OF_USER.iter().try_for_each(|path| settings.take(&home.join(path), &Path::new("root").join(path)))?;
        settings.take_cargo(&env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from))?;
        settings.take_apt()?;
        settings.environment = env::vars_os().filter(|(name, _)| is_taken(&name.to_string_lossy())).collect();
        settings.hide()?;
        Ok(settings)
    }

    /// The folder.
    pub fn tree(&self) -> &Path {
        self.tree.path()
    }

    /// Each file in it, by its path in a root.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        collect(self.tree(), &mut found)?;
        Ok(found.iter().filter_map(|file| file.strip_prefix(self.tree()).ok()).map(Path::to_owned).collect())
    }

    /// Folders and files that a variable of the environment names.
    pub fn named_paths(&self) -> impl Iterator<Item = &Path> {
        let values = self.environment.iter().map(|(_, value)| Path::new(value));
        values.filter(|path| path.is_absolute() && path.exists())
    }

    /// Files with Debian's mirrors, for mmdebstrap.
    pub fn sources(&self) -> &[PathBuf] {
        &self.sources
    }

    /// How apt reaches them.
    pub fn apt_options(&self) -> PathBuf {
        self.tree().join(APT_OPTIONS)
    }

    fn take(&self, from: &Path, to: &Path) -> Result<()> {
        let mut files = Vec::new();
        if from.is_dir() {
            collect(from, &mut files)?;
        } else if from.is_file() {
            files.push(from.to_owned());
        }
        for file in files {
            let inner = file.strip_prefix(from).unwrap_or(Path::new(""));
            let to = if inner.as_os_str().is_empty() { to.to_owned() } else { to.join(inner) };
            self.put(&to, &fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?)?;
        }
        Ok(())
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.tree().join(path);
        let folder = file.parent().unwrap_or(self.tree());
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
        // apt reads as a user of its own, and the folder at the top is closed.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    fn take_cargo(&self, home: &Path) -> Result<()> {
        self.take(&home.join("credentials.toml"), Path::new("root/.cargo/credentials.toml"))?;
        for name in ["config.toml", "config"] {
            let Ok(text) = fs::read_to_string(home.join(name)) else { continue };
            let kept = of_registries(&text).with_context(|| format!("cannot read {}", home.join(name).display()))?;
            return self.put(Path::new("root/.cargo/config.toml"), kept.as_bytes());
        }
        Ok(())
    }

    fn take_apt(&mut self) -> Result<()> {
        let dump = workspace::output_of(Command::new("apt-config").args(["dump", "Acquire"])).unwrap_or_default();
        // mmdebstrap's apt has its folders elsewhere.
        let mut kept =
            "Dir::Etc::netrc \"/etc/apt/auth.conf\";\nDir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n".to_owned();
        kept.extend(dump.lines().filter(|line| is_of_apt(line)).flat_map(|line| [line, "\n"]));
        self.put(Path::new(APT_OPTIONS), kept.as_bytes())?;
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if !release.lines().any(|line| line == format!("VERSION_CODENAME={RELEASE}")) {
            return Ok(());
        }
        let mut files = Vec::new();
        collect(Path::new("/etc/apt/sources.list.d"), &mut files)?;
        files.push(PathBuf::from("/etc/apt/sources.list"));
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            let is_read = file.extension().is_some_and(|end| end == "list" || end == "sources");
            if is_read && is_of_debian(&text) {
                let to = file.strip_prefix("/").unwrap_or(&file);
                self.put(to, text.as_bytes())?;
                self.sources.push(self.tree().join(to));
            }
        }
        Ok(())
    }

    fn hide(&mut self) -> Result<()> {
        let mut words = Vec::new();
        for file in self.files()? {
            let path = file.to_string_lossy();
            // Certificates are public, and their letters mean nothing.
            if path.contains("ca-certificates") {
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(self.tree().join(&file))?).into_owned();
            words.extend(authorities(&text));
            if SECRET.iter().any(|secret| path.contains(secret)) {
                let parts = text.split(|letter: char| letter.is_whitespace() || "=\"'".contains(letter));
                words.extend(parts.filter(|part| part.len() >= SECRET_LETTERS).map(str::to_owned));
            }
        }
        words.extend(self.environment.iter().flat_map(|(_, value)| authorities(&value.to_string_lossy())));
        self.hidden = Hidden::new(words);
        Ok(())
    }
}

const APT_OPTIONS: &str = "etc/apt/apt.conf.d/99mirrors";

/// Words that are not for eyes: names of mirrors and proxies, and what they are asked with.
#[derive(Clone, Default)]
pub struct Hidden(Arc<[String]>);

impl Hidden {
    fn new(mut words: Vec<String>) -> Self {
        words.retain(|word| word.len() > 3 && !word.starts_with("127.") && !word.starts_with("localhost"));
        // The longest first: one may be part of another.
        words.sort_by_key(|word| (std::cmp::Reverse(word.len()), word.clone()));
        words.dedup();
        Self(words.into())
    }

    /// The line without them.
    pub fn masked(&self, line: &str) -> String {
        self.0.iter().fold(line.to_owned(), |line, word| line.replace(word.as_str(), "…"))
    }
}

/// `user:password`, `host:port` and `host` of each address in a text.
fn authorities(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in text.split("//").skip(1) {
        let is_end = |letter: char| letter.is_whitespace() || "/\"'<>,;)".contains(letter);
        let authority = rest.split(is_end).next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (_, secret) = user.split_once(':').unwrap_or_default();
        let bare = host.split(':').next().unwrap_or_default();
        found.extend([user, secret, host, bare].into_iter().filter(|word| !word.is_empty()).map(str::to_owned));
    }
    found
}

fn is_taken(name: &str) -> bool {
    let upper = name.to_uppercase();
    upper.ends_with("PROXY")
        || VARIABLES.contains(&upper.as_str())
        || VARIABLE_BEGINNINGS.iter().any(|beginning| upper.starts_with(beginning))
}

fn is_of_apt(line: &str) -> bool {
    let key = line.to_lowercase();
    key.strip_prefix("acquire::").is_some_and(|key| OF_APT.iter().any(|kept| key.starts_with(kept)))
}

/// Third parties sign with keys of their own, which a clean Debian does not have.
fn is_of_debian(sources: &str) -> bool {
    let lines: Vec<String> = sources.lines().map(str::to_lowercase).filter(|line| !line.starts_with('#')).collect();
    lines.iter().any(|line| line.contains(RELEASE))
        && lines.iter().filter(|line| line.contains("signed-by")).all(|line| line.contains("debian-archive"))
}

fn of_registries(config: &str) -> Result<String> {
    let mut table: toml::Table = config.parse()?;
    table.retain(|key, _| OF_CARGO.contains(&key));
    Ok(table.to_string())
}

/// All files below a folder, which need not be there.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_proxies_and_passwords_are_not_shown_and_this_host_is() {
        let text = "deb https://someone:s3cret@mirror.example:8443/debian x\nproxy = \"http://proxy.example:3128\"";
        let hidden = Hidden::new([authorities(text), authorities("http://127.0.0.1:9464/metrics")].concat());
        let line = "Err https://mirror.example:8443/debian via proxy.example, s3cret; http://127.0.0.1:9464/metrics";
        assert_eq!(hidden.masked(line), "Err https://…/debian via …, …; http://127.0.0.1:9464/metrics");
    }

    #[test]
    fn only_what_says_where_things_come_from_is_taken() {
        for name in ["https_proxy", "NO_PROXY", "GOPROXY", "PIP_INDEX_URL", "npm_config_registry", "SSL_CERT_FILE"] {
            assert!(is_taken(name), "{name}");
        }
        for name in ["PATH", "CARGO", "CARGO_MANIFEST_DIR", "RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN"] {
            assert!(!is_taken(name), "{name}");
        }
        let kept = of_registries("[build]\nrustc-wrapper = \"x\"\n[http]\nproxy = \"p\"\n").unwrap();
        assert_eq!(kept.trim(), "[http]\nproxy = \"p\"");
        assert!(is_of_apt("Acquire::http::Proxy \"p\";") && is_of_apt("Acquire::Check-Date \"false\";"));
        assert!(!is_of_apt("Acquire::Languages \"none\";") && !is_of_apt("APT::Architecture \"amd64\";"));
    }

    #[test]
    fn sources_of_third_parties_stay_where_they_are() {
        assert!(is_of_debian("deb http://mirror.example/debian bookworm main\n"));
        assert!(is_of_debian("Suites: bookworm\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"));
        assert!(!is_of_debian("deb [signed-by=/etc/apt/keyrings/docker.gpg] https://docker.example bookworm stable\n"));
        assert!(!is_of_debian("deb http://mirror.example/ubuntu noble main\n"));
    }
}
