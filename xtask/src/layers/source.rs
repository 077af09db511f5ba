//! What a Rust source mentions: modules of its own crate, byte layouts, `unsafe`. Reads tokens, so that comments and
//! strings do not count and the bodies of macros do. Knows no rule.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};

/// What was found, each with its line.
#[derive(Debug, Default)]
pub struct Mentions {
    /// Top-level modules of the own crate, by their first name.
    pub modules: Vec<Mention>,
    /// aya, its relatives, and what reads or lays out bytes.
    pub layouts: Vec<Mention>,
    /// Lines with `unsafe`.
    pub unsafes: Vec<usize>,
}

/// A name and its line, from 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Mention {
    pub name: String,
    pub line: usize,
}

/// Names that mean aya or its relatives wherever they stand at the head of a path.
const LAYOUT_CRATES: [&str; 3] = ["aya", "aya_obj", "btf_rs"];
/// Names that read or write native bytes wherever they stand.
const LAYOUT_FUNCTIONS: [&str; 3] = ["from_ne_bytes", "to_ne_bytes", "transmute"];

/// Reads the source of the module at `module_path` (names from the crate's root; none for the root).
///
/// # Errors
/// The text is not made of Rust's tokens.
pub fn mentions(text: &str, module_path: &[String]) -> Result<Mentions, String> {
    let tokens: TokenStream = text.parse().map_err(|error| format!("not Rust: {error}"))?;
    let mut mentions = Mentions::default();
    walk(tokens, module_path.len(), &mut mentions);
    // `use crate::kernel::{self, load}` is two paths and one mention.
    mentions.modules.dedup();
    mentions.layouts.dedup();
    Ok(mentions)
}

/// `depth` is how many `super` lead to the crate's root.
fn walk(tokens: TokenStream, depth: usize, mentions: &mut Mentions) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        match token {
            TokenTree::Group(group) => {
                // The body of `mod name { … }` is one further from the root.
                let is_module = index >= 2 && is_ident(&tokens[index - 2], "mod");
                let depth = depth + usize::from(is_module && group.delimiter() == Delimiter::Brace);
                walk(group.stream(), depth, mentions);
                index += 1;
            }
            TokenTree::Ident(ident) if ident == "repr" && is_repr_c(tokens.get(index + 1)) => {
                mentions.layouts.push(Mention { name: "repr(C)".to_owned(), line: ident.span().start().line });
                index += 2;
            }
            TokenTree::Ident(_) => index = path(&tokens, index, depth, mentions),
            TokenTree::Punct(_) | TokenTree::Literal(_) => index += 1,
        }
    }
}

/// Reads the path that begins at `index`; returns where to go on.
fn path(tokens: &[TokenTree], index: usize, depth: usize, mentions: &mut Mentions) -> usize {
    let mut names = Vec::new();
    let mut next = index;
    while let Some(TokenTree::Ident(ident)) = tokens.get(next) {
        names.push((ident.to_string(), ident.span()));
        next += 1;
        if !is_path_separator(tokens, next) {
            break;
        }
        next += 2;
    }
    let open = is_path_separator(tokens, next.wrapping_sub(2)).then(|| tokens.get(next)).flatten();
    match open {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            branches(&names, group.stream(), depth, mentions);
            next + 1
        }
        _ => {
            whole(&names, depth, mentions);
            next.max(index + 1)
        }
    }
}

/// Reads `{a, b::c}` after the names that lead to it.
fn branches(lead: &[(String, Span)], tokens: TokenStream, depth: usize, mentions: &mut Mentions) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for branch in tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
        let mut names = lead.to_vec();
        for token in branch {
            match token {
                TokenTree::Ident(ident) if ident == "as" => break,
                TokenTree::Ident(ident) => names.push((ident.to_string(), ident.span())),
                TokenTree::Group(group) => {
                    branches(&names, group.stream(), depth, mentions);
                    names.clear();
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        whole(&names, depth, mentions);
    }
}

/// Notes what one path means.
fn whole(names: &[(String, Span)], depth: usize, mentions: &mut Mentions) {
    let mention = |name: &str, span: &Span| Mention { name: name.to_owned(), line: span.start().line };
    let Some((first, first_span)) = names.first() else { return };

    // `super` may also follow a lead: `use super::{super::kernel}`.
    let supers = names.iter().take_while(|(name, _)| name == "super" || name == "self").count();
    let up = names.iter().take(supers).filter(|(name, _)| name == "super").count();
    let from_root = match first.as_str() {
        "crate" | "steth" if names.len() > 1 => names.get(1),
        "super" | "self" if up >= depth && (up > 0 || depth == 0) => names.get(supers),
        _ => None,
    };
    mentions.modules.extend(from_root.map(|(name, span)| mention(name, span)));

    if LAYOUT_CRATES.contains(&first.as_str()) && (names.len() > 1) {
        mentions.layouts.push(mention(first, first_span));
    }
    if let [(_, _), (second, span), ..] = names
        && first == "steth_probes"
        && second == "record"
    {
        mentions.layouts.push(mention("steth_probes::record", span));
    }
    for (name, span) in names {
        if LAYOUT_FUNCTIONS.contains(&name.as_str()) {
            mentions.layouts.push(mention(name, span));
        }
        if name == "unsafe" {
            mentions.unsafes.push(span.start().line);
        }
    }
}

fn is_path_separator(tokens: &[TokenTree], index: usize) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(tokens.get(index)) && colon(tokens.get(index.wrapping_add(1)))
}

fn is_repr_c(token: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(group)) = token else { return false };
    group.stream().into_iter().any(|token| is_ident(&token, "C") || is_ident(&token, "packed"))
}

fn is_ident(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}
