//! One step of a sweep: all values of a range of keys, and which of those keys there are.

use std::sync::Arc;

use bitdex_proto::{
    definition::Definition,
    ops::{Op, document_key},
    schema::SourceId,
};

use super::ClickHouse;

/// Keys that are asked for at once.
const KEYS: u32 = 1 << 20;
/// Keys that one op names.
const KEYS_OF_OP: usize = 50_000;

/// Reads the keys from `from` on: the ops that make the index hold what ClickHouse answered for them, and nothing else,
/// and the last key that they speak of. A step that reaches the highest key there is speaks of all above it too.
pub(super) async fn step(
    clickhouse: &ClickHouse,
    definition: &Definition,
    source: SourceId,
    from: u32,
) -> anyhow::Result<(Vec<Op>, u32)> {
    let Some((first, highest)) = clickhouse.key_range(definition, source, from).await? else {
        return Ok((with_retains(Vec::new(), source, from, u32::MAX)?, u32::MAX));
    };
    let last = first.saturating_add(KEYS - 1);
    let last = if last < highest { last } else { u32::MAX };
    // One answer says both which keys there are and what they hold: a key that came meanwhile is not taken for gone.
    let values = clickhouse.range(definition, source, first, last).await?;
    Ok((with_retains(values, source, from, last)?, last))
}

/// Puts before the upserts, which are all there are from `first` to `last`, ascending, what removes all other keys.
fn with_retains(upserts: Vec<Op>, source: SourceId, first: u32, last: u32) -> anyhow::Result<Vec<Op>> {
    let keys = upserts.iter().filter_map(|op| match op {
        Op::Upsert { key, .. } => Some(document_key(*key, "metrics")),
        _ => None,
    });
    let keys = keys.collect::<Result<Vec<u32>, _>>()?;
    let mut ops = Vec::with_capacity(upserts.len() + keys.len() / KEYS_OF_OP + 1);
    let mut from = first;
    let mut rest = keys.as_slice();
    loop {
        let (these, others) = rest.split_at(rest.len().min(KEYS_OF_OP));
        let (keys, end) = (Arc::from(these), these.last().copied().filter(|_| !others.is_empty()));
        ops.push(Op::Retain { source, first: from, last: end.unwrap_or(last), keys });
        let Some(end) = end else { break };
        // Others follow, so this is not the highest key.
        from = end + 1;
        rest = others;
    }
    ops.extend(upserts);
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Mutex};

    use axum::{Router, extract::State, routing::post};
    use bitdex_proto::value::Value;

    use super::*;
    use crate::{cli::ClickHouseArgs, metrics::suppress::Acknowledged};

    const DEFINITION: &str = "
index: images
document: { table: image, key: id }
metrics:
  events: { table: events, key: imageId, fields: { reactions: { type: int, sql: sum(delta) } } }
";

    type Table = Arc<Mutex<BTreeMap<u32, i64>>>;

    /// The numbers that stand behind `words` in a query.
    fn number(sql: &str, words: &str) -> Option<u32> {
        let rest = sql.split_once(words)?.1;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// Answers a sweep's two queries out of a table.
    async fn answer(State(table): State<Table>, sql: String) -> Vec<u8> {
        let table = table.lock().unwrap();
        let (first, last) = (number(&sql, ">= ").unwrap_or(0), number(&sql, "<= ").unwrap_or(u32::MAX));
        let rows: Vec<_> = table.range(first..=last).map(|(key, value)| (i64::from(*key), *value)).collect();
        if sql.contains("count()") {
            let key = |row: Option<&(i64, i64)>| row.map_or(0, |(key, _)| *key);
            [rows.len() as i64, key(rows.first()), key(rows.last())].iter().flat_map(|n| n.to_le_bytes()).collect()
        } else {
            rows.iter().flat_map(|(key, value)| [&key.to_le_bytes()[..], &[0], &value.to_le_bytes()].concat()).collect()
        }
    }

    fn retain(first: u32, last: u32, keys: &[u32]) -> Op {
        Op::Retain { source: 1, first, last, keys: keys.into() }
    }

    fn value(key: u32, value: i64) -> Op {
        Op::Upsert { source: 1, key: key.into(), row: Some([Some(Value::Int(value))].into()) }
    }

    #[tokio::test]
    async fn keys_that_are_gone_from_clickhouse_go() {
        const FAR: u32 = 3_000_000;
        let table: Table = Arc::new(Mutex::new([(3, 5), (8, 1), (FAR, 2)].into()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/", post(answer)).with_state(Arc::clone(&table));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let args = ClickHouseArgs {
            clickhouse_url: Some(url),
            clickhouse_user: None,
            clickhouse_password: None,
            clickhouse_database: None,
        };
        let clickhouse = ClickHouse::new(&args).unwrap();
        let definition = Definition::parse(DEFINITION).unwrap();
        let mut acknowledged = Acknowledged::default();
        let step = async |from| step(&clickhouse, &definition, 1, from).await.unwrap();

        let end = 3 + KEYS - 1;
        assert_eq!(step(0).await, (vec![retain(0, end, &[3, 8]), value(3, 5), value(8, 1)], end));
        assert_eq!(step(end + 1).await, (vec![retain(end + 1, u32::MAX, &[FAR]), value(FAR, 2)], u32::MAX));
        acknowledged.learn(step(0).await.0);

        // All rows of 3 and of the far key are deleted: the values known to be there are not sent again, the loss is.
        table.lock().unwrap().retain(|key, _| *key == 8);
        let (ops, last) = step(0).await;
        assert_eq!((acknowledged.unknown(ops.clone()), last), (vec![retain(0, u32::MAX, &[8])], u32::MAX));
        acknowledged.learn(ops);
        table.lock().unwrap().insert(3, 5);
        let (ops, _) = step(0).await;
        assert_eq!(acknowledged.unknown(ops), [retain(0, u32::MAX, &[3, 8]), value(3, 5)]);

        table.lock().unwrap().clear();
        assert_eq!(step(7).await, (vec![retain(7, u32::MAX, &[])], u32::MAX));
        server.abort();
    }

    #[test]
    fn many_keys_are_several_ops_without_a_gap() {
        let keys: Vec<u32> = (0..KEYS_OF_OP as u32 + 1).map(|n| 10 + n * 3).collect();
        let ops = with_retains(keys.iter().map(|key| value(*key, 1)).collect(), 1, 5, 999_999).unwrap();
        let split = keys[KEYS_OF_OP - 1];
        assert_eq!(ops.len(), keys.len() + 2);
        assert_eq!(ops[0], retain(5, split, &keys[..KEYS_OF_OP]));
        assert_eq!(ops[1], retain(split + 1, 999_999, &keys[KEYS_OF_OP..]));
        assert_eq!(with_retains(vec![value(5, 1)], 1, 5, 5).unwrap(), [retain(5, 5, &[5]), value(5, 1)]);
    }
}
