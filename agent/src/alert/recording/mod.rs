//! The windows of the past, whole, in little room, so that rules can be tried on them: any rule may ask for any series. Each window
//! is kept as what changed since the one before, and blocks of them are compressed.
//!
//! What correlation keeps, one number a window of each signal that it knows, cannot answer that.
//!
//! Bounded: at most [`MOST_BYTES`] of finished blocks, the oldest of which give way, and one that is being written, of at most
//! [`BLOCK_BYTES`] beside the names of its series.

mod file;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    io::{Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};

use crate::model::{
    distribution::Distribution,
    metric::{Kind, Metric},
    snapshot::{Series, Snapshot, Value},
};

/// Finished blocks together.
const MOST_BYTES: usize = 4 << 20;
/// Of windows in the block that is being written.
const BLOCK_BYTES: usize = 512 << 10;
/// What a block may come to that was read from a file.
const MOST_UNPACKED: u64 = 64 << 20;
/// Windows of a block.
const BLOCK_WINDOWS: usize = 60;
/// The most windows that are kept.
const MOST_WINDOWS: usize = 720;

/// The windows of the past. Clones share what is finished.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    finished: VecDeque<Block>,
    open: Open,
}

/// Windows that are not changed any more, compressed.
#[derive(Clone, Debug)]
struct Block {
    names: Arc<[Name]>,
    windows: usize,
    packed: Arc<[u8]>,
}

/// Which series a number stands for.
type Name = (&'static Metric, Arc<[String]>);

/// The block that is being written.
#[derive(Clone, Debug, Default)]
struct Open {
    names: Vec<Name>,
    by_hash: HashMap<u64, Vec<usize>>,
    hasher: RandomState,
    /// What each series was last, by its number.
    last: Vec<Option<Last>>,
    /// Numbers in the order of the last window: the next one mostly has the same.
    order: Vec<usize>,
    windows: usize,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Last {
    Number(u64),
    Histogram(Arc<Distribution>),
}

impl Recording {
    /// Adds a window that ended with this snapshot, so long after the one before.
    pub fn push(&mut self, snapshot: &Snapshot, elapsed: Duration) {
        if self.open.windows >= BLOCK_WINDOWS || self.open.bytes.len() >= BLOCK_BYTES {
            self.finish();
        }
        self.open.push(snapshot, elapsed);
    }

    fn finish(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.finished.extend(open.packed(&self.finished));
        let size = |blocks: &VecDeque<Block>| blocks.iter().map(Block::bytes).sum::<usize>();
        let windows = |blocks: &VecDeque<Block>| blocks.iter().map(|block| block.windows).sum::<usize>();
        while size(&self.finished) > MOST_BYTES || windows(&self.finished) > MOST_WINDOWS {
            self.finished.pop_front();
        }
    }

    /// Goes through all windows, the oldest first. Takes its time.
    pub fn replay(&self, mut window: impl FnMut(&Snapshot, Duration)) {
        for block in &self.finished {
            let mut bytes = Vec::new();
            if DeflateDecoder::new(&*block.packed).take(MOST_UNPACKED).read_to_end(&mut bytes).is_ok() {
                unpack(&block.names, &bytes, &mut window);
            }
        }
        unpack(&self.open.names, &self.open.bytes, &mut window);
    }
}

impl Block {
    fn bytes(&self) -> usize {
        // Names are shared with the block before where they are the same; counted as if they were not.
        self.packed.len() + self.names.iter().map(|(_, labels)| 48 + 40 * labels.len()).sum::<usize>()
    }
}

impl Open {
    fn push(&mut self, snapshot: &Snapshot, elapsed: Duration) {
        self.windows += 1;
        put(&mut self.bytes, snapshot.at_unix_ms);
        put(&mut self.bytes, u64::try_from(elapsed.as_millis()).unwrap_or_default());
        put(&mut self.bytes, snapshot.series.len() as u64);
        let before = std::mem::take(&mut self.order);
        let mut expected = 0;
        for (place, series) in snapshot.series.iter().enumerate() {
            let number = self.number(series, before.get(place).copied());
            put(&mut self.bytes, zigzag(number as i64 - expected));
            expected = number as i64 + 1;
            self.order.push(number);
            self.put_value(number, &series.value);
        }
    }

    fn number(&mut self, series: &Series, guess: Option<usize>) -> usize {
        let is_it = |name: &Name| std::ptr::eq(name.0, series.metric) && *name.1 == *series.labels;
        if let Some(guess) = guess.filter(|guess| self.names.get(*guess).is_some_and(is_it)) {
            return guess;
        }
        let hash = self.hasher.hash_one((series.metric.name, &series.labels));
        let known = self.by_hash.entry(hash).or_default();
        if let Some(number) = known.iter().copied().find(|number| self.names.get(*number).is_some_and(is_it)) {
            return number;
        }
        let number = self.names.len();
        known.push(number);
        self.names.push((series.metric, series.labels.as_slice().into()));
        self.last.push(None);
        number
    }

    fn put_value(&mut self, number: usize, value: &Value) {
        let Some(last) = self.last.get_mut(number) else { return };
        match value {
            Value::Number(value) => {
                let now = value.to_bits();
                let before = if let Some(Last::Number(before)) = last { *before } else { 0 };
                // Numbers that are near each other differ in the middle: turned round, that is small.
                put(&mut self.bytes, (now ^ before).reverse_bits());
                *last = Some(Last::Number(now));
            }
            Value::Histogram(now) => {
                let empty = Arc::new(Distribution::default());
                let before = if let Some(Last::Histogram(before)) = last { Arc::clone(before) } else { empty };
                if Arc::ptr_eq(&before, now) {
                    put(&mut self.bytes, 0);
                    return;
                }
                // Where something began anew, what was before is nothing.
                let begins_anew = now.since(&before).is_none();
                let before = if begins_anew { Arc::default() } else { before };
                let changes: Vec<(usize, u64)> = now
                    .counts()
                    .iter()
                    .zip(before.counts())
                    .enumerate()
                    .filter(|(_, (now, before))| now != before)
                    .map(|(bucket, (now, before))| (bucket, now - before))
                    .collect();
                put(&mut self.bytes, (changes.len() as u64) << 1 | u64::from(begins_anew));
                if !changes.is_empty() {
                    put(&mut self.bytes, now.sum_ns().wrapping_sub(before.sum_ns()));
                }
                for (bucket, gain) in changes {
                    put(&mut self.bytes, bucket as u64);
                    put(&mut self.bytes, gain);
                }
                *last = Some(Last::Histogram(Arc::clone(now)));
            }
        }
    }

    fn packed(self, finished: &VecDeque<Block>) -> Option<Block> {
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&self.bytes).ok()?;
        let packed = packed.finish().ok()?.into();
        // Most series last: their names are kept once.
        let same = |last: &Block| {
            let equal = |(one, other): (&Name, &Name)| std::ptr::eq(one.0, other.0) && one.1 == other.1;
            last.names.len() == self.names.len() && last.names.iter().zip(&self.names).all(equal)
        };
        let names = finished.back().filter(|last| same(last)).map(|last| Arc::clone(&last.names));
        Some(Block { names: names.unwrap_or_else(|| self.names.into()), windows: self.windows, packed })
    }
}

/// Makes snapshots of a block's bytes. What is cut off ends it.
fn unpack(names: &[Name], bytes: &[u8], window: &mut impl FnMut(&Snapshot, Duration)) {
    let mut last: Vec<Option<Last>> = vec![None; names.len()];
    let mut rest = bytes;
    while let Some((snapshot, elapsed)) = unpack_window(names, &mut rest, &mut last) {
        window(&snapshot, elapsed);
    }
}

fn unpack_window(names: &[Name], rest: &mut &[u8], last: &mut [Option<Last>]) -> Option<(Snapshot, Duration)> {
    let at_unix_ms = take(rest)?;
    let elapsed = Duration::from_millis(take(rest)?);
    let count = usize::try_from(take(rest)?).ok()?;
    let mut series = Vec::with_capacity(count.min(names.len()));
    let mut expected = 0;
    for _ in 0..count {
        let number = unzigzag(take(rest)?).checked_add(expected)?;
        expected = number.checked_add(1)?;
        let number = usize::try_from(number).ok()?;
        let (metric, labels) = names.get(number)?;
        let last = last.get_mut(number)?;
        let value = match metric.kind {
            Kind::Histogram(_) => Value::Histogram(take_histogram(rest, last)?),
            _ => {
                let before = if let Some(Last::Number(before)) = last { *before } else { 0 };
                let now = before ^ take(rest)?.reverse_bits();
                *last = Some(Last::Number(now));
                Value::Number(f64::from_bits(now))
            }
        };
        series.push(Series { metric, labels: labels.to_vec(), value });
    }
    Some((Snapshot { at_unix_ms, window: elapsed, series, ..Snapshot::default() }, elapsed))
}

fn take_histogram(rest: &mut &[u8], last: &mut Option<Last>) -> Option<Arc<Distribution>> {
    let head = take(rest)?;
    let (changes, begins_anew) = (head >> 1, head & 1 == 1);
    let mut now = match last {
        Some(Last::Histogram(before)) if !begins_anew => Arc::clone(before),
        _ => Arc::default(),
    };
    if changes > 0 {
        let sum_ns = take(rest)?;
        let mut gains = Vec::new();
        for _ in 0..changes {
            // What counts further than any host is damaged.
            gains.push((usize::try_from(take(rest)?).ok()?, take(rest).filter(|gain| *gain < 1 << 48)?));
        }
        Arc::make_mut(&mut now).add(sum_ns, gains);
    }
    *last = Some(Last::Histogram(Arc::clone(&now)));
    Some(now)
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow (LEB128).
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalog::CHAPTERS;

    fn metric(name: &str) -> &'static Metric {
        CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)()).find(|metric| metric.name == name).unwrap()
    }

    pub fn snapshot(at: u64) -> Snapshot {
        let mut all = Distribution::default();
        (0..at % 7).for_each(|more| all.observe_ns(1_000_000 * (more + 1)));
        let labels = |count: usize| (0..count).map(|label| format!("l{label}")).collect::<Vec<_>>();
        let query = metric("steth_postgres_query_duration_seconds");
        let mut series = vec![
            Series::number(metric("node_load1"), vec![], (at as f64).sin()),
            Series::histogram(query, labels(query.labels.len()), Arc::new(all)),
            Series::number(metric("node_forks_total"), vec![], 1e6 + at as f64),
        ];
        // One comes and goes, and the order changes.
        if at.is_multiple_of(3) {
            series.push(Series::number(metric("node_load5"), vec![], f64::NAN));
            series.reverse();
        }
        Snapshot { at_unix_ms: 1_700_000_000_000 + at * 10_000, series, ..Snapshot::default() }
    }

    #[test]
    fn what_was_recorded_comes_back_as_it_was() {
        let mut recording = Recording::default();
        let count = 3 * BLOCK_WINDOWS as u64 + 5;
        (0..count).for_each(|at| recording.push(&snapshot(at), Duration::from_millis(10_000 + at)));
        let mut at = 0;
        recording.replay(|window, elapsed| {
            let expected = snapshot(at);
            assert_eq!((window.at_unix_ms, elapsed.as_millis() as u64), (expected.at_unix_ms, 10_000 + at));
            // Numbers that are none are equal here.
            assert_eq!(format!("{:?}", window.series), format!("{:?}", expected.series));
            at += 1;
        });
        assert_eq!(at, count);
    }

    #[test]
    fn an_hour_of_three_thousand_series_takes_little_room() {
        let forks = metric("namedprocess_namegroup_cpu_seconds_total");
        let window = |at: u64| {
            let series = (0..3_000_u64).map(|one| {
                let moves = if one % 3 == 0 { at * one } else { 0 };
                Series::number(forks, vec![format!("service-{one}"), "user".into()], moves as f64 / 100.0)
            });
            Snapshot { at_unix_ms: at * 10_000, series: series.collect(), ..Snapshot::default() }
        };
        let mut recording = Recording::default();
        (0..360).for_each(|at| recording.push(&window(at), Duration::from_secs(10)));
        let mut kept = 0;
        recording.replay(|_, _| kept += 1);
        let bytes: usize = recording.finished.iter().map(|block| block.packed.len()).sum();
        assert!(kept >= 300 && bytes < 3 << 20, "{kept} windows in {bytes} bytes");
    }

    #[test]
    fn numbers_of_all_sizes_are_read_back_and_what_is_cut_off_is_none() {
        let mut bytes = Vec::new();
        let all = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        all.iter().for_each(|value| put(&mut bytes, *value));
        let mut rest = bytes.as_slice();
        assert_eq!(all.map(|_| take(&mut rest).unwrap()), all);
        assert_eq!(take(&mut rest), None);
        assert_eq!(take(&mut [0x80].as_slice()), None);
        assert!([0, 1, -1, 5, i64::MAX, i64::MIN].iter().all(|value| unzigzag(zigzag(*value)) == *value));
    }
}
