//! The clock that always runs: pieces of the profile one after the other, kept and told.

use std::sync::Arc;

use steth_probes::{limits, profile::SampleKind};

use super::{Profiles, monotonic_ns};
use crate::{
    aggregate::Names,
    config::Config,
    kernel::{Kernel, sampling::Clock},
    model::{profile::Kind, sample::PastRequest},
    pipeline::past::{Always, Keeper, OnPiece},
};

impl Profiles {
    pub(super) fn start_always(&mut self, kernel: &mut Kernel, config: &Config) -> Result<(), String> {
        if let Some(why) = kernel.cannot_sample(Kind::Cpu) {
            return Err(why);
        }
        let hertz = u32::try_from(config.profile.hertz).unwrap_or(u32::MAX);
        let keeper = Keeper::start(config, self.symbolizer.clone()).map_err(|error| error.to_string())?;
        let mut sampling = self.sampling;
        sampling.always_ns = 1_000_000_000 / u64::from(hertz.max(1));
        sampling.all |= SampleKind::Always.bit();
        sampling.any |= SampleKind::Always.bit();
        sampling.epoch_ns = monotonic_ns();
        self.sampler.set(&sampling, &self.targets).map_err(|error| error.to_string())?;
        self.sampling = sampling;
        self.pythons.begin(None, &self.sampler, &mut self.patience);
        kernel.start_clock(Clock::Always, hertz).map_err(|error| error.to_string())?;
        let always = Always::begin(keeper, hertz, config.profile.piece);
        self.told.iter().for_each(|told| always.tell_pieces(Arc::clone(told)));
        self.always = Some(always);
        Ok(())
    }

    /// Lets the clock that always runs tick otherwise, or not at all. The piece under way ends, for one has one frequency.
    pub fn set_hertz(&mut self, kernel: &mut Kernel, config: &Config, names: &Names) {
        let is = self.always.as_ref().map_or(0, Always::hertz);
        if is as usize == config.profile.hertz {
            return;
        }
        kernel.stop_clock(Clock::Always);
        Keeper::finish_apart(self.end_pieces(names), ());
        self.sampling.all &= !SampleKind::Always.bit();
        self.sampling.any &= !SampleKind::Always.bit();
        let started = match config.profile.hertz {
            0 => self.sampler.set(&self.sampling, &self.targets).map_err(|error| error.to_string()),
            _ => self.start_always(kernel, config),
        };
        if let Err(error) = started {
            tracing::warn!("there are no profiles of the past from now on: {error}");
        }
    }

    /// Takes what the clock has taken that always runs, and ends a piece whose time is over. Costs little when there is nothing.
    pub fn gather(&mut self, names: &Names) {
        if self.always.is_none() {
            return;
        }
        self.drain(names);
        // While someone holds frames, no file can be forgotten; a piece can end early for it.
        let is_crowded = self.sessions.is_empty() && self.files.count() > limits::UNWIND_FILES as usize / 4 * 3;
        if let Some(always) = self.always.as_mut().filter(|always| is_crowded || always.is_over()) {
            // A piece that could not be handed on goes on, and needs its files and names.
            if always.hand_on(&self.files, &self.pythons, names) && self.sessions.is_empty() {
                self.forget_files();
                self.pythons.rest(&self.sampler);
            }
        }
    }

    /// The last piece ends here. Returns who writes it.
    pub fn end_pieces(&mut self, names: &Names) -> Option<Keeper> {
        self.drain(names);
        let mut always = self.always.take()?;
        if !always.hand_on(&self.files, &self.pythons, names) {
            tracing::warn!("the last piece of the profiles of the past is lost: the one before is still being written");
        }
        Some(always.into_keeper())
    }

    /// Someone wants a profile of the past. Gives the request back if no clock always runs.
    pub fn past(&mut self, request: PastRequest, names: &Names) -> Option<PastRequest> {
        self.drain(names);
        match &self.always {
            Some(always) => {
                always.answer(request, &self.files, &self.pythons, names);
                None
            }
            None => Some(request),
        }
    }

    /// Who is told when a piece is finished.
    pub fn tell_pieces(&mut self, told: OnPiece) {
        self.always.iter().for_each(|always| always.tell_pieces(Arc::clone(&told)));
        self.told = Some(told);
    }

    /// Pieces that could not be written.
    pub fn lost_pieces(&self) -> u64 {
        self.always.as_ref().map_or(0, Always::lost)
    }
}
