//! Tokens (where an answer stood) and page cursors: opaque bytes to callers, checked on their way in.

use bytes::Bytes;
use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result, wire};

pub use crate::wire::{PageCursor, Token};

/// The version of [`PageCursor`] that is written and read. Version 1 had no check, version 2 other hashes.
const PAGE_CURSOR_VERSION: u32 = 3;

impl Token {
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let token =
            Self::decode(bytes).map_err(|_| Error::invalid("this is no token: give one that BitDex answered"))?;
        if token.store.is_empty() {
            return Err(Error::invalid("this is no token: give one that BitDex answered"));
        }
        Ok(token)
    }
}

/// What a page cursor is bound to.
#[derive(Debug, Clone, Copy)]
pub struct CursorBinding<'a> {
    pub store: &'a str,
    pub generation: u64,
    /// See [`SearchRequest::identity`](crate::query::SearchRequest::identity).
    pub query: &'a [u8],
}

pub fn encode_page_cursor(mut cursor: PageCursor) -> Bytes {
    cursor.version = PAGE_CURSOR_VERSION;
    cursor.check = Bytes::new();
    let mut encoded = cursor.encode_to_vec();
    let check = Bytes::copy_from_slice(&check(&encoded));
    // The last field: what is encoded behind the others belongs to the same message.
    encoded.extend_from_slice(&PageCursor { check, ..PageCursor::default() }.encode_to_vec());
    encoded.into()
}

/// Reads a cursor, and refuses one that was changed, or is of another version, store or query.
pub fn decode_page_cursor(bytes: &[u8], binding: CursorBinding<'_>) -> Result<PageCursor> {
    let no_cursor = || Error::invalid("this is no cursor: give `next_cursor` of the page before, unchanged");
    let mut cursor = wire::PageCursor::decode(bytes).map_err(|_| no_cursor())?;
    if cursor.version != PAGE_CURSOR_VERSION {
        return Err(Error::Precondition(format!(
            "cursor of version {}, this server reads {PAGE_CURSOR_VERSION}: start again from the first page",
            cursor.version
        )));
    }
    let told = std::mem::take(&mut cursor.check);
    if told[..] != check(&cursor.encode_to_vec()) {
        return Err(no_cursor());
    }
    if cursor.store != binding.store || cursor.generation != binding.generation {
        return Err(Error::Precondition(
            "the cursor is of another store or generation: start again from the first page".into(),
        ));
    }
    if cursor.query != binding.query {
        return Err(Error::invalid(
            "the cursor belongs to another query: index, filter, sort, include_pending and distinct must stay the same",
        ));
    }
    Ok(cursor)
}

/// No slip and no damage passes for a cursor.
fn check(encoded: &[u8]) -> [u8; 8] {
    xxh3_64(encoded).to_le_bytes()
}
