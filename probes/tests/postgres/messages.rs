//! Builds messages of the protocol: PostgreSQL manual, "Message Formats".

/// A message with a type byte.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// One write of several messages.
pub fn all<const N: usize>(messages: [Vec<u8>; N]) -> Vec<u8> {
    messages.concat()
}

/// Start-up packet: protocol version and parameters.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (key, value) in parameters {
        body.extend([key.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    code(&body)
}

/// A packet without a type byte.
pub fn code(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub fn ssl_request() -> Vec<u8> {
    code(&80_877_103_u32.to_be_bytes())
}

pub fn gss_request() -> Vec<u8> {
    code(&80_877_104_u32.to_be_bytes())
}

pub fn cancel_request() -> Vec<u8> {
    code(&[80_877_102_u32.to_be_bytes(), [0, 0, 1, 2], [9; 4]].concat())
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

pub fn bind(portal: &str, name: &str) -> Vec<u8> {
    let values = b"\0\0\0\x01\0\0\0\x05hello\0\0";
    message(b'B', &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0", values].concat())
}

pub fn describe(portal: &str) -> Vec<u8> {
    message(b'D', &[b"P", portal.as_bytes(), b"\0"].concat())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

/// Bind to the unnamed portal and Execute.
pub fn run(name: &str) -> Vec<u8> {
    all([bind("", name), execute("", 0)])
}

pub fn close_statement(name: &str) -> Vec<u8> {
    message(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub fn parsed() -> Vec<u8> {
    message(b'1', b"")
}

pub fn bound() -> Vec<u8> {
    message(b'2', b"")
}

pub fn closed() -> Vec<u8> {
    message(b'3', b"")
}

pub fn no_data() -> Vec<u8> {
    message(b'n', b"")
}

pub fn columns() -> Vec<u8> {
    message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0")
}

pub fn row(value: &str) -> Vec<u8> {
    message(b'D', &[b"\0\x01", &(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat())
}

pub fn complete(tag: &str) -> Vec<u8> {
    message(b'C', &[tag.as_bytes(), b"\0"].concat())
}

pub fn suspended() -> Vec<u8> {
    message(b's', b"")
}

pub fn error(sqlstate: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{sqlstate}\0Mno C42P01 here\0\0").as_bytes())
}

pub fn notice() -> Vec<u8> {
    message(b'N', b"SNOTICE\0C00000\0Mhear\0\0")
}

pub fn notification() -> Vec<u8> {
    message(b'A', b"\0\0\0\x07channel\0payload\0")
}

pub fn parameter() -> Vec<u8> {
    message(b'S', b"TimeZone\0UTC\0")
}

pub fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

/// A reply to a request that a server accepted.
pub fn welcome() -> Vec<u8> {
    all([message(b'R', &[0; 4]), parameter(), message(b'K', &[0; 8]), ready(b'I')])
}
