//! Filters as text, named filters, facets, distinct rows and bounded counts, over gRPC, HTTP and Unix sockets.

use bitdex_proto::{
    Error,
    client::Client,
    query::{Consistency, CountRequest, ExplainRequest, Facet, FacetRequest, Filter, OpaqueBytes, SearchRequest, Sort},
    wire,
};
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    feed::{NEW_YEAR_US, batch, ingest, load, open, upsert},
    process::Folder,
    queries::ready,
};

#[tokio::test(flavor = "multi_thread")]
async fn text_and_structure_ask_the_same_everywhere() {
    let folder = Folder::new();
    let (grpc, http) = (folder.data().with_file_name("grpc.sock"), folder.data().with_file_name("http.sock"));
    let options = [format!("--grpc-socket={}", grpc.display()), format!("--http-socket={}", http.display())];
    let process = folder.start_with(&["--drain-seconds=0", &options[0], &options[1]]);
    load(&folder, &[&process]).await;
    ready(&process).await;
    let schema = folder.schema();
    let clients = [process.client(), Client::connect(vec![format!("unix:{}", grpc.display())]).unwrap()];

    let text = "(toys OR tags IN [tag1, tag2]) AND NOT price > 45.5 AND listedAt <= now - 1h AND rating EXISTS";
    let structured = SearchRequest {
        filter: Some(Filter::parse(text, &schema).unwrap()),
        sort: vec![Sort { field: "price".into(), descending: true }, Sort { field: "id".into(), descending: false }],
        limit: 7,
        now_us: Some(NEW_YEAR_US),
        count: true,
        ..SearchRequest::new("items")
    };
    let as_text = wire::SearchRequest {
        filter: None,
        filter_text: text.into(),
        sort: Vec::new(),
        sort_text: "price:desc, id:asc".into(),
        ..structured.clone().into()
    };
    let first = process.client().search(structured.clone()).await.unwrap();
    let ids = |answer: &wire::SearchResponse| answer.hits.iter().map(|hit| hit.id).collect::<Vec<_>>();
    assert_eq!((first.hits.len(), first.next_cursor.is_empty()), (7, false));
    for client in &clients {
        let answer = client.search(as_text.clone()).await.unwrap();
        assert_eq!((ids(&answer), answer.count), (ids(&first), first.count));
        // The next page of the one form goes on from the other's cursor.
        let next = wire::SearchRequest { cursor: first.next_cursor.clone(), ..as_text.clone() };
        let cursor = Some(OpaqueBytes(answer.next_cursor.clone()));
        let same = client.search(SearchRequest { cursor, ..structured.clone() }).await.unwrap();
        assert_eq!(ids(&client.search(next).await.unwrap()), ids(&same));
    }
    let request = json!({"index": "items", "limit": 7, "now_us": NEW_YEAR_US, "count": true, "filter": text,
                         "sort": ["price:desc", {"field": "id"}]});
    let (status, answer) = process.post("/v1/search", request.to_string()).await;
    let hits = |answer: &Json| answer["hits"].as_array().unwrap().iter().map(|hit| hit["id"].clone()).collect();
    let found: Vec<Json> = hits(&answer);
    assert_eq!((status, json!(found)), (200, json!(ids(&first))), "{answer}");
    let over_socket = over_unix_socket(&http, "/v1/search", &request.to_string()).await;
    assert!(over_socket.starts_with("HTTP/1.1 200"), "{over_socket}");
    let (_, body) = over_socket.split_once("\r\n\r\n").unwrap();
    assert_eq!(hits(&serde_json::from_str(body).unwrap()), found);
    let list = json!({"index": "items", "now_us": NEW_YEAR_US, "filter": [["toys", "tags = tag1"], "used = true"]});
    let same = json!({"index": "items", "now_us": NEW_YEAR_US, "filter": "(toys OR tags = tag1) AND used = true"});
    let (list, same) = (process.post("/v1/count", list.to_string()), process.post("/v1/count", same.to_string()));
    assert_eq!(list.await.1["count"], same.await.1["count"]);

    let (status, answer) =
        process.post("/v1/search", r#"{"index": "items", "filter": "used = true AND pirce < 3"}"#).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 400);
    assert!(message.starts_with("column 17: unknown field pirce (did you mean `price`?)\n"), "{message}");
    assert!(message.ends_with("\n                ^^^^^"), "{message}");
    let both = wire::SearchRequest { filter_text: text.into(), ..structured.clone().into() };
    let error = process.client().search(both).await.unwrap_err().to_string();
    assert_eq!(error, "give `filter` or `filter_text`, not both");

    let described = process.client().describe("items").await.unwrap();
    let named: Vec<_> = described.filters.iter().map(|filter| (&filter.name[..], &filter.text[..])).collect();
    assert_eq!(named, [("toys", "categoryName = toys"), ("cheap", "price < 10 AND NOT used = true")]);
    drop(process);
}

/// The whole answer to a request.
async fn over_unix_socket(path: &std::path::Path, target: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = format!(
        "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn facets_distinct_rows_and_bounded_counts() {
    let folder = Folder::new();
    let process = folder.start();
    load(&folder, &[&process]).await;
    ready(&process).await;
    let client = process.client();
    let request = FacetRequest {
        filter: Some(Filter::Named { name: "cheap".into() }),
        facets: ["categoryName", "tags", "listedAt"].map(|field| Facet { field: field.into(), limit: 2 }).to_vec(),
        now_us: Some(NEW_YEAR_US),
        ..FacetRequest::new("items", "")
    };
    let answer = client.facet(request.clone()).await.unwrap();
    let (status, json) = process.post("/v1/facet", serde_json::to_string(&request).unwrap()).await;
    assert_eq!((status, &json["count"]), (200, &json!(answer.count)), "{json}");
    let (toys, nulls) = (&answer.facets[0], answer.facets[0].nulls);
    // Of category 1 and of none: the others are even, and so are their ids, which are used.
    assert_eq!((toys.values.len(), toys.values[0].count + nulls), (1, answer.count));
    assert_eq!(
        json["facets"][0],
        json!({"field": "categoryName", "values": [{"value": "toys", "count": toys.values[0].count}], "nulls": nulls})
    );
    for (facet, field) in json["facets"].as_array().unwrap().iter().zip(["categoryName", "tags", "listedAt"]) {
        for value in facet["values"].as_array().unwrap() {
            let value_text = value["value"].as_str().unwrap();
            let filter = format!("cheap AND {field} = \"{value_text}\"");
            let count = json!({"index": "items", "now_us": NEW_YEAR_US, "filter": filter});
            assert_eq!(process.post("/v1/count", count.to_string()).await.1["count"], value["count"], "{filter}");
        }
    }
    let (status, answer) = process.post("/v1/facet", r#"{"index": "items", "facets": ["tag"]}"#).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["message"], "unknown field tag (did you mean `tags`?)");

    let all = r#"{"index": "items", "include_pending": true, "distinct": "categoryId", "sort": "price:desc", "limit": 2,
                  "count_up_to": 10}"#;
    let (status, first) = process.post("/v1/search", all).await;
    assert_eq!((status, &first["count_is_lower_bound"]), (200, &Json::Null), "one block is counted whole: {first}");
    assert_eq!(first["count"], 300);
    let mut next: Json = serde_json::from_str(all).unwrap();
    next["cursor"] = first["next_cursor"].clone();
    let (status, second) = process.post("/v1/search", next.to_string()).await;
    assert_eq!((status, &second["next_cursor"]), (200, &Json::Null));
    let mut categories: Vec<u64> = Vec::new();
    for hit in first["hits"].as_array().unwrap().iter().chain(second["hits"].as_array().unwrap()) {
        categories.push(hit["id"].as_u64().unwrap() % 4);
    }
    categories.sort_unstable();
    assert_eq!(categories, [0, 1, 2, 3]);
    next["distinct"] = json!("used");
    let (status, refused) = process.post("/v1/search", next.to_string()).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("invalid_argument")), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_explained() {
    let folder = Folder::new();
    let process = folder.start();
    load(&folder, &[&process]).await;
    ready(&process).await;
    let (client, schema) = (process.client(), folder.schema());
    let filter = Some(Filter::parse("cheap AND tags IN [tag1, tag2]", &schema).unwrap());
    let search = SearchRequest {
        filter: filter.clone(),
        sort: vec![Sort { field: "price".into(), descending: true }],
        limit: 3,
        now_us: Some(NEW_YEAR_US),
        count: true,
        ..SearchRequest::new("items")
    };
    let answer = client.search(search.clone()).await.unwrap();
    let told = client.explain(ExplainRequest::Search(search.clone())).await.unwrap();
    assert_eq!((told.rows, told.count), (answer.hits.len() as u64, answer.count), "{}", told.text);
    let [count, page] = told.runs.as_slice() else { panic!("{}", told.text) };
    assert_eq!(count.plan, "count, block by block");
    assert!(page.plan.ends_with("by price downwards") && page.considered.len() == 2, "{}", told.text);
    assert!(page.steps.iter().any(|step| step.what == "used = true" && step.excludes), "{}", told.text);
    assert!(told.total_us > 0.0 && page.run_us >= page.planning_us, "{}", told.text);
    // It says which version it is of, as every answer does. The writer may have put a record of its own behind.
    let info = told.info.unwrap();
    assert!(info.sequence >= answer.info.unwrap().sequence, "{}", told.text);
    assert_eq!(info.now_us, NEW_YEAR_US);

    let counting = ExplainRequest::<Filter, Vec<Sort>>::Count(CountRequest {
        filter,
        now_us: Some(NEW_YEAR_US),
        ..CountRequest::new("items")
    });
    let (status, json) = process.post("/v1/explain", serde_json::to_string(&counting).unwrap()).await;
    assert_eq!((status, &json["count"]), (200, &json!(answer.count)), "{json}");
    let steps = json["runs"][0]["steps"].as_array().unwrap();
    assert_eq!(steps.last().unwrap()["rows"], json["count"], "{json}");
    assert!(json["text"].as_str().unwrap().starts_with("items at record "), "{json}");
    assert!(json["sequence"].as_u64().is_some_and(|sequence| sequence >= info.sequence), "{json}");
    for (request, expected) in [
        (r#"{"search": {"index": "items", "filter": "pirce < 3"}}"#, "unknown field pirce (did you mean `price`?)"),
        (r#"{"search": {"index": "items", "limits": 3}}"#, "unknown field `limits`"),
        (r#"{"facet": {"index": "items"}}"#, "unknown variant `facet`"),
    ] {
        let (status, answer) = process.post("/v1/explain", request).await;
        assert_eq!(status, 400);
        assert!(answer["error"]["message"].as_str().unwrap().contains(expected), "{answer}");
    }
    let nothing = wire::ExplainRequest::default();
    let error = client.explain(nothing).await.unwrap_err().to_string();
    assert_eq!(error, "give `search` or `count` to be explained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_needs_too_many_blocks_is_refused() {
    let folder = Folder::new();
    let process = folder.start_with(&["--drain-seconds=0", "--max-query-blocks=2"]);
    load(&folder, &[&process]).await;
    ready(&process).await;
    let (client, schema) = (process.client(), folder.schema());
    let mut session = open(&ingest(&[&process]), &schema, "postgres").await;
    let more = vec![upsert(&schema, 70_000, "second"), upsert(&schema, 140_000, "third")];
    let token = OpaqueBytes(batch(&mut session, 1, more).await.token);
    // Of three blocks.
    let consistency = Some(Consistency::Token(token));
    let all = CountRequest { include_pending: true, consistency, ..CountRequest::new("items") };
    let error = client.count(all.clone()).await.unwrap_err();
    assert!(matches!(&error, Error::Exhausted(message) if message.contains("more than the 2 blocks")), "{error:?}");
    let (status, answer) = process.post("/v1/search", r#"{"index": "items", "count": true}"#).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("resource_exhausted")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("--max-query-blocks"), "{answer}");
    let narrow = CountRequest { filter: Some(Filter::parse("id < 131072", &schema).unwrap()), ..all };
    assert_eq!(client.count(narrow).await.unwrap().count, 301);
    let url = format!("http://{}/metrics", process.http);
    let metrics = crate::process::http().get(url).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("bitdex_queries_stopped_total{reason=\"blocks\"} 2"), "{metrics}");
}
