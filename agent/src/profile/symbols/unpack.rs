//! Packed sections: zlib and zstd, each with its length before it. Knows no sections.

use std::{borrow::Cow, io::Read as _};

use object::{
    CompressedData, CompressionFormat, LittleEndian as LE,
    elf::{CompressionHeader64, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD},
    pod,
};
use ruzstd::decoding::StreamingDecoder;

use super::elf::ElfError;

/// How many bytes a packed section holds, as its header says.
pub fn unpacked_bytes(raw: &[u8]) -> Option<u64> {
    pod::from_bytes::<CompressionHeader64<LE>>(raw).ok().map(|(header, _)| header.ch_size.get(LE))
}

/// Unpacks a section's bytes.
///
/// # Errors
/// If they are more than `limit`, not what their header says, or packed in another way.
pub fn unpack(raw: &[u8], limit: u64) -> Result<Vec<u8>, ElfError> {
    let (header, data) = pod::from_bytes::<CompressionHeader64<LE>>(raw).map_err(|()| ElfError::Damaged)?;
    let length = header.ch_size.get(LE);
    if length > limit {
        return Err(ElfError::Damaged);
    }
    match header.ch_type.get(LE) {
        ELFCOMPRESS_ZLIB => {
            let packed = CompressedData { format: CompressionFormat::Zlib, data, uncompressed_size: length };
            packed.decompress().map(Cow::into_owned).map_err(|_| ElfError::Damaged)
        }
        ELFCOMPRESS_ZSTD => {
            let mut unpacked = Vec::new();
            let decoder = StreamingDecoder::new(data).map_err(|_| ElfError::Damaged)?;
            // What follows the stated length is not asked for: few bytes may unpack to very many.
            decoder.take(length).read_to_end(&mut unpacked).map_err(|_| ElfError::Damaged)?;
            if unpacked.len() as u64 == length { Ok(unpacked) } else { Err(ElfError::Damaged) }
        }
        _ => Err(ElfError::Damaged),
    }
}
