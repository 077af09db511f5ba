//! The viewer of flame graphs, in a real browser: what keys, clicks and switches do, that nothing leaves the page, that
//! no name can do harm.

use std::{path::PathBuf, time::Duration};

use serde_json::json;
use steth::{
    model::profile::{Kind, Profile, State},
    profile::format::{Format, Options},
};
use steth_tests::{
    agent::steth,
    browser::Browser,
    need_bpf, need_program,
    profiles::{self, Builder},
    programs::{Program, SPINS},
};
use tempfile::TempDir;

const OPENED: &str = "document.documentElement.dataset.opened === 'true'";
const WHOSE: profiles::Whose<'_> = ("shop", "worker", 10, 11);
const WIDTH: u32 = 1200;
const ROW: f64 = 19.0;

/// A page in a browser.
struct Page {
    browser: Browser,
    file: PathBuf,
    _folder: TempDir,
}

impl Page {
    fn of(profile: &Profile, baseline: Option<&Profile>) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("page.html");
        let options = Options { baseline, icicle: true, reversed: false };
        Format::Html.write(profile, &options, &mut std::fs::File::create(&file).unwrap()).unwrap();
        Self::in_folder(folder, file)
    }

    fn in_folder(folder: TempDir, file: PathBuf) -> Self {
        let mut page = Self { browser: Browser::start(WIDTH, 800).unwrap(), file, _folder: folder };
        page.open("");
        page
    }

    fn open(&mut self, hash: &str) {
        self.browser.open(&self.file, hash).unwrap();
        self.browser.wait_for(OPENED).unwrap();
        self.browser.painted().unwrap();
    }

    /// A place in the row of this depth, at so much of the graph's width.
    fn place(&mut self, depth: f64, part: f64) -> (f64, f64) {
        let bounds =
            "(({ left, top, width }) => [left, top, width])(document.querySelector('#graph').getBoundingClientRect())";
        let bounds = self.browser.value(bounds).unwrap();
        let bound = |at: usize| bounds[at].as_f64().unwrap();
        (bound(0) + bound(2) * part, bound(1) + ROW * (depth + 0.5))
    }

    fn click(&mut self, depth: f64, part: f64) {
        let (x, y) = self.place(depth, part);
        self.browser.click(x, y, 0).unwrap();
    }

    /// What is said about the frame at a place.
    fn pointed(&mut self, depth: f64, part: f64) -> String {
        let (x, y) = self.place(depth, part);
        self.browser.point(x, y).unwrap();
        let shown = self.browser.value("document.querySelector('#tip').hidden").unwrap();
        if shown == true { String::new() } else { self.browser.text("#tip").unwrap() }
    }

    fn name_at(&mut self, depth: f64, part: f64) -> String {
        let (x, y) = self.place(depth, part);
        self.browser.point(x, y).unwrap();
        self.browser.text("#tip .name").unwrap()
    }

    fn told(&mut self) -> String {
        self.browser.text("#told").unwrap()
    }

    fn key(&mut self, key: &str) {
        self.browser.key(key).unwrap();
    }

    fn search(&mut self, query: &str) -> String {
        self.key("/");
        self.browser.type_text(query).unwrap();
        self.browser.text("#matched").unwrap()
    }

    fn choose(&mut self, choice: &str, value: &str) {
        let click = format!("document.querySelector('#{choice} input[value={value}]').click()");
        self.browser.value(&click).unwrap();
        self.browser.painted().unwrap();
    }

    fn hash(&mut self) -> String {
        self.browser.value("location.hash").unwrap().as_str().unwrap().to_owned()
    }

    fn is_hidden(&mut self, selector: &str) -> bool {
        self.browser.value(&format!("document.querySelector({selector:?}).hidden")).unwrap() == true
    }

    /// The colour in the middle of a row's height.
    fn colour(&mut self, depth: f64, part: f64) -> [u64; 3] {
        let (x, y) = self.place(depth, part);
        let bounds = "document.querySelector('#graph').getBoundingClientRect()";
        // Through another canvas: reading from it often would have the browser draw without its graphics card.
        let at = format!(
            "(({{ left, top }}) => {{ \
             const pixel = new OffscreenCanvas(1, 1).getContext('2d', {{ willReadFrequently: true }}); \
             pixel.drawImage(document.querySelector('#graph'), {x} - left, {y} - top - 7, 1, 1, 0, 0, 1, 1); \
             return [...pixel.getImageData(0, 0, 1, 1).data]; }})({bounds})"
        );
        let pixel = self.browser.value(&at).unwrap();
        [0, 1, 2].map(|channel: usize| pixel[channel].as_u64().unwrap())
    }

    /// That the page was quiet, and asked for nothing but itself.
    fn ends(self) {
        assert_eq!(self.browser.complaints(), [""; 0]);
        let page = self.file.display().to_string();
        let others: Vec<String> = self
            .browser
            .requests()
            .into_iter()
            .filter(|url| !url.contains(&page) && !url.starts_with("data:"))
            .collect();
        assert_eq!(others, [""; 0]);
    }
}

/// `main` calls `parse`, which runs for 60 samples, and `send`, which runs for 10 and waits for 30 in the kernel.
fn shop() -> Profile {
    let mut built = Builder::new("shop (PID 10)", Kind::Wall);
    built.stack("shop!main@main.c:3 > shop!parse@parse.c:40", WHOSE, State::OnCpu, 60);
    built.stack("shop!main@main.c:4 > shop!send@send.c:9", WHOSE, State::OnCpu, 10);
    built.stack("shop!main@main.c:4 > shop!send@send.c:9 > k:tcp_sendmsg", WHOSE, State::OffCpu, 30);
    built.profile()
}

#[test]
fn pointing_tells_name_place_times_and_whose_it_is() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    let tip = page.pointed(2.0, 0.3);
    for part in ["parse", "shop", "parse.c:40", "606 ms", "60.0 %", "Self", "Service", "worker (11)"] {
        assert!(tip.contains(part), "{part} in {tip}");
    }
    let kernel = page.pointed(3.0, 0.7);
    assert!(kernel.contains("tcp_sendmsg") && kernel.contains("kernel") && kernel.contains("30.0 %"), "{kernel}");
    let both = page.pointed(2.0, 0.8);
    assert!(both.contains("On CPU101 ms25.0 %") && both.contains("Waiting303 ms75.0 %"), "{both}");
    assert_eq!(page.pointed(5.0, 0.5), "");
    page.ends();
}

#[test]
fn what_runs_and_what_waits_have_colours_of_their_own() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    let warm = |[red, _, blue]: [u64; 3]| red > blue + 40;
    let cold = |[red, _, blue]: [u64; 3]| blue > red + 40;
    // `send` ran for a quarter of its 40 %.
    for dark in [false, true] {
        page.browser.set_dark(dark).unwrap();
        page.browser.painted().unwrap();
        let colours = [(2.0, 0.3), (2.0, 0.65), (2.0, 0.8), (3.0, 0.7)].map(|(depth, part)| page.colour(depth, part));
        assert!(warm(colours[0]) && warm(colours[1]) && cold(colours[2]) && cold(colours[3]), "{colours:?}");
    }
    let paper = page.colour(6.0, 0.5);
    assert!(paper.iter().all(|channel| *channel < 60), "{paper:?}");
    page.ends();
}

#[test]
fn search_tells_the_share_once_however_often_it_matches() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    // `send` stands below `tcp_sendmsg`, which matches as well.
    assert_eq!(page.search("SEND"), "2 functions, 40.0 %");
    page.key("Escape");
    assert_eq!(page.search("/^(parse|tcp_)/"), "2 functions, 90.0 %");
    page.key("Escape");
    assert_eq!(page.search("parse.c"), "1 function, 60.0 %");
    page.key("Escape");
    assert_eq!(page.search("nothing"), "no match");
    page.key("Escape");
    assert_eq!(page.search("/(/"), "not a pattern");
    page.key("Escape");
    assert_eq!(page.browser.text("#matched").unwrap(), "");
    page.search("send");
    page.key("Enter");
    assert!(page.told().starts_with("send"), "{}", page.told());
    page.key("n");
    assert!(page.told().starts_with("tcp_sendmsg"), "{}", page.told());
    page.key("N");
    assert!(page.told().starts_with("send"), "{}", page.told());
    page.ends();
}

#[test]
fn a_click_zooms_and_keys_lead_back() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    page.click(2.0, 0.8);
    assert_eq!(
        [page.name_at(2.0, 0.02), page.name_at(0.0, 0.02), page.name_at(3.0, 0.5)],
        ["send", "all", "tcp_sendmsg"]
    );
    page.key("Backspace");
    assert_eq!(page.name_at(2.0, 0.02), "parse");
    page.click(2.0, 0.8);
    page.key("0");
    assert_eq!(page.name_at(2.0, 0.02), "parse");
    page.ends();
}

#[test]
fn arrows_walk_and_enter_zooms() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    page.browser.value("document.querySelector('#graph').focus()").unwrap();
    let mut walked = Vec::new();
    for key in ["ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"] {
        page.key(key);
        walked.push(page.told().split_whitespace().next().unwrap().to_owned());
    }
    assert_eq!(walked, ["all", "main", "parse", "send", "tcp_sendmsg", "send", "parse"]);
    page.key("ArrowRight");
    page.key("Enter");
    assert_eq!(page.name_at(2.0, 0.02), "send");
    page.ends();
}

#[test]
fn inverting_turns_it_over() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    assert_eq!(page.name_at(0.0, 0.5), "all");
    page.key("i");
    let rows = page.browser.value("Math.floor(document.querySelector('#graph').clientHeight)").unwrap();
    let lowest = (rows.as_f64().unwrap() - ROW) / ROW;
    assert_eq!([page.name_at(lowest, 0.5), page.name_at(lowest - 1.0, 0.5)], ["all", "main"]);
    assert_eq!(page.pointed(0.0, 0.5), "");
    page.browser.value("document.querySelector('#flip').click()").unwrap();
    assert_eq!(page.name_at(0.0, 0.5), "all");
    page.ends();
}

#[test]
fn a_sandwich_has_callers_above_and_callees_below() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    assert!(page.is_hidden("#functions"));
    page.click(2.0, 0.8);
    page.key("s");
    assert!(!page.is_hidden("#functions"));
    let selected = page.browser.text("tr[aria-selected=true]").unwrap();
    assert!(selected.contains("send") && selected.contains("10.1 %") | selected.contains("10.0 %"), "{selected}");
    // One caller, itself, one callee, in the middle of the stage.
    let height = page.browser.value("document.querySelector('#graph').clientHeight").unwrap().as_f64().unwrap();
    let first = (height - 3.0 * ROW) / 2.0 / ROW;
    let names = [0.0, 1.0, 2.0].map(|row| page.name_at(first + row, 0.02));
    assert_eq!(names, ["main", "send", "tcp_sendmsg"]);
    // What a caller does itself is not part of it, and whose a function is that has many places is not known.
    let (caller, itself) = (page.pointed(first, 0.02), page.pointed(first + 1.0, 0.02));
    assert!(!caller.contains("Self") && itself.contains("Self") && !itself.contains("Service"), "{caller} {itself}");
    page.browser
        .value("[...document.querySelectorAll('#rows tr')].find((row) => row.textContent.includes('main')).click()")
        .unwrap();
    page.browser.painted().unwrap();
    let selected = page.browser.text("tr[aria-selected=true]").unwrap();
    assert!(selected.contains("main") && selected.contains("100.0 %"), "{selected}");
    page.ends();
}

#[test]
fn recursion_counts_once_in_a_sandwich() {
    need_program!("chromium");
    let mut built = Builder::new("fib (PID 1)", Kind::Cpu);
    built.stack("main > fib > fib > fib", WHOSE, State::OnCpu, 3);
    built.stack("main > fib", WHOSE, State::OnCpu, 1);
    let mut page = Page::of(&built.profile(), None);
    page.open("#view=sandwich&function=0&sort=total");
    let rows = page.browser.text("#rows").unwrap();
    assert!(rows.contains("fib ") && !rows.contains("400"), "{rows}");
    assert_eq!(rows.matches("100.0 %").count(), 3, "fib's self and total, main's total: {rows}");
    page.ends();
}

#[test]
fn switches_show_one_kind_of_time() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    page.choose("state", "on");
    assert!(page.told().starts_with("707 ms in all"), "{}", page.told());
    assert_eq!([page.name_at(2.0, 0.8), page.name_at(2.0, 0.9)], ["parse", "send"]);
    page.key("3");
    assert!(page.told().starts_with("303 ms in all"), "{}", page.told());
    assert_eq!(page.name_at(3.0, 0.1), "tcp_sendmsg");
    page.key("1");
    assert!(page.told().starts_with("1.01 s in all"), "{}", page.told());
    page.ends();
}

#[test]
fn a_difference_has_shares_of_both_and_colours_by_change() {
    need_program!("chromium");
    let mut before = Builder::new("shop (PID 10)", Kind::Wall);
    before.stack("shop!main@main.c:3 > shop!parse@parse.c:40", WHOSE, State::OnCpu, 20);
    before.stack("shop!main@main.c:3 > shop!gone", WHOSE, State::OnCpu, 30);
    let mut page = Page::of(&shop(), Some(&before.profile()));
    // parse: (60 % + 40 %) / 2; gone: 60 % / 2; send: 40 % / 2, half of which stands in the kernel's part.
    assert_eq!([0.1, 0.6, 0.9].map(|part| page.name_at(2.0, part)), ["parse", "gone", "send"]);
    let tip = page.pointed(2.0, 0.1);
    assert!(tip.contains("+20.00 points") && tip.contains("60.0 %") && tip.contains("40.0 %"), "{tip}");
    let tip = page.pointed(2.0, 0.6);
    assert!(tip.contains("−60.00 points"), "{tip}");
    let ([more, _, cool], [less, _, cold]) = (page.colour(2.0, 0.9), page.colour(2.0, 0.6));
    assert!(more > cool + 40 && cold > less + 40);
    page.choose("side", "baseline");
    assert_eq!([0.1, 0.9].map(|part| page.name_at(2.0, part)), ["gone", "parse"]);
    page.choose("side", "this");
    assert_eq!([0.1, 0.9].map(|part| page.name_at(2.0, part)), ["parse", "send"]);
    page.ends();
}

#[test]
fn bottom_up_and_groups_rearrange_the_same_time() {
    need_program!("chromium");
    let mut built = Builder::new("all processes", Kind::Cpu);
    built.stack("main > a > malloc", ("one", "t", 1, 1), State::OnCpu, 6);
    built.stack("main > b > malloc", ("two", "t", 2, 2), State::OnCpu, 4);
    let mut page = Page::of(&built.profile(), None);
    page.key("b");
    assert_eq!([page.name_at(1.0, 0.5), page.name_at(2.0, 0.1), page.name_at(2.0, 0.9)], ["malloc", "a", "b"]);
    page.open("#group=service");
    assert_eq!([page.name_at(1.0, 0.1), page.name_at(1.0, 0.9), page.name_at(2.0, 0.9)], ["one", "two", "main"]);
    page.ends();
}

#[test]
fn the_address_keeps_what_is_shown() {
    need_program!("chromium");
    let mut page = Page::of(&shop(), None);
    page.search("send");
    page.key("Enter");
    page.click(2.0, 0.8);
    page.key("2");
    page.key("i");
    let hash = page.hash();
    page.open(&hash);
    assert_eq!(page.hash(), hash);
    assert_eq!(page.browser.value("document.querySelector('#query').value").unwrap(), "send");
    assert_eq!(page.browser.value("document.querySelector('#state input:checked').value").unwrap(), "on");
    assert_eq!(page.browser.value("document.querySelector('#flip').ariaPressed").unwrap(), "false");
    // What an address says that cannot be is left out.
    page.open("#view=nonsense&zoom=99999&function=-4&group=planet&flip=maybe");
    assert_eq!(page.browser.value("document.querySelector('#view input:checked').value").unwrap(), "top-down");
    page.ends();
}

#[test]
fn no_name_becomes_part_of_the_page() {
    need_program!("chromium");
    let mut page = Page::of(&profiles::hostile(), None);
    for view in ["top-down", "bottom-up", "sandwich"] {
        page.choose("view", view);
        for part in 0..20 {
            page.pointed(2.0, (f64::from(part) + 0.5) / 20.0);
        }
    }
    // Two names, each as user code, as the kernel's and as made while the process runs.
    page.open("#query=%3Cscript%3E");
    assert!(page.browser.text("#matched").unwrap().starts_with("6 functions"));
    let title = page.browser.value("document.title").unwrap();
    assert!(title.as_str().unwrap().contains("<b>\"target\"</b>"), "{title}");
    assert_eq!(page.browser.value("document.querySelectorAll('b:not(#told b), img, main script').length").unwrap(), 0);
    page.ends();
}

#[test]
fn an_empty_profile_says_why() {
    need_program!("chromium");
    let mut built = Builder::new("shop (PID 10)", Kind::Cpu);
    built.note("shop (PID 10) ended before the first sample");
    let mut page = Page::of(&built.profile(), None);
    assert!(!page.is_hidden("#empty"));
    let said = page.browser.text("#empty").unwrap();
    assert!(said.contains("is empty") && said.contains("ended before the first sample"), "{said}");
    for key in ["b", "s", "t", "i", "0", "Enter", "ArrowDown", "m", "n", "?"] {
        page.key(key);
    }
    page.ends();
}

#[test]
fn large_and_deep_profiles_open_and_answer() {
    need_program!("chromium");
    let mut page = Page::of(&profiles::large(100_000, true), None);
    assert!(page.search("alloc").contains("functions"));
    for view in ["bottom-up", "sandwich", "top-down"] {
        page.choose("view", view);
    }
    page.ends();

    let mut built = Builder::new("deep (PID 1)", Kind::Cpu);
    let frames = std::iter::once("main").chain([("again"); 2000]).map(profiles::frame).collect();
    built.frames(frames, WHOSE, State::OnCpu, 1);
    let mut page = Page::of(&built.profile(), None);
    assert_eq!(page.name_at(2.0, 0.5), "again");
    page.browser.value("document.querySelector('#scroll').scrollTop = 1e9").unwrap();
    page.browser.painted().unwrap();
    assert_eq!(page.name_at(1.0, 0.5), "again");
    for view in ["bottom-up", "sandwich"] {
        page.choose("view", view);
    }
    page.ends();
}

#[test]
fn a_narrow_window_has_room_for_everything() {
    need_program!("chromium");
    let mut page = Page::of(&profiles::host(1), None);
    for (width, height) in [(320, 600), (390, 800), (800, 360)] {
        page.browser.resize(width, height).unwrap();
        for view in ["top-down", "sandwich"] {
            page.choose("view", view);
            let wide = page.browser.value("document.documentElement.scrollWidth <= innerWidth").unwrap();
            assert_eq!(wide, true, "{width} pixels, {view}");
            let left = page.browser.value("document.querySelector('#stage').clientHeight").unwrap();
            assert!(left.as_f64().unwrap() >= 60.0, "{left} pixels of {height} for the graph, {view}");
        }
    }
    assert_eq!(page.browser.value("getComputedStyle(document.body).overflow").unwrap(), json!("hidden"));
    page.ends();
}

#[test]
fn a_real_profile_is_shown_with_its_functions() {
    need_bpf!();
    need_program!("chromium", "gcc");
    let program = Program::build_with("spin", SPINS, &["-O2", "-fomit-frame-pointer", "-g"]).unwrap();
    let process = program.start(&["spin"]).unwrap();
    let ready = |line: &str| (line == "ready").then_some(());
    process.wait_for_line("that it is ready", Duration::from_secs(60), ready).unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("x.html");
    let (pid, out) = (process.id().to_string(), file.to_str().unwrap());
    let (code, _, said) =
        steth(&["flame", "--config", "/dev/null", "--alone", "-p", &pid, "-d", "1s", "--wall", "-o", out]).unwrap();
    assert_eq!(code, Some(0), "{said}");
    let mut page = Page::in_folder(folder, file);
    for function in ["main", "outer", "inner"] {
        let matched = page.search(function);
        assert!(matched.contains('%') && !matched.starts_with("0 "), "{function}: {matched:?}");
        page.key("Escape");
    }
    let title = page.browser.value("document.title").unwrap();
    assert!(title.as_str().unwrap().contains(&program.name), "{title}");
    page.ends();
}
