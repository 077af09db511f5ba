//! Profiles that are made up: as a busy host has them, large ones, and such as only a hostile one has.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use steth::model::profile::{Frame, Kind, Origin, Profile, Stack, State};

/// What a sample weighs at 99 Hz.
pub const SAMPLE_NS: u64 = 10_101_010;

/// A profile under construction.
#[derive(Debug)]
pub struct Builder {
    profile: Profile,
    known: HashMap<Frame, u32>,
    random: u64,
}

/// A stack's thread: service, thread's name, process, thread.
pub type Whose<'a> = (&'a str, &'a str, u32, u32);

impl Builder {
    /// An empty profile of this kind and target, of ten seconds at 99 Hz.
    pub fn new(target: &str, kind: Kind) -> Self {
        let profile = Profile {
            target: target.to_owned(),
            kind,
            began: UNIX_EPOCH + Duration::from_secs(1_795_242_480),
            lasted: Duration::from_secs(10),
            hertz: 99,
            frames: Vec::new(),
            stacks: Vec::new(),
            notes: Vec::new(),
        };
        Self { profile, known: HashMap::new(), random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Adds a note.
    pub fn note(&mut self, note: &str) {
        self.profile.notes.push(note.to_owned());
    }

    /// Adds a stack, the outermost caller first. A frame is written `module!function`, with `k:` kernel, `j:` JIT, `p:` interpreted,
    /// `i:` inlined or `n:` note before it, and `@file:line` behind it.
    pub fn stack(&mut self, frames: &str, whose: Whose<'_>, state: State, samples: u64) {
        let frames = frames.split(" > ").map(|frame| frame_of(frame.trim())).collect();
        self.frames(frames, whose, state, samples);
    }

    /// Adds a stack of these frames.
    pub fn frames(&mut self, frames: Vec<Frame>, whose: Whose<'_>, state: State, samples: u64) {
        let numbers = frames
            .into_iter()
            .map(|frame| {
                let next = u32::try_from(self.profile.frames.len()).expect("few frames");
                *self.known.entry(frame.clone()).or_insert_with(|| {
                    self.profile.frames.push(frame);
                    next
                })
            })
            .collect();
        let (service, thread, pid, tid) = whose;
        self.profile.stacks.push(Stack {
            frames: numbers,
            state,
            ns: samples * SAMPLE_NS,
            samples,
            service: service.into(),
            thread: thread.into(),
            pid,
            tid,
            query: service.starts_with("postgres").then(|| Arc::from("q7f3a91c2")),
        });
    }

    /// A number below `limit`, the same ones in each run.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    /// What was built.
    pub fn profile(self) -> Profile {
        self.profile
    }
}

/// A frame of user code of this name alone.
pub fn frame(function: &str) -> Frame {
    Frame {
        function: function.into(),
        module: "".into(),
        file: "".into(),
        line: 0,
        inlined: false,
        origin: Origin::User,
    }
}

fn frame_of(written: &str) -> Frame {
    let (origin, inlined, rest) = match written.split_once(':') {
        Some(("k", rest)) => (Origin::Kernel, false, rest),
        Some(("j", rest)) => (Origin::Jit, false, rest),
        Some(("p", rest)) => (Origin::Interpreted, false, rest),
        Some(("i", rest)) => (Origin::User, true, rest),
        Some(("n", rest)) => (Origin::Note, false, rest),
        _ => (Origin::User, false, written),
    };
    let (rest, place) = rest.split_once('@').unwrap_or((rest, ""));
    let (file, line) = place.rsplit_once(':').unwrap_or((place, "0"));
    let (module, function) = rest.split_once('!').unwrap_or(("", rest));
    let module = if origin == Origin::Kernel { "[kernel]" } else { module };
    let line = line.parse().expect("a line's number");
    Frame { function: function.into(), module: module.into(), file: file.into(), line, inlined, origin }
}

/// A small host at work: Postgres, a Python service, a Rust one, JIT code, on CPU and waiting.
pub fn host(heavy: u64) -> Profile {
    let mut built = Builder::new("all processes", Kind::Wall);
    let postgres = ("postgres:main", "postgres", 4711, 4711);
    let start = "postgres!_start > libc.so.6!__libc_start_main > postgres!main@main.c:198 > postgres!PostmasterMain@postmaster.c:1417 > \
                 postgres!ServerLoop@postmaster.c:1771 > postgres!BackendStartup > postgres!PostgresMain@postgres.c:4593";
    let run = format!(
        "{start} > postgres!exec_simple_query@postgres.c:1243 > postgres!PortalRun > postgres!ExecutorRun@execMain.c:307"
    );
    let (on, off) = (State::OnCpu, State::OffCpu);
    let scan = format!("{run} > postgres!ExecHashJoin > postgres!ExecScan@execScan.c:180 > postgres!heap_getnextslot");
    built.stack(&format!("{scan} > i:postgres!heapgettup_pagemode@heapam.c:921"), postgres, on, 120 * heavy);
    built.stack(&format!("{scan} > i:postgres!heapgettup_pagemode@heapam.c:933"), postgres, on, 61);
    built.stack(&format!("{scan} > postgres!ReadBuffer > postgres!smgrread > libc.so.6!__pread64 > k:entry_SYSCALL_64_after_hwframe > k:do_syscall_64 > k:__x64_sys_pread64 > k:vfs_read > k:ext4_file_read_iter > k:filemap_read > k:copy_page_to_iter"), postgres, on, 88);
    built.stack(&format!("{scan} > postgres!ReadBuffer > postgres!smgrread > libc.so.6!__pread64 > k:entry_SYSCALL_64_after_hwframe > k:do_syscall_64 > k:__x64_sys_pread64 > k:vfs_read > k:filemap_get_pages > k:folio_wait_bit_common > k:io_schedule > k:schedule"), postgres, off, 140);
    built.stack(&format!("{run} > postgres!ExecSort > postgres!tuplesort_performsort > postgres!qsort_tuple > i:postgres!comparetup_heap@tuplesort.c:1120 > libc.so.6!__memcmp_avx2_movbe"), postgres, on, 75);
    built.stack(
        &format!("{run} > postgres!ExecAgg > postgres!LookupTupleHashEntry > postgres!hash_any"),
        postgres,
        on,
        34,
    );
    built.stack(&format!("{start} > postgres!ReadCommand > postgres!secure_read > libc.so.6!epoll_wait > k:entry_SYSCALL_64_after_hwframe > k:do_syscall_64 > k:do_epoll_wait > k:schedule_hrtimeout_range > k:schedule"), postgres, off, 260);
    built.stack(&format!("{run} > postgres!ProcSleep > postgres!WaitLatch > libc.so.6!epoll_wait > k:do_syscall_64 > k:do_epoll_wait > k:schedule"), postgres, off, 47);

    let python = ("orders-api", "python3", 812, 812);
    let handler = "python3.11!_start > libc.so.6!__libc_start_main > python3.11!Py_BytesMain > python3.11!_PyEval_EvalFrameDefault > \
                   p:app.py!<module>@/srv/orders/app.py:3 > p:app.py!serve@/srv/orders/app.py:88 > p:app.py!handle@/srv/orders/app.py:41";
    built.stack(&format!("{handler} > p:json/encoder.py!JSONEncoder.iterencode@/usr/lib/python3.11/json/encoder.py:258 > _json.so!encoder_listencode_dict"), python, on, 66 + 20 * heavy);
    built.stack(
        &format!("{handler} > p:models.py!Order.total@/srv/orders/models.py:17 > python3.11!PyNumber_Add"),
        python,
        on,
        23,
    );
    built.stack(&format!("{handler} > p:db.py!fetch@/srv/orders/db.py:9 > libpq.so.5!PQexec > libc.so.6!poll > k:do_syscall_64 > k:do_sys_poll > k:schedule"), python, off, 180);

    for (worker, tid) in (900..).enumerate().take(4) {
        let thread = format!("tokio-runtime-w{worker}");
        let rust = ("gateway", thread.as_str(), 900, tid);
        let poll = "gateway!_start > libc.so.6!start_thread > gateway!std::sys::pal::unix::thread::Thread::new::thread_start > \
                    gateway!tokio::runtime::scheduler::multi_thread::worker::run > gateway!<hyper::server::conn::http1::Connection<I,S> as core::future::future::Future>::poll@conn/http1.rs:302";
        built.stack(&format!("{poll} > i:gateway!alloc::vec::Vec<T,A>::push > gateway!serde_json::ser::Serializer<W,F>::serialize_str"), rust, on, 9 + worker as u64);
        built.stack(&format!("{poll} > gateway!ring::aead::aes_gcm::seal > gateway!aesni_gcm_encrypt"), rust, on, 14);
        built.stack("gateway!_start > libc.so.6!start_thread > gateway!tokio::runtime::park::Inner::park > libc.so.6!syscall > k:do_syscall_64 > k:futex_wait > k:schedule", rust, off, 70);
    }
    let node = ("dashboard", "node", 1300, 1300);
    built.stack("node!_start > node!node::Start > node!v8::internal::Execution::Call > j:LazyCompile:~renderChart /srv/dash/chart.js:12 > j:*layout /srv/dash/layout.js:340", node, on, 31);
    built.stack("node!_start > node!node::Start > node!uv_run > node!v8::internal::Heap::CollectGarbage > node!v8::internal::MarkCompactCollector::MarkLiveObjects", node, on, 12);
    let java = ("legacy", "java", 1500, 1502);
    built.stack("java!_start > libjvm.so!JavaMain > n:[no names: this JVM writes no perf map]", java, on, 18);
    built.stack(
        "n:[stack not finished: no unwind table] > libmagic.so!magic_buffer",
        ("indexer", "indexer", 77, 77),
        on,
        7,
    );
    built.note("2.1 % of stacks were not finished: libmagic.so has neither unwind tables nor frame pointers");
    built.note("names of java (PID 1500) are missing: start it with -XX:+DumpPerfMapAtExit or an agent");
    built.profile()
}

/// A profile whose tree has `nodes` nodes, with as many distinct functions if `distinct`, else a tenth of that.
pub fn large(nodes: usize, distinct: bool) -> Profile {
    let mut built = Builder::new("all processes", Kind::Wall);
    let functions = if distinct { nodes } else { nodes / 10 };
    let names: Vec<Frame> = (0..functions).map(|at| long_frame(&mut built, at)).collect();
    let mut made = 0;
    let mut next = 0;
    let mut path: Vec<Frame> = Vec::new();
    while made < nodes {
        // A walk through a tree: some levels up, some new ones down.
        let depth = built.below(path.len() as u64 + 1) as usize;
        path.truncate(depth.max(path.len().saturating_sub(12)));
        for _ in 0..(1 + built.below(6)).min((nodes - made) as u64) {
            if path.len() >= 48 {
                break;
            }
            let at = if distinct { next } else { built.below(functions as u64) as usize };
            next += 1;
            path.push(names[at % functions].clone());
            made += 1;
        }
        let thread = built.below(40) as u32;
        let (service, name) = (format!("service-{}", thread % 9), format!("worker-{thread}"));
        let state = if built.below(3) == 0 { State::OffCpu } else { State::OnCpu };
        let samples = 1 + built.below(9);
        built.frames(path.clone(), (&service, &name, 100 + thread % 9, 1000 + thread), state, samples);
    }
    built.profile()
}

fn long_frame(built: &mut Builder, at: usize) -> Frame {
    const WORDS: [&str; 16] = [
        "alloc", "buffer", "cursor", "dispatch", "encode", "fetch", "guard", "handle", "insert", "join", "lookup",
        "merge", "parse", "queue", "resolve", "scan",
    ];
    let mut word = || WORDS[built.below(16) as usize];
    let function = format!("{}::{}::{}<{}>::{}_{at:x}", word(), word(), word(), word(), word());
    let module = format!("lib{}.so.{}", word(), at % 7);
    let file = format!("src/{}/{}.rs", word(), word());
    let origin = match at % 10 {
        0 | 1 => Origin::Kernel,
        2 => Origin::Interpreted,
        3 => Origin::Jit,
        _ => Origin::User,
    };
    let line = (at % 1999) as u32 + 1;
    Frame { function: function.into(), module: module.into(), file: file.into(), line, inlined: at % 10 == 9, origin }
}

/// Names that try to be something else: markup, separators, ends of scripts, what turns text around.
pub const HOSTILE: [&str; 14] = [
    "a;b;c",
    "\"quoted\" 'name' `tick`",
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<!-- <img src=x onerror=document.title='owned'> -->",
    "]]>&amp;&#0;{{data}}",
    "line\nbreak\r\ttab 12",
    "nul\0bell\u{7}escape\u{1b}[2J",
    "right-to-left \u{202e}gnp.exe",
    "שלום עולם",
    "日本語::関数<型>",
    "🦀🔥 e\u{301}\u{301}\u{301}",
    "${document.title='owned'}",
    " # looks like a comment 5",
];

/// A profile in which everything that has a name has a hostile one, and one of 10 KB.
pub fn hostile() -> Profile {
    let mut built = Builder::new("<b>\"target\"</b>; \u{202e}", Kind::Wall);
    let long = "x<y,z>::".repeat(1280);
    for (at, name) in HOSTILE.iter().copied().chain([long.as_str(), "", "constructor", "__proto__"]).enumerate() {
        let named = |origin| Frame {
            module: name.into(),
            file: name.into(),
            line: at as u32,
            inlined: at % 5 == 4,
            origin,
            ..frame(name)
        };
        let whose = (name, name, at as u32, at as u32);
        built.frames(vec![frame("main"), named(Origin::User), named(Origin::Kernel)], whose, State::OnCpu, 3);
        built.frames(vec![frame("main"), named(Origin::Jit)], whose, State::OffCpu, 2);
    }
    built.note("</title><script>document.title='owned'</script> -- note");
    built.profile()
}
