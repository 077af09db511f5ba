//! What goes wrong on the other side of the agent: who asks too much, too slowly or in nonsense, and processes that the kernel
//! says nothing about. The application that is observed notices nothing.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use steth_tests::{
    agent::{Agent, Options},
    http, need_postgres, need_program,
    observed::Observed,
    process::Process,
    programs::{Program, STUCK, said_number},
    skipped,
    tokens::Tokens,
    wait,
};

const SOON: Duration = Duration::from_secs(60);

/// Faults of one test are not those of another.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that is stuck, with the file system that it waits for.
fn stuck(program: &Program, way: &[&str]) -> (Process, u64) {
    let file = program.folder().join("file");
    fs::write(&file, "").unwrap();
    let process = program.start(&[&[file.to_str().unwrap()], way].concat()).unwrap();
    let pid = process.wait_for_line("stuck=", SOON, |line| said_number(line, "stuck").ok()).unwrap();
    (process, pid)
}

/// A process like that is there before the agent, or comes after it; the agent says so and goes on.
fn goes_on_beside_a_stuck_process(way: &[&str], and_new_ones: bool) {
    need_postgres!();
    need_program!("gcc");
    if !std::path::Path::new("/dev/fuse").exists() {
        skipped!("needs /dev/fuse");
    }
    let _alone = alone();
    let observed = Observed::start().unwrap();
    let program = Program::build("stck", STUCK).unwrap();
    let (mut first, pid) = stuck(&program, way);
    let agent = Agent::start(&Options::default()).unwrap();
    let is_told = |pid: u64| agent.log().contains(&format!("process {pid} is left out until the kernel answers"));
    let mut all = vec![pid];
    let mut second = and_new_ones.then(|| stuck(&program, way));
    all.extend(second.as_ref().map(|(_, pid)| *pid));
    let longest = (0..10).map(|_| {
        let since = Instant::now();
        agent.settled().unwrap();
        since.elapsed()
    });
    println!("stuck: the longest of 10 answers took {:?}", longest.max().unwrap());
    // Such as that of the process itself, some threads of which go on.
    for what in ["", "&kind=off-cpu", &format!("&pid={pid}"), "&kind=wall", ""] {
        let since = Instant::now();
        let answer = http::get(&format!("http://{}/api/v1/flame?seconds=1{what}", agent.address())).unwrap();
        println!("stuck: a profile of one second took {:?}, {}", since.elapsed(), answer.status);
        assert_eq!(answer.status, 200, "{what}: {}", answer.body);
    }
    let all_told = || Ok(all.iter().all(|pid| is_told(*pid)).then_some(()));
    wait::poll("a word about each", SOON, all_told)
        .unwrap_or_else(|error| panic!("{error:#} {all:?}\n{}", agent.log()));
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
    for process in [Some(&mut first), second.as_mut().map(|(process, _)| process)].into_iter().flatten() {
        process.say("").unwrap();
        assert!(process.wait(SOON).unwrap().success(), "{}", process.log());
    }
}

#[test]
fn a_process_whose_memory_map_is_locked_holds_up_nothing() {
    goes_on_beside_a_stuck_process(&["lock"], false);
}

#[test]
fn a_program_on_a_file_system_that_hangs_holds_up_nothing() {
    goes_on_beside_a_stuck_process(&["run", "/bin/sleep", "600"], true);
}

#[test]
fn of_thousands_of_scrapes_each_is_answered() {
    need_postgres!();
    let _alone = alone();
    const SECONDS: u32 = 15;
    const SCRAPES: u32 = 20_000 / 60 * SECONDS;
    const CLIENTS: u32 = 4;
    let agent = Agent::start(&Options::default()).unwrap();
    let observed = Observed::start().unwrap();
    let since = Instant::now();
    let client = |client: u32| {
        let mut bytes = 0;
        for scrape in (client..SCRAPES).step_by(CLIENTS as usize) {
            let due = since + Duration::from_secs(SECONDS.into()) * scrape / SCRAPES;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let answer = http::get(&agent.url).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            bytes += answer.body.len() as u64;
        }
        bytes
    };
    let bytes: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    println!("scrapes: {SCRAPES} in {:?}, {} bytes each", since.elapsed(), bytes / u64::from(SCRAPES));
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

#[test]
fn clients_that_trickle_are_hung_up_on_and_a_scrape_comes_through() {
    need_postgres!();
    let _alone = alone();
    // More than are served at a time, all of them a byte a second.
    const CLIENTS: usize = 200;
    let sections = "[http]\ntimeout = \"3s\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let observed = Observed::start().unwrap();
    let over = AtomicBool::new(false);
    let trickle = || {
        let mut hung_up = 0_usize;
        let began = Instant::now();
        while !over.load(Ordering::Relaxed) || hung_up < CLIENTS && began.elapsed() < SOON {
            let mut all: Vec<TcpStream> =
                (0..CLIENTS).filter_map(|_| TcpStream::connect(agent.address()).ok()).collect();
            for byte in b"GET /metrics HTTP/1.1\r\n".iter().take(5) {
                let before = all.len();
                all.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
                hung_up += before - all.len();
                std::thread::sleep(Duration::from_secs(1));
            }
            for mut stream in all {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(10)));
                hung_up += usize::from(stream.read(&mut [0; 512]).is_ok());
            }
        }
        hung_up
    };
    std::thread::scope(|scope| {
        let trickling = scope.spawn(trickle);
        std::thread::sleep(Duration::from_millis(500));
        let mut longest = Duration::ZERO;
        let statuses = [(); 5].map(|()| {
            let since = Instant::now();
            let status = http::get(&agent.url).map(|answer| answer.status);
            longest = longest.max(since.elapsed());
            status
        });
        over.store(true, Ordering::Relaxed);
        let hung_up = trickling.join().unwrap();
        assert!(statuses.iter().all(|status| matches!(status, Ok(200))), "{statuses:?}");
        println!("slow clients: {hung_up} hung up on; the longest of 5 scrapes took {longest:?}");
        assert!(hung_up >= CLIENTS);
    });
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

/// Numbers that follow each other as if by chance, the same from one seed (Marsaglia, Xorshift RNGs, 2003).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }
}

/// Requests that are right; what is sent is what becomes of them.
const REQUESTS: &[&str] = &[
    "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;q=0.9,*/*;q=0.1\r\n\r\n",
    "GET /api/v1/explain?service=x&from=-5m&to=now HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /api/v1/postgres/queries?limit=5&sort=time HTTP/1.1\r\nHost: localhost\r\nCookie: a=b; c=\"d\"\r\n\r\n",
    "GET /api/v1/flame?format=svg&seconds=0.1 HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n\
     {\"text\":\"deployed\"}",
    "POST /api/v1/settings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
     25\r\n{\"key\":\"probes.wall\",\"value\":\"false\"}\r\n0\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \u{e9}\r\nRange: bytes=0-,5-1\r\n\r\n",
    "GET /-/healthy HTTP/1.0\r\n\r\nGET /-/ready HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nUpgrade: h2c\r\n\r\n",
];

/// What stands in for a piece of a request.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b" ",
    b":",
    b"%",
    b"%00",
    b"%ff%fe",
    b"../",
    b"//",
    b"?",
    b"&",
    b"=",
    b"-1",
    b"1e309",
    b"18446744073709551616",
    b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\xff\xfe\xc0\x80",
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"ffffffffffffffff\r\n",
    b"[::1]:99999",
    b"\x16\x03\x01\x02\0\x01",
];

/// A request of somebody who may ask for anything.
fn with_token(request: &str, token: &str) -> Vec<u8> {
    request.replacen("\r\n", &format!("\r\nAuthorization: Bearer {token}\r\n"), 1).into_bytes()
}

/// A request, mostly with some of its bytes changed, cut, doubled, or replaced by what means something.
fn mutated(token: &str, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = with_token(REQUESTS[chance.below(REQUESTS.len())], token);
    if chance.below(8) == 0 {
        return bytes;
    }
    for _ in 0..=chance.below(6) {
        let at = chance.below(bytes.len());
        let until = (at + chance.below(40)).min(bytes.len());
        match chance.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..until)),
            2 => bytes.extend_from_within(at..until),
            3 => drop(bytes.splice(at..at, PIECES[chance.below(PIECES.len())].iter().copied())),
            4 => drop(bytes.splice(at..until, PIECES[chance.below(PIECES.len())].iter().copied())),
            _ => {
                let byte = chance.next() as u8;
                bytes.get_mut(at).into_iter().for_each(|it| *it = byte);
            }
        }
    }
    if chance.below(200) == 0 {
        bytes.splice(0..0, std::iter::repeat_n(b'A', 70_000));
    }
    bytes
}

/// Sends one request, perhaps in two pieces; the answer is none, or one of HTTP that is not the fault of the server.
fn sent(agent: &Agent, bytes: &[u8], chance: &mut Chance) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(agent.address())?;
    let (first, second) = bytes.split_at(chance.below(bytes.len()));
    let mut answer = vec![0; 4_096];
    // It may hang up at any byte.
    let is_sent = stream.write_all(first).and_then(|()| stream.write_all(second)).is_ok();
    // Who says at once that nothing follows is taken for one that has gone, and is not answered.
    stream.set_read_timeout(Some(wait::patient(Duration::from_millis(50))))?;
    let waits = |read: &std::io::Result<usize>| matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock);
    let mut read = stream.read(&mut answer);
    if is_sent && waits(&read) {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(SOON))?;
        read = stream.read(&mut answer);
    }
    let length = match read {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(error),
        // It hung up before it had read everything.
        read => read.unwrap_or(0),
    };
    answer.truncate(length);
    Ok(answer)
}

#[test]
fn fuzz_requests_of_all_kinds_are_answered_or_refused_and_the_next_one_is_served() {
    need_postgres!();
    let _alone = alone();
    let seconds = std::env::var("STETH_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let tokens = Tokens::make().unwrap();
    let (admin, file) = (tokens.token("admin").unwrap(), tokens.file());
    let sections = format!("[http]\ntimeout = \"2s\"\nrate = 1000000\ntokens = {file:?}\n");
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let observed = Observed::start().unwrap();
    let seed = std::env::var("STETH_FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1);
    println!("fuzz: STETH_FUZZ_SEED={seed}");
    let (mut chance, mut count, since) = (Chance(seed), 0_u64, Instant::now());
    let mut by_status = std::collections::BTreeMap::<String, u64>::new();
    // As they are, once each; and who nobody knows.
    let mut whole: Vec<Vec<u8>> = REQUESTS.iter().map(|request| with_token(request, &admin)).collect();
    whole.push(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".to_vec());
    whole.push(with_token("GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", &admin));
    while since.elapsed() < Duration::from_secs(seconds) {
        let request = whole.pop().unwrap_or_else(|| mutated(&admin, &mut chance));
        let shown = || String::from_utf8_lossy(&request[..request.len().min(500)]).into_owned();
        let answer = sent(&agent, &request, &mut chance).unwrap_or_else(|error| panic!("{error} for {:?}", shown()));
        let status =
            answer.get(..12).map_or_else(|| "none".to_owned(), |head| String::from_utf8_lossy(head).into_owned());
        assert!(!status.starts_with("HTTP/1.1 500"), "{:?}: {}", shown(), String::from_utf8_lossy(&answer));
        assert!(status == "none" || status.starts_with("HTTP/1."), "{:?}: {status}", shown());
        *by_status.entry(status).or_default() += 1;
        count += 1;
        if count.is_multiple_of(200) {
            let alive = agent.url.replace("/metrics", "/-/healthy");
            assert_eq!(http::get(&alive).unwrap().status, 200, "after {:?}", shown());
        }
    }
    println!("fuzz: {count} requests: {by_status:?}");
    // What nobody answers tries nothing but the parser.
    for status in ["HTTP/1.1 200", "HTTP/1.1 201", "HTTP/1.1 400", "HTTP/1.1 401", "HTTP/1.1 404"] {
        assert!(by_status.contains_key(status), "no {status}");
    }
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}
