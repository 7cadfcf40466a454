//! The bytes of a header.

use std::sync::Arc;

use bitdex_proto::wire;
use bytes::Bytes;

use super::super::{
    Feed, Header, LoadProgress, Loading,
    encode::{Broken, Input, put_bytes, put_key, put_number},
};

/// `definition`: hash of the schema.
pub(super) fn encode(definition: &str, header: &Header) -> Vec<u8> {
    let Header { sequence, store, generation, feeds, loading, loaded, documents, hash } = header;
    let mut out = Vec::new();
    put_bytes(&mut out, definition.as_bytes());
    put_number(&mut out, *sequence);
    put_bytes(&mut out, store.as_bytes());
    put_number(&mut out, *generation);
    out.push((*loaded).into());
    put_number(&mut out, *documents);
    out.extend_from_slice(&hash.to_le_bytes());
    put_number(&mut out, feeds.len() as u64);
    for (source, Feed { cursor, caught_up, backlog }) in feeds {
        put_bytes(&mut out, source.as_bytes());
        put_bytes(&mut out, cursor);
        out.push((*caught_up).into());
        put_number(&mut out, *backlog);
    }
    out.push(loading.is_some().into());
    if let Some(loading) = loading {
        let Loading { source, generation, began, progress } = &**loading;
        let LoadProgress { load_id, cursor, parts, done, rows } = progress;
        put_bytes(&mut out, source.as_bytes());
        put_number(&mut out, *generation);
        put_number(&mut out, *began);
        put_bytes(&mut out, load_id.as_bytes());
        put_bytes(&mut out, cursor);
        put_number(&mut out, parts.len() as u64);
        for part in parts {
            put_number(&mut out, part.source.into());
            put_key(&mut out, part.lo);
            put_key(&mut out, part.hi);
        }
        put_number(&mut out, done.len() as u64);
        done.iter().for_each(|part| put_number(&mut out, (*part).into()));
        put_number(&mut out, *rows);
    }
    out
}

/// The definition's hash, and the header.
pub(super) fn decode(bytes: &[u8]) -> Result<(&str, Header), Broken> {
    let mut input = Input(bytes);
    let definition = input.text()?;
    let sequence = input.number()?;
    let store = input.text()?.into();
    let generation = input.number()?;
    let loaded = flag(&mut input)?;
    let documents = input.number()?;
    let (hash, rest) = input.0.split_first_chunk::<16>().ok_or(Broken)?;
    input.0 = rest;
    let feeds = (0..input.length()?).map(|_| feed(&mut input)).collect::<Result<_, Broken>>()?;
    let loading = if flag(&mut input)? { Some(Arc::new(loading(&mut input)?)) } else { None };
    if !input.is_empty() {
        return Err(Broken);
    }
    let hash = u128::from_le_bytes(*hash);
    Ok((definition, Header { sequence, store, generation, feeds, loading, loaded, documents, hash }))
}

fn flag(input: &mut Input<'_>) -> Result<bool, Broken> {
    match input.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Broken),
    }
}

fn feed(input: &mut Input<'_>) -> Result<(String, Feed), Broken> {
    let source = input.text()?.to_owned();
    let cursor = Bytes::copy_from_slice(input.bytes()?);
    Ok((source, Feed { cursor, caught_up: flag(input)?, backlog: input.number()? }))
}

fn loading(input: &mut Input<'_>) -> Result<Loading, Broken> {
    let source = input.text()?.to_owned();
    let (generation, began) = (input.number()?, input.number()?);
    let load_id = input.text()?.to_owned();
    let cursor = Bytes::copy_from_slice(input.bytes()?);
    let part = |input: &mut Input<'_>| Ok(wire::LoadPart { source: input.id()?, lo: input.key()?, hi: input.key()? });
    let parts = (0..input.length()?).map(|_| part(input)).collect::<Result<_, Broken>>()?;
    let done = (0..input.length()?).map(|_| input.id()).collect::<Result<_, Broken>>()?;
    let progress = LoadProgress { load_id, cursor, parts, done, rows: input.number()? };
    Ok(Loading { source, generation, began, progress })
}

#[cfg(test)]
mod tests {
    use imbl::OrdMap;

    use super::*;

    fn header() -> Header {
        let feed =
            |cursor: &'static [u8], caught_up| Feed { cursor: Bytes::from_static(cursor), caught_up, backlog: 300 };
        let progress = LoadProgress {
            load_id: "load".into(),
            cursor: Bytes::from_static(b"\0cursor"),
            parts: vec![wire::LoadPart { source: 0, lo: i64::MIN, hi: -1 }, wire::LoadPart { source: 3, lo: 0, hi: 9 }],
            done: vec![1],
            rows: u64::MAX,
        };
        Header {
            sequence: 1 << 40,
            store: "store".into(),
            generation: 3,
            feeds: OrdMap::from_iter([
                ("clickhouse".to_owned(), feed(b"", false)),
                ("postgres".to_owned(), feed(b"7:7:", true)),
            ]),
            loading: Some(Arc::new(Loading { source: "postgres".into(), generation: 4, began: 1 << 39, progress })),
            loaded: true,
            documents: 110_000_000,
            hash: u128::MAX - 5,
        }
    }

    #[test]
    fn reads_what_it_wrote_and_nothing_shorter_or_longer() {
        for header in [header(), Header { loading: None, ..header() }, Header::default()] {
            let mut bytes = encode("definition", &header);
            let (definition, read) = decode(&bytes).unwrap();
            assert_eq!((definition, &read), ("definition", &header));
            for end in 0..bytes.len() {
                assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
            }
            bytes.push(0);
            assert!(decode(&bytes).is_err());
        }
    }
}
