//! Opens large pages of the viewer in Chromium, as often as is said, and tells for each its size in bytes and the
//! milliseconds until its graph is drawn. For `cargo xtask bench viewer`.

use anyhow::{Context, Result};
use steth::profile::format::{Format, Options};
use steth_tests::{browser::Browser, profiles};

/// Marks when the first frame with the graph in it is done: what a frame shows is drawn after the functions that wait for the
/// frame, and before what waits for a moment from there on.
const DRAWN: &str = "new MutationObserver((_, observer) => {
    if (document.documentElement?.dataset.opened !== 'true') return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => performance.mark('drawn')));
}).observe(document, { attributes: true, subtree: true, attributeFilter: ['data-opened'] });";

fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).context("how often?")?.parse()?;
    let folder = tempfile::tempdir()?;
    let mut browser = Browser::start(1400, 900)?;
    browser.before_pages(DRAWN)?;
    for (name, distinct) in [("few functions", false), ("all different", true)] {
        let file = folder.path().join(format!("{distinct}.html"));
        let mut page = Vec::new();
        Format::Html.write(&profiles::large(100_000, distinct), &Options::default(), &mut page)?;
        std::fs::write(&file, &page)?;
        let mut told = format!("{name}: {}", page.len());
        for _ in 0..rounds {
            browser.open(&file, "")?;
            browser.wait_for("performance.getEntriesByName('drawn').length > 0")?;
            let drawn = browser.value("performance.getEntriesByName('drawn')[0].startTime")?;
            told += &format!(" {:.1}", drawn.as_f64().context("no time")?);
        }
        println!("{told}");
    }
    Ok(())
}
