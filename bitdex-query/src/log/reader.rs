//! Reading the log: following it up to the durable frontier, across segments, and reading it to its end before writing
//! goes on.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use super::{
    Error, Result,
    frame::{FRAME_HEADER, FrameHeader},
    segment::{At, SEGMENT_HEADER, Segment, SegmentEnd},
};

/// A position in the log. It moves only over frames that were whole, in sequence, and handed to the caller.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    segment: Segment,
    offset: u64,
    /// Sequence number of the next frame.
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Everything up to the frontier was handed over.
    UpToDate,
    /// The segments that come next were removed after a checkpoint: start again from the manifest.
    Removed,
}

/// Takes a record (its sequence number and payload), or says why it cannot.
pub type Apply<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), String>;

/// Where the log ends.
#[derive(Debug)]
pub struct LogEnd {
    /// The end of what is durable.
    pub durable: SegmentEnd,
    /// Whole records above it, in sequence. They were never acknowledged and are on disk only by chance.
    pub tail: Vec<Vec<u8>>,
    /// Bytes behind the last whole record.
    pub torn: u64,
}

impl LogReader {
    /// Stands before record `next`, which is in segment `first` or a later one; earlier records are passed over.
    /// `None` where the segment is not there.
    pub fn open(folder: &Path, store: u128, first: u64, next: u64) -> Result<Option<Self>> {
        let Some(segment) = Segment::open(folder, first, store)? else { return Ok(None) };
        if segment.header.first() > next {
            return Err(segment.damaged(
                48,
                format!("it begins with record {}, but record {next} is needed", segment.header.first()),
            ));
        }
        let mut reader =
            Self { folder: folder.into(), offset: SEGMENT_HEADER as u64, next: segment.header.first(), segment };
        // Records before `next` are in a checkpoint, so they were durable.
        if reader.follow(next - 1, &mut |_, _| Ok(()))? == Followed::Removed {
            return Ok(None);
        }
        Ok(Some(reader))
    }

    /// The position at the end of a segment that this process wrote itself.
    pub fn at_end(folder: &Path, store: u128, end: SegmentEnd) -> Result<Option<Self>> {
        Ok(Segment::open(folder, end.number, store)?.map(|segment| Self {
            folder: folder.into(),
            segment,
            offset: end.offset,
            next: end.last + 1,
        }))
    }

    /// Whether the segment was unlinked.
    pub fn is_removed(&self) -> Result<bool> {
        self.segment.is_removed()
    }

    pub fn epoch(&self) -> u64 {
        self.segment.header.epoch
    }

    /// Hands over, in order, every record that was not yet and is not above `frontier`. The frontier must have been
    /// loaded before the call.
    ///
    /// An error of `apply` ends it, without moving over that record.
    pub fn follow(&mut self, frontier: u64, apply: Apply<'_>) -> Result<Followed> {
        while self.next <= frontier {
            // A new writer moves the frontier only after its segment is there, and a segment is unlinked only after all
            // before it. So where no successor is found now, and this segment is still linked, none held a record up to
            // `frontier` when that was loaded, and all of them are here.
            let successor = self.successor()?;
            if successor.is_none() && self.segment.is_removed()? {
                return Ok(Followed::Removed);
            }
            self.segment.refresh();
            let end = successor.as_ref().map(|successor| successor.header.predecessor);
            while self.next <= frontier && end.is_none_or(|end| self.next <= end.last) {
                if !self.apply_next(apply)? {
                    return Err(self.missing(frontier)?);
                }
            }
            if let Some(successor) = successor
                && self.next <= frontier
            {
                self.cross(successor)?;
            }
        }
        Ok(Followed::UpToDate)
    }

    /// Reads to the end of the log, for whoever holds the lock: hands over all records that are durable and keeps the
    /// whole ones above.
    ///
    /// `durable`: the highest sequence number that is known to be durable (the frontier, which may be behind after a
    /// power loss, and what the manifest says).
    pub fn finish(mut self, durable: u64, apply: Apply<'_>) -> Result<LogEnd> {
        self.segment.refresh();
        while let Some(successor) = self.successor()? {
            // What a successor names as its predecessor's last record was durable before the successor was there.
            while self.next <= successor.header.predecessor.last {
                if !self.apply_next(apply)? {
                    return Err(self.missing(successor.header.predecessor.last)?);
                }
            }
            self.cross(successor)?;
        }
        self.finish_last(durable, apply)
    }

    fn finish_last(mut self, durable: u64, apply: Apply<'_>) -> Result<LogEnd> {
        let mut mark = durable.max(self.next - 1);
        let mut end = self.end();
        let mut tail: VecDeque<(Frame, Vec<u8>)> = VecDeque::new();
        while let Some((frame, payload)) = self.frame()? {
            let payload = payload.to_vec();
            self.advance(frame);
            tail.push_back((frame, payload));
            mark = mark.max(frame.mark);
            while let Some((frame, payload)) = tail.pop_front_if(|(frame, _)| frame.sequence <= mark) {
                apply(frame.sequence, &payload).map_err(|reason| self.refused(frame, reason))?;
                end = SegmentEnd { offset: frame.end, last: frame.sequence, ..end };
            }
        }
        let rest = self.segment.rest(self.offset)?;
        if let Some(evidence) = evidence(&rest, self.next, self.epoch()) {
            mark = mark.max(evidence);
        }
        if self.next <= mark {
            return Err(self.missing(mark)?);
        }
        Ok(LogEnd {
            durable: end,
            tail: tail.into_iter().map(|(_, payload)| payload).collect(),
            torn: rest.len() as u64,
        })
    }

    fn end(&self) -> SegmentEnd {
        SegmentEnd { number: self.segment.header.number, offset: self.offset, last: self.next - 1 }
    }

    fn successor(&self) -> Result<Option<Segment>> {
        Segment::open(&self.folder, self.segment.header.number + 1, self.segment.header.store)
    }

    /// The next frame, where it is whole and the one that belongs here.
    fn frame(&mut self) -> Result<Option<(Frame, &[u8])>> {
        let (next, epoch) = (self.next, self.segment.header.epoch);
        Ok(match self.segment.at(self.offset)? {
            At::Frame { header, payload, end } if header.sequence == next && header.epoch == epoch => {
                Some((Frame { sequence: next, mark: header.mark, end }, payload))
            }
            _ => None,
        })
    }

    /// Hands over the next record; false where there is no whole one.
    fn apply_next(&mut self, apply: Apply<'_>) -> Result<bool> {
        let Some((frame, payload)) = self.frame()? else { return Ok(false) };
        apply(frame.sequence, payload).map_err(|reason| self.refused(frame, reason))?;
        self.advance(frame);
        Ok(true)
    }

    fn refused(&self, frame: Frame, reason: String) -> Error {
        Error::record(self.segment.path.clone(), frame.sequence, reason)
    }

    fn advance(&mut self, frame: Frame) {
        self.offset = frame.end;
        self.next = frame.sequence + 1;
    }

    fn cross(&mut self, successor: Segment) -> Result<()> {
        let named = successor.header.predecessor;
        if named != self.end() {
            return Err(successor.damaged(
                56,
                format!(
                    "it follows record {} at byte {} of segment {}, but the log before it stands at record {}, byte {} \
                     of segment {}",
                    named.last,
                    named.offset,
                    named.number,
                    self.next - 1,
                    self.offset,
                    self.segment.header.number,
                ),
            ));
        }
        if successor.header.epoch < self.epoch() {
            return Err(successor.damaged(32, "its epoch is below that of the segment before"));
        }
        self.offset = SEGMENT_HEADER as u64;
        self.segment = successor;
        Ok(())
    }

    /// The error for the place where no frame is although `durable` is not below the next record.
    fn missing(&mut self, durable: u64) -> Result<Error> {
        let (next, offset) = (self.next, self.offset);
        let reason = match self.segment.at(offset)? {
            At::Bad(reason) => reason,
            At::Frame { .. } => "a frame is not of this segment, or out of sequence",
            At::End => "the file ends (or FRONTIER, by which more was durable, is damaged)",
        };
        Ok(self.segment.damaged(
            offset,
            format!("{reason}, where record {next} should stand; records up to {durable} were durable"),
        ))
    }
}

/// Of a frame that was read: it ends before byte `end`.
#[derive(Debug, Clone, Copy)]
struct Frame {
    sequence: u64,
    mark: u64,
    end: u64,
}

/// The highest durable mark of whole frames of `epoch` anywhere in `rest`, which begins with no whole frame: it tells a
/// frame that was destroyed later from one that was never wholly written.
fn evidence(rest: &[u8], next: u64, epoch: u64) -> Option<u64> {
    (1..rest.len())
        .filter_map(|at| {
            let bytes = rest.get(at..)?;
            let header = FrameHeader::read(bytes)?;
            let plausible = header.epoch == epoch && header.sequence > next && header.mark < header.sequence;
            let frame = plausible.then(|| bytes.get(..FRAME_HEADER.checked_add(header.length)?)).flatten()?;
            header.matches(frame).then_some(header.mark)
        })
        .max()
}
