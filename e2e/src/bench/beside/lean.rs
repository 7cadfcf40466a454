//! Generators of load that cost next to nothing themselves: requests are encoded ahead, answers are only told apart.
//! One thread, a few connections; gRPC as bare HTTP/2 frames with several calls under way on each connection, HTTP/1.1
//! with one request at a time on each.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const READ: usize = 64 << 10;

// Frames of HTTP/2 (RFC 9113).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW: u32 = 1 << 30;
/// The window of a connection that the peer begins with.
const FIRST_WINDOW: u32 = 65_535;

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// The headers of a call in HPACK. The first call of a connection puts them into the peer's table, later ones refer to
/// them there.
fn headers(path: &str, first: bool) -> Vec<u8> {
    // :method POST and :scheme http stand in the static table.
    let mut block = vec![0x83, 0x86];
    if !first {
        block.extend([0xc1, 0xc0, 0xbf, 0xbe]);
        return block;
    }
    let text = |block: &mut Vec<u8>, text: &str| {
        block.push(text.len() as u8);
        block.extend(text.bytes());
    };
    for (name, value) in [(0x44, path), (0x41, "bench"), (0x5f, "application/grpc")] {
        block.push(name);
        text(&mut block, value);
    }
    block.push(0x40);
    text(&mut block, "te");
    text(&mut block, "trailers");
    block
}

/// Calls `path` over gRPC with one message after the other until the time is over; how many were answered.
pub(super) fn grpc(
    address: &str,
    path: &str,
    messages: &Arc<Vec<Vec<u8>>>,
    connections: usize,
    streams: usize,
    lasts: Duration,
) -> Result<(u64, Duration)> {
    spread(connections, |connection| {
        let (messages, start) = (Arc::clone(messages), connection * messages.len() / connections);
        async move { calls(TcpStream::connect(address).await?, path, &messages, start, streams, lasts).await }
    })
}

/// As many connections at once, on one thread.
fn spread<F>(connections: usize, one: impl Fn(usize) -> F) -> Result<(u64, Duration)>
where
    F: Future<Output = Result<u64>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    let answered = runtime.block_on(futures::future::try_join_all((0..connections).map(one)))?;
    Ok((answered.into_iter().sum(), start.elapsed()))
}

async fn calls(
    mut stream: TcpStream,
    path: &str,
    messages: &[Vec<u8>],
    start: usize,
    streams: usize,
    lasts: Duration,
) -> Result<u64> {
    stream.set_nodelay(true)?;
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend(WINDOW.to_be_bytes());
    frame(&mut out, SETTINGS, 0, 0, &settings);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes());
    let later = headers(path, false);
    let mut messages = messages.iter().cycle().skip(start);
    // Calls under way, and whether a message has come for them.
    let mut under_way: HashMap<u32, bool> = HashMap::new();
    let mut next = 1;
    let mut call = |out: &mut Vec<u8>, under_way: &mut HashMap<u32, bool>| {
        let Some(message) = messages.next() else { return };
        let first = (next == 1).then(|| headers(path, true));
        frame(out, HEADERS, END_HEADERS, next, first.as_deref().unwrap_or(&later));
        frame(out, DATA, END_STREAM, next, message);
        under_way.insert(next, false);
        next += 2;
    };
    for _ in 0..streams {
        call(&mut out, &mut under_way);
    }
    let began = Instant::now();
    let (mut answered, mut received) = (0, 0);
    let mut input: Vec<u8> = Vec::with_capacity(2 * READ);
    loop {
        stream.write_all(&out).await?;
        out.clear();
        if under_way.is_empty() {
            return Ok(answered);
        }
        input.reserve(READ);
        ensure!(stream.read_buf(&mut input).await? > 0, "the server closed a connection");
        let over = began.elapsed() >= lasts;
        let mut at = 0;
        while let Some((head, rest)) = input[at..].split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = rest.get(..length) else { break };
            let (kind, flags) = (head[3], head[4]);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match kind {
                DATA => {
                    received += length as u32;
                    if let Some(has_message) = under_way.get_mut(&id) {
                        *has_message |= length > 0;
                    }
                }
                SETTINGS if flags & ACK == 0 => frame(&mut out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut out, PING, ACK, 0, payload),
                RST_STREAM | GOAWAY => bail!("the server ended a call: frame {kind} {payload:?}"),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                let has_message = under_way.remove(&id).context("an answer to no call")?;
                ensure!(has_message, "a call failed");
                answered += 1;
                if !over {
                    call(&mut out, &mut under_way);
                }
            }
            at += 9 + length;
        }
        input.drain(..at);
        if received > WINDOW / 2 {
            frame(&mut out, WINDOW_UPDATE, 0, 0, &received.to_be_bytes());
            received = 0;
        }
    }
}

/// Posts one body after the other to `path` until the time is over; how many were answered.
pub(super) fn http(
    address: &str,
    path: &str,
    bodies: &[Vec<u8>],
    connections: usize,
    lasts: Duration,
) -> Result<(u64, Duration)> {
    let requests: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| {
            let mut request = format!(
                "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            request.extend(body);
            request
        })
        .collect();
    let requests = &requests;
    spread(connections, |connection| async move {
        let start = connection * requests.len() / connections;
        posts(TcpStream::connect(address).await?, requests.iter().cycle().skip(start), lasts).await
    })
}

async fn posts<'a>(mut stream: TcpStream, requests: impl Iterator<Item = &'a Vec<u8>>, lasts: Duration) -> Result<u64> {
    stream.set_nodelay(true)?;
    let began = Instant::now();
    let mut answered = 0;
    let mut input: Vec<u8> = Vec::with_capacity(READ);
    for request in requests {
        if began.elapsed() >= lasts {
            break;
        }
        stream.write_all(request).await?;
        input.clear();
        while !is_whole(&input)? {
            input.reserve(READ);
            ensure!(stream.read_buf(&mut input).await? > 0, "the server closed a connection");
        }
        answered += 1;
    }
    Ok(answered)
}

/// Whether a whole answer has come; an error where it is not 200.
fn is_whole(input: &[u8]) -> Result<bool> {
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&input[..end])?;
    ensure!(head.starts_with("HTTP/1.1 200"), "a request failed: {}", String::from_utf8_lossy(input));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("an answer without a length")?.parse()?;
    Ok(input.len() >= end + 4 + length)
}
