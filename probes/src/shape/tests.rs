use super::*;

fn shape(text: &str) -> u64 {
    let mut shape = Shape::new();
    for byte in text.bytes() {
        shape.take(byte);
    }
    shape.finish()
}

#[test]
fn inlined_literals_and_white_space_do_not_change_the_shape() {
    for (one, other) in [
        ("select a from t where b = 1", "select a from t where b = 123456"),
        ("select a from t where b = 'x'", "select a from t where b = 'O''Brien -- /* $$ \" é'"),
        ("select a from t where b = ''", "select a from t where b = ''''"),
        ("select a\n from  t", "select a from\tt"),
        ("select -1, 1.5, (2)", "select -20, 34.75, (0)"),
        ("select a[1], $1, b", "select a[22], $1, b"),
        ("update t1 set a = 'x' where \"B 1\" = 5", "update t1 set a = 'yy' where \"B 1\" = 66"),
    ] {
        assert_eq!(shape(one), shape(other), "{one} against {other}");
    }
}

#[test]
fn what_stands_in_comments_does_not_change_the_shape() {
    for (one, other) in [
        ("select 1 /* a */ + b", "select 2 /* traceparent='00-4b*f'; -- \n $$ */ + b"),
        ("select 1 -- a", "select 22 -- another"),
        ("select 1 --\n+ b", "select 22 -- /* 'another\n+ b"),
        ("/* a */ select 1", "/* b; c */ select 2"),
        ("-- a\nselect 1", "-- bcd\n  select 2"),
        ("select /* a /* b */ c */ 1", "select /*/* d / * */*/ 1"),
    ] {
        assert_eq!(shape(one), shape(other), "{one} against {other}");
    }
    for (one, other) in [
        ("select 1 /* a */ + b", "select 1 /* a */ + c"),
        ("select 1 -- a\n+ b", "select 1 -- a\n+ c"),
        ("select 1 /* a */ + b", "select 1 + b"),
        ("select a/**/b", "select ab"),
        ("select a /* b */", "select a /* b"),
        ("select e'/* a */'", "select e'/* b */'"),
    ] {
        assert_ne!(shape(one), shape(other), "{one} against {other}");
    }
}

#[test]
fn everything_but_literals_changes_the_shape() {
    let texts = [
        "",
        "select a from t1",
        "select a from t2",
        "select a from t",
        "select a from \"t1\"",
        "select a from \"t 1\"",
        "select a from \"t  1\"",
        "select $1",
        "select $2",
        "select 1",
        "select '1'",
        "select a1",
        "select a11",
        "select -1",
        "select 1 1",
        "select 1.1",
        "select 1 -- a",
        "select 1 /* a",
        "select $$a$$",
        "select $$b$$",
        "select $a$1$a$",
        "select E'1'",
        "select E'2'",
        "select U&'1'",
        "select U&'2'",
        "select X'1'",
        "select 'a\\'",
        "select 'a\\'1",
        "select 'a' 'b'",
        "select \u{100}",
    ];
    for (at, one) in texts.iter().enumerate() {
        for other in &texts[at + 1..] {
            assert_ne!(shape(one), shape(other), "{one} against {other}");
        }
    }
}

#[test]
fn past_the_first_doubt_every_byte_counts() {
    for doubt in ["'\\", "$$", "$a", "$ ", "e'", "1'", "u&'", "n'", "_'", "é'"] {
        let texts = ["1", "2", "'a'", "'b'", " ", "  "].map(|rest| shape(&format!("select {doubt}{rest}")));
        for (at, one) in texts.iter().enumerate() {
            assert!(!texts[at + 1..].contains(one), "{doubt}");
        }
    }
}

#[test]
fn a_state_that_is_not_one_is_survived() {
    let mut shape = Shape { hash: 0, state: u16::MAX, ..Shape::new() };
    for byte in 0..=255 {
        shape.take(byte);
    }
    assert_ne!(Shape { hash: 0, ..shape }.finish(), 0);
}

/// The statements of a text, as the walker cuts them out.
fn statements(text: &str) -> Vec<&str> {
    let (mut shape, mut from, mut found) = (Shape::new(), 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match shape.take(byte) {
            Taken::Text => continue,
            Taken::Blank => {}
            Taken::Semicolon => {
                found.push(&text[from..at]);
                shape = Shape::new();
            }
        }
        from = at + 1;
    }
    if !shape.is_blank() {
        found.push(&text[from..]);
    }
    found
}

#[test]
fn a_text_is_cut_at_its_semicolons() {
    for (text, parts) in [
        ("select 1", &["select 1"][..]),
        ("select 1;", &["select 1"]),
        (" ;; \n select 1 ; ; ", &["select 1 "]),
        ("BEGIN; update t set a = 1;COMMIT", &["BEGIN", "update t set a = 1", "COMMIT"]),
        ("", &[]),
        (" -- nothing; at all", &[]),
        ("/* nothing; */ ; -- at\n;", &[]),
        ("-- a; b\nselect 1; /* c; /* d; */ e; */ select 2", &["select 1", "select 2"]),
        ("select /*/* ; */; */ 1; select 2", &["select /*/* ; */; */ 1", "select 2"]),
        ("select 1 --;\n; select 2", &["select 1 --;\n", "select 2"]),
        ("select 1 - -1; select 4 / 2", &["select 1 - -1", "select 4 / 2"]),
    ] {
        assert_eq!(statements(text), parts, "{text}");
    }
}

#[test]
fn a_semicolon_in_quotes_cuts_nothing() {
    for quoted in [
        "'a;b'",
        "'a'';b'",
        "'a\\'",
        "'\\;'",
        "E'a\\';b'",
        "e'a'';\\';\\\\'",
        "E'a'\n'\\';b'",
        "U&'a;'",
        "B'1;'",
        "N'\\'",
        "\"a;b\"",
        "\"a\"\";b\"",
        "U&\"a;\"",
        "$$a;b$$",
        "$$;'$ $a$;$$",
        "$a$;$$;$b$;$$a;$a$",
        "$a1$;$a$ a1$;$a1$",
        "$é_$;$é_$",
        "a$b$",
        "x.e",
    ] {
        for text in [format!("select {quoted}"), format!("select {quoted} as a"), format!("select({quoted})")] {
            assert_eq!(statements(&format!("{text};select 2;")), [&text, "select 2"], "{quoted}");
        }
    }
    for (text, first) in [("select $1;select 2", "select $1"), ("select a$1;select 2", "select a$1")] {
        assert_eq!(statements(text), [first, "select 2"]);
    }
}

#[test]
fn a_semicolon_within_a_rule_or_a_routine_cuts_nothing() {
    for text in [
        "CREATE RULE r AS ON INSERT TO t DO ALSO (select ')' -- )\n ; delete from \"u)\" /* ) */; select $$)$$)",
        "create or replace function f(a int default (1), b text) returns int begin atomic select 1; select 2; end",
        "CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t SELECT CASE a WHEN 1 THEN 2 END; SELECT (CASE WHEN true THEN 1 END); END",
        "create function f() returns int language sql as 'begin; select 1; end'",
        "create function f() returns int as $f$ begin; return 1; end; $f$ language plpgsql",
        "Create Or Replace Procedure begin() language sql as $$select 1;$$",
        "create table \"begin\" (a int)",
        "create view begin as select 1",
        "create temp table t as select case when a then b end from c",
    ] {
        assert_eq!(statements(&format!("{text};select 2;")), [text, "select 2"]);
    }
}

#[test]
fn only_create_is_followed_by_word() {
    for text in
        ["commit", "copy t from stdin", "cr", "crease", "create_t", "call f()", "update create set a = b", "xcr"]
    {
        let mut shape = Shape::new();
        for byte in text.bytes().chain(*b" (") {
            shape.take(byte);
        }
        assert!(!shape.is_careful() && shape.parentheses == 0, "{text}");
    }
}

#[test]
fn the_name_that_deallocate_frees_is_known() {
    let freed = |text: &str| {
        let mut shape = Shape::new();
        for byte in text.bytes() {
            shape.take(byte);
        }
        shape.freed()
    };
    let long = "n".repeat(63);
    for (text, name) in [
        ("deallocate s1", "s1"),
        ("deallocate s1;", "s1"),
        (" DEALLOCATE  PREPARE S1 ", "s1"),
        ("Deallocate /* x */ \"S 1\"", "S 1"),
        ("deallocate prepare \"a\"\"b\" ", "a\"b"),
        ("deallocate \"all\"", "all"),
        ("deallocate é", "é"),
        (&format!("deallocate {long}"), &long),
    ] {
        assert_eq!(freed(text), Some(hash_name(name.as_bytes())), "{text}");
    }
    for text in ["deallocate all", "deallocate all;", "deallocate prepare all ", "DEALLOCATE /**/ ALL ;"] {
        assert_eq!(freed(text), Some(ALL_NAMES), "{text}");
    }
    let longer = format!("deallocate \"{long}n\"");
    for text in ["deallocate", "deallocate prepare", "deallocates s", "delete s", "dea s", &longer] {
        assert_eq!(freed(text), None, "{text}");
    }
}
