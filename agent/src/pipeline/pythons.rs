//! Processes that run Python: finds them among those that samples are taken of, tells the kernel programs where their frames
//! are, and names the code objects in samples while the processes live.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex},
};

use steth_probes::{
    limits,
    python::{FrameWord, Process},
    unwind::{FrameWord as Native, Origin},
};

use crate::{
    host::Patience,
    kernel::sampling::Sampler,
    model::{catalog::profile as catalog, sample::Sample, snapshot::Series},
    profile::{
        code::{Code, CodeTable},
        gather::Gathered,
        mappings::Mappings,
        python::{self, Descriptions, Found, Interpreter, Names, ProcessMemory},
    },
};

/// Processes that are remembered as looked at, and words with their names; beyond that they are begun anew.
const MOST_LOOKED_AT: usize = 65_536;
/// Different places in functions, each of which takes some 150 bytes.
const MOST_NAMES: usize = 100_000;

/// What is known of them.
pub struct Pythons {
    codes: Arc<Mutex<CodeTable>>,
    /// Slots of files that hold an interpreter.
    slots: HashSet<u32>,
    looked_at: HashSet<u32>,
    found: HashMap<u32, Interpreter>,
    descriptions: Descriptions,
    names: Names,
    refused: u64,
}

impl Pythons {
    /// Knows none.
    pub fn new(codes: Arc<Mutex<CodeTable>>) -> Self {
        Self {
            codes,
            slots: HashSet::new(),
            looked_at: HashSet::new(),
            found: HashMap::new(),
            descriptions: Descriptions::default(),
            names: Names::new(),
            refused: 0,
        }
    }

    /// Nobody holds samples any more; by the time of the next ones, processes may have become others.
    pub fn rest(&mut self, sampler: &Sampler) {
        self.forget_gone(sampler);
        self.looked_at.clear();
        self.names.clear();
    }

    /// Samples of these processes will be taken, or of any.
    pub fn begin(&mut self, pids: Option<&[u32]>, sampler: &Sampler, patience: &mut Patience) {
        self.forget_gone(sampler);
        match pids {
            Some(pids) => pids.iter().for_each(|pid| self.look(*pid, sampler, patience)),
            None => {
                // Who has the interpreter in a library is met with the first sample that shows it.
                let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
                for pid in all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
                    let executable = std::fs::read_link(format!("/proc/{pid}/exe"));
                    let name = executable.as_ref().ok().and_then(|path| path.file_name()?.to_str());
                    if name.is_some_and(python::may_hold_it) {
                        self.look(pid, sampler, patience);
                    }
                }
            }
        }
    }

    /// What a slot stands for became known.
    pub fn set_file(&mut self, slot: u32, code: Option<&Code>) {
        match code.is_some_and(|code| python::may_hold_it(code.name())) {
            true => self.slots.insert(slot),
            false => self.slots.remove(&slot),
        };
    }

    /// Looks at the process if this is the first sample that shows an interpreter in it, and names what is in the sample.
    pub fn take(&mut self, samples: &[Sample], sampler: &Sampler, patience: &mut Patience) {
        let mut new: HashMap<u32, HashSet<u64>> = HashMap::new();
        for sample in samples {
            if !self.slots.is_empty() && !self.looked_at.contains(&sample.pid) && self.is_shown(sample) {
                self.look(sample.pid, sampler, patience);
            }
            for word in &sample.python {
                if !self.names.contains_key(&(sample.pid, *word)) {
                    new.entry(sample.pid).or_default().insert(*word);
                }
            }
        }
        for (pid, words) in new {
            self.name(pid, &words, patience);
        }
    }

    fn is_shown(&self, sample: &Sample) -> bool {
        let is_one =
            |word: &u64| matches!(Native(*word).origin(), Origin::File { slot, .. } if self.slots.contains(&slot));
        sample.user.iter().any(is_one)
    }

    fn look(&mut self, pid: u32, sampler: &Sampler, patience: &mut Patience) {
        if self.looked_at.len() >= MOST_LOOKED_AT {
            self.looked_at.clear();
        }
        let codes = Arc::clone(&self.codes);
        let find = move || {
            let mappings = Mappings::read(Path::new("/proc"), pid, &codes).ok()?;
            Some(Interpreter::find(&mappings, &mut open(pid)?))
        };
        // Who does not answer is looked at with a later sample.
        let Some(found) = patience.ask(pid, find) else { return };
        self.looked_at.insert(pid);
        let Some(Found::Supported(interpreter)) = found else {
            if self.found.contains_key(&pid) {
                self.forget(pid, sampler);
            }
            return;
        };
        let process = Process { runtime: interpreter.runtime, layout: interpreter.layout };
        if !self.has_room(pid) {
            self.forget_gone(sampler);
        }
        if !self.has_room(pid) || sampler.set_python(pid, &process).is_err() {
            self.refused += 1;
            return;
        }
        self.found.insert(pid, interpreter);
    }

    fn has_room(&self, pid: u32) -> bool {
        self.found.len() < limits::PYTHONS as usize || self.found.contains_key(&pid)
    }

    fn forget_gone(&mut self, sampler: &Sampler) {
        let gone = |pid: &u32| !Path::new("/proc").join(pid.to_string()).exists();
        let gone: Vec<u32> = self.found.keys().copied().filter(gone).collect();
        for pid in gone {
            self.forget(pid, sampler);
        }
    }

    fn forget(&mut self, pid: u32, sampler: &Sampler) {
        self.found.remove(&pid);
        if let Err(error) = sampler.forget_python(pid) {
            tracing::debug!("process {pid} is still taken for one that runs Python: {error}");
        }
    }

    fn name(&mut self, pid: u32, words: &HashSet<u64>, patience: &mut Patience) {
        let Some(interpreter) = self.found.get(&pid).cloned() else { return };
        if self.names.len() + words.len() > MOST_NAMES {
            return;
        }
        if !patience.may_ask(pid) {
            return;
        }
        let places: Vec<_> = words.iter().map(|word| FrameWord(*word).frame()).collect();
        // Whoever does not answer in time keeps them; they are made anew then.
        let mut descriptions = std::mem::take(&mut self.descriptions);
        let describe = move || {
            let named = open(pid).map(|mut memory| descriptions.describe(pid, &interpreter, &mut memory, &places));
            (descriptions, named)
        };
        let Some((descriptions, named)) = patience.ask(pid, describe) else { return };
        self.descriptions = descriptions;
        // Without a name, if the process is gone.
        self.names.extend(words.iter().map(|word| (pid, *word)).zip(named.into_iter().flatten()));
    }

    /// The series of this moment.
    pub fn series(&self, series: &mut Vec<Series>) {
        series.push(Series::number(&catalog::PYTHONS, vec![], self.found.len() as f64));
        series.push(Series::number(&catalog::PYTHONS_REFUSED, vec![], self.refused as f64));
    }

    /// The names that were found, for the samples of a profile.
    pub fn names(&self, gathered: &Gathered) -> Names {
        let wanted = gathered.iter().flat_map(|(stack, ..)| stack.python.iter().map(|word| (stack.pid, *word)));
        wanted.filter_map(|place| Some((place, self.names.get(&place)?.clone()))).collect()
    }
}

fn open(pid: u32) -> Option<ProcessMemory> {
    ProcessMemory::open(Path::new("/proc"), pid).ok()
}
