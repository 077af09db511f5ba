//! How an entry stands in a file of the spool, and how a file is read that may be cut off or damaged anywhere.

use std::ops::Range;

use bytes::Bytes;

/// What a file begins with.
pub const MAGIC: &[u8; 8] = b"stethsp1";
/// What stands before a payload: its length, its number of samples, when it was made, a checksum of it, and one of all this.
pub const HEADER_BYTES: usize = 24;
/// What the header's own checksum covers.
const CHECKED_BYTES: usize = 20;

/// Something that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was made, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// How many samples it holds.
    pub samples: u32,
    /// What is sent.
    pub payload: Bytes,
}

/// Where an entry stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Header and payload.
    pub bytes: Range<u64>,
    /// When it was made.
    pub at_unix_ms: u64,
}

/// What is in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The entries that are whole, in order.
    pub entries: Vec<Place>,
    /// Stretches that are damaged or cut off.
    pub damaged: u64,
    /// Up to where there are entries.
    pub end: u64,
}

/// The entry as it stands in a file.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let length = u32::try_from(entry.payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + entry.payload.len());
    bytes.extend(length.to_le_bytes());
    bytes.extend(entry.samples.to_le_bytes());
    bytes.extend(entry.at_unix_ms.to_le_bytes());
    bytes.extend(crc32fast::hash(&entry.payload).to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend_from_slice(&entry.payload);
    bytes
}

/// The entry that these bytes are, if they are undamaged.
pub fn decode(bytes: &[u8]) -> Option<Entry> {
    let header = Header::read(bytes)?;
    let payload = bytes.get(HEADER_BYTES..)?;
    let whole = payload.len() == header.payload_bytes && crc32fast::hash(payload) == header.payload_crc;
    let Header { at_unix_ms, samples, .. } = header;
    whole.then(|| Entry { at_unix_ms, samples, payload: Bytes::copy_from_slice(payload) })
}

/// Looks through a file. Behind a damaged payload the next entry is found, behind a damaged header nothing is.
pub fn scan(file: &[u8]) -> Contents {
    let mut contents = Contents::default();
    if !file.starts_with(MAGIC) {
        contents.damaged = u64::from(!file.is_empty());
        return contents;
    }
    let mut at = MAGIC.len();
    while let Some(rest) = file.get(at..).filter(|rest| !rest.is_empty()) {
        contents.end = at as u64;
        let Some(header) = Header::read(rest) else {
            contents.damaged += 1;
            return contents;
        };
        let next = at + HEADER_BYTES + header.payload_bytes;
        let Some(entry) = file.get(at..next) else {
            contents.damaged += 1;
            return contents;
        };
        match decode(entry) {
            Some(_) => contents.entries.push(Place { bytes: at as u64..next as u64, at_unix_ms: header.at_unix_ms }),
            None => contents.damaged += 1,
        }
        at = next;
    }
    contents.end = at as u64;
    contents
}

struct Header {
    payload_bytes: usize,
    samples: u32,
    at_unix_ms: u64,
    payload_crc: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (checked, rest) = bytes.split_at_checked(CHECKED_BYTES)?;
        let crc = u32::from_le_bytes(*rest.first_chunk()?);
        if crc32fast::hash(checked) != crc {
            return None;
        }
        let (length, rest) = checked.split_first_chunk()?;
        let (samples, rest) = rest.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        Some(Self {
            payload_bytes: usize::try_from(u32::from_le_bytes(*length)).ok()?,
            samples: u32::from_le_bytes(*samples),
            at_unix_ms: u64::from_le_bytes(*at),
            payload_crc: u32::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (Vec<u8>, Vec<u64>) {
        let (mut file, mut ends) = (MAGIC.to_vec(), vec![MAGIC.len() as u64]);
        for (at, payload) in [(10, "one"), (20, ""), (30, "three, which is longer")] {
            let payload = Bytes::from_static(payload.as_bytes());
            file.extend(encode(&Entry { at_unix_ms: at, samples: 7, payload }));
            ends.push(file.len() as u64);
        }
        (file, ends)
    }

    #[test]
    fn what_was_written_is_read() {
        let entry = Entry { at_unix_ms: 1, samples: 2, payload: Bytes::from_static(b"three") };
        assert_eq!(decode(&encode(&entry)), Some(entry));
        let (file, ends) = file();
        let contents = scan(&file);
        assert_eq!(contents.entries.iter().map(|place| place.at_unix_ms).collect::<Vec<_>>(), [10, 20, 30]);
        assert_eq!(contents.entries.iter().map(|place| place.bytes.end).collect::<Vec<_>>(), ends[1..]);
        assert_eq!((contents.damaged, contents.end), (0, file.len() as u64));
    }

    #[test]
    fn cut_off_at_any_byte_the_whole_entries_before_are_there() {
        let (file, ends) = file();
        for cut in 0..file.len() {
            let contents = scan(&file[..cut]);
            let whole = ends[1..].iter().filter(|end| **end <= cut as u64).count();
            assert_eq!(contents.entries.len(), whole, "{cut}");
            let between = cut == 0 || ends.contains(&(cut as u64));
            assert_eq!(contents.damaged, u64::from(!between), "{cut}");
            assert!(contents.end <= cut as u64);
        }
    }

    #[test]
    fn damage_at_any_byte_costs_no_entry_before_it_and_is_counted() {
        let (file, ends) = file();
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            let contents = scan(&damaged);
            let before = ends[1..].iter().filter(|end| **end <= at as u64).count();
            let expected: &[u64] = &[10, 20, 30];
            let found: Vec<_> = contents.entries.iter().map(|place| place.at_unix_ms).collect();
            assert_eq!(contents.damaged, 1, "{at}");
            if at >= MAGIC.len() {
                assert_eq!(found[..before], expected[..before], "{at}");
            }
            let begin = ends[before] as usize;
            if at >= begin + HEADER_BYTES {
                // In a payload: all others are there.
                assert_eq!(found.len(), 2, "{at}");
            }
        }
    }
}
