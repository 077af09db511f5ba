//! What every format promises: nothing that is in a profile gets lost, whatever its names are.

use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::read::{DeflateDecoder, GzDecoder};
use prost::Message;
use serde_json::Value;

use super::{Error, Format, Options, folded, pprof::proto, text};
use crate::model::profile::{Frame, Kind, Origin, Profile, Stack, State};

const SAMPLE_NS: u64 = 10_101_010;

fn profile(kind: Kind) -> Profile {
    Profile {
        target: "postgres (PID 4711)".to_owned(),
        kind,
        began: UNIX_EPOCH + Duration::from_secs(1_795_242_480),
        lasted: Duration::from_secs(10),
        hertz: 99,
        frames: Vec::new(),
        stacks: Vec::new(),
        notes: Vec::new(),
    }
}

fn frame(function: &str) -> Frame {
    let (module, file) = (Arc::from("postgres"), Arc::from("a.c"));
    Frame { function: function.into(), module, file, line: 7, inlined: false, origin: Origin::User }
}

fn stack(frames: Vec<u32>, state: State, samples: u64) -> Stack {
    Stack {
        frames,
        state,
        ns: samples * SAMPLE_NS,
        samples,
        service: "postgres:main".into(),
        thread: "postgres".into(),
        pid: 4711,
        tid: 4711,
        query: None,
    }
}

const HOSTILE: [&str; 12] = [
    "a;b;c",
    "\"quoted\" 'name' `tick`",
    "</script><script>alert(1)</script>",
    "<!-- ]]> -->&amp;&#0;{{data}}",
    "line\nbreak\r\ttab 12",
    "nul\0bell\u{7}escape\u{1b}[2J\u{ffff}",
    "right-to-left \u{202e}gnp.exe",
    "שלום עולם",
    "🦀 e\u{301}",
    "# comment 5",
    "",
    "-",
];

fn hostile() -> Profile {
    let mut made = profile(Kind::Wall);
    let long = "x<y>::".repeat(1708);
    let names: Vec<&str> = HOSTILE.into_iter().chain([long.as_str()]).collect();
    for (at, name) in (0..).zip(&names) {
        let origins = [Origin::User, Origin::Kernel, Origin::Jit, Origin::Interpreted, Origin::Note];
        let origin = origins[at as usize % origins.len()];
        made.frames.push(Frame { module: (*name).into(), file: (*name).into(), origin, ..frame(name) });
        for state in [State::OnCpu, State::OffCpu] {
            let mut hostile = stack(vec![0, at, at], state, 3 + u64::from(at));
            (hostile.service, hostile.thread, hostile.query) = ((*name).into(), (*name).into(), Some((*name).into()));
            made.stacks.push(hostile);
        }
    }
    made.target = HOSTILE.concat();
    made.notes = vec![HOSTILE.concat(), " -- </title>".to_owned()];
    made
}

fn deep() -> Profile {
    let mut made = profile(Kind::Cpu);
    made.frames = vec![frame("main"), frame("recurse"), frame("leaf")];
    let mut frames = vec![0];
    frames.extend([1; 2000]);
    frames.push(2);
    made.stacks = vec![stack(frames, State::OnCpu, 5), stack(vec![0, 1], State::OnCpu, 2)];
    made
}

fn one() -> Profile {
    let mut made = profile(Kind::Cpu);
    made.frames = vec![frame("main")];
    made.stacks = vec![stack(vec![0], State::OnCpu, 1)];
    made
}

fn empty() -> Profile {
    let mut made = profile(Kind::Cpu);
    made.notes = vec!["PID 4711 ended <before> the first sample".to_owned()];
    made
}

/// A tree of 100,000 nodes: 10,000 stacks that have nothing in common but their root.
fn large() -> Profile {
    let mut made = profile(Kind::OffCpu);
    made.frames = (0..10_000).map(|at| frame(&format!("module::function_{at}"))).collect();
    for at in 0..10_000u32 {
        let frames = (0..11).map(|depth| if depth == 0 { 0 } else { (at + depth * 7919) % 10_000 }).collect();
        made.stacks.push(stack(frames, State::OffCpu, 1 + u64::from(at % 7)));
    }
    made
}

fn cases() -> [(&'static str, Profile); 5] {
    [("hostile", hostile()), ("deep", deep()), ("one", one()), ("empty", empty()), ("large", large())]
}

fn written(format: Format, profile: &Profile, options: &Options<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    format.write(profile, options, &mut bytes).unwrap();
    bytes
}

fn as_text(format: Format, profile: &Profile, options: &Options<'_>) -> String {
    String::from_utf8(written(format, profile, options)).unwrap()
}

/// Weights of folded lines, read as flamegraph.pl reads them: what stands behind the last space is the weight.
fn folded_ns(folded: &str) -> u64 {
    folded
        .lines()
        .map(|line| {
            let (stack, ns) = line.rsplit_once(' ').unwrap();
            let number = stack.rsplit_once(' ').is_some_and(|(_, last)| last.parse::<f64>().is_ok());
            assert!(!number, "two weights in {line:?}");
            assert!(!stack.starts_with('#') && !stack.chars().any(char::is_control), "{line:?}");
            ns.parse::<u64>().unwrap()
        })
        .sum()
}

fn svg_ns(svg: &str) -> u64 {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(svg, options).unwrap();
    let frames = parsed.descendants().find(|node| node.attribute("id") == Some("frames"));
    frames.map_or(0, |frames| frames.attribute("total_samples").unwrap().parse().unwrap())
}

fn pprof_of(bytes: &[u8]) -> proto::Profile {
    let mut message = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut message).unwrap();
    proto::Profile::decode(message.as_slice()).unwrap()
}

fn pprof_ns(bytes: &[u8]) -> u64 {
    let values = pprof_of(bytes).sample.iter().map(|sample| sample.value[1..].iter().sum::<i64>()).sum::<i64>();
    values.try_into().unwrap()
}

fn firefox_ns(bytes: &[u8]) -> u64 {
    let file: Value = serde_json::from_slice(bytes).unwrap();
    let threads = file["threads"].as_array().unwrap();
    let weights = threads.iter().flat_map(|thread| thread["samples"]["weight"].as_array().unwrap());
    weights.map(|weight| (weight.as_f64().unwrap() * 1e6).round() as u64).sum()
}

fn page_of(html: &str) -> Value {
    let (_, rest) = html.split_once("<script type=\"text/plain\" id=\"data\">").unwrap();
    let packed = STANDARD.decode(rest.split_once('<').unwrap().0).unwrap();
    serde_json::from_reader(DeflateDecoder::new(packed.as_slice())).unwrap()
}

fn html_ns(html: &str) -> u64 {
    let page = page_of(html);
    page["tree"]["weights"]["ns"].as_array().unwrap().iter().map(|ns| ns.as_u64().unwrap()).sum()
}

#[test]
fn every_format_reads_back_to_the_same_total() {
    for (name, profile) in &cases() {
        let (on, off) = text::totals_ns(profile);
        let turned = Options { icicle: true, reversed: true, baseline: None };
        for options in [Options::default(), turned].into_iter().take(if *name == "large" { 1 } else { 2 }) {
            let text = |format| as_text(format, profile, &options);
            let bytes = |format| written(format, profile, &options);
            let read = [
                folded_ns(&text(Format::Folded)),
                svg_ns(&text(Format::Svg)),
                pprof_ns(&bytes(Format::Pprof)),
                firefox_ns(&bytes(Format::Firefox)),
                html_ns(&text(Format::Html)),
            ];
            assert_eq!(read, [on + off; 5], "{name}: folded, svg, pprof, firefox, html");
        }
    }
}

#[test]
fn a_hundred_thousand_frames_are_a_page_of_less_than_3_mb() {
    let html = as_text(Format::Html, &large(), &Options::default());
    assert_eq!(page_of(&html)["tree"]["nodes"]["up"].as_array().unwrap().len(), 100_001);
    assert!(html.len() <= 3_000_000, "{} bytes", html.len());
}

#[test]
fn hostile_names_stay_text() {
    let hostile = hostile();
    let svg = as_text(Format::Svg, &hostile, &Options::default());
    let html = as_text(Format::Html, &hostile, &Options::default());
    assert!(!svg.contains("<script>alert") && !html.contains("<script>alert"));
    // Its own, and the data.
    assert_eq!(html.matches("<script").count(), 2);
    assert_eq!(html.matches("</script").count(), 2);
    for line in as_text(Format::Folded, &hostile, &Options::default()).lines() {
        assert_eq!(line.split(';').count(), 4, "{line:?}");
    }
}

#[test]
fn a_long_name_is_whole_where_it_is_written_once_and_cut_in_pictures() {
    let hostile = hostile();
    let long = "x<y>::".repeat(1708);
    let strings = pprof_of(&written(Format::Pprof, &hostile, &Options::default())).string_table;
    assert!(strings.contains(&long));
    assert!(as_text(Format::Folded, &hostile, &Options::default()).contains(&long));
    let svg = as_text(Format::Svg, &hostile, &Options::default());
    assert!(svg.len() < 100_000, "{} bytes", svg.len());
}

#[test]
fn an_empty_profile_says_why() {
    let why = "ended &lt;before&gt; the first sample";
    let svg = as_text(Format::Svg, &empty(), &Options::default());
    assert!(svg.contains("This profile is empty") && svg.contains(why), "{svg}");
    let page = page_of(&as_text(Format::Html, &empty(), &Options::default()));
    assert_eq!(page["why_empty"][0], "PID 4711 ended <before> the first sample");
    let unexplained = as_text(Format::Svg, &profile(Kind::OffCpu), &Options::default());
    assert!(unexplained.contains("nothing of it waited"), "{unexplained}");
}

#[test]
fn colours_tell_what_a_frame_is_and_whether_it_waits() {
    let mut mixed = profile(Kind::Wall);
    let (kernel, inlined) =
        (Frame { origin: Origin::Kernel, ..frame("same") }, Frame { inlined: true, ..frame("same") });
    let note = Frame { origin: Origin::Note, ..frame("same") };
    let (jit, interpreted) =
        (Frame { origin: Origin::Jit, ..frame("same") }, Frame { origin: Origin::Interpreted, ..frame("same") });
    mixed.frames = vec![frame("same"), kernel, inlined, note, jit, interpreted];
    mixed.stacks = [State::OnCpu, State::OffCpu].map(|state| stack((0..6).collect(), state, 9)).into();
    let svg = as_text(Format::Svg, &mixed, &Options::default());
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(&svg, options).unwrap();
    let frames = parsed.descendants().find(|node| node.attribute("id") == Some("frames")).unwrap();
    let mut fills: Vec<&str> = frames
        .children()
        .filter(|group| group.descendants().any(|node| node.text().is_some_and(|text| text.starts_with("same"))))
        .filter_map(|group| group.descendants().find_map(|node| node.attribute("fill")))
        .collect();
    assert_eq!(fills.len(), 12, "{svg}");
    fills.sort_unstable();
    fills.dedup();
    assert_eq!(fills.len(), 12, "{fills:?}");
    // Marks are not shown.
    assert!(!svg.contains("_[k]"), "{svg}");
}

#[test]
fn pprof_has_types_labels_and_inlined_lines() {
    let mut made = profile(Kind::Wall);
    let inlined = |name| Frame { inlined: true, line: 9, ..frame(name) };
    made.frames = vec![frame("main"), frame("outer"), inlined("middle"), inlined("inner")];
    let mut ran = stack(vec![0, 1, 2, 3], State::OnCpu, 4);
    ran.query = Some("q7f3a".into());
    made.stacks = vec![ran, stack(vec![0, 1], State::OffCpu, 2)];
    made.notes = vec!["something is missing".to_owned()];
    let pprof = pprof_of(&written(Format::Pprof, &made, &Options::default()));
    let string = |at: i64| pprof.string_table[usize::try_from(at).unwrap()].as_str();

    assert_eq!(pprof.string_table[0], "");
    let types: Vec<_> = pprof.sample_type.iter().map(|kind| (string(kind.r#type), string(kind.unit))).collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds"), ("wait", "nanoseconds")]);
    let ns = |samples: i64| samples * SAMPLE_NS as i64;
    let values: Vec<_> = pprof.sample.iter().map(|sample| sample.value.clone()).collect();
    assert_eq!(values, [[4, ns(4), 0], [2, 0, ns(2)]]);
    let labels: BTreeMap<_, _> =
        pprof.sample[0].label.iter().map(|label| (string(label.key), (string(label.str), label.num))).collect();
    let expected = [("pid", ("", 4711)), ("query", ("q7f3a", 0)), ("service", ("postgres:main", 0))];
    let more = [("thread", ("postgres", 0)), ("tid", ("", 4711))];
    assert_eq!(labels, expected.into_iter().chain(more).collect());

    let location = |id: u64| pprof.location.iter().find(|location| location.id == id).unwrap();
    let names = |id: u64| -> Vec<(&str, i64)> {
        let name = |id: u64| string(pprof.function.iter().find(|function| function.id == id).unwrap().name);
        location(id).line.iter().map(|line| (name(line.function_id), line.line)).collect()
    };
    let stack: Vec<_> = pprof.sample[0].location_id.iter().map(|&id| names(id)).collect();
    assert_eq!(stack, [vec![("inner", 9), ("middle", 9), ("outer", 7)], vec![("main", 7)]]);
    assert!(pprof.location.iter().all(|location| location.mapping_id == 1));
    assert_eq!(string(pprof.mapping[0].filename), "postgres");
    assert_eq!(pprof.period, 10_101_010);
    assert_eq!((pprof.time_nanos, pprof.duration_nanos), (1_795_242_480_000_000_000, 10_000_000_000));
    assert_eq!(string(*pprof.comment.last().unwrap()), "something is missing");
}

#[test]
fn firefox_tables_point_into_each_other() {
    for (name, profile) in &cases()[..4] {
        let file: Value = serde_json::from_slice(&written(Format::Firefox, profile, &Options::default())).unwrap();
        assert_eq!(file["meta"]["preprocessedProfileVersion"], 55);
        for thread in file["threads"].as_array().unwrap() {
            let length = |table: &str| thread[table]["length"].as_u64().unwrap();
            let points = |table: &str, column: &str, limit: u64| {
                let column = thread[table][column].as_array().unwrap();
                assert_eq!(column.len() as u64, length(table), "{name}");
                let wrong = column.iter().filter_map(Value::as_u64).find(|at| *at >= limit);
                assert_eq!(wrong, None, "{name}: {table}");
            };
            points("samples", "stack", length("stackTable"));
            points("stackTable", "prefix", length("stackTable"));
            points("stackTable", "frame", length("frameTable"));
            points("frameTable", "func", length("funcTable"));
            points("frameTable", "category", 7);
            points("funcTable", "resource", length("resourceTable"));
            let strings = thread["stringArray"].as_array().unwrap().len() as u64;
            points("funcTable", "name", strings);
            points("resourceTable", "name", strings);
            points("resourceTable", "lib", file["libs"].as_array().unwrap().len() as u64);
        }
    }
}

#[test]
fn a_difference_is_between_equal_weights() {
    let (mut before, after) = (one(), deep());
    before.stacks.push(stack(vec![0, 0], State::OnCpu, 3));
    let options = Options { baseline: Some(&before), ..Options::default() };
    let (mut lighter, mut heavier) = (0u64, 0u64);
    for line in as_text(Format::Folded, &after, &options).lines() {
        let mut words = line.rsplit(' ').map(|word| word.parse::<u64>().unwrap_or_default());
        heavier += words.next().unwrap();
        lighter += words.next().unwrap();
    }
    let (on, _) = text::totals_ns(&after);
    assert_eq!(heavier, on);
    assert!(lighter.abs_diff(on) <= 2, "{lighter} of {on}");
    assert_eq!(svg_ns(&as_text(Format::Svg, &after, &options)), on);
    let page = page_of(&as_text(Format::Html, &after, &options));
    assert!(page["tree"]["weights"]["flags"].as_array().unwrap().iter().any(|flags| flags == 2));
    let refused = Format::Pprof.write(&after, &options, &mut Vec::new()).unwrap_err();
    assert!(matches!(refused, Error::OneProfileOnly("pprof")), "{refused}");
}

#[test]
fn the_kinds_of_time_are_told_apart_only_where_there_are_both() {
    let wall = as_text(Format::Folded, &hostile(), &Options::default());
    assert!(wall.lines().all(|line| line.starts_with(folded::ON_CPU) || line.starts_with(folded::OFF_CPU)));
    assert_eq!(as_text(Format::Folded, &one(), &Options::default()), "main 10101010\n");
}

#[test]
fn formats_are_known_by_ending_and_name_and_errors_list_them() {
    for format in Format::ALL {
        assert_eq!(Format::of_file(Path::new(&format!("/x/a.b{}", format.ending()))), Ok(format));
        assert_eq!(format.name().parse(), Ok(format));
    }
    let ending = Format::of_file(Path::new("/x/flame.png")).unwrap_err().to_string();
    let list = ".svg, .html, .folded, .pb.gz, .json";
    assert_eq!(ending, format!("the ending of \"flame.png\" names no format; allowed are {list}"));
    let name = "perf".parse::<Format>().unwrap_err().to_string();
    assert_eq!(name, "\"perf\" is no format; allowed are svg, html, folded, pprof, firefox");
}

#[test]
fn the_page_asks_for_nothing() {
    let html = as_text(Format::Html, &one(), &Options::default());
    assert!(html.contains("default-src 'none'"));
    for loads in [" src=", "url(", "@import", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!html.contains(loads), "{loads}");
    }
    // The namespace of the icon is a name, not an address that is asked.
    assert_eq!(
        html.matches("http").count(),
        html.matches("http-equiv").count() + html.matches("http://www.w3.org/2000/svg").count()
    );
}
