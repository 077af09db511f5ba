//! E-mail, through a server that takes it for others (RFC 6409): one message a notice, as plain text. Knows no pool: notices are
//! rare, and a connection that lies open for hours is closed by the other side.

use std::{fmt::Write as _, fs, io, path::Path, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::Mailbox,
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};

use super::{Failed, Sender, annotations, began, moment};
use crate::{
    alert::notice::Notice,
    config::alerts::{Email, Encryption},
    model::alert::{Alert, AlertState},
};

/// For each step of the conversation.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends a notice.
pub async fn send(email: &Email, sender: &Sender, notice: &Notice) -> Result<(), Failed> {
    let message = message(email, sender, notice)?;
    let transport = transport(email)?;
    match transport.send(message).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failed {
            // A server that refuses for good says so with 5xx; all else may pass, and proof of who one is may be set right.
            is_worth_another_try: !error.is_permanent() || error.status().map(u16::from).is_some_and(is_of_proof),
            what: format!("{}:{}: {}", email.host, email.port, chain(&error)),
            retry_after: None,
        }),
    }
}

/// Whether a server wants a better proof of who sends (RFC 4954, section 6).
fn is_of_proof(code: u16) -> bool {
    matches!(code, 530 | 534 | 535 | 538)
}

fn transport(email: &Email) -> Result<AsyncSmtpTransport<Tokio1Executor>, Failed> {
    let tls = || -> Result<TlsParameters, Failed> {
        let mut builder = TlsParameters::builder(email.host.clone());
        if let Some(path) = &email.ca_file {
            let pem = fs::read(path).map_err(|error| later(path, &error))?;
            let authority =
                Certificate::from_pem(&pem).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
            builder = builder.certificate_store(CertificateStore::None).add_root_certificate(authority);
        }
        builder.build_rustls().map_err(|error| wrong(format!("cannot set up TLS for {}: {error}", email.host)))
    };
    let tls = match email.encryption {
        Encryption::StartTls => Tls::Required(tls()?),
        Encryption::Tls => Tls::Wrapper(tls()?),
        Encryption::None => Tls::None,
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(email.host.clone());
    builder = builder.port(email.port).tls(tls).timeout(Some(TIMEOUT));
    if let Some((user, path)) = email.username.as_ref().zip(email.password_file.as_ref()) {
        let text = fs::read_to_string(path).map_err(|error| later(path, &error))?;
        let password = text.lines().next().unwrap_or_default().trim().to_owned();
        builder = builder.credentials(Credentials::new(user.clone(), password));
    }
    Ok(builder.build())
}

/// The message of a notice.
pub fn message(email: &Email, sender: &Sender, notice: &Notice) -> Result<Message, Failed> {
    let mailbox =
        |text: &str| text.parse::<Mailbox>().map_err(|error| wrong(format!("{text:?} is no address: {error}")));
    let mut builder = Message::builder().from(mailbox(&email.from)?);
    for receiver in &email.to {
        builder = builder.to(mailbox(receiver)?);
    }
    let (firing, over) = notice.counts();
    let state = if firing == 0 { "RESOLVED" } else { "FIRING" };
    let subject = format!("[{state}:{}] {} on {}", firing.max(over), notice.group, sender.host);
    builder.subject(subject).body(text(sender, notice)).map_err(|error| wrong(format!("no message: {error}")))
}

fn text(sender: &Sender, notice: &Notice) -> String {
    let mut out = String::new();
    for alert in &notice.alerts {
        one(&mut out, alert);
    }
    if notice.left_out > 0 {
        let _ = writeln!(out, "and {} more", notice.left_out);
    }
    let _ = writeln!(out, "{}", sender.url);
    out
}

fn one(out: &mut String, alert: &Alert) {
    let state = if alert.state == AlertState::Resolved { "resolved" } else { alert.severity.name() };
    let _ = writeln!(out, "{state}: {}", alert.summary);
    let until = alert.resolved_unix_ms.map(|until| format!(" until {}", moment(until))).unwrap_or_default();
    let _ = writeln!(out, "  since {}{until}", moment(began(alert)));
    for (name, value) in annotations(alert).iter().filter(|(name, _)| *name != "summary") {
        let _ = writeln!(out, "  {name}: {value}");
    }
    out.push('\n');
}

fn later(path: &Path, error: &io::Error) -> Failed {
    Failed { what: format!("cannot read {}: {error}", path.display()), is_worth_another_try: true, retry_after: None }
}

fn wrong(what: String) -> Failed {
    Failed { what, is_worth_another_try: false, retry_after: None }
}

/// The reasons beneath an error, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let word = error.to_string();
        if !words.contains(&word) {
            words = format!("{words}: {word}");
        }
        source = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    fn email(port: u16) -> Email {
        let (host, encryption) = ("127.0.0.1".into(), Encryption::None);
        let (from, to) = ("steth@example.org".into(), vec!["Ops <ops@example.org>".into()]);
        Email { host, port, encryption, ca_file: None, username: None, password_file: None, from, to }
    }

    fn notice() -> Notice {
        Notice {
            group: "memory_high".into(),
            alerts: Vec::new(),
            left_out: 3,
            over: 0,
            told: Vec::new(),
            at_unix_ms: 0,
        }
    }

    fn sender() -> Sender {
        Sender { host: "h".into(), url: "http://127.0.0.1:9464/api/v1/alerts".into() }
    }

    /// Speaks the least of SMTP (RFC 5321); refuses receivers with this answer, if any. Returns what it was told.
    async fn serve(listener: TcpListener, refusal: Option<&str>) -> String {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut told = String::new();
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut is_data = false;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap() == 0 {
                return told;
            }
            told.push_str(&line);
            let answer = match line.trim_end() {
                "." if is_data => {
                    is_data = false;
                    "250 taken"
                }
                _ if is_data => continue,
                "DATA" => {
                    is_data = true;
                    "354 go on"
                }
                "QUIT" => "221 bye",
                line if line.starts_with("RCPT") => refusal.unwrap_or("250 ok"),
                _ => "250 ok",
            };
            stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
        }
    }

    async fn sent(refusal: Option<&'static str>) -> (Result<(), Failed>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = tokio::spawn(serve(listener, refusal));
        let result = send(&email(port), &sender(), &notice()).await;
        (result, told.await.unwrap())
    }

    #[tokio::test]
    async fn a_message_arrives_with_who_what_and_where() {
        let (result, told) = sent(None).await;
        assert_eq!(result, Ok(()));
        for part in [
            "MAIL FROM:<steth@example.org>",
            "RCPT TO:<ops@example.org>",
            "memory_high on h",
            "and 3 more",
            "/api/v1/alerts",
        ] {
            assert!(told.contains(part), "{part}\n{told}");
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_for_now_is_asked_again_and_one_that_refuses_for_good_is_not() {
        let refusals = [("450 busy", true), ("550 nobody of that name", false), ("530 authentication required", true)];
        for (refusal, again) in refusals {
            let failed = sent(Some(refusal)).await.0.unwrap_err();
            assert_eq!(failed.is_worth_another_try, again, "{failed:?}");
        }
        let mut unreachable = email(9);
        let failed = send(&unreachable, &sender(), &notice()).await.unwrap_err();
        assert!(failed.is_worth_another_try && failed.what.starts_with("127.0.0.1:9: "), "{failed:?}");
        unreachable.to = vec!["nobody".into()];
        assert!(!send(&unreachable, &sender(), &notice()).await.unwrap_err().is_worth_another_try);
    }
}
