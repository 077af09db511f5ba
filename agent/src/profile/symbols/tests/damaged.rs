//! Files that are damaged, hostile, huge, or shortened while they are read.

use std::os::unix::fs::FileExt as _;

use super::*;

#[test]
fn a_file_that_is_shortened_after_it_was_asked_once_is_survived() {
    let built = build(&["-g"]);
    let range = function(&built.program, "outermost");
    let rest = function(&built.program, "main");
    let code = Code::open(&built.program).unwrap();
    let mut resolver = resolver();
    assert_eq!(&*stacks(&mut resolver, &code, range.start..range.start + 1)[0][0].function, "outermost");
    File::options().write(true).open(&built.program).unwrap().set_len(100).unwrap();
    assert!(stacks(&mut resolver, &code, rest).iter().any(|frames| frames[0].function.starts_with("main")));
    // Met only now.
    let frames = stacks(&mut super::resolver(), &Code::open(&built.program).unwrap(), range);
    assert_eq!(names(&frames[0]), ["[unknown in program]"]);
}

/// Bytes are overwritten at places that a fixed sequence chooses; about half of them in the tables of debug information.
#[test]
fn damaged_files_are_survived() {
    let built = build(&["-g"]);
    let whole = fs::read(&built.program).unwrap();
    let range = function(&built.program, "outermost");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 1).unwrap()
    };
    let path = built.folder.path().join("damaged");
    let mut named = 0;
    for round in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..=round % 40 {
            let length = bytes.len();
            bytes[next() % length] = u8::try_from(next() % 256).unwrap();
        }
        if round % 10 == 0 {
            bytes.truncate(next() % whole.len());
        }
        fs::write(&path, &bytes).unwrap();
        let frames = stacks(&mut resolver(), &Code::open(&path).unwrap(), range.clone());
        assert!(frames.iter().all(|frames| !frames.is_empty() && !frames[0].function.is_empty()));
        named += usize::from(frames.iter().any(|frames| &*frames[0].function == "outermost"));
    }
    assert!((50..300).contains(&named), "{named} of 300 have a name");
}

/// All prefixes of a small file.
#[test]
fn files_that_end_early_are_survived() {
    let built = build(&["-s"]);
    let whole = fs::read(&built.program).unwrap();
    let path = built.folder.path().join("prefix");
    for length in (0..whole.len()).step_by(61) {
        fs::write(&path, &whole[..length]).unwrap();
        let frames = stacks(&mut resolver(), &Code::open(&path).unwrap(), 0x1100..0x1101);
        assert_eq!(frames.len(), 1);
    }
}

/// Two gigabytes that take no room on disk, whose headers say that all of them are symbols.
#[test]
fn a_huge_sparse_file_costs_no_memory() {
    use object::{LittleEndian as LE, U16, U32, U64, elf, pod};
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("huge");
    let file = File::create(&path).unwrap();
    file.set_len(2 << 30).unwrap();
    let built = build(&[]);
    let mut head = fs::read(&built.program).unwrap();
    head.truncate(size_of::<elf::FileHeader64<LE>>());
    let section = |name: u32, kind: u32, link: u32, offset: u64, size: u64| elf::SectionHeader64 {
        sh_name: U32::new(LE, name),
        sh_type: U32::new(LE, kind),
        sh_flags: U64::new(LE, 0),
        sh_addr: U64::new(LE, 0),
        sh_offset: U64::new(LE, offset),
        sh_size: U64::new(LE, size),
        sh_link: U32::new(LE, link),
        sh_info: U32::new(LE, 0),
        sh_addralign: U64::new(LE, 8),
        sh_entsize: U64::new(LE, 24),
    };
    let titles = b"\0.symtab\0.strtab\0.debug_info\0.shstrtab\0";
    file.write_all_at(titles, 0x100).unwrap();
    let most = (2 << 30) - 0x1000;
    let sections = [
        section(0, 0, 0, 0, 0),
        section(1, elf::SHT_SYMTAB, 2, 0x1000, most / 24 * 24),
        section(9, elf::SHT_STRTAB, 0, 0x1000, most),
        section(17, elf::SHT_PROGBITS, 0, 0x1000, most),
        section(29, elf::SHT_STRTAB, 0, 0x100, titles.len() as u64),
    ];
    file.write_all_at(pod::bytes_of_slice(&sections), 0x400).unwrap();
    let (header, _) = pod::from_bytes_mut::<elf::FileHeader64<LE>>(&mut head).unwrap();
    header.e_shoff = U64::new(LE, 0x400);
    header.e_shnum = U16::new(LE, 5);
    header.e_shstrndx = U16::new(LE, 4);
    // So many sections that their table fills the file.
    let mut many = *header;
    many.e_shnum = U16::new(LE, 0);
    for (header, expected) in [(*header, "[unknown in huge, whose symbols exceed 64 MiB]"), (many, "[unknown in huge]")]
    {
        file.write_all_at(pod::bytes_of(&header), 0).unwrap();
        let mut resolver = resolver();
        let code = Code::open(&path).unwrap();
        let frames = stacks(&mut resolver, &code, 0x2000..0x2001);
        assert_eq!(names(&frames[0]), [expected]);
        assert!(resolver.held_bytes() < 1 << 20, "{}", resolver.held_bytes());
        file.write_all_at(pod::bytes_of(&U64::new(LE, 30_000_000)), 0x400 + 32).unwrap();
    }
}

#[test]
fn more_debug_information_than_allowed_leaves_the_symbols() {
    let built = build(&["-g"]);
    let code = Code::open(&built.program).unwrap();
    let mut resolver = Resolver::new(Limits { debug_bytes: 100, ..Limits::default() }, table());
    let frames = stacks(&mut resolver, &code, function(&built.program, "outermost"));
    assert_eq!(frames.len(), 1);
    assert_eq!((names(&frames[0]), frames[0][0].line), (vec!["outermost"], 0));
}

#[test]
fn what_is_no_code_has_a_frame_in_words() {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in [("text", &b"#!/bin/sh\n"[..]), ("empty", b""), ("short", b"\x7fELF\x02\x01")] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let frames = stacks(&mut resolver(), &Code::open(&path).unwrap(), 0..3);
        assert_eq!(names(&frames[0]), [format!("[unknown in {name}]")]);
    }
    run(Command::new("mkfifo").arg(folder.path().join("pipe")));
    assert!(Code::open(&folder.path().join("pipe")).is_err());
}
