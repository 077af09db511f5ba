//! Writes made-up profiles in every format into a folder, opens the viewer in Chromium, takes pictures of it and
//! says how large its pages are and how long they take to open: `cargo run -p steth-tests --example flame -- FOLDER`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use steth::{
    model::profile::{Kind, Profile, State},
    profile::format::{Format, Options},
};
use steth_tests::{browser::Browser, profiles};

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("which folder?")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let (host, before) = (profiles::host(1), profiles::host(3));
    let mut empty = profiles::Builder::new("postgres (PID 4711)", Kind::Cpu);
    empty.note("postgres (PID 4711) ended before the first sample");
    let whose = ("shop", "worker", 10, 11);
    let mut one = profiles::Builder::new("shop (PID 10)", Kind::Cpu);
    one.stack("shop!main@main.c:3 > shop!parse@parse.c:40", whose, State::OnCpu, 1);
    let mut deep = profiles::Builder::new("shop (PID 10)", Kind::Cpu);
    for depth in [100, 200, 240] {
        let frames = (0..depth).map(|at| profiles::frame(if at == 0 { "main" } else { "descend" }));
        deep.frames(frames.collect(), whose, State::OnCpu, 30);
    }
    let cases: [(&str, Profile, Option<&Profile>); 8] = [
        ("host", host.clone(), None),
        ("difference", host, Some(&before)),
        ("large", profiles::large(100_000, false), None),
        ("large-distinct", profiles::large(100_000, true), None),
        ("hostile", profiles::hostile(), None),
        ("empty", empty.profile(), None),
        ("one", one.profile(), None),
        ("deep", deep.profile(), None),
    ];
    for (name, profile, baseline) in &cases {
        for format in Format::ALL {
            let options = Options { baseline: *baseline, ..Options::default() };
            let mut bytes = Vec::new();
            if format.write(profile, &options, &mut bytes).is_ok() {
                println!("{name}{:10} {:>10} bytes", format.ending(), bytes.len());
                fs::write(folder.join(format!("{name}{}", format.ending())), bytes)?;
            }
        }
    }

    let mut browser = Browser::start(1400, 900)?;
    for (name, ..) in &cases {
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..5 {
            browser.open(&folder.join(format!("{name}.html")), "")?;
            browser.wait_for("document.documentElement.dataset.opened === 'true'")?;
            // From the start of the navigation to the first picture.
            let opened = browser.value("performance.getEntriesByName('opened')[0].startTime")?;
            times.push(opened.as_f64().context("no time")?);
        }
        times.sort_by(f64::total_cmp);
        println!("{name}.html opens in {:.0} ms (median of {}; {times:.0?})", times[times.len() / 2], times.len());
    }
    for (name, page, hash, (width, height), dark) in [
        ("light", "host", "", (1400, 900), false),
        ("dark", "host", "", (1400, 900), true),
        ("icicle-search", "host", "#flip=true&query=read", (1400, 900), false),
        ("waiting", "host", "#state=off", (1400, 900), false),
        ("on-cpu", "host", "#state=on", (1400, 900), false),
        ("bottom-up", "host", "#view=bottom-up", (1400, 900), true),
        ("grouped", "host", "#group=service&flip=true", (1400, 900), false),
        ("sandwich", "host", "#view=sandwich", (1400, 900), false),
        ("sandwich-dark", "host", "#view=sandwich", (1400, 900), true),
        ("difference", "difference", "", (1400, 900), false),
        ("difference-dark", "difference", "", (1400, 900), true),
        ("large", "large", "", (1400, 900), false),
        ("hostile", "hostile", "#flip=true", (1400, 900), false),
        ("empty", "empty", "", (1400, 900), false),
        ("one", "one", "", (1400, 900), false),
        ("deep", "deep", "", (1400, 900), false),
        ("narrow", "host", "", (390, 800), false),
        ("narrow-sandwich", "host", "#view=sandwich", (390, 800), true),
    ] {
        browser.resize(width, height)?;
        browser.set_dark(dark)?;
        browser.open(&folder.join(format!("{page}.html")), hash)?;
        browser.wait_for("document.documentElement.dataset.opened === 'true'")?;
        browser.point(f64::from(width) * 0.3, f64::from(height) * 0.6)?;
        write_picture(&mut browser, &folder.join(format!("{name}.png")))?;
    }
    browser.resize(1220, 700)?;
    browser.set_dark(false)?;
    for page in ["host", "difference", "hostile", "empty", "one", "deep"] {
        browser.open(&folder.join(format!("{page}.svg")), "")?;
        write_picture(&mut browser, &folder.join(format!("{page}-svg.png")))?;
    }
    for complaint in browser.complaints() {
        println!("complaint: {complaint}");
    }
    Ok(())
}

fn write_picture(browser: &mut Browser, file: &Path) -> Result<()> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    fs::write(file, STANDARD.decode(browser.picture()?)?)?;
    Ok(())
}
