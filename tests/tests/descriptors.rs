//! A conversation belongs to its socket, by whatever descriptor and in whatever process it goes on.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use steth::postgres::statement;
use steth_tests::{
    agent::{Agent, Options},
    need_postgres,
    pgwire::Session,
    postgres::Postgres,
};

const COUNT: &str = "steth_postgres_query_duration_seconds_count";
const STATEMENTS: &str = "steth_postgres_statements_total";

/// Two connections, each with another statement under one name.
const NAME: &str = "s";
const ONE: &str = "select $1::int as one";
const OTHER: &str = "select $1::int as other";

fn open(postgres: &Postgres, database: &str, text: &str) -> Session {
    let mut session = Session::open(postgres, database).unwrap();
    session.prepare(NAME, text).unwrap();
    session
}

fn execute(session: &mut Session) {
    assert_eq!(session.execute(NAME, &["1"]).unwrap(), None);
}

fn session_of(descriptor: RawFd) -> Session {
    // SAFETY: the descriptor was made by the caller and belongs to nobody else.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Session::over(TcpStream::from(owned))
}

/// A second descriptor of the session's socket.
fn duplicate(session: &Session) -> Session {
    Session::over(session.stream().try_clone().unwrap())
}

/// Lets the number of one session's descriptor stand for the other's socket from now on.
fn replace(number: &Session, by: &Session) {
    // SAFETY: both descriptors are open; the number stays one.
    let result = unsafe { libc::dup2(by.stream().as_raw_fd(), number.stream().as_raw_fd()) };
    assert!(result >= 0);
}

/// Runs something in a forked process and waits for its end.
fn in_child(act: impl FnOnce()) {
    // SAFETY: the child only uses descriptors, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_ok();
        // SAFETY: ends the child without running what belongs to its parent.
        unsafe { libc::_exit(i32::from(!done)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0));
}

/// Room for the control message of one descriptor, aligned as it must be.
type Control = [u64; 4];

fn message(control: &mut Control, byte: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: zero is a valid value of every field.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = byte;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>();
    message
}

/// Passes a descriptor over a unix socket (unix(7), `SCM_RIGHTS`).
fn pass(over: &UnixStream, descriptor: RawFd) {
    let (mut control, mut byte) = ([0; 4], 0_u8);
    let mut buffer = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut message = message(&mut control, &mut buffer);
    // SAFETY: there is room for one header with one descriptor.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
    // SAFETY: the message and its control buffer were just set up.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: the header is the beginning of the control buffer.
    let header = unsafe { &mut *header };
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: pure arithmetic.
    header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as usize;
    // SAFETY: the data begins within the control buffer.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: there is room for one descriptor.
    unsafe { data.cast::<RawFd>().write_unaligned(descriptor) };
    // SAFETY: all pointers of the message are valid.
    let sent = unsafe { libc::sendmsg(over.as_raw_fd(), &raw const message, 0) };
    assert_eq!(sent, 1);
}

/// Takes a descriptor that was passed.
fn take(from: &UnixStream) -> RawFd {
    let (mut control, mut byte) = ([0; 4], 0_u8);
    let mut buffer = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut message = message(&mut control, &mut buffer);
    // SAFETY: all pointers of the message are valid.
    let got = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut message, 0) };
    assert_eq!(got, 1);
    // SAFETY: the kernel filled the control buffer.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    assert!(!header.is_null());
    // SAFETY: the header is within the control buffer.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the kernel put one descriptor there.
    unsafe { data.cast::<RawFd>().read_unaligned() }
}

/// Uses both connections by every kind of descriptor; returns how often each was.
fn juggle(mut one: Session, mut other: Session) -> [f64; 2] {
    execute(&mut one);
    execute(&mut other);
    let mut second = duplicate(&one);
    execute(&mut second);
    // The number of the first is from now on one of the other connection.
    replace(&one, &other);
    execute(&mut one);
    drop(other);
    execute(&mut one);
    execute(&mut second);
    in_child(|| execute(&mut second));
    let (here, there) = UnixStream::pair().unwrap();
    pass(&here, second.stream().as_raw_fd());
    in_child(|| execute(&mut session_of(take(&there))));
    pass(&here, one.stream().as_raw_fd());
    drop(one);
    execute(&mut session_of(take(&there)));
    execute(&mut second);
    [6.0, 4.0]
}

fn by_query(agent: &Agent, role: &str, database: &str) -> BTreeMap<String, f64> {
    let metrics = agent.settled().unwrap();
    let labels = [("role", role), ("database", database)];
    let counted = metrics.sums_by(STATEMENTS, &labels, "query");
    assert_eq!(metrics.sums_by(COUNT, &labels, "query"), counted);
    counted.into_iter().collect()
}

#[test]
fn a_conversation_is_followed_by_its_socket_whatever_the_descriptor_and_the_process() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let databases = [(); 2].map(|()| postgres.create_database().unwrap());
    let counts = juggle(open(&postgres, &databases[0], ONE), open(&postgres, &databases[1], OTHER));
    for role in ["server", "client"] {
        for ((database, text), count) in databases.iter().zip([ONE, OTHER]).zip(counts) {
            let fingerprint = statement(text.as_bytes(), false).fingerprint.to_string();
            assert_eq!(by_query(&agent, role, database), BTreeMap::from([(fingerprint, count)]), "{role} {text}");
        }
    }
}

/// What was prepared before is told by the server's process of that very connection; what is prepared later is known.
#[test]
fn of_connections_older_than_the_agent_none_gets_the_others_statement() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let (one, other) = (open(&postgres, &database, ONE), open(&postgres, &database, OTHER));
    let mut late = open(&postgres, &database, ONE);
    let agent = Agent::start(&Options::default()).unwrap();
    late.query("deallocate all").unwrap();
    late.prepare(NAME, "select $1::int as late").unwrap();
    for _ in 0..100 {
        execute(&mut late);
    }
    let counts = juggle(one, other);
    let metrics = agent.settled().unwrap();
    let cluster = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let labels = [("role", "server"), ("service", cluster.as_str()), ("database", "unknown")];
    let counted: BTreeMap<_, _> = metrics.sums_by(STATEMENTS, &labels, "query").into_iter().collect();
    let known = |text: &str| statement(text.as_bytes(), false).fingerprint.to_string();
    let truth = [
        (known("deallocate all"), 1.0),
        (known("select $1::int as late"), 100.0),
        (known(ONE), counts[0]),
        (known(OTHER), counts[1]),
    ];
    assert_eq!(counted, truth.into());
}
