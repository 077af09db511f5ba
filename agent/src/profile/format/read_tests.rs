use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::{Format, Options, read::Unreadable, read::read, text};
use crate::model::profile::{Frame, Kind, Origin, Profile, Stack, State};

fn frame(function: &str, module: &str, origin: Origin) -> Frame {
    let file = if function == "parse" { "src/parse.c" } else { "" };
    Frame { function: function.into(), module: module.into(), file: file.into(), line: 0, inlined: false, origin }
}

/// One with all that a profile may have.
fn whole(kind: Kind) -> Profile {
    let mut frames = vec![
        frame("main", "shop", Origin::User),
        frame("parse", "shop", Origin::User),
        Frame { inlined: true, line: 7, ..frame("skip", "shop", Origin::User) },
        frame("handle", "app.py", Origin::Interpreted),
        frame("read", "[kernel]", Origin::Kernel),
        frame("compiled", "", Origin::Jit),
        frame("[no unwind table]", "", Origin::Note),
    ];
    frames[1].line = 40;
    let stack = |frames: &[u32], state, samples, query: Option<&str>| Stack {
        frames: frames.to_vec(),
        state,
        ns: samples * 10_101_010,
        samples,
        service: "shop".into(),
        thread: "worker".into(),
        pid: 10,
        tid: 11,
        query: query.map(Into::into),
    };
    let (on, off) = match kind {
        Kind::Cpu => (State::OnCpu, State::OnCpu),
        Kind::Wall => (State::OnCpu, State::OffCpu),
        Kind::OffCpu | Kind::Syscalls | Kind::Queries => (State::OffCpu, State::OffCpu),
    };
    let stacks = vec![
        stack(&[0, 1, 2], on, 60, None),
        stack(&[0, 3, 4], off, 30, Some("q7f3a91c2")),
        stack(&[6, 0, 5], on, 1, None),
        stack(&[0, 1], off, 5, None),
    ];
    Profile {
        target: "shop (PID 10)".into(),
        kind,
        began: UNIX_EPOCH + Duration::from_secs(1_795_242_480),
        lasted: Duration::from_secs(10),
        hertz: 99,
        frames,
        stacks,
        notes: vec!["3 samples are missing".into()],
    }
}

fn written(format: Format, profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    format.write(profile, &Options::default(), &mut bytes).unwrap();
    bytes
}

/// Stacks by names of frames.
fn named(profile: &Profile) -> Vec<(Vec<Frame>, Stack)> {
    let mut stacks: Vec<(Vec<Frame>, Stack)> = profile
        .stacks
        .iter()
        .map(|stack| {
            let frames = text::frames(profile, stack).map(|(_, frame)| frame.clone()).collect();
            (frames, Stack { frames: Vec::new(), ..stack.clone() })
        })
        .collect();
    stacks.sort_by_key(|(_, stack)| stack.ns);
    stacks
}

#[test]
fn what_is_written_as_pprof_is_read_as_it_was() {
    for kind in Kind::ALL {
        let profile = whole(kind);
        let again = read(&written(Format::Pprof, &profile)).unwrap();
        assert_eq!(named(&again), named(&profile), "{kind:?}");
        let facts = |it: &Profile| (it.target.clone(), it.kind, it.began, it.lasted, it.notes.clone());
        assert_eq!(facts(&again), facts(&profile));
        assert_eq!(again.hertz, if matches!(kind, Kind::Cpu | Kind::Wall) { 99 } else { 0 }, "{kind:?}");
    }
}

#[test]
fn what_is_written_folded_is_read_with_its_weights_names_and_kinds_of_code() {
    for kind in [Kind::Cpu, Kind::Wall] {
        let profile = whole(kind);
        let folded = written(Format::Folded, &profile);
        let again = read(&folded).unwrap();
        assert_eq!((again.kind, text::totals_ns(&again)), (kind, text::totals_ns(&profile)));
        assert_eq!(written(Format::Folded, &again), folded);
        assert!(
            text::facts(&again).starts_with("4 samples · "),
            "what is not known is not told: {}",
            text::facts(&again)
        );
        let origin = |name: &str| again.frames.iter().find(|frame| &*frame.function == name).map(|frame| frame.origin);
        assert_eq!(origin("read"), Some(Origin::Kernel));
        assert_eq!(origin("[no unwind table]"), Some(Origin::Note));
    }
}

#[test]
fn a_saved_profile_can_be_compared_with_one_of_twice_the_length() {
    let (mut longer, shorter) = (whole(Kind::Cpu), whole(Kind::Cpu));
    longer.stacks.iter_mut().for_each(|stack| stack.ns *= 2);
    let base = read(&written(Format::Pprof, &longer)).unwrap();
    let mut difference = Vec::new();
    let options = Options { baseline: Some(&base), ..Options::default() };
    Format::Folded.write(&shorter, &options, &mut difference).unwrap();
    let difference = String::from_utf8(difference).unwrap();
    for line in difference.lines() {
        let mut words = line.rsplit(' ').map(|word| word.parse::<u64>().unwrap_or_default());
        let (after, before) = (words.next().unwrap(), words.next().unwrap());
        assert!(before.abs_diff(after) <= 1, "{line}");
    }
    assert_eq!(difference.lines().count(), 4, "{difference}");
    assert!(matches!(read(difference.as_bytes()), Err(Unreadable::Difference(1))));
}

#[test]
fn what_is_no_profile_is_told_so() {
    let wrong = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    assert!(wrong(b"main;parse").contains("line 1 is no folded stack"), "{}", wrong(b"main;parse"));
    assert!(wrong(b"main 12\nmain;parse twelve\n").contains("line 2 is no folded stack"));
    assert!(wrong(&[0x1f, 0x8b, 8, 0]).contains("cannot be unpacked"));
    assert!(wrong(&[0xff; 40]).contains("no pprof"));
    assert!(wrong(b"\x00").contains("no pprof"));
    let whole = written(Format::Pprof, &whole(Kind::Wall));
    for length in 2..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = read(&bytes);
    }

    #[test]
    fn a_byte_that_is_wrong_does_not_either(at: prop::sample::Index, byte: u8) {
        use std::io::Read as _;
        let mut message = Vec::new();
        flate2::read::GzDecoder::new(&*written(Format::Pprof, &whole(Kind::Wall))).read_to_end(&mut message).unwrap();
        let at = at.index(message.len());
        message[at] = byte;
        let _ = read(&message);
    }
}
