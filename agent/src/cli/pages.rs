//! Manual pages and shell completions, made from the command line's own definition. Knows no subcommand.

use std::{fs, path::Path};

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Cli, Failure, Outcome};

/// Writes `steth.1`, `steth-run.1` and so on.
pub fn manuals(folder: &Path) -> Outcome {
    let failed = |error| Failure::failed(format!("cannot write manual pages to {}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)
}

/// What the shell has to read.
pub fn completions(shell: Shell) -> String {
    let mut out = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    generate(shell, &mut command, name, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Names as in `steth-config-check`, of what is not hidden.
    fn names(command: &clap::Command, before: &str) -> BTreeSet<String> {
        let name = format!("{before}{}", command.get_name());
        let inner = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        let inner = inner.flat_map(|inner| names(inner, &format!("{name}-")));
        inner.chain([name.clone()]).collect()
    }

    #[test]
    fn every_subcommand_has_its_page() {
        let folder = tempfile::tempdir().unwrap();
        assert!(manuals(folder.path()).is_ok());
        let pages = fs::read_dir(folder.path()).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap());
        let pages: BTreeSet<String> = pages.collect();
        let names: BTreeSet<String> = names(&Cli::command(), "").iter().map(|name| format!("{name}.1")).collect();
        assert_eq!(pages, names);
        let run = fs::read_to_string(folder.path().join("steth-run.1")).unwrap();
        assert!(run.contains("\\-\\-listen") && run.contains("SIGHUP reloads"), "{run}");
    }

    #[test]
    fn every_shell_completes_what_people_type() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            assert!(["doctor", "flame", "config"].iter().all(|word| text.contains(word)), "{shell}: {text}");
        }
    }
}
