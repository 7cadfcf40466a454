//! Random and mutated requests and cursors: an error, or the naive model's answer; never a fall.

use bitdex_proto::query::{FilterForm, SortForm};
use prost::Message as _;

use super::*;

/// Changes some bytes: flips, cuts, repeats, and pieces of another message.
fn mutate(rng: &mut ChaCha8Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..[1, 1, 1, 2, 5][rng.random_range(0..5)] {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..6) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            3 => bytes.truncate(at),
            4 => {
                let end = rng.random_range(at..=bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let from = rng.random_range(0..=other.len());
                let to = rng.random_range(from..=other.len());
                let rest = bytes.split_off(at);
                bytes.extend_from_slice(&other[from..to]);
                bytes.extend(rest);
            }
        }
    }
    bytes
}

type Form = SearchRequest<FilterForm, SortForm>;

/// Answers what can be answered, and compares. Whether it could.
fn answers(state: &State, documents: &Documents, form: Form, what: &str) -> bool {
    let schema = state.schema();
    let Ok(request) = form.resolve(schema) else { return false };
    // Whose cursor it is, is another test's concern.
    let request = SearchRequest { cursor: None, ..request };
    let Ok(page) = search(state, &request, NOW) else { return false };
    let mut all = expected(schema, documents, &request, page.now_us);
    let more = all.len() > request.limit as usize;
    all.truncate(request.limit as usize);
    assert_eq!((&page.ids, page.next_cursor.is_some()), (&all, more), "{what}: {request:?}");
    true
}

/// Both forms of random requests, filter and sort structured or as text.
fn forms(rng: &mut ChaCha8Rng, schema: &Schema) -> (Vec<u8>, String) {
    let single: Vec<_> = schema.fields.iter().filter(|field| field.filter && !field.many).collect();
    let mut request = random_request(rng, schema);
    request.fields = [Fields::None, Fields::All][rng.random_range(0..2)].clone();
    request.now_us = rng.random::<bool>().then(|| NOW + rng.random_range(-30..15));
    request.distinct = rng.random::<bool>().then(|| single[rng.random_range(0..single.len())].name.clone());
    let text = request.filter.as_ref().map(Filter::to_text);
    let mut wire = wire::SearchRequest::from(request.clone());
    let mut json = serde_json::to_value(&request).unwrap();
    if let Some(text) = text.filter(|_| rng.random()) {
        json["filter"] = text.clone().into();
        (wire.filter, wire.filter_text) = (None, text);
    }
    if rng.random() && !request.sort.is_empty() {
        let sorts: Vec<_> = request
            .sort
            .iter()
            .map(|sort| format!("{}:{}", sort.field, if sort.descending { "desc" } else { "asc" }))
            .collect();
        json["sort"] = if rng.random() { sorts.join(",").into() } else { sorts.clone().into() };
        (wire.sort, wire.sort_text) = (Vec::new(), sorts.join(","));
    }
    (wire.encode_to_vec(), json.to_string())
}

#[test]
fn requests_are_refused_or_answered_rightly() {
    let seed = seed();
    let schema = Arc::new(named_schema());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (state, documents) = random_state(&mut rng, &schema, 12, 4);
    let (mut answered, mut whole) = (0, 0);
    let runs = rounds(1_000_000, 100);
    for round in 0..runs {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let what = format!("seed {seed}, round {round}");
        let (wire, json) = forms(&mut rng, &schema);
        let (other_wire, other_json) = forms(&mut rng, &schema);
        let changed = round % 4 > 0;
        let wire = if changed { mutate(&mut rng, &wire, &other_wire) } else { wire };
        let json = if changed { mutate(&mut rng, json.as_bytes(), other_json.as_bytes()) } else { json.into_bytes() };
        let from_wire = wire::SearchRequest::decode(&wire[..]).ok().and_then(|wire| Form::try_from(wire).ok());
        let from_json = serde_json::from_slice::<Form>(&json).ok();
        for form in [from_wire, from_json] {
            let answers = form.is_some_and(|form| answers(&state, &documents, form, &what));
            assert!(answers || changed, "{what}: a good request is refused: {}", String::from_utf8_lossy(&json));
            answered += u64::from(answers);
            whole += u64::from(!changed);
        }
    }
    println!("{runs} rounds, {answered} answers compared, {whole} of unchanged requests");
    assert!(answered > whole, "no changed request was answered");
}

#[test]
fn a_changed_cursor_is_refused() {
    let seed = seed();
    let schema = Arc::new(named_schema());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Some have next to no documents, and so no second page of anything.
    let state = std::iter::repeat_with(|| random_state(&mut rng, &schema, 60, 3).0).find(|it| it.documents() >= 20);
    let state = state.unwrap();
    let mut cursors: Vec<(SearchRequest, Vec<u32>)> = Vec::new();
    while cursors.len() < 20 {
        let request = SearchRequest { limit: rng.random_range(1..4), ..random_request(&mut rng, &schema) };
        if let Some(cursor) = search(&state, &request, NOW).unwrap().next_cursor {
            let next = SearchRequest { cursor: Some(OpaqueBytes(cursor)), ..request };
            let ids = search(&state, &next, NOW).unwrap().ids;
            cursors.push((next, ids));
        }
    }
    let (mut refused, mut same) = (0_u64, 0_u64);
    for round in 0..rounds(1_000_000, 50) {
        let (request, ids) = &cursors[rng.random_range(0..cursors.len())];
        let (other, _) = &cursors[rng.random_range(0..cursors.len())];
        let bytes = |request: &SearchRequest| request.cursor.clone().unwrap().0;
        let mutated = mutate(&mut rng, &bytes(request), &bytes(other));
        let what = format!("seed {seed}, round {round}: {mutated:?}");
        let request = SearchRequest { cursor: Some(OpaqueBytes(mutated.into())), ..request.clone() };
        match search(&state, &request, NOW) {
            // The same message in other bytes, or no change at all.
            Ok(page) => {
                assert_eq!(&page.ids, ids, "{what}");
                same += 1;
            }
            Err(Error::Invalid(_) | Error::Precondition(_)) => refused += 1,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    println!("{refused} refused, {same} the same");
    assert!(refused > 10 * same);
}
