//! Triggers and polls against a real Postgres.

use std::time::{Duration, Instant};

use crate::common::{Collect, Follower, SHOP_TABLES, TestDatabase, execute, shop, text};
use bitdex_proto::snapshot::PgCursor;
use bitdex_sync::{
    capture::{Cleanup, Consumer, HistoryError, PollError, Request},
    load::{LoadError, Loader, Progress},
    postgres::Purpose,
};

#[tokio::test]
async fn setup_is_idempotent_and_removes_what_it_made() {
    let (database, mut connection) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    let first = database.set_up(&definition).await;
    assert_eq!(first.lines.iter().filter(|line| line.starts_with("created triggers")).count(), 4, "{first:?}");
    let triggers =
        "SELECT string_agg(oid::text || tgenabled::text, ',' ORDER BY oid) FROM pg_trigger WHERE tgname LIKE 'bitdex%'";
    let before = text(&mut connection, triggers).await;
    assert!(before.contains('A') && !before.contains('O'), "all are ENABLE ALWAYS: {before}");
    assert_eq!(database.set_up(&definition).await.lines, Vec::<String>::new());
    assert_eq!(text(&mut connection, triggers).await, before, "nothing was touched");

    // A source that the definition no longer has loses its triggers; one that changed is replaced.
    let smaller = crate::common::SHOP
        .replace("  stores: { table: stock, key: product_id, value: store, type: int, filter: true, where: '\"count\" > 0' }\n", "")
        .replace("'weight > 0'", "'weight > 1'")
        .replace("  tags:", "  tags: ");
    let smaller = bitdex_proto::definition::Definition::parse(&smaller).unwrap();
    let lines = database.set_up(&smaller).await.lines;
    assert!(lines.iter().any(|line| line.contains("removed triggers of stores")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("document")), "{lines:?}");

    database.setup(&definition).remove(&mut |_, _| {}).await.unwrap();
    assert_eq!(text(&mut connection, triggers).await, "");
    assert_eq!(
        text(&mut connection, "SELECT count(*)::text FROM pg_namespace WHERE nspname = 'bitdex_shop'").await,
        "0"
    );
    assert_eq!(database.setup(&definition).remove(&mut |_, _| {}).await.unwrap().lines, Vec::<String>::new());
}

#[tokio::test]
async fn every_kind_of_change_is_followed() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    let cases: &[(&str, &[&str])] = &[
        ("INSERT INTO category VALUES (1, 'tea')", &["category 1: tea"]),
        (
            "INSERT INTO product (id, title, price, category_id) VALUES (5, 'a', 1.5, 1), (6, 'b', 200, NULL)",
            &["document 5: a | 150 | false | 1 | -", "document 6: b | 20000 | true | - | -"],
        ),
        ("INSERT INTO product_tag VALUES (5, 'x', 1), (5, 'y', 0)", &["tags 5 +x", "tags 5 -y"]),
        // Columns that the definition does not mention record nothing; nor does a change to the same value.
        ("UPDATE product SET seen = seen + 1, note = 'n'; UPDATE product SET title = title", &[]),
        ("UPDATE product SET title = 'c' WHERE id = 5", &["document 5: c | 150 | false | 1 | -"]),
        ("UPDATE product_tag SET weight = 2", &["tags 5 +x", "tags 5 +y"]),
        // The key moves: both keys.
        ("UPDATE product SET id = 7 WHERE id = 6", &["document 6: gone", "document 7: b | 20000 | true | - | -"]),
        // A member's value moves.
        ("UPDATE product_tag SET tag = 'z' WHERE tag = 'y'", &["tags 5 +z", "tags 5 -y"]),
        (
            "INSERT INTO product (id, title) VALUES (7, 'n'), (8, 'o') ON CONFLICT (id) DO UPDATE SET title = 'conflict'",
            &["document 7: conflict | 20000 | true | - | -", "document 8: o | - | - | - | -"],
        ),
        ("INSERT INTO product (id, title) VALUES (8, 'n') ON CONFLICT DO NOTHING", &[]),
        (
            "UPDATE product SET released_at = '2026-01-01 00:00:00.000001+00' WHERE id = 8",
            &["document 8: o | - | - | - | 1767225600000001"],
        ),
        // Without a key or a value there is no member; twice the same is one.
        (
            "INSERT INTO stock VALUES (5, 1, 1), (5, 1, 1), (NULL, 2, 1), (5, NULL, 1), (5, 3, 0)",
            &["stores 5 +1", "stores 5 -3"],
        ),
        (
            "DELETE FROM stock WHERE ctid = (SELECT min(ctid) FROM stock WHERE product_id = 5 AND store = 1)",
            &["stores 5 +1"],
        ),
        ("DELETE FROM stock WHERE product_id = 5", &["stores 5 -1", "stores 5 -3"]),
        // A cascade; and members without their document.
        ("INSERT INTO stock VALUES (99, 4)", &["stores 99 +4"]),
        ("DELETE FROM product WHERE id = 5", &["document 5: gone", "tags 5 -x", "tags 5 -z"]),
        // Many changes of one row are one op, and what was rolled back is none.
        (
            "UPDATE product SET title = 'd' WHERE id = 7; UPDATE product SET title = 'e' WHERE id = 7",
            &["document 7: e | 20000 | true | - | -"],
        ),
        ("BEGIN; UPDATE product SET title = 'never'; ROLLBACK", &[]),
        (
            "BEGIN; UPDATE product SET title = 'f' WHERE id = 7; SAVEPOINT s; UPDATE product SET title = 'g' WHERE id = 8; \
             ROLLBACK TO s; COMMIT",
            &["document 7: f | 20000 | true | - | -"],
        ),
        (
            "BEGIN; DELETE FROM product WHERE id = 8; INSERT INTO product (id, title) VALUES (8, 'again'); COMMIT",
            &["document 8: again | - | - | - | -"],
        ),
        // A truncate comes before the rows that are there after it.
        ("INSERT INTO stock VALUES (7, 1)", &["stores 7 +1"]),
        (
            "BEGIN; INSERT INTO stock VALUES (7, 2); TRUNCATE stock; INSERT INTO stock VALUES (7, 3); COMMIT",
            &["truncate stores", "stores 7 +3", "stores 7 -2"],
        ),
    ];
    for (sql, expected) in cases {
        execute(&mut app, sql).await;
        assert_eq!(follower.poll(&definition).await, *expected, "{sql}");
    }

    // COPY, and MERGE where there is one.
    let mut copy = app.copy_in_raw("COPY stock FROM STDIN").await.unwrap();
    copy.send("8\t1\t1\n8\t2\t1\n".as_bytes()).await.unwrap();
    copy.finish().await.unwrap();
    assert_eq!(follower.poll(&definition).await, ["stores 8 +1", "stores 8 +2"]);
    if text(&mut app, "SELECT (current_setting('server_version_num')::int >= 150000)::text").await == "true" {
        let merge = "MERGE INTO product p USING (VALUES (7), (70)) v(id) ON p.id = v.id \
             WHEN MATCHED THEN UPDATE SET title = 'merged' WHEN NOT MATCHED THEN INSERT (id, title) VALUES (v.id, 'new')";
        execute(&mut app, merge).await;
        assert_eq!(
            follower.poll(&definition).await,
            ["document 70: new | - | - | - | -", "document 7: merged | 20000 | true | - | -"]
        );
    }
}

#[tokio::test]
async fn transactions_that_commit_out_of_order_are_not_missed() {
    let (database, mut first) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let (mut second, mut third) = (database.connect().await, database.connect().await);
    let mut follower = Follower::new(&database, &definition).await;
    execute(&mut first, "BEGIN; INSERT INTO product (id, title) VALUES (1, 'first')").await;
    execute(&mut second, "BEGIN; INSERT INTO product (id, title) VALUES (2, 'second')").await;
    execute(&mut third, "INSERT INTO product (id, title) VALUES (3, 'third')").await;
    assert_eq!(follower.poll(&definition).await, ["document 3: third | - | - | - | -"]);
    execute(&mut second, "COMMIT").await;
    assert_eq!(follower.poll(&definition).await, ["document 2: second | - | - | - | -"]);
    execute(&mut third, "UPDATE product SET title = 'later' WHERE id = 3").await;
    assert_eq!(follower.poll(&definition).await, ["document 3: later | - | - | - | -"]);
    // Writes once more after two polls have passed it.
    execute(&mut first, "INSERT INTO stock VALUES (1, 1); COMMIT").await;
    assert_eq!(follower.poll(&definition).await, ["document 1: first | - | - | - | -", "stores 1 +1"]);
    assert_eq!(follower.poll(&definition).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_idle_poll_writes_nothing_and_progress_moves_the_cursor() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    let mut collect = Collect::default();
    let before = text(&mut app, "SELECT cursor FROM bitdex_shop.consumers").await;
    let polled = follower.poller.poll(&follower.cursor, Request::default(), &mut collect).await.unwrap();
    assert_eq!(polled, bitdex_sync::capture::Polled::Idle);
    assert_eq!(text(&mut app, "SELECT cursor FROM bitdex_shop.consumers").await, before);
    let xid: u64 = text(&mut app, "SELECT pg_current_xact_id()::text").await.parse().unwrap();
    assert!(!follower.cursor.snapshot.contains(xid));
    follower.poll(&definition).await;
    assert!(follower.cursor.snapshot.contains(xid), "progress reaches a transaction that touched nothing of ours");
}

#[tokio::test]
async fn a_long_backlog_goes_in_pages_that_can_be_repeated() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    execute(&mut app, "INSERT INTO stock SELECT n % 1000, n FROM generate_series(1, 250000) n").await;
    for round in 0..2 {
        let start = follower.cursor.clone();
        let mut collect = Collect::default();
        follower.poller.poll(&start, Request { progress: false, caught_up: true }, &mut collect).await.unwrap();
        assert_eq!(collect.batches.len(), 3);
        assert_eq!(collect.ops().count(), 250_000);
        assert!(collect.batches.windows(2).all(|pair| pair[0].new_cursor == pair[1].previous_cursor));
        assert_eq!(collect.batches[0].previous_cursor, start.to_bytes());
        for page in &collect.batches[..2] {
            let cursor = bitdex_proto::snapshot::PgCursor::from_bytes(&page.new_cursor).unwrap();
            assert_eq!(cursor.snapshot, start.snapshot, "a page does not claim what is not there yet");
            assert!(page.backlog > 100_000 && !page.caught_up);
            // A sender that resumes from a page is known to the database.
            let consumer = Consumer::new("shop", "test");
            consumer.check(follower.poller.connection(), &cursor).await.unwrap();
            if round == 0 {
                follower.cursor = cursor;
            }
        }
        assert!(collect.batches[2].backlog == 0 && collect.batches[2].caught_up);
    }
}

#[tokio::test]
async fn external_ops_follow_in_order_and_wrong_ones_stay_behind() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    execute(
        &mut app,
        r#"INSERT INTO bitdex_shop.external_ops (document, op) VALUES
            (5, '{"set": {"rank": 1}}'), (5, '{"set": {"nope": 1}}'), (NULL, '{"where": {"field": "title", "eq": "a"}, "set": {"rank": 2}}'),
            (6, '{"add": {"labels": 3}}'), (-1, '{"set": {"rank": 1}}')"#,
    )
    .await;
    // Bigger than a batch may be.
    execute(
        &mut app,
        "INSERT INTO bitdex_shop.external_ops (op) SELECT jsonb_build_object('delete', '[\"rank\"]'::jsonb, 'where', \
             jsonb_build_object('field', 'title', 'eq', repeat('x', 40000000)))",
    )
    .await;
    let ops = follower.poll(&definition).await;
    assert_eq!(ops.len(), 3, "{ops:?}");
    let errors = "SELECT id || ':' || error FROM bitdex_shop.external_ops WHERE error IS NOT NULL ORDER BY id";
    let errors = text(&mut app, errors).await;
    assert!(
        errors.starts_with("2:unknown field nope 5:document: document key -1 is not in 0..=4294967295 6:it takes 4000")
            && errors.ends_with("bytes, and a batch holds 33554432: give it as several rows"),
        "{errors}"
    );
    assert_eq!(follower.poll(&definition).await, Vec::<String>::new());
}

#[tokio::test]
async fn data_that_does_not_fit_stops_everything_by_name_and_nothing_is_lost() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    execute(&mut app, "ALTER TABLE product ALTER price TYPE numeric; ALTER TABLE stock ALTER product_id TYPE int8")
        .await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    execute(&mut app, "INSERT INTO product (id, title, price) SELECT n, 'p', 1 FROM generate_series(1, 100) n").await;
    for (breaks, expected, mends) in [
        ("UPDATE product SET price = 1e30 WHERE id = 42", "key 42", "UPDATE product SET price = 2 WHERE id = 42"),
        (
            "UPDATE product SET released_at = 'infinity' WHERE id = 43",
            "key 43",
            "UPDATE product SET released_at = NULL WHERE id = 43",
        ),
        (
            "INSERT INTO stock VALUES (5000000000, 1)",
            "key 5000000000",
            "DELETE FROM stock WHERE product_id = 5000000000",
        ),
    ] {
        execute(&mut app, breaks).await;
        let mut collect = Collect::default();
        let error = follower.poller.poll(&follower.cursor, Request::default(), &mut collect).await.unwrap_err();
        assert!(matches!(error, PollError::Data(_)) && error.to_string().contains(expected), "{breaks}: {error}");
        assert!(collect.batches.is_empty());
        execute(&mut app, mends).await;
        // What was stuck comes; of what is gone and never was in, there is nothing to say.
        assert_eq!(follower.poll(&definition).await.is_empty(), mends.starts_with("DELETE"), "{mends}");
    }
}

#[tokio::test]
async fn an_expression_that_fails_names_the_row() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let yaml = crate::common::SHOP.replace("'price > 100'", "'100 / seen > 1'");
    let definition = std::sync::Arc::new(bitdex_proto::definition::Definition::parse(&yaml).unwrap());
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    execute(&mut app, "INSERT INTO product (id, title, seen) SELECT n, 'p', n - 77 FROM generate_series(1, 100) n")
        .await;
    let mut collect = Collect::default();
    let error = follower.poller.poll(&follower.cursor, Request::default(), &mut collect).await.unwrap_err().to_string();
    assert!(error.contains("key 77: ") && error.contains("division by zero"), "{error}");
    execute(&mut app, "UPDATE product SET seen = 1 WHERE id = 77").await;
    assert_eq!(follower.poll(&definition).await.len(), 100);
}

#[tokio::test]
async fn a_member_whose_condition_fails_is_named() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    for (from, to, expected) in [
        ("'weight > 0'", "'100 / weight > 1'", r#"tags (table "public"."product_tag"), key 42, value "x": "#),
        ("'\"count\" > 0'", "'100 / \"count\" > 1'", r#"stores (table "public"."stock"), key 42, value 7: "#),
    ] {
        let yaml = crate::common::SHOP.replace(from, to);
        let definition = std::sync::Arc::new(bitdex_proto::definition::Definition::parse(&yaml).unwrap());
        database.set_up(&definition).await;
        let mut follower = Follower::new(&database, &definition).await;
        execute(
            &mut app,
            "TRUNCATE product CASCADE; TRUNCATE stock; INSERT INTO product (id, title) SELECT n, 'p' FROM generate_series(1, 100) n;
             INSERT INTO product_tag SELECT n, 'x', n - 42 FROM generate_series(1, 100) n;
             INSERT INTO stock SELECT n, 7, n - 42 FROM generate_series(1, 100) n",
        )
        .await;
        let error =
            follower.poller.poll(&follower.cursor, Request::default(), &mut Collect::default()).await.unwrap_err();
        assert!(matches!(error, PollError::Data(_)), "{error}");
        let error = error.to_string();
        assert!(error.contains(expected) && error.contains("division by zero"), "{error}");
        execute(
            &mut app,
            "UPDATE product_tag SET weight = 1 WHERE weight = 0; UPDATE stock SET count = 1 WHERE count = 0",
        )
        .await;
        assert!(!follower.poll(&definition).await.is_empty());
    }
}

#[tokio::test]
async fn lost_history_is_refused() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    let consumer = Consumer::new("shop", "test");
    let mut connection = database.database.connect(Purpose::Poll).await.unwrap();
    let first = follower.cursor.clone();
    execute(&mut app, "CREATE TABLE kept AS SELECT * FROM bitdex_shop.consumers").await;
    follower.poll(&definition).await;
    let second = follower.cursor.clone();
    consumer.check(&mut connection, &first).await.unwrap();
    consumer.check(&mut connection, &second).await.unwrap();
    // As a restore does.
    execute(&mut app, "UPDATE bitdex_shop.consumers c SET tokens = k.tokens FROM kept k").await;
    let error = consumer.check(&mut connection, &second).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(HistoryError::Lost { .. })), "{error}");
    let mut collect = Collect::default();
    let request = Request { progress: true, caught_up: false };
    let error = follower.poller.poll(&second, request, &mut collect).await.unwrap_err();
    assert!(matches!(error, PollError::History(HistoryError::Lost { .. })), "{error}");
    assert!(collect.batches.is_empty(), "nothing goes out");
    execute(&mut app, "DELETE FROM bitdex_shop.consumers").await;
    let error = consumer.check(&mut connection, &first).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(HistoryError::Unknown(_))), "{error}");
}

#[tokio::test]
async fn a_second_sync_backs_off() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    execute(&mut app, "BEGIN; LOCK TABLE product IN ACCESS EXCLUSIVE MODE").await;
    let request = Request { progress: true, caught_up: false };
    let error = follower.poller.poll(&follower.cursor, request, &mut Collect::default()).await.unwrap_err();
    assert!(matches!(error, PollError::Locked), "{error}");
    execute(&mut app, "ROLLBACK").await;
    follower.poll(&definition).await;
}

#[tokio::test]
async fn cleanup_deletes_what_is_consumed_and_refuses_who_comes_from_before() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    let cleanup = Cleanup::new("shop", Duration::ZERO);
    let mut connection = database.database.connect(Purpose::Admin).await.unwrap();
    execute(&mut app, "INSERT INTO stock SELECT 1, n FROM generate_series(1, 12000) n").await;
    execute(&mut app, r#"INSERT INTO bitdex_shop.external_ops (document, op) VALUES (1, '{}')"#).await;
    cleanup.round(&mut connection).await.unwrap();
    assert_eq!(cleanup.round(&mut connection).await.unwrap().ops, 0, "not consumed yet");
    let before = follower.cursor.clone();
    follower.poll(&definition).await;
    assert_eq!(cleanup.round(&mut connection).await.unwrap().ops, 0, "the index's acknowledgement is not known yet");
    // Transactions of other tests, open on the same server, are in the snapshots too, and hold it up.
    let (mut ops, began) = (0, Instant::now());
    while ops < 12_000 {
        assert!(began.elapsed() < Duration::from_secs(60), "only {ops} were deleted");
        follower.poll(&definition).await;
        let cleaned = cleanup.round(&mut connection).await.unwrap();
        assert_eq!(cleaned.external_ops, 0, "what was refused stays");
        ops += cleaned.ops;
    }
    let consumer = Consumer::new("shop", "test");
    let error = consumer.check(&mut connection, &before).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(HistoryError::BeforeHorizon { .. })), "{error}");
    consumer.check(&mut connection, &follower.cursor).await.unwrap();
}

#[tokio::test]
async fn triggers_that_somebody_removed_are_noticed_and_force_a_load() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let follower = Follower::new(&database, &definition).await;
    let mut connection = database.database.connect(Purpose::Admin).await.unwrap();
    assert_eq!(bitdex_sync::setup::verify(&mut connection, &definition).await.unwrap(), []);
    execute(&mut app, "ALTER TABLE product DISABLE TRIGGER USER").await;
    let outdated = bitdex_sync::setup::verify(&mut connection, &definition).await.unwrap();
    assert_eq!(outdated.len(), 1, "{outdated:?}");
    execute(&mut app, "INSERT INTO product (id, title) VALUES (1, 'unseen')").await;
    let done = database.set_up(&definition).await;
    assert!(done.drifted, "{done:?}");
    assert_eq!(bitdex_sync::setup::verify(&mut connection, &definition).await.unwrap(), []);
    let error = Consumer::new("shop", "test").check(&mut connection, &follower.cursor).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(HistoryError::BeforeGap { .. })), "{error}");
}

#[tokio::test]
async fn triggers_of_another_definition_force_a_load() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    let first = database.set_up(&definition).await;
    assert!(!first.drifted && !database.set_up(&definition).await.drifted, "{first:?}");
    let parse = |yaml: &str| bitdex_proto::definition::Definition::parse(yaml).unwrap();
    let stores =
        "  stores: { table: stock, key: product_id, value: store, type: int, filter: true, where: '\"count\" > 0' }\n";
    let without_source = parse(&crate::common::SHOP.replace(stores, ""));
    let without_column = parse(&crate::common::SHOP.replace("  title:       { type: string, filter: true }\n", ""));
    for other in [without_source, without_column] {
        let mut follower = Follower::new(&database, &definition).await;
        // Open before and after: a cursor that has the change of triggers need not have everything older.
        let mut open = database.connect().await;
        execute(&mut open, "BEGIN; INSERT INTO category VALUES (1, 'never')").await;
        follower.poll(&definition).await;
        let done = database.set_up(&other).await;
        assert!(done.drifted && done.lines.iter().any(|line| line.contains("need a load")), "{done:?}");
        execute(&mut app, "INSERT INTO stock VALUES (1, 1); UPDATE product SET title = 'unseen'").await;
        let done = database.set_up(&definition).await;
        assert!(done.drifted && done.lines.iter().any(|line| line.contains("is lost")), "{done:?}");
        // Whoever did not look meanwhile polls over it, if it is let.
        let request = Request { progress: true, caught_up: false };
        let mut collect = Collect::default();
        let error = follower.poller.poll(&follower.cursor, request, &mut collect).await.unwrap_err();
        assert!(matches!(error, PollError::History(HistoryError::BeforeGap { .. })), "{error}");
        assert!(collect.batches.is_empty());
        let mut connection = database.database.connect(Purpose::Admin).await.unwrap();
        let consumer = Consumer::new("shop", "test");
        let error = consumer.check(&mut connection, &follower.cursor).await.unwrap_err();
        assert!(error.to_string().contains("needs a load"), "{error}");
        // A load begins anew, and can be followed though the old transaction is still open.
        let mut loaded = Follower::new(&database, &definition).await;
        assert!(loaded.cursor.snapshot.xmin() < loaded.cursor.snapshot.xmax());
        consumer.check(&mut connection, &loaded.cursor).await.unwrap();
        loaded.poll(&definition).await;
        execute(&mut open, "ROLLBACK").await;
    }
}

#[tokio::test]
async fn external_ops_from_before_a_load_follow_it() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let set = |rank: u32| {
        format!(r#"INSERT INTO bitdex_shop.external_ops (document, op) VALUES (5, '{{"set": {{"rank": {rank}}}}}')"#)
    };
    execute(&mut app, &set(1)).await;
    // An empty index takes all that there is, once.
    let mut follower = Follower::new(&database, &definition).await;
    let mut connection = database.database.connect(Purpose::Poll).await.unwrap();
    let consumer = Consumer::new("shop", "test");
    follower.cursor = consumer.register(&mut connection, &"1:1:".parse().unwrap()).await.unwrap();
    assert!(follower.cursor.external.is_some());
    consumer.check(&mut connection, &follower.cursor).await.unwrap();
    let idle = follower.poller.poll(&follower.cursor, Request::default(), &mut Collect::default()).await.unwrap();
    assert_ne!(idle, bitdex_sync::capture::Polled::Idle);
    assert_eq!(follower.poll(&definition).await.len(), 1);
    assert_eq!(follower.cursor.external, None);
    assert_eq!(follower.poll(&definition).await, Vec::<String>::new());
    // An index that was there before a load takes what came since; even if that was cleaned up for all others.
    let before = follower.cursor.clone();
    execute(&mut app, &set(2)).await;
    assert!(consumer.knows(&mut connection, &before).await.unwrap());
    follower.cursor = consumer.register(&mut connection, before.external_from()).await.unwrap();
    let cleanup = Cleanup::new("shop", Duration::ZERO);
    for _ in 0..3 {
        cleanup.round(&mut connection).await.unwrap();
    }
    let ops = follower.poll(&definition).await;
    assert!(ops.len() == 1 && ops[0].contains("Int(2)"), "{ops:?}");
    assert!(!consumer.knows(&mut connection, &"1:1:|another".parse().unwrap()).await.unwrap());
}

#[tokio::test]
async fn a_load_says_from_where_external_ops_follow() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let follower = Follower::new(&database, &definition).await;
    // Nobody listens there: what the load begins with is in the consumer's row before it is sent.
    let client = bitdex_proto::client::IngestClient::new(vec!["127.0.0.1:1".into()]).unwrap();
    let loader = Loader {
        definition: definition.clone(),
        database: database.database.clone(),
        client: client.into(),
        consumer: Consumer::new("shop", "test"),
        connections: 1,
        rows_per_part: 1,
    };
    let another = PgCursor { token: "another".into(), ..follower.cursor.clone() };
    let finished = PgCursor { external: None, ..follower.cursor.clone() };
    let unfinished = PgCursor { external: Some("7:7:".parse().unwrap()), ..follower.cursor.clone() };
    for (before, expected) in [
        (None, "1:1:".to_owned()),
        (Some(another), "1:1:".to_owned()),
        (Some(finished), follower.cursor.snapshot.to_string()),
        (Some(unfinished), "7:7:".to_owned()),
    ] {
        let error = loader.load(None, before, &Progress::new(false, None)).await.unwrap_err();
        assert!(matches!(error, LoadError::Query(_)), "{error}");
        let cursor: PgCursor = text(&mut app, "SELECT cursor FROM bitdex_shop.consumers").await.parse().unwrap();
        assert_eq!(cursor.external.map(|external| external.to_string()), Some(expected));
    }
}

#[tokio::test]
async fn external_ops_are_in_the_last_page_alone() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    database.set_up(&definition).await;
    let mut follower = Follower::new(&database, &definition).await;
    execute(&mut app, "INSERT INTO stock SELECT n % 1000, n FROM generate_series(1, 199990) n").await;
    execute(
        &mut app,
        r#"INSERT INTO bitdex_shop.external_ops (document, op) SELECT n, '{"set": {"rank": 1}}' FROM generate_series(1, 20) n"#,
    )
    .await;
    let mut collect = Collect::default();
    follower.poller.poll(&follower.cursor, Request::default(), &mut collect).await.unwrap();
    let external = |batch: &bitdex_sync::deliver::Batch| {
        batch.ops.iter().filter(|op| matches!(op, bitdex_proto::ops::Op::Field { .. })).count()
    };
    assert_eq!(collect.batches.iter().map(external).collect::<Vec<_>>(), [0, 20]);
}

#[tokio::test]
async fn setup_waits_for_a_lock_without_queueing_and_says_who_has_it() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    execute(&mut app, "BEGIN; INSERT INTO product (id, title) VALUES (1, 'open')").await;
    let app_pid = text(&mut app, "SELECT pg_backend_pid()::text").await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let setup = async {
        let mut waiting = move |_: &str, blockers: &[bitdex_sync::setup::Blocker]| {
            let _ = told.send(blockers.iter().map(|blocker| blocker.pid.to_string()).collect::<Vec<_>>());
        };
        database.setup(&definition).apply(&mut waiting).await
    };
    let release = async {
        let blockers = heard.recv().await.expect("setup waits");
        assert_eq!(blockers, [app_pid]);
        execute(&mut app, "COMMIT").await;
    };
    let (done, ()) = tokio::join!(setup, release);
    assert_eq!(done.unwrap().lines.iter().filter(|line| line.starts_with("created triggers")).count(), 4);
}

#[tokio::test]
async fn a_runtime_role_with_its_grants_is_enough() {
    let (database, mut app) = TestDatabase::with_schema(SHOP_TABLES).await;
    let definition = shop();
    let role = format!("bitdex_role_{}", std::process::id());
    execute(&mut app, &format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let mut setup = database.setup(&definition);
    setup.runtime_role = Some(&role);
    setup.apply(&mut |_, _| {}).await.unwrap();
    execute(&mut app, "INSERT INTO stock VALUES (1, 2)").await;
    execute(&mut app, r#"INSERT INTO bitdex_shop.external_ops (document, op) VALUES (1, '{}')"#).await;
    let (_, host) = database.url.split_once('@').expect("a user");
    let limited = bitdex_sync::postgres::Database::new(&format!("postgres://{role}:x@{host}")).unwrap();
    let mut connection = limited.connect(Purpose::Poll).await.unwrap();
    assert_eq!(bitdex_sync::setup::verify(&mut connection, &definition).await.unwrap(), []);
    let consumer = Consumer::new("shop", "test");
    let cursor = consumer.register(&mut connection, &"1:1:".parse().unwrap()).await.unwrap();
    consumer.check(&mut connection, &cursor).await.unwrap();
    let plan = bitdex_sync::capture::Plan::new(definition.clone(), "test").unwrap();
    let poller = bitdex_sync::capture::Poller::connect(&limited, plan.into()).await.unwrap();
    let mut follower = Follower { poller, cursor };
    execute(&mut app, "INSERT INTO stock VALUES (1, 3)").await;
    execute(&mut app, r#"INSERT INTO bitdex_shop.external_ops (document, op) VALUES (1, '{}')"#).await;
    assert_eq!(follower.poll(&definition).await, ["stores 1 +3"]);
    assert_eq!(
        text(&mut app, "SELECT count(error)::text FROM bitdex_shop.external_ops").await,
        "2",
        "both rows were read"
    );
    follower.poll(&definition).await;
    let cleanup = Cleanup::new("shop", Duration::ZERO);
    let began = Instant::now();
    while text(&mut app, "SELECT count(*)::text FROM bitdex_shop.ops").await != "0" {
        assert!(began.elapsed() < Duration::from_secs(60), "the ops were not deleted");
        follower.poll(&definition).await;
        cleanup.round(&mut connection).await.unwrap();
    }
    execute(&mut app, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
