//! How a conversation is found to be Postgres, and what its opening may be.

use steth_probes::{
    cell::{Loss, Role},
    postgres::Phase,
};

use crate::{conversation::Conversation, messages::*};

fn phase(conversation: &Conversation) -> Option<u8> {
    conversation.wire.map(|wire| wire.phase)
}

/// A conversation whose start-up was seen, ready for a query.
pub fn connected() -> Conversation {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&startup(3 << 16, &[("user", "ann"), ("database", "shop")])).gets(&welcome());
    conversation
}

#[test]
fn the_end_that_reads_the_request_is_the_server() {
    for end in [Role::Server, Role::Client] {
        let mut conversation = Conversation::new(end);
        conversation.sends(&query("select 1"));
        assert_eq!(phase(&conversation), Some(Phase::Candidate as u8));
        assert_eq!(conversation.wire.unwrap().role, end as u8);
        conversation.gets(&all([columns(), row("1"), complete("SELECT 1"), ready(b'I')]));
        assert_eq!(phase(&conversation), Some(Phase::Confirmed as u8));
        assert_eq!(conversation.done(), [("select 1", 1)]);
    }
}

#[test]
fn a_request_alone_is_no_query() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&query("select 1"));
    assert!(conversation.findings().queries.is_empty() && !conversation.is_confirmed());
}

#[test]
fn a_request_without_a_valid_reply_is_forgotten_without_a_loss() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&query("select 1")).gets(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(conversation.wire.is_none() && conversation.findings().lost.is_empty());
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements(), ["select 1"]);
}

#[test]
fn a_confirmed_conversation_that_breaks_is_counted_and_found_anew() {
    let mut conversation = connected();
    conversation.sends(&query("select 1")).gets(b"\0\0\0\0\0\0\0\0");
    assert_eq!(conversation.findings().lost, [Loss::PostgresOutOfStep]);
    conversation.sends(&query("select 2")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements(), ["select 1"], "of the same shape, so under the text seen first");
}

#[test]
fn start_up_packets_of_both_versions_name_the_database() {
    for version in [3 << 16, 3 << 16 | 2] {
        for (parameters, database) in [
            (&[("user", "ann"), ("database", "shop")][..], "shop"),
            (&[("database", "shop"), ("user", "ann")], "shop"),
            (&[("user", "ann")], "ann"),
            (&[("application_name", "database"), ("user", "ann"), ("options", "-c a=b")], "ann"),
        ] {
            let mut conversation = Conversation::new(Role::Server);
            conversation.sends(&startup(version, parameters));
            // NegotiateProtocolVersion may come first.
            conversation.gets(&message(b'v', &[0; 8])).gets(&welcome());
            conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
            assert_eq!(conversation.findings().queries[0].database, database, "{parameters:?}");
        }
    }
}

#[test]
fn a_database_name_longer_than_postgres_keeps_is_cut_like_there() {
    let name = "d".repeat(100);
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&startup(3 << 16, &[("user", "ann"), ("database", &name)])).gets(&welcome());
    conversation.sends(&query("selec")).gets(&all([error("42601"), ready(b'I')]));
    assert_eq!(conversation.findings().errors, [("d".repeat(63), "42601".to_owned())]);
}

#[test]
fn an_empty_name_of_a_database_stands_for_the_users() {
    for parameters in [[("user", "ann"), ("database", "")], [("database", ""), ("user", "ann")]] {
        let mut conversation = Conversation::new(Role::Client);
        conversation.sends(&startup(3 << 16, &parameters)).gets(&welcome());
        conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
        assert_eq!(conversation.findings().queries[0].database, "ann", "{parameters:?}");
    }
}

#[test]
fn who_is_not_let_in_gives_no_number_to_a_database() {
    let mut conversation = Conversation::new(Role::Server);
    let asks = |name| startup(3 << 16, &[("user", "ann"), ("database", name)]);
    // Authentication comes before the look at the database.
    for reply in [error("28P01"), all([message(b'R', &[0; 4]), error("3D000")])] {
        conversation.sends(&asks("made up")).gets(&reply);
        assert_eq!((conversation.databases(), conversation.wire.unwrap().database), (0, 0));
        conversation.closes();
    }
    conversation.sends(&asks("shop")).gets(&welcome());
    assert_eq!(conversation.databases(), 2, "the database and the user");
    conversation.closes();
    conversation.sends(&asks("shop")).gets(&error("53300"));
    let errors = [("", "28P01"), ("", "3D000"), ("shop", "53300")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(conversation.findings().errors, errors, "a name that has a number is told");
}

#[test]
fn a_query_sent_with_the_start_up_has_its_own_ready_for_query() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.moves_at(true, &startup(3 << 16, &[("user", "ann")]), 100, 110);
    conversation.moves_at(true, &query("select 1"), 200, 210);
    conversation.moves_at(false, &welcome(), 300, 310);
    assert_eq!(conversation.statements(), [""; 0]);
    conversation.moves_at(false, &all([complete("SELECT 1"), ready(b'I')]), 400, 500);
    assert_eq!((conversation.statements(), conversation.findings().queries[0].duration_ns), (vec!["select 1"], 300));
}

#[test]
fn an_unknown_protocol_version_is_not_postgres() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&startup(2 << 16, &[("user", "ann")]));
    assert!(conversation.wire.is_none() && conversation.findings().lost.is_empty());
}

#[test]
fn refused_encryption_is_followed_by_a_start_up() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&gss_request()).gets(b"N").sends(&ssl_request()).gets(b"N");
    conversation.sends(&startup(3 << 16, &[("user", "ann")])).gets(&welcome());
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.findings().queries[0].database, "ann");
    assert!(conversation.findings().lost.is_empty());
}

#[test]
fn accepted_encryption_is_opaque() {
    for (request, answer) in [(ssl_request(), b"S"), (gss_request(), b"G")] {
        let mut conversation = Conversation::new(Role::Server);
        conversation.sends(&request).gets(answer);
        conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
        assert!(conversation.findings().opaque && conversation.findings().queries.is_empty());
    }
}

/// A ClientHello (RFC 8446, section 4.1.2) with these extensions, each a type and a body.
fn client_hello(session: u8, extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let mut all = Vec::new();
    for (kind, body) in extensions {
        all.extend([&kind.to_be_bytes()[..], &sized(body)].concat());
    }
    let session = [&[session][..], &vec![7; session as usize]].concat();
    let body = [&[3, 3][..], &[9; 32], &session, &sized(&[0x13, 1, 0x13, 2]), &[1, 0], &sized(&all)].concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&handshake)].concat()
}

/// The ALPN extension (RFC 7301) with these names.
fn protocols(names: &[&str]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = names.iter().flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
    (16, [&(list.len() as u16).to_be_bytes()[..], &list].concat())
}

#[test]
fn direct_tls_is_encrypted_postgres_if_it_names_that_and_else_nothing() {
    let others = vec![(0, vec![0; 20]), (10, vec![0; 8]), (51, vec![0; 1200])];
    for session in [0, 32] {
        for (names, postgres) in [
            (&["postgresql"][..], true),
            (&["h2", "http/1.1"], false),
            (&["postgres"], false),
            (&["postgresqlx"], false),
        ] {
            let hello = client_hello(session, &[others.clone(), vec![protocols(names)]].concat());
            let mut conversation = Conversation::new(Role::Server);
            conversation.sends(&hello).gets(&[22, 3, 3, 0, 2, 2, 0]);
            assert_eq!(conversation.findings().opaque, postgres, "{names:?}");
            for length in 1..hello.len() {
                let mut conversation = Conversation::new(Role::Server);
                conversation.sends(&hello[..length]);
                assert!(conversation.wire.is_none(), "{length} bytes");
            }
        }
        let mut conversation = Conversation::new(Role::Server);
        conversation.sends(&client_hello(session, &others));
        assert!(!conversation.findings().opaque);
        conversation.sends(&client_hello(session, &vec![(5, vec![]); 1000]));
        assert!(!conversation.findings().opaque, "as many extensions as one likes");
    }
}

#[test]
fn a_server_that_does_not_know_encryption_answers_with_an_error() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&ssl_request()).gets(&error("08P01"));
    assert_eq!(conversation.sqlstates(), ["08P01"]);
}

#[test]
fn a_cancel_request_is_no_query() {
    // Version 3.2 has keys of up to 256 bytes.
    let long = code(&[&80_877_102_u32.to_be_bytes()[..], &[0, 0, 1, 2], &[9; 256]].concat());
    for request in [cancel_request(), long] {
        for at in 0..request.len() {
            let mut conversation = Conversation::new(Role::Client);
            for piece in [&request[..at], &request[at..]].into_iter().filter(|piece| !piece.is_empty()) {
                conversation.sends(piece);
            }
            assert_eq!(phase(&conversation), Some(Phase::Cancel as u8));
            assert!(!conversation.wire.unwrap().is_active() && conversation.databases() == 0);
            assert!(conversation.findings().queries.is_empty() && conversation.findings().lost.is_empty());
        }
    }
}

#[test]
fn a_cancel_request_may_follow_a_refusal_of_encryption() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&ssl_request()).gets(b"N").sends(&cancel_request());
    assert_eq!(phase(&conversation), Some(Phase::Cancel as u8));
}

#[test]
fn a_longer_key_of_version_3_2_is_read_over() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&startup(3 << 16 | 2, &[("user", "ann"), ("_pq_.x", "1")]));
    let negotiation = message(b'v', b"\0\x03\0\0\0\0\0\x01_pq_.x\0");
    conversation.gets(&all([negotiation, message(b'R', &[0; 4]), message(b'K', &[9; 260]), ready(b'I')]));
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!((conversation.done(), conversation.findings().lost.len()), (vec![("select 1", 1)], 0));
}

#[test]
fn an_authentication_of_several_rounds_is_no_query() {
    let mut conversation = Conversation::new(Role::Server);
    conversation.sends(&startup(3 << 16, &[("user", "ann")]));
    for round in [10_u32, 11, 12] {
        conversation.gets(&message(b'R', &[&round.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat()));
        if round < 12 {
            conversation.sends(&message(b'p', b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=nonce"));
        }
    }
    conversation.gets(&welcome());
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(
        (conversation.statements(), conversation.findings().queries[0].database.as_str()),
        (vec!["select 1"], "ann")
    );
}

#[test]
fn an_opening_may_be_cut_anywhere() {
    let openings = [query("select 1"), all([parse("", "select 1"), run(""), sync()])];
    for short in openings {
        let whole: Vec<usize> = (1..short.len()).collect();
        for cuts in whole.iter().map(std::slice::from_ref).chain([whole.as_slice()]) {
            let mut conversation = Conversation::new(Role::Server);
            let mut from = 0;
            for &at in cuts.iter().chain([&short.len()]) {
                conversation.sends(&short[from..at]);
                from = at;
            }
            conversation.gets(&all([complete("SELECT 1"), ready(b'I')]));
            assert_eq!(conversation.statements(), ["select 1"], "cut at {cuts:?}");
        }
    }
    let greeting = startup(3 << 16, &[("user", "ann"), ("database", "shop")]);
    for at in 1..greeting.len() {
        let mut conversation = Conversation::new(Role::Server);
        conversation.sends(&greeting[..at]).sends(&greeting[at..]).gets(&welcome());
        conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
        assert_eq!(conversation.findings().queries[0].database, "shop", "cut at {at}");
    }
    let long = query(&"x".repeat(100_000));
    let mut conversation = Conversation::new(Role::Server);
    conversation.sends(&long[..2000]).sends(&long[2000..]).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements(), ["x".repeat(4096)]);
}

#[test]
fn half_a_start_up_packet_has_no_answer() {
    let greeting = startup(3 << 16, &[("user", "ann"), ("database", "shop")]);
    for at in 1..greeting.len() {
        let mut conversation = Conversation::new(Role::Server);
        conversation.sends(&greeting[..at]).gets(&error("08P01"));
        assert!(conversation.wire.is_none() && conversation.sqlstates().is_empty(), "{at} bytes");
    }
}

#[test]
fn text_that_looks_like_a_long_message_is_no_opening() {
    for text in ["POST / HTTP/1.1\r\n", "PUT /x", "QUIT\r\n", "PASS secret\r\n", "BYE BYE BYE"] {
        let mut conversation = Conversation::new(Role::Server);
        conversation.sends(text.as_bytes());
        assert!(conversation.wire.is_none(), "{text}");
    }
}

#[test]
fn after_the_start_up_everything_may_come_byte_by_byte() {
    let mut conversation = connected();
    for byte in all([parse("s", "select 1"), run("s"), sync()]) {
        conversation.sends(&[byte]);
    }
    for byte in all([parsed(), bound(), row("1"), complete("SELECT 1"), ready(b'I')]) {
        conversation.gets(&[byte]);
    }
    assert_eq!(conversation.done(), [("select 1", 1)]);
    assert_eq!(conversation.statements(), ["select 1"]);
}
