//! Changes in the databases, and how soon queries show them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::Client,
    query::{Consistency, Filter, SearchRequest},
    value::Literal,
};

use super::show::{ms, print, safe, search};
use crate::{
    postgres,
    stage::{Stage, find_role},
    terminal::say,
    wait,
    workload::{
        changes,
        load::insert_metrics,
        rows::{Line, MetricEvent, timestamp},
    },
};

/// Far above what anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

async fn ids(client: &Client, request: &SearchRequest) -> Result<Vec<u32>> {
    Ok(client.search(request.clone()).await?.hits.into_iter().map(|hit| hit.id).collect())
}

/// Asks over and over until `shown` holds of the ids; gives the time since `since`.
async fn until_shown(
    client: &Client,
    request: &SearchRequest,
    since: Instant,
    shown: impl Fn(&[u32]) -> bool,
) -> Result<Duration> {
    loop {
        let seen = ids(client, request).await?;
        if shown(&seen) {
            return Ok(since.elapsed());
        }
        if since.elapsed() > LIMIT {
            bail!("not shown within {LIMIT:?}; the page is {seen:?}");
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

/// A client for each pod, its connection made.
async fn each_pod(stage: &Stage) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for address in stage.pair.grpc() {
        let client = Client::connect(vec![address])?.with_deadline(LIMIT);
        client.describe(stage.index()).await?;
        clients.push(client);
    }
    Ok(clients)
}

async fn transaction(connection: &mut sqlx::PgConnection, statements: &[String]) -> Result<Instant> {
    postgres::execute(connection, &format!("BEGIN; {}; COMMIT", statements.join("; "))).await?;
    Ok(Instant::now())
}

/// Images rated anew leave a page and come back, on both pods.
pub(super) async fn a_change(stage: &Stage) -> Result<()> {
    let request = search(stage, safe(vec![Filter::eq("tagIds", Literal::Int(1))]), "sortAt", 5);
    let page = ids(&stage.client, &request).await?;
    let Some(first) = page.first().copied() else { bail!("the page is empty") };
    let mut connection = stage.postgres.connect().await?;
    let clients = each_pod(stage).await?;
    for (sql, wanted) in [
        (format!("UPDATE \"Image\" SET \"nsfwLevel\" = 32 WHERE id = {first}"), false),
        (format!("UPDATE \"Image\" SET \"nsfwLevel\" = 1 WHERE id = {first}"), true),
        (format!("DELETE FROM \"TagsOnImage\" WHERE \"imageId\" = {first} AND \"tagId\" = 1"), false),
        (format!("INSERT INTO \"TagsOnImage\" VALUES ({first}, 1)"), true),
    ] {
        let committed = transaction(&mut connection, std::slice::from_ref(&sql)).await?;
        let shown = clients
            .iter()
            .map(|client| until_shown(client, &request, committed, |page| page.contains(&first) == wanted));
        let delays = futures::future::try_join_all(shown).await?;
        let delays: Vec<String> = delays.into_iter().map(|delay| format!("{:.1} ms", ms(delay))).collect();
        let moved = if wanted { "back on the page" } else { "gone from the page" };
        say(format!("{sql}\n  ✓ {moved} {} after the commit (one pod, the other)", delays.join(", ")));
    }
    let again = ids(&stage.client, &request).await?;
    if again != page {
        bail!("the page should be {page:?} again, it is {again:?}");
    }
    Ok(())
}

/// A search that demands a transaction sees it, on whichever pod.
pub(super) async fn read_your_write(stage: &mut Stage) -> Result<()> {
    let now_us = chrono::Utc::now().timestamp_micros();
    let (post, images) = stage.loaded.generator.post_of(3, now_us - 2_000_000, Some(now_us), now_us);
    let mut connection = stage.postgres.connect().await?;
    postgres::execute(&mut connection, "BEGIN").await?;
    for statement in changes::insert(&post, &images) {
        postgres::execute(&mut connection, &statement).await?;
    }
    let xid: u64 = postgres::scalar(&mut connection, "SELECT pg_current_xact_id()::text").await?.parse()?;
    postgres::execute(&mut connection, "COMMIT").await?;
    let committed = Instant::now();
    let mut request = search(stage, Filter::eq("postId", Literal::Int(post.id.into())), "sortAt", 10);
    request.consistency = Some(Consistency::PostgresXid(xid));
    let wanted: Vec<u32> = images.iter().rev().map(|image| image.id).collect();
    for client in each_pod(stage).await? {
        let mut seen = ids(&client, &request).await?;
        seen.sort_unstable_by(|a, b| b.cmp(a));
        if seen != wanted {
            bail!("transaction {xid} made {wanted:?}, a search that demands it gives {seen:?}");
        }
    }
    say(format!(
        "a new post of {} images, transaction {xid}: a search that demands it had them all on both pods {:.1} ms after the \
         commit\n  ✓ images {wanted:?}",
        images.len(),
        ms(committed.elapsed())
    ));
    Ok(())
}

/// Hidden until its time, then there, without anything happening in the database.
pub(super) async fn a_scheduled_post(stage: &mut Stage, ahead: Duration) -> Result<()> {
    let now_us = chrono::Utc::now().timestamp_micros();
    let at_us = now_us + i64::try_from(ahead.as_micros())?;
    let (mut post, images) = stage.loaded.generator.post_of(2, now_us - 2_000_000, Some(at_us), now_us);
    post.availability = "Public";
    let mut connection = stage.postgres.connect().await?;
    transaction(&mut connection, &changes::insert(&post, &images)).await?;
    let xid = postgres::scalar(&mut connection, "SELECT pg_current_xact_id()::text").await?;
    let mut request = search(stage, Filter::eq("postId", Literal::Int(post.id.into())), "sortAt", 10);
    request.consistency = Some(Consistency::PostgresXid(xid.parse()?));
    request.include_pending = true;
    let pending = ids(&stage.client, &request).await?;
    request.include_pending = false;
    let hidden = ids(&stage.client, &request).await?;
    if pending.len() != images.len() || !hidden.is_empty() {
        bail!("before its time: {pending:?} with pending ones, {hidden:?} without");
    }
    let time: String = timestamp(at_us).chars().skip(11).take(12).collect();
    say(format!("a post of {} images, scheduled for {time} UTC: it is in the index, and hidden", images.len()));
    request.consistency = None;
    until_shown(&stage.client, &request, Instant::now(), |page| page.len() == images.len()).await?;
    let late_us = chrono::Utc::now().timestamp_micros() - at_us;
    if late_us < 0 {
        bail!("it was shown {} ms before its time", -late_us / 1_000);
    }
    say(format!("  ✓ shown {:.1} ms after its time came; nothing changed in Postgres", late_us as f64 / 1_000.0));
    Ok(())
}

/// Events in ClickHouse move an image up to the top.
pub(super) async fn counts(stage: &Stage) -> Result<()> {
    let tags = Filter::any_of("tagIds", vec![Literal::Int(1), Literal::Int(2), Literal::Int(3)]);
    let request = search(stage, safe(vec![tags]), "reactionCount", 5);
    let page = ids(&stage.client, &request).await?;
    let Some(last) = page.last().copied() else { bail!("the page is empty") };
    let top =
        format!("SELECT sum(delta) FROM imageMetricEvents WHERE imageId = {} AND metric = 'reactionCount'", page[0]);
    let top: i32 = stage.clickhouse.query(&top).await?.trim().parse()?;
    let mut line = Line::default();
    let event = MetricEvent {
        image: last,
        metric: "reactionCount",
        delta: top + 1,
        created_us: chrono::Utc::now().timestamp_micros(),
    };
    event.write(&mut line);
    insert_metrics(&stage.clickhouse, line.into_inner()).await?;
    let inserted = Instant::now();
    say(format!("{} reactions for image {last}, which stands last of {page:?}", top + 1));
    let delay = until_shown(&stage.client, &request, inserted, |page| page.first() == Some(&last)).await?;
    say(format!("  ✓ it stands first {:.1} s after the events were inserted", delay.as_secs_f64()));
    print(stage, "the page now", request).await?;
    Ok(())
}

/// `kill -9` of the writer: searches go on, the reader takes over, changes go on.
pub(super) async fn the_writer_dies(stage: &mut Stage) -> Result<()> {
    let index = stage.index();
    let writer = find_role(&stage.pair.pods, &index, "writer").await?;
    let reader = 1 - writer;
    let client = stage.client.clone().with_deadline(Duration::from_secs(1));
    let request = search(stage, safe(Vec::new()), "sortAt", 50);
    let stop = tokio::sync::watch::channel(());
    let searching = tokio::spawn(search_all_along(client.clone(), request.clone(), stop.1));
    let before = client.retries();
    stage.pair.pods[writer].process.kill()?;
    let killed = Instant::now();
    let survivor = Client::connect(vec![stage.pair.pods[reader].grpc().into()])?;
    let promoted = wait::until("the reader takes over", LIMIT, || async {
        let role = survivor.describe(index.as_str()).await?.role;
        Ok(if role == "writer" { Ok(killed.elapsed()) } else { Err(role) })
    })
    .await?;
    // Ingestion goes on through the new writer.
    let now_us = chrono::Utc::now().timestamp_micros();
    let (post, images) = stage.loaded.generator.post_of(1, now_us - 2_000_000, Some(now_us), now_us);
    let mut connection = stage.postgres.connect().await?;
    let committed = transaction(&mut connection, &changes::insert(&post, &images)).await?;
    let mine = search(stage, Filter::eq("postId", Literal::Int(post.id.into())), "sortAt", 10);
    let shown = until_shown(&client, &mine, committed, |page| page.len() == images.len()).await?;
    stage.pair.pods[writer].process.start()?;
    stage.pair.ready(LIMIT).await?;
    drop(stop.0);
    let (searches, failed) = searching.await.context("the searches panicked")?;
    if let Some(error) = failed {
        bail!("a search failed while the writer was dead: {error}");
    }
    say(format!(
        "kill -9 of the writer: the reader had taken over {:.0} ms later; the next change was shown {:.0} ms after its \
         commit\n  ✓ {searches} searches meanwhile, none failed ({} retried on the other pod)",
        ms(promoted),
        ms(shown),
        client.retries() - before,
    ));
    Ok(())
}

/// Searches until the sender of `stop` is gone; how many, and the first error.
async fn search_all_along(
    client: Client,
    request: SearchRequest,
    stop: tokio::sync::watch::Receiver<()>,
) -> (u64, Option<String>) {
    let mut searches = 0;
    while stop.has_changed().is_ok() {
        if let Err(error) = client.search(request.clone()).await {
            return (searches, Some(error.to_string()));
        }
        searches += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (searches, None)
}
