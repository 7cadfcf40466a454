//! Frames: a record with what is needed to place and to check it.
//!
//! ```text
//! 0   u32  CRC-32 (IEEE) of all bytes of the frame behind this field
//! 4   u32  length of the payload
//! 8   u64  sequence number
//! 16  u64  epoch
//! 24  u64  durable mark: every record up to this one was durable before this frame was written
//! 32  payload
//! ```
//!
//! All numbers are little-endian.

pub const FRAME_HEADER: usize = 32;
/// Longest payload; what claims to be longer is no frame.
pub const MAX_PAYLOAD: usize = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub crc: u32,
    pub length: usize,
    pub sequence: u64,
    pub epoch: u64,
    pub mark: u64,
}

impl FrameHeader {
    /// `None` where there are not enough bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            crc: u32_at(bytes, 0)?,
            length: u32_at(bytes, 4)? as usize,
            sequence: u64_at(bytes, 8)?,
            epoch: u64_at(bytes, 16)?,
            mark: u64_at(bytes, 24)?,
        })
    }

    /// Whether `frame`, the whole frame, is what its checksum says.
    pub fn matches(&self, frame: &[u8]) -> bool {
        frame.get(4..).is_some_and(|checked| crc32fast::hash(checked) == self.crc)
    }
}

/// Appends one frame to `out`. The payload is at most [`MAX_PAYLOAD`] long.
pub fn encode(out: &mut Vec<u8>, sequence: u64, epoch: u64, mark: u64, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    let mut header = [0; FRAME_HEADER];
    header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&epoch.to_le_bytes());
    header[24..32].copy_from_slice(&mark.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[4..]);
    crc.update(payload);
    header[..4].copy_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    bytes.get(at..)?.first_chunk().copied().map(u128::from_le_bytes)
}
