//! A piece of the profile, parted by service and written as pprof, for destinations that take profiles. Does not know who they
//! are.

use std::{collections::HashMap, sync::Arc};

use crate::{
    model::{
        news::WrittenProfile,
        profile::{Profile, Stack},
    },
    profile::{
        format::{Format, Options},
        merge::merge,
    },
};

/// Services with a profile of their own; the others, those with the least time, are in one.
const MOST_SERVICES: usize = 64;
/// What that one is called.
const OTHER: &str = "other";

/// One profile for each service, the one with the most time first.
pub fn written(piece: &Profile) -> Vec<WrittenProfile> {
    let mut ns_of: HashMap<Arc<str>, u64> = HashMap::new();
    for Stack { service, ns, .. } in &piece.stacks {
        *ns_of.entry(Arc::clone(service)).or_default() += ns;
    }
    let mut services: Vec<(Arc<str>, u64)> = ns_of.into_iter().collect();
    services.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    let names: Vec<String> = services.into_iter().map(|(name, _)| name.to_string()).collect();
    let (own, others) = names.split_at(names.len().min(MOST_SERVICES));
    let mut parts: Vec<(&str, &[String])> =
        own.iter().map(|name| (name.as_str(), std::slice::from_ref(name))).collect();
    parts.extend((!others.is_empty()).then_some((OTHER, others)));
    parts.into_iter().filter_map(|(name, services)| one(piece, name, services)).collect()
}

fn one(piece: &Profile, name: &str, services: &[String]) -> Option<WrittenProfile> {
    let stacks = piece.stacks.iter().filter(|stack| services.iter().any(|name| **name == *stack.service)).cloned();
    let part = Profile {
        target: piece.target.clone(),
        kind: piece.kind,
        began: piece.began,
        lasted: piece.lasted,
        hertz: piece.hertz,
        frames: piece.frames.clone(),
        stacks: stacks.collect(),
        notes: Vec::new(),
    };
    // Only frames of stacks that are left.
    let part = merge(vec![part], services)?;
    let mut pprof = Vec::new();
    let options = Options { baseline: None, icicle: false, reversed: false };
    // Writing to a vector does not fail.
    Format::Pprof.write(&part, &options, &mut pprof).ok()?;
    Some(WrittenProfile {
        service: name.to_owned(),
        began: part.began,
        lasted: part.lasted,
        hertz: part.hertz,
        stacks: u32::try_from(part.stacks.len()).unwrap_or(u32::MAX),
        pprof: pprof.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::model::profile::{Frame, Kind, Origin, State};

    fn piece(services: usize) -> Profile {
        let frame = |name: String| Frame {
            function: name.into(),
            module: "m".into(),
            file: "".into(),
            line: 0,
            inlined: false,
            origin: Origin::User,
        };
        let stack = |at: usize| Stack {
            frames: vec![u32::try_from(at).unwrap()],
            state: State::OnCpu,
            ns: 1_000 - at as u64,
            samples: 1,
            service: format!("s{at:03}").into(),
            thread: "t".into(),
            pid: 0,
            tid: 0,
            query: None,
        };
        Profile {
            target: "all processes".into(),
            kind: Kind::Cpu,
            began: SystemTime::UNIX_EPOCH,
            lasted: Duration::from_secs(600),
            hertz: 19,
            frames: (0..services).map(|at| frame(format!("function_{at:03}"))).collect(),
            stacks: (0..services).map(stack).collect(),
            notes: vec![],
        }
    }

    fn names(profile: &WrittenProfile) -> String {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&profile.pprof[..]).read_to_end(&mut plain).unwrap();
        String::from_utf8_lossy(&plain).into_owned()
    }

    #[test]
    fn each_service_has_a_profile_with_its_own_frames_alone() {
        let all = written(&piece(2));
        assert_eq!(
            all.iter().map(|it| (it.service.as_str(), it.stacks)).collect::<Vec<_>>(),
            [("s000", 1), ("s001", 1)]
        );
        assert!(names(&all[0]).contains("function_000") && !names(&all[0]).contains("function_001"));
        assert!(written(&piece(0)).is_empty());
    }

    #[test]
    fn those_with_the_least_time_are_in_one() {
        let all = written(&piece(MOST_SERVICES + 3));
        let last = all.last().unwrap();
        assert_eq!((all.len(), last.service.as_str(), last.stacks), (MOST_SERVICES + 1, OTHER, 3));
        assert!(names(last).contains("s066") && names(last).contains("function_066"), "whose they are stands in it");
    }
}
