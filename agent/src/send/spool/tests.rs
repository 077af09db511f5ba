use bytes::Bytes;
use tempfile::TempDir;

use super::*;

const LIMIT: u64 = 1 << 20;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn entry(number: u64, bytes: usize) -> Entry {
    Entry { at_unix_ms: number, samples: 1, payload: Bytes::from(vec![number as u8; bytes]) }
}

/// Takes everything out, in order.
fn drain(spool: &mut Spool) -> Vec<u64> {
    let mut taken = Vec::new();
    while let Some(found) = spool.oldest() {
        assert_eq!(found, entry(found.at_unix_ms, found.payload.len()));
        taken.push(found.at_unix_ms);
        spool.sent();
    }
    assert!(spool.is_empty() && spool.waiting_bytes() == 0);
    taken
}

fn segments(folder: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "seg")).collect();
    found.sort();
    found
}

#[test]
fn entries_come_out_in_the_order_in_which_they_went_in_and_leave_nothing() {
    let folder = folder();
    let mut spool = Spool::open(folder.path(), LIMIT);
    for number in 0..100 {
        spool.push(entry(number, 10_000));
        if number % 3 == 0 {
            assert_eq!(spool.oldest().unwrap().at_unix_ms, number / 3);
            spool.sent();
        }
    }
    assert_eq!((spool.len(), spool.oldest_unix_ms()), (66, Some(34)));
    assert_eq!(drain(&mut spool), (34..100).collect::<Vec<_>>());
    assert_eq!(spool.lost(), Lost::default());
    drop(spool);
    Spool::open(folder.path(), LIMIT);
    assert_eq!(segments(&folder), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_agent_sends_what_is_left_and_nothing_twice() {
    let folder = folder();
    let mut expected = 0;
    for run in 0..10 {
        // Dropped without a word, as it is by a kill.
        let mut spool = Spool::open(folder.path(), LIMIT);
        for number in 0..7 {
            spool.push(entry(run * 7 + number, 20_000));
        }
        for _ in 0..5 {
            assert_eq!(spool.oldest().unwrap().at_unix_ms, expected);
            spool.sent();
            expected += 1;
        }
        assert_eq!(spool.lost(), Lost::default());
    }
    let mut spool = Spool::open(folder.path(), LIMIT);
    assert_eq!(spool.len(), 20);
    assert_eq!(drain(&mut spool), (50..70).collect::<Vec<_>>());
}

#[test]
fn at_the_limit_the_oldest_give_way_and_are_counted() {
    let folder = folder();
    let mut spool = Spool::open(folder.path(), LIMIT);
    for number in 0..250 {
        spool.push(entry(number, 10_000));
        let on_disk: u64 = segments(&folder).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(on_disk <= LIMIT, "{on_disk}");
    }
    let dropped = spool.lost().spool_full;
    // A segment's worth may be missing.
    assert!(spool.len() as u64 * 10_024 > LIMIT - 2 * LIMIT / SEGMENTS, "{}", spool.len());
    assert_eq!(drain(&mut spool), (dropped..250).collect::<Vec<_>>());
    assert_eq!(spool.lost(), Lost { spool_full: dropped, ..Lost::default() });
}

#[test]
fn entries_larger_than_a_segment_fit_and_larger_than_the_spool_do_not() {
    let folder = folder();
    let mut spool = Spool::open(folder.path(), LIMIT);
    for number in 0..3 {
        spool.push(entry(number, 300_000));
    }
    spool.push(entry(9, LIMIT as usize));
    assert_eq!(drain(&mut spool), [0, 1, 2]);
    assert_eq!(spool.lost(), Lost { too_large: 1, ..Lost::default() });
}

#[test]
fn cut_off_at_any_byte_a_segment_gives_its_whole_entries_and_takes_new_ones() {
    let (original, sizes) = (folder(), [3, 0, 17, 40]);
    let mut spool = Spool::open(original.path(), LIMIT);
    let mut ends = vec![MAGIC.len()];
    for (number, size) in sizes.into_iter().enumerate() {
        spool.push(entry(number as u64, size));
        ends.push(ends[number] + HEADER_BYTES + size);
    }
    let file = fs::read(&segments(&original)[0]).unwrap();
    for cut in 0..=file.len() {
        let folder = folder();
        fs::write(folder.path().join("00000000000000000001.seg"), &file[..cut]).unwrap();
        let mut spool = Spool::open(folder.path(), LIMIT);
        let whole = ends[1..].iter().filter(|end| **end <= cut).count() as u64;
        let cut_within = cut > 0 && !ends.contains(&cut);
        assert_eq!(spool.lost().damaged, u64::from(cut_within), "{cut}");
        spool.push(entry(77, 5));
        let again = Spool::open(folder.path(), LIMIT);
        assert_eq!((again.len() as u64, again.lost().damaged), (whole + 1, 0), "told once: {cut}");
        assert_eq!(drain(&mut spool), (0..whole).chain([77]).collect::<Vec<_>>(), "{cut}");
    }
}

#[test]
fn damage_in_the_middle_costs_what_is_damaged_and_is_counted() {
    let folder = folder();
    let mut spool = Spool::open(folder.path(), LIMIT);
    for number in 0..20 {
        spool.push(entry(number, 10_000));
    }
    let path = segments(&folder)[0].clone();
    let mut file = fs::read(&path).unwrap();
    // The payload of the third entry.
    file[MAGIC.len() + 2 * (HEADER_BYTES + 10_000) + HEADER_BYTES + 5] ^= 1;
    fs::write(&path, file).unwrap();
    let expected: Vec<_> = (0..20).filter(|number| *number != 2).collect();
    // Found by who has it open, and by who opens it.
    let mut opened = Spool::open(folder.path(), LIMIT);
    assert_eq!(opened.lost().damaged, 1);
    assert_eq!(opened.len(), 19);
    assert_eq!(drain(&mut spool), expected);
    assert_eq!(spool.lost(), Lost { damaged: 1, ..Lost::default() });
    // Segments that are gone beneath it.
    segments(&folder).into_iter().for_each(|path| fs::remove_file(path).unwrap());
    assert!(opened.oldest().is_none());
    assert_eq!(opened.lost().damaged, 20);
}

#[test]
fn a_damaged_cursor_sends_again_rather_than_not_at_all() {
    let folder = folder();
    let mut spool = Spool::open(folder.path(), LIMIT);
    (0..5).for_each(|number| spool.push(entry(number, 10)));
    spool.sent();
    for damage in [&b""[..], b"nonsense", &[0; CURSOR_BYTES]] {
        fs::write(folder.path().join(CURSOR), damage).unwrap();
        assert_eq!(Spool::open(folder.path(), LIMIT).len(), 5);
    }
}

#[test]
fn what_cannot_be_written_waits_in_memory_and_goes_to_the_disk_when_it_can() {
    let parent = folder();
    let path = parent.path().join("spool");
    fs::write(&path, "no folder").unwrap();
    let mut spool = Spool::open(&path, 16 << 20);
    (0..3).for_each(|number| spool.push(entry(number, 1_000)));
    assert_eq!((spool.len(), spool.oldest().unwrap().at_unix_ms), (3, 0));
    spool.sent();
    fs::remove_file(&path).unwrap();
    spool.push(entry(3, 1_000));
    assert_eq!(Spool::open(&path, 16 << 20).len(), 3);
    assert_eq!(drain(&mut spool), [1, 2, 3]);
    assert_eq!(spool.lost(), Lost::default());
}

#[test]
fn memory_is_bounded_too_and_its_oldest_give_way() {
    let parent = folder();
    let path = parent.path().join("spool");
    fs::write(&path, "no folder").unwrap();
    let mut spool = Spool::open(&path, 1 << 30);
    (0..10).for_each(|number| spool.push(entry(number, 1 << 20)));
    assert_eq!(spool.lost(), Lost { disk: 6, ..Lost::default() });
    assert_eq!(drain(&mut spool), [6, 7, 8, 9]);
}
