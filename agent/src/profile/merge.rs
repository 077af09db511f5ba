//! Several profiles of one kind, each of a time of its own, become one. What tells processes of one service apart is lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    config::moment::shown,
    model::{
        profile::{Frame, Profile, Stack, State},
        sample::Period,
    },
};

/// Pieces that are this far apart follow each other.
const SEAM: Duration = Duration::from_secs(1);
/// Stretches of time that a note lists.
const MOST_STRETCHES: usize = 5;

/// What makes stacks the same.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    frames: Vec<u32>,
    state: State,
    service: Arc<str>,
    thread: Arc<str>,
    query: Option<Arc<str>>,
}

/// Merges profiles, the oldest first, keeping only stacks of these services; of all if there are none. `None` without a profile.
pub fn merge(pieces: Vec<Profile>, services: &[String]) -> Option<Profile> {
    let first = pieces.first()?;
    let (kind, began) = (first.kind, first.began);
    let hertz = pieces.iter().map(|piece| piece.hertz).max().unwrap_or(0);
    let lasted = pieces.iter().map(|piece| piece.lasted).sum();
    let target = match services {
        [] => first.target.clone(),
        names => names.iter().map(|name| format!("service {name}")).collect::<Vec<_>>().join(", "),
    };
    let mut notes: Vec<String> = Vec::new();
    let (mut frames, mut known) = (Vec::<Frame>::new(), HashMap::<Frame, u32>::new());
    let mut weights: HashMap<Key, (u64, u64)> = HashMap::new();
    let mut met: Vec<Arc<str>> = Vec::new();
    for Profile { frames: own, stacks, notes: said, .. } in pieces {
        notes.extend(said);
        let mut index_of: Vec<Option<u32>> = vec![None; own.len()];
        for stack in stacks {
            if !services.is_empty() && !services.iter().any(|name| **name == *stack.service) {
                if !met.contains(&stack.service) {
                    met.push(stack.service);
                }
                continue;
            }
            // Only frames of stacks that stay.
            let index = |old: &u32| -> Option<u32> {
                let (frame, place) = (own.get(*old as usize)?, index_of.get_mut(*old as usize)?);
                Some(*place.get_or_insert_with(|| {
                    *known.entry(frame.clone()).or_insert_with(|| {
                        frames.push(frame.clone());
                        frames.len() as u32 - 1
                    })
                }))
            };
            let key = Key {
                frames: stack.frames.iter().filter_map(index).collect(),
                state: stack.state,
                service: stack.service,
                thread: stack.thread,
                query: stack.query,
            };
            let weight = weights.entry(key).or_default();
            weight.0 += stack.ns;
            weight.1 += stack.samples;
        }
    }
    notes.sort();
    notes.dedup();
    let mut stacks: Vec<Stack> = weights
        .into_iter()
        .map(|(key, (ns, samples))| {
            let Key { frames, state, service, thread, query } = key;
            Stack { frames, state, ns, samples, service, thread, pid: 0, tid: 0, query }
        })
        .collect();
    // The same pieces always make the same profile.
    fn order(stack: &Stack) -> (&[u32], &str, &str, Option<&str>) {
        (&stack.frames, &stack.service, &stack.thread, stack.query.as_deref())
    }
    stacks.sort_by(|a, b| order(a).cmp(&order(b)));
    if stacks.is_empty() {
        notes.push(why_empty(services, met));
    }
    Some(Profile { target, kind, began, lasted, hertz, frames, stacks, notes })
}

fn why_empty(services: &[String], mut met: Vec<Arc<str>>) -> String {
    if met.is_empty() {
        return "nothing used a CPU when it was looked at".into();
    }
    met.sort();
    format!("no sample of {} was taken; there are some of {}", services.join(", "), met.join(", "))
}

/// Which time pieces cover, for people: what was asked for is rarely cut as they are.
pub fn coverage(pieces: &[Period]) -> String {
    let mut stretches: Vec<Period> = Vec::new();
    for piece in pieces {
        match stretches.last_mut() {
            Some(last) if piece.from <= last.to + SEAM => last.to = last.to.max(piece.to),
            _ => stretches.push(*piece),
        }
    }
    let told = stretches.iter().take(MOST_STRETCHES).map(|it| format!("{} to {}", shown(it.from), shown(it.to)));
    let mut told = told.collect::<Vec<_>>().join(", ");
    if stretches.len() > MOST_STRETCHES {
        told.push_str(&format!(" and {} more", stretches.len() - MOST_STRETCHES));
    }
    format!("covers {told}")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::profile::{Kind, Origin};

    fn frame(name: &str) -> Frame {
        let origin = Origin::User;
        Frame { function: name.into(), module: "".into(), file: "".into(), line: 0, inlined: false, origin }
    }

    /// A piece with one stack for each service, process, frames and weight.
    fn piece(at: u64, names: &[&str], stacks: &[(&str, u32, &[u32], u64)]) -> Profile {
        let stack = |(service, pid, frames, ns): &(&str, u32, &[u32], u64)| Stack {
            frames: frames.to_vec(),
            state: State::OnCpu,
            ns: *ns,
            samples: 1,
            service: (*service).into(),
            thread: "worker".into(),
            pid: *pid,
            tid: *pid,
            query: None,
        };
        Profile {
            target: "all processes".into(),
            kind: Kind::Cpu,
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
            lasted: Duration::from_secs(10),
            hertz: 19,
            frames: names.iter().map(|name| frame(name)).collect(),
            stacks: stacks.iter().map(stack).collect(),
            notes: vec!["the same note".into()],
        }
    }

    fn lines(profile: &Profile) -> Vec<(String, u64, u64)> {
        let name = |index: &u32| profile.frames[*index as usize].function.to_string();
        let line =
            |stack: &Stack| (stack.frames.iter().map(name).collect::<Vec<_>>().join(";"), stack.ns, stack.samples);
        let mut lines: Vec<_> = profile.stacks.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn pieces() -> Vec<Profile> {
        let first =
            piece(100, &["main", "a", "b"], &[("x", 1, &[0, 1], 5), ("x", 2, &[0, 1], 6), ("y", 3, &[0, 2], 7)]);
        let second = piece(110, &["b", "main", "never"], &[("x", 4, &[1, 0], 8), ("y", 3, &[1, 0], 9)]);
        vec![first, second]
    }

    #[test]
    fn stacks_of_the_same_names_are_one_whatever_their_numbers_and_processes() {
        let merged = merge(pieces(), &[]).unwrap();
        let told = |stack: &str, ns, samples| (stack.to_owned(), ns, samples);
        assert_eq!(lines(&merged), [told("main;a", 11, 2), told("main;b", 8, 1), told("main;b", 16, 2)]);
        assert!(merged.stacks.iter().all(|stack| (stack.pid, stack.tid) == (0, 0)));
        assert_eq!((merged.frames.len(), merged.lasted), (3, Duration::from_secs(20)));
        assert_eq!(merged.notes, ["the same note"]);
        assert_eq!(merge(pieces(), &[]).unwrap(), merged, "in any order of a hash");
        assert_eq!(merge(vec![], &[]), None);
    }

    #[test]
    fn of_one_service_only_its_stacks_and_frames_are_left() {
        let merged = merge(pieces(), &["y".into()]).unwrap();
        assert_eq!(lines(&merged).len(), 1);
        assert_eq!((merged.target.as_str(), merged.frames.len()), ("service y", 2));
        let none = merge(pieces(), &["z".into()]).unwrap();
        assert!(none.stacks.is_empty());
        assert_eq!(none.notes, ["the same note", "no sample of z was taken; there are some of x, y"]);
    }

    #[test]
    fn gaps_between_pieces_are_told() {
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let period = |from, to| Period { from: at(from), to: at(to) };
        let told = coverage(&[period(0, 10), period(10, 20), period(40, 50)]);
        let stretch = |from, to| format!("{} to {}", shown(at(from)), shown(at(to)));
        assert_eq!(told, format!("covers {}, {}", stretch(0, 20), stretch(40, 50)));
    }
}
