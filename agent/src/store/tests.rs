use std::sync::Arc;

use super::*;
use crate::model::profile::{Frame, Kind, Origin, Stack, State};

/// A piece of ten seconds; the longer its text, the larger its file.
fn piece(from: u64, text: &str) -> Profile {
    let frame = Frame {
        function: text.into(),
        module: "postgres".into(),
        file: "".into(),
        line: 7,
        inlined: true,
        origin: Origin::User,
    };
    let stack = Stack {
        frames: vec![0],
        state: State::OnCpu,
        ns: 3,
        samples: 1,
        service: "shop.service".into(),
        thread: "worker".into(),
        pid: 0,
        tid: 0,
        query: Some(Arc::from("0123456789abcdef")),
    };
    Profile {
        target: "all processes".into(),
        kind: Kind::Cpu,
        began: UNIX_EPOCH + Duration::from_secs(from),
        lasted: Duration::from_secs(10),
        hertz: 19,
        frames: vec![frame],
        stacks: vec![stack],
        notes: vec![],
    }
}

fn period(from: u64, to: u64) -> Period {
    Period { from: UNIX_EPOCH + Duration::from_secs(from), to: UNIX_EPOCH + Duration::from_secs(to) }
}

/// Text that gzip does not make smaller than it is long by much.
fn noise(seed: u32) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + ((state >> 24) % 90) as u8)
    };
    (0..4_000).map(|_| next()).collect()
}

fn begins(pieces: &Pieces) -> Vec<u64> {
    let seconds = |entry: &Entry| entry.period.from.duration_since(UNIX_EPOCH).unwrap().as_secs();
    pieces.entries().unwrap().iter().map(seconds).collect()
}

#[test]
fn a_piece_comes_back_as_it_was_for_any_period_that_it_touches() {
    let folder = tempfile::tempdir().unwrap();
    let pieces = Pieces::new(folder.path().join("made/here"), 1 << 20);
    assert_eq!(pieces.reach().unwrap(), None, "a folder that is not there is empty");
    let all = [piece(100, "a"), piece(110, "b"), piece(130, "c")];
    all.iter().rev().for_each(|piece| pieces.put(piece).unwrap());
    let within = |from, to| pieces.within(&period(from, to)).unwrap().pieces;
    assert_eq!(within(0, 1000), all);
    assert_eq!(within(109, 111), all[..2]);
    assert_eq!(within(110, 120), all[1..2]);
    assert_eq!(within(120, 130), []);
    assert_eq!(pieces.reach().unwrap(), Some(period(100, 140)));
}

#[test]
fn the_oldest_give_way_before_the_budget_is_exceeded() {
    let folder = tempfile::tempdir().unwrap();
    let pieces = Pieces::new(folder.path().into(), 16_000);
    for at in 0..6 {
        pieces.put(&piece(100 + 10 * at, &noise(at as u32))).unwrap();
        let bytes: u64 = pieces.entries().unwrap().iter().map(|entry| entry.bytes).sum();
        assert!(bytes <= 16_000, "{bytes}");
    }
    let left = begins(&pieces);
    assert!(left.len() >= 2 && left.ends_with(&[140, 150]), "{left:?}");
    let error = pieces.put(&piece(160, &(0..9).map(noise).collect::<String>())).unwrap_err().to_string();
    assert!(error.contains("more than `profile.kept` allows"), "{error}");
    assert_eq!(begins(&pieces), left, "what finds no room drives nothing out");
}

#[test]
fn a_corrupt_file_is_skipped_with_a_note_and_what_is_no_piece_without() {
    let folder = tempfile::tempdir().unwrap();
    let pieces = Pieces::new(folder.path().into(), 1 << 20);
    pieces.put(&piece(100, "a")).unwrap();
    let whole = fs::read(&pieces.entries().unwrap()[0].path).unwrap();
    let mut stray = piece(0, "b");
    stray.stacks[0].frames = vec![0, 1];
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    serde_json::to_writer(&mut packed, &stray).unwrap();
    let files: [(&str, &[u8]); 5] = [
        ("piece-0000000110000-0000000120000.json.gz", &whole[..whole.len() / 2]),
        ("piece-0000000120000-0000000130000.json.gz", b"no gzip"),
        ("piece-0000000130000-0000000140000.json.gz", &packed.finish().unwrap()),
        (UNFINISHED, &whole),
        ("notes.txt", b"mine"),
    ];
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let found = pieces.within(&period(0, 1000)).unwrap();
    assert_eq!(found.pieces, [piece(100, "a")]);
    assert_eq!(found.notes.len(), 3, "{:?}", found.notes);
    for (note, (name, _)) in found.notes.iter().zip(files) {
        assert!(note.contains(name) && note.contains("cannot be read: "), "{note}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let pieces = Pieces::new(file, 1 << 20);
    pieces.put(&piece(100, "a")).unwrap_err();
    pieces.within(&period(0, 1000)).unwrap_err();
}
