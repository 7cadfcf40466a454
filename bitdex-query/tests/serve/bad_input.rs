//! Requests that cannot be answered: each a clear error, over gRPC and HTTP, and the process goes on.

use bitdex_proto::{
    client::Client,
    query::SearchRequest,
    wire::{self, query_client::QueryClient},
};
use bytes::{Buf as _, BufMut as _, Bytes};
use serde_json::{Value as Json, json};
use tonic::{
    Code, Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

use crate::{
    feed::load,
    process::{Folder, Process},
    queries::{channel, ready},
};

async fn refused(process: &Process, path: &str, body: String, status: u16, says: &str) {
    let (found, answer) = process.post(path, body.clone()).await;
    let shown: String = body.chars().take(200).collect();
    assert_eq!(found, status, "{shown}: {answer}");
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(says), "{shown}: {message}");
    assert!(answer["error"]["code"].is_string(), "{answer}");
}

fn search(more: Json) -> String {
    let mut request = json!({"index": "items"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_clearly() {
    let folder = Folder::new();
    let process = folder.start();
    load(&folder, &[&process]).await;
    ready(&process).await;

    let filter = |filter: Json| search(json!({"filter": filter}));
    let deep = |levels: usize| {
        let (open, close) = (r#"{"not": "#.repeat(levels), "}".repeat(levels));
        format!(r#"{{"index": "items", "filter": {open}{{"field": "used", "eq": true}}{close}}}"#)
    };
    let cases = [
        (filter(json!({"field": "colour", "eq": 1})), "colour"),
        (filter(json!({"field": "note", "eq": "x"})), "note"),
        (filter(json!({"field": "price", "eq": "cheap"})), "price"),
        (filter(json!({"field": "categoryId", "eq": "1"})), "categoryId"),
        (filter(json!({"field": "categoryId", "eq": 1.5})), "categoryId"),
        (filter(json!({"field": "categoryId", "eq": 18_446_744_073_709_551_615_u64})), "64-bit"),
        (filter(json!({"field": "price", "eq": i64::MAX})), "does not fit"),
        (filter(json!({"field": "price", "eq": "1.005"})), "price"),
        (filter(json!({"field": "listedAt", "ge": "yesterday"})), "listedAt"),
        (filter(json!({"field": "categoryId", "ge": {"now": "-24h"}})), "categoryId"),
        (filter(json!({"field": "used", "eq": null})), "is_null"),
        (filter(json!({"field": "categoryId", "all": [1]})), "all"),
        (filter(json!({"field": "used", "like": "x"})), "like"),
        (filter(json!(7)), "object"),
        (filter(json!([7])), "texts"),
        (filter(json!("used = 1")), "column 8: expected a value of type bool"),
        (deep(50), "deep"),
        (deep(10_000), "recursion"),
        (search(json!({"limit": 0})), "limit"),
        (search(json!({"limit": 1_000_000_000})), "limit"),
        (search(json!({"limit": -1})), "-1"),
        (search(json!({"limit": 1e30})), "1e+30"),
        (search(json!({"sort": [{"field": "tags"}]})), "tags"),
        (search(json!({"sort": [{"field": "colour"}]})), "colour"),
        (search(json!({"sort": vec![json!({"field": "id"}); 9]})), "9 sort keys"),
        (search(json!({"fields": ["colour"]})), "colour"),
        (search(json!({"colour": 1})), "colour"),
        (search(json!({"cursor": "!"})), "cannot be read"),
        (search(json!({"cursor": "AAAA"})), "cursor"),
        (search(json!({"consistency": {"token": "AAAA"}})), "token"),
        ("".into(), "cannot be read"),
        ("{\"index\": \"items\"".into(), "cannot be read"),
        ("\u{0}\u{1}".into(), "cannot be read"),
    ];
    for (body, says) in cases {
        refused(&process, "/v1/search", body, 400, says).await;
    }
    refused(&process, "/v1/search", json!({"index": "images"}).to_string(), 404, "images").await;
    refused(&process, "/v1/count", json!({"index": "images"}).to_string(), 404, "images").await;
    refused(&process, "/v1/nothing", String::new(), 404, "/v1/nothing").await;
    refused(&process, "/v1/describe", String::new(), 405, "GET").await;
    refused(&process, "/v1/search", "x".repeat(9 << 20), 400, "at most").await;
    let ids = |ids: Json| json!({"index": "items", "ids": ids}).to_string();
    refused(&process, "/v1/get", ids(json!([4_294_967_296_u64])), 400, "4294967296").await;
    refused(&process, "/v1/get", ids(json!([-1])), 400, "-1").await;
    refused(&process, "/v1/get", ids(json!((0..10_001).collect::<Vec<_>>())), 400, "10001 ids").await;

    // It is well all the same.
    assert_eq!(process.get("/readyz").await.0, 200);
    assert_eq!(process.post("/v1/search", search(json!({}))).await.0, 200);
}

/// A search whose filter is nested so deep that a recursive encoder could not write it.
fn deep_search(levels: usize) -> Bytes {
    // Written from the inside out, and back to front.
    let mut reversed: Vec<u8> = b"\x32\x04used".iter().rev().copied().collect();
    let wrap = |reversed: &mut Vec<u8>, tag: u8| {
        let mut length = Vec::new();
        prost::encode_length_delimiter(reversed.len(), &mut length).unwrap();
        reversed.extend(length.iter().rev());
        reversed.push(tag);
    };
    for _ in 0..levels {
        wrap(&mut reversed, 0x1a);
    }
    wrap(&mut reversed, 0x12);
    reversed.extend(b"\x0a\x05items".iter().rev());
    reversed.reverse();
    reversed.into()
}

/// Sends the bytes as they are.
#[derive(Debug, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

async fn search_raw(process: &Process, request: Bytes) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(channel(process).await);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/bitdex.v1.Query/Search");
    client.unary(Request::new(request), path, RawCodec).await.map(Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_messages_are_the_callers_fault() {
    let folder = Folder::new();
    let process = folder.start();
    load(&folder, &[&process]).await;
    ready(&process).await;
    let mut client = QueryClient::connect(format!("http://{}", process.grpc)).await.unwrap();
    let request = || wire::SearchRequest { index: "items".into(), limit: 1, ..Default::default() };
    let null = wire::Comparison {
        field: "used".into(),
        operator: wire::Operator::Eq.into(),
        value: Some(wire::Literal { kind: Some(wire::literal::Kind::Value(wire::Value::default())) }),
    };
    for (request, code, says) in [
        (wire::SearchRequest { limit: 0, ..request() }, Code::InvalidArgument, "limit"),
        (wire::SearchRequest { limit: 1_000_000_000, ..request() }, Code::InvalidArgument, "limit"),
        (wire::SearchRequest { index: "images".into(), ..request() }, Code::NotFound, "images"),
        (wire::SearchRequest { cursor: "x".into(), ..request() }, Code::InvalidArgument, "cursor"),
        (wire::SearchRequest { filter: Some(wire::Filter::default()), ..request() }, Code::InvalidArgument, "filter"),
        (
            wire::SearchRequest {
                filter: Some(wire::Filter { kind: Some(wire::filter::Kind::Compare(null)) }),
                ..request()
            },
            Code::InvalidArgument,
            "is_null",
        ),
    ] {
        let status = client.search(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
    }
    for bytes in [deep_search(10_000), Bytes::from_static(b"\x0a\xffgarbage")] {
        let status = search_raw(&process, bytes).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("decode"), "{status:?}");
    }
    assert!(client.search(request()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_store_or_query_is_refused() {
    let (here, there) = (Folder::new(), Folder::new());
    let (process, other) = (here.start(), there.start());
    for (folder, process) in [(&here, &process), (&there, &other)] {
        load(folder, &[process]).await;
        ready(process).await;
    }
    let page = |client: Client, cursor: Bytes, sort: &str| {
        let mut request = wire::SearchRequest::from(SearchRequest { limit: 5, ..SearchRequest::new("items") });
        request.cursor = cursor;
        request.sort = vec![wire::Sort { field: sort.into(), descending: false }];
        async move { client.search(request).await }
    };
    let first = page(process.client(), Default::default(), "name").await.unwrap();
    assert!(page(process.client(), first.next_cursor.clone(), "name").await.is_ok());
    let error = page(other.client(), first.next_cursor.clone(), "name").await.unwrap_err();
    assert!(matches!(&error, bitdex_proto::Error::Precondition(message) if message.contains("store")), "{error:?}");
    let error = page(process.client(), first.next_cursor, "price").await.unwrap_err();
    assert!(matches!(&error, bitdex_proto::Error::Invalid(message) if message.contains("query")), "{error:?}");
}
