//! Writing the log: groups of records, each made durable by one fsync.
//!
//! A full disk fails the group and leaves the writer whole: what was written of the group stands behind the end that
//! the next segment's header names. After any other failed write, and after any failed fsync, nobody knows what the
//! disk holds, and the writer is poisoned: it takes nothing more, and never syncs again.

use std::{path::PathBuf, sync::Arc};

use super::{
    Error, Result,
    disk::{Disk, DiskFile, publish, write_all},
    frame,
    named::Named,
    reader::LogEnd,
    segment::{SEGMENT_HEADER, SegmentEnd, SegmentHeader, segment_path},
};
use crate::mapping::Frontier;

/// What stays the same over a writer's segments.
#[derive(Debug, Clone)]
pub struct LogOptions {
    pub disk: Arc<dyn Disk>,
    pub folder: PathBuf,
    pub store: u128,
    pub epoch: u64,
    pub frontier: Arc<Frontier>,
    /// A segment with this many bytes gets a successor.
    pub segment_bytes: u64,
}

/// The log's one writer, in its own epoch.
#[derive(Debug)]
pub struct LogWriter {
    options: LogOptions,
    /// `None` where the next group needs a new segment.
    file: Option<(Box<dyn DiskFile>, Named)>,
    /// Whether a segment that records were made durable in is gone, and nobody has been told yet.
    lost: bool,
    /// The end of what is durable.
    end: SegmentEnd,
    poison: Option<String>,
    buffer: Vec<u8>,
    written: u64,
}

impl LogWriter {
    /// Takes over where the log ends: starts this writer's first segment with copies of the whole records above the last
    /// durable mark, and moves the frontier over them.
    pub fn take_over(options: LogOptions, end: &LogEnd) -> Result<Self> {
        let mut writer =
            Self { options, file: None, lost: false, end: end.durable, poison: None, buffer: Vec::new(), written: 0 };
        writer.start_segment(&end.tail)?;
        Ok(writer)
    }

    /// Sequence number of the next record.
    pub fn next(&self) -> u64 {
        self.end.last + 1
    }

    pub fn end(&self) -> SegmentEnd {
        self.end
    }

    /// Bytes of frames that this writer made durable.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether, since the last call, a segment was found removed. Its records are in memory, and in the files of the next
    /// checkpoint.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Makes the records durable, all or none, with the sequence numbers from [`LogWriter::next`] on, and moves the
    /// frontier over them. After a [refusal](Error::is_refusal) it may be tried again; after every other error the writer
    /// is poisoned.
    pub fn commit<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<()> {
        if let Some((_, named)) = &self.file
            && !named.is_there()?
        {
            tracing::error!(
                path = %named.path().display(),
                "a segment of the log was removed while it was written; its records are brought into files at once"
            );
            (self.file, self.lost) = (None, true);
        }
        if self.file.is_none() || self.end.offset >= self.options.segment_bytes {
            self.roll()?;
        }
        self.check_poison()?;
        let last = self.end.last + payloads.len() as u64;
        self.buffer.clear();
        for (sequence, payload) in (self.end.last + 1..).zip(payloads) {
            frame::encode(&mut self.buffer, sequence, self.options.epoch, self.end.last, payload.as_ref());
        }
        let path = segment_path(&self.options.folder, self.end.number);
        let Some((file, _)) = &mut self.file else { return Err(Error::poisoned("there is no segment")) };
        let result = write_all(&mut **file, &self.buffer).map_err(Error::write(&path)).and_then(|()| {
            let start = std::time::Instant::now();
            file.sync().map_err(Error::io("sync", &path))?;
            metrics::histogram!("bitdex_log_sync_seconds").record(start.elapsed().as_secs_f64());
            Ok(())
        });
        self.settle(result)?;
        let length = self.buffer.len() as u64;
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
        self.written += length;
        self.end = SegmentEnd { offset: self.end.offset + length, last, ..self.end };
        self.options.frontier.store(last);
        metrics::counter!("bitdex_log_groups_total").increment(1);
        metrics::counter!("bitdex_log_bytes_total").increment(length);
        Ok(())
    }

    /// Starts a new segment, so that the next record is the first of one. Errors as [`LogWriter::commit`].
    pub fn roll(&mut self) -> Result<()> {
        self.check_poison()?;
        let result = self.start_segment(&[] as &[Vec<u8>]);
        self.settle(result)
    }

    /// The successor of the segment at `self.end`. It becomes visible, under its name, only whole and durable.
    fn start_segment(&mut self, tail: &[Vec<u8>]) -> Result<()> {
        let header = SegmentHeader {
            store: self.options.store,
            epoch: self.options.epoch,
            number: self.end.number + 1,
            predecessor: self.end,
        };
        let mut bytes = header.encode().to_vec();
        for (sequence, payload) in (header.first()..).zip(tail) {
            frame::encode(&mut bytes, sequence, header.epoch, self.end.last, payload);
        }
        let path = segment_path(&self.options.folder, header.number);
        if path.exists() {
            return Err(Error::damaged(path, 0, "it is there already, although the log ends before it"));
        }
        let file = publish(&*self.options.disk, &path, &bytes)?;
        self.file = Some((file, Named::at(&path)?));
        self.written += (bytes.len() - SEGMENT_HEADER) as u64;
        let last = self.end.last + tail.len() as u64;
        self.end = SegmentEnd { number: header.number, offset: bytes.len() as u64, last };
        self.options.frontier.store(last);
        Ok(())
    }

    fn check_poison(&self) -> Result<()> {
        match &self.poison {
            Some(reason) => Err(Error::poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    /// What a failure leaves behind.
    fn settle(&mut self, result: Result<()>) -> Result<()> {
        match &result {
            Ok(()) => {}
            // The segment may now end in part of a group: go on in a new one, which says where this one ends.
            Err(error) if error.is_refusal() => self.file = None,
            Err(error) => {
                self.file = None;
                self.poison = Some(error.to_string());
            }
        }
        result
    }
}

/// A larger buffer is given back after its group.
const KEPT_BUFFER: usize = 16 << 20;
