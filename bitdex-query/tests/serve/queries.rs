//! Every call, over gRPC and HTTP, on the writer and on a reader: the same answers.

use bitdex_proto::{
    Error,
    query::{Consistency, CountRequest, Fields, Filter, GetRequest, OpaqueBytes, SearchRequest, Sort},
    value::Literal,
    wire,
};
use serde_json::{Value as Json, json};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    feed::{LOADED, batch, cursor, ingest, load, open, pin, upsert},
    process::{Folder, Process, eventually},
};

pub(crate) async fn channel(process: &Process) -> tonic::transport::Channel {
    tonic::transport::Endpoint::from_shared(format!("http://{}", process.grpc)).unwrap().connect().await.unwrap()
}

async fn serving(process: &Process, service: &str) -> bool {
    let mut client = HealthClient::new(channel(process).await);
    let request = HealthCheckRequest { service: service.into() };
    client.check(request).await.unwrap().into_inner().status == 1
}

pub(crate) async fn ready(process: &Process) {
    eventually("readiness", || async { (process.get("/readyz").await.0 == 200).then_some(()) }).await;
    eventually("SERVING", || async { serving(process, "").await.then_some(()) }).await;
}

/// Waits until both stand at the same version, and returns their descriptions.
pub(crate) async fn in_step(a: &Process, b: &Process) -> (wire::DescribeResponse, wire::DescribeResponse) {
    eventually("the same version in both processes", || async {
        let (a, b) = (a.client().describe("items").await.unwrap(), b.client().describe("items").await.unwrap());
        (a.sequence == b.sequence).then_some((a, b))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_equal_everywhere() {
    let folder = Folder::new();
    let writer = folder.start();
    let reader = folder.start();

    // Before the load: UNAVAILABLE with the progress, alive, not ready.
    let impatient = writer.client().with_deadline(std::time::Duration::from_millis(200));
    let error = impatient.search(SearchRequest::new("items")).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { message, .. } if message.contains("load")), "{error:?}");
    assert_eq!(writer.get("/readyz").await.0, 503);
    assert_eq!(writer.get("/healthz").await, (200, "ok\n".into()));
    assert!(!serving(&writer, "bitdex.v1.Query").await);

    load(&folder, &[&writer, &reader]).await;
    ready(&writer).await;
    ready(&reader).await;
    assert!(serving(&reader, "bitdex.v1.Query").await);

    let (on_writer, on_reader) = in_step(&writer, &reader).await;
    assert_eq!((on_writer.role.as_str(), on_reader.role.as_str()), ("writer", "reader"));
    assert_eq!(on_writer.state_hash, on_reader.state_hash);
    assert_eq!((on_writer.store, on_writer.documents), (on_reader.store, u64::from(LOADED)));
    assert_eq!(on_reader.writer, writer.grpc);

    let toys = Filter::And(vec![
        Filter::eq("categoryName", Literal::Text("toys".into())),
        Filter::any_of("tags", vec![Literal::Text("tag1".into()), Literal::Text("tag2".into())]),
    ]);
    let clock = Some(crate::feed::NEW_YEAR_US);
    let mut requests = Vec::new();
    for (filter, sort) in [
        (None, Vec::new()),
        (Some(toys), vec![("price", true)]),
        (Some(Filter::IsNull { field: "rating".into() }), vec![("name", false), ("listedAt", true)]),
        (Some(Filter::Not(Box::new(Filter::eq("used", Literal::Bool(true))))), vec![("rating", true)]),
    ] {
        requests.push(SearchRequest {
            filter,
            sort: sort.into_iter().map(|(field, descending)| Sort { field: field.into(), descending }).collect(),
            limit: 7,
            fields: Fields::All,
            count: true,
            now_us: clock,
            ..SearchRequest::new("items")
        });
    }
    for request in requests {
        let mut pages = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for (pages, process) in pages.chunks_mut(2).zip([&writer, &reader]) {
            pages[0] = grpc_pages(process, request.clone()).await;
            pages[1] = http_pages(process, request.clone()).await;
        }
        assert!(!pages[0].is_empty(), "{request:?} finds something");
        for other in &pages[1..] {
            assert_eq!(pages[0], *other, "{request:?}");
        }
        let count = CountRequest {
            index: "items".into(),
            filter: request.filter.clone(),
            include_pending: false,
            now_us: clock,
            consistency: None,
            up_to: None,
        };
        assert_eq!(reader.client().count(count.clone()).await.unwrap().count, pages[0].len() as u64);
        let (_, counted) = writer.post("/v1/count", serde_json::to_string(&count).unwrap()).await;
        assert_eq!(counted["count"], pages[0].len());
    }
}

/// The ids of all pages, by gRPC.
async fn grpc_pages(process: &Process, mut request: SearchRequest) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut count = None;
    loop {
        let page = process.client().search(request.clone()).await.unwrap();
        assert_eq!(page.fields[0], "id");
        assert!(page.hits.iter().all(|hit| hit.values.len() == page.fields.len()));
        ids.extend(page.hits.iter().map(|hit| hit.id));
        count = count.or(page.count);
        if page.next_cursor.is_empty() {
            assert_eq!(count, Some(ids.len() as u64));
            return ids;
        }
        request.cursor = Some(OpaqueBytes(page.next_cursor));
    }
}

/// The ids of all pages, by HTTP.
async fn http_pages(process: &Process, mut request: SearchRequest) -> Vec<u32> {
    let mut ids = Vec::new();
    loop {
        let (status, page) = process.post("/v1/search", serde_json::to_string(&request).unwrap()).await;
        assert_eq!(status, 200, "{page}");
        for hit in page["hits"].as_array().unwrap() {
            assert_eq!(hit["id"], hit["fields"]["id"]);
            ids.push(u32::try_from(hit["id"].as_u64().unwrap()).unwrap());
        }
        let Some(cursor) = page["next_cursor"].as_str() else { return ids };
        request.cursor = Some(serde_json::from_value(json!(cursor)).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_json_keep_their_meaning() {
    let folder = Folder::new();
    let writer = folder.start();
    load(&folder, &[&writer]).await;
    ready(&writer).await;

    let (status, answer) = writer.post("/v1/get", r#"{"index": "items", "ids": [11, 4000000000, 3]}"#).await;
    assert_eq!(status, 200, "{answer}");
    let documents = answer["documents"].as_array().unwrap();
    assert_eq!(documents.len(), 2, "the absent one is left out: {answer}");
    assert_eq!(
        documents[0]["fields"],
        json!({"id": 11, "name": "item 011", "price": "4.07", "rating": "NaN", "used": false,
               "listedAt": "2025-12-31T13:00:00.000000Z", "categoryId": 3, "note": "note", "categoryName": null,
               "tags": ["tag2", "tag3", "tag4"], "pinned": null})
    );
    assert_eq!(documents[1]["fields"]["rating"], json!(0.375));

    // 7 is pending until 2100: hidden unless asked for, or asked for at that time.
    let get = |more: Json| {
        let mut request = json!({"index": "items", "ids": [7], "fields": ["name"]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request.to_string()
    };
    let found = |answer: (u16, Json)| answer.1["documents"].as_array().unwrap().len();
    assert_eq!(found(writer.post("/v1/get", get(json!({}))).await), 0);
    assert_eq!(found(writer.post("/v1/get", get(json!({"include_pending": true}))).await), 1);
    assert_eq!(found(writer.post("/v1/get", get(json!({"now_us": crate::feed::FAR_US}))).await), 1);

    let (status, described) = writer.get("/v1/describe").await;
    let described: Json = serde_json::from_str(&described).unwrap();
    assert_eq!((status, &described["role"], &described["ready"]), (200, &json!("writer"), &json!(true)));
    assert_eq!(described["cursors"][0]["text"].as_str().unwrap().as_bytes(), &cursor(1)[..]);
    let metrics = writer.get("/metrics").await.1;
    let contains = |metrics: &str, lines: &[&str]| {
        for line in lines {
            assert!(metrics.lines().any(|found| found.starts_with(line)), "{line} in {metrics}");
        }
    };
    contains(
        &metrics,
        &[
            "bitdex_ready 1",
            "bitdex_writer 1",
            "bitdex_documents 300",
            "bitdex_requests_total{method=\"Get\",front=\"http\",code=\"ok\"} 4",
            "bitdex_ingest_batches_total{source=\"postgres\"} 1",
            "bitdex_load_rows_total",
        ],
    );
    let reader = folder.start_with(&["--reader-only"]);
    eventually("the reader's frontier", || async {
        let (stands, _) = in_step(&writer, &reader).await;
        let metrics = reader.get("/metrics").await.1;
        metrics.lines().any(|line| line == format!("bitdex_frontier {}", stands.sequence)).then_some(())
    })
    .await;
    contains(&reader.get("/metrics").await.1, &["bitdex_writer 0", "bitdex_lag_records 0", "bitdex_lag_seconds 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_answers_what_its_token_demands() {
    let folder = Folder::new();
    let writer = folder.start();
    let reader = folder.start();
    load(&folder, &[&writer]).await;
    ready(&writer).await;
    ready(&reader).await;
    let (schema, client) = (folder.schema(), ingest(&[&reader, &writer]));
    let mut postgres = open(&client, &schema, "postgres").await;
    let mut service = open(&client, &schema, "ranking").await;
    for n in 1..40 {
        let id = 1_000 + u32::try_from(n).unwrap();
        let ack = batch(&mut postgres, n, vec![upsert(&schema, id, "new")]).await;
        let get = GetRequest {
            index: "items".into(),
            ids: vec![id],
            fields: Fields::Named(vec!["pinned".into()]),
            include_pending: false,
            now_us: None,
            consistency: Some(Consistency::Token(OpaqueBytes(ack.token))),
        };
        assert_eq!(reader.client().get(get.clone()).await.unwrap().documents.len(), 1, "batch {n}");
        let rank = i64::try_from(n).unwrap();
        let ack = batch_of_service(&mut service, n, vec![pin(&schema, id, rank)]).await;
        let get = GetRequest { consistency: Some(Consistency::Token(OpaqueBytes(ack.token))), ..get };
        let document = reader.client().get(get).await.unwrap().documents.remove(0);
        assert_eq!(document.values[0].values[0].kind, Some(wire::value::Kind::Int(rank)));
    }

    // By the id of a transaction: 139 is below the last cursor's snapshot, 140 is not.
    let count = |xid| CountRequest {
        index: "items".into(),
        filter: None,
        include_pending: true,
        now_us: None,
        consistency: Some(Consistency::PostgresXid(xid)),
        up_to: None,
    };
    assert_eq!(reader.client().count(count(139)).await.unwrap().count, u64::from(LOADED) + 39);
    let impatient = reader.client().with_deadline(std::time::Duration::from_millis(150));
    let error = impatient.count(count(140)).await.unwrap_err();
    assert!(matches!(error, Error::Deadline(_)), "{error:?}");
    let (status, answer) = {
        let url = format!("http://{}/v1/count", reader.http);
        let body = r#"{"index": "items", "consistency": {"postgres_xid": 140}}"#;
        let answer = crate::process::http().post(url).header("x-timeout-ms", "50").body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Json>().await.unwrap())
    };
    assert_eq!((status, &answer["error"]["code"]), (504, &json!("deadline_exceeded")));
    let (on_writer, on_reader) = in_step(&writer, &reader).await;
    assert_eq!(on_writer.state_hash, on_reader.state_hash);
}

/// A batch of a service, whose own cursors are numbers.
async fn batch_of_service(session: &mut bitdex_proto::client::Session, n: u64, ops: Vec<wire::Op>) -> wire::Ack {
    let previous = if n == 1 { String::new() } else { n.to_string() };
    let commit = wire::Commit {
        previous_cursor: previous.into(),
        new_cursor: (n + 1).to_string().into(),
        caught_up: true,
        backlog: 0,
    };
    match session.deliver(ops, commit).await.unwrap() {
        bitdex_proto::client::Outcome::Acked(ack) => ack,
        bitdex_proto::client::Outcome::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let folder = Folder::new();
    let process = folder.start();
    let mut client = ServerReflectionClient::new(channel(&process).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["bitdex.v1.Query", "bitdex.v1.Ingest", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}
