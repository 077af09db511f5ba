//! tokio-postgres: its own implementation of the protocol; prepares each statement under a name, sends what is asked at
//! once without waiting for answers, fetches by portal, COPY. Its TLS is rustls, which nobody can listen to from outside.

use std::{collections::BTreeMap, io::BufRead, sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future::join_all, pin_mut};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::json;
use tokio_postgres::{Client, Config, Error, NoTls, Statement, config::SslMode, types::Type};
use tokio_postgres_rustls::MakeRustlsConnect;

#[derive(Default)]
struct Report {
    errors: BTreeMap<String, u64>,
    timed_ns: Vec<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, database, attach, sslmode] = &arguments[..] else { anyhow::bail!("not five arguments") };
    let mut report = Report::default();
    wait("before", attach)?;
    // It takes a path for the folder of a unix socket.
    let mut config = Config::new();
    config.host(host).port(port.parse()?).user("postgres").dbname(database);
    let (client, connection) = if sslmode == "require" {
        config.ssl_mode(SslMode::Require);
        let (client, connection) = config.connect(MakeRustlsConnect::new(unchecked()?)).await?;
        (client, tokio::spawn(connection))
    } else {
        let (client, connection) = config.connect(NoTls).await?;
        (client, tokio::spawn(connection))
    };
    run(client, attach, &mut report).await?;
    connection.await??;
    println!("{}", json!({"errors": report.errors, "timed_ns": report.timed_ns}));
    Ok(())
}

/// The server's certificate is the test's own.
fn unchecked() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

async fn run(mut client: Client, attach: &str, report: &mut Report) -> Result<()> {
    let named = client.prepare("select name from items where id = $1").await?;
    client.query_one(&named, &[&1]).await?;
    wait("midstream", attach)?;

    for _ in 0..3 {
        client.simple_query("select simple_one()").await?;
    }
    for number in 0..5 {
        client.query("select extended_sum($1)", &[&number]).await?;
    }
    for id in 1..=10 {
        client.query_one(&named, &[&id]).await?;
    }
    // Unnamed: Parse, Bind, Describe, Execute, Sync in one write.
    for number in 0..5 {
        client.query_typed("select unnamed_number($1)", &[(&number, Type::INT4)]).await?;
    }
    let insert = "insert into items (id, name) values ($1, 'a'), ($2, 'b'), ($3, 'c')";
    client.execute(insert, &[&101, &102, &103]).await?;
    client.execute("update items set name = 'd' where id > $1", &[&100]).await?;
    client.execute("delete from items where id > $1", &[&102]).await?;
    let x = "x".repeat(65_536);
    client.query(&format!("select long_length('{x}')"), &[]).await?;
    client.query("select long_parameter($1)", &[&x]).await?;
    let large = client.query("select large_row() from generate_series(1, 1000)", &[]).await?;
    ensure!(large.len() == 1000);
    client.batch_execute("select multi_one(); select multi_two()").await?;

    let transaction = client.transaction().await?;
    transaction.execute("insert into items (id, name) values ($1, 'kept')", &[&201]).await?;
    transaction.commit().await?;
    let transaction = client.transaction().await?;
    transaction.execute("insert into items (id, name) values ($1, 'dropped')", &[&202]).await?;
    transaction.rollback().await?;

    // A named portal that is executed until it is empty.
    let transaction = client.transaction().await?;
    let portal = transaction.bind("select id from items order by id limit 50", &[]).await?;
    let mut rows = 0;
    loop {
        let batch = transaction.query_portal(&portal, 20).await?.len();
        rows += batch;
        if batch < 20 {
            break;
        }
    }
    ensure!(rows == 50);
    transaction.commit().await?;

    let into = client.copy_in("copy items (id, name) from stdin").await?;
    pin_mut!(into);
    into.send(Bytes::from_static(b"301\tin\n")).await?;
    into.send(Bytes::from_static(b"302\tin\n303\tin\n")).await?;
    ensure!(into.finish().await? == 3);
    let out = client.copy_out("copy items to stdout").await?;
    pin_mut!(out);
    while let Some(chunk) = out.next().await {
        chunk?;
    }

    // All of them under way at once, each with a Sync of its own; the division by zero ends only itself.
    let piped = client.prepare("select piped_number($1)").await?;
    let divided = client.prepare("select piped_division($1)").await?;
    let (first, refused, last) = tokio::join!(
        join_all((0..60).map(|number| number_of(&client, &piped, number))),
        number_of(&client, &divided, 0),
        join_all((60..120).map(|number| number_of(&client, &piped, number))),
    );
    ensure!(first.into_iter().chain(last).collect::<Result<Vec<_>, _>>()?.len() == 120);
    report.fails(refused)?;

    report.fails(client.query("select divided($1)", &[&0]).await)?;
    report.fails(client.execute("insert into items (id, name) values ($1, 'again')", &[&1]).await)?;
    report.fails(client.query("selec 1", &[]).await)?;

    for number in 0..7 {
        let statement = client.prepare(&format!("select timed_{number}()")).await?;
        let begun = Instant::now();
        client.query(&statement, &[]).await?;
        report.timed_ns.push(begun.elapsed().as_nanos().try_into()?);
    }
    Ok(())
}

async fn number_of(client: &Client, statement: &Statement, number: i32) -> Result<i32, Error> {
    client.query_one(statement, &[&number]).await?.try_get(0)
}

impl Report {
    /// Notes the SQLSTATE of what the server refused.
    fn fails<T>(&mut self, refused: Result<T, Error>) -> Result<()> {
        let error = refused.err().context("it was not refused")?;
        let sqlstate = error.code().with_context(|| format!("not the server's: {error}"))?.code().to_owned();
        *self.errors.entry(sqlstate).or_default() += 1;
        Ok(())
    }
}

/// Waits for the word to go on, if this is where the agent is attached.
fn wait(here: &str, attach: &str) -> Result<()> {
    if here == attach {
        println!("ready");
        std::io::stdin().lock().read_line(&mut String::new())?;
    }
    Ok(())
}
