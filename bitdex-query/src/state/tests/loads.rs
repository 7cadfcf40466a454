//! Loads in the midst of everything else, in processes that bring the same log into files of their own at times of their
//! own: each is always what a naive model is.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IndexedRandom as _;

use super::{
    super::{Files, Frozen},
    *,
};

/// One process, with files of its own.
struct Process {
    state: State,
    store: Store,
    /// Where loads began.
    began: Vec<u64>,
    /// A layer that was frozen when a load's base took the place of what it lies on.
    late: Option<Arc<Frozen>>,
    /// Files of the generation before the last load.
    old: Option<Arc<Files>>,
}

impl Process {
    fn new(schema: &Arc<Schema>) -> Self {
        let state = State::new(schema.clone());
        Self { state, store: Store::new(schema), began: Vec::new(), late: None, old: None }
    }

    fn apply(&mut self, record: &wire::Record) {
        let sequence = self.state.sequence() + 1;
        match record.kind {
            Some(Kind::LoadBegin(_)) => self.began.push(sequence),
            Some(Kind::Freeze(_)) if self.state.frozen().is_some() => self.flush(),
            Some(Kind::LoadEnd(_)) => {
                if let Some(base) = self.store.prepared(self.state.loading_generation()) {
                    self.late = self.state.frozen().cloned();
                    self.old = Some(self.state.files().clone());
                    self.state.prepare(base);
                }
            }
            _ => {}
        }
        self.state.validate(record).unwrap();
        self.state.apply(sequence, record).unwrap();
    }

    /// Brings what is frozen into files, and looks through them.
    fn flush(&mut self) {
        self.flush_late(true);
        if self.state.frozen().is_some() {
            let files = self.store.flush(&self.state, &self.began);
            self.state.adopt(files).unwrap();
            assert!(self.state.frozen().is_none());
        }
    }

    /// What was being flushed when a load ended comes too late; the state goes on from the load's files.
    fn flush_late(&mut self, written: bool) {
        if let Some(late) = self.late.take().filter(|_| written) {
            self.store.flush_layer(&late, &self.began);
            let files = self.state.files().clone();
            self.state.adopt(self.store.open(None)).unwrap();
            assert!(Arc::ptr_eq(&files, self.state.files()), "files from before the load were adopted");
        }
    }

    /// Rewrites a segment or a table, under whatever lies above.
    fn compact(&mut self, fraction: f64) {
        // What the manifest names, which is older than the state's where a load has ended since.
        let files = self.store.open(None);
        if files.checkpoint().is_some()
            && let Some(compacted) = self.store.compact(&files, fraction)
        {
            self.state.adopt(compacted).unwrap();
        }
    }

    /// Builds the base of the load; false where it broke off behind so many files.
    fn build(&mut self, files: usize) -> bool {
        self.store.build(&self.state, files)
    }

    /// Ends, and another opens the files and the log behind them.
    fn open_again(&mut self, log: &[wire::Record]) {
        let schema = self.state.schema().clone();
        let files = self.store.open(None);
        self.state = match files.checkpoint() {
            Some(_) => State::open(files).unwrap(),
            None => State::new(schema),
        };
        (self.late, self.old) = (None, None);
        self.began.retain(|began| *began <= self.state.sequence());
        let behind = usize::try_from(self.state.sequence()).unwrap();
        log[behind..].iter().for_each(|record| self.apply(record));
    }
}

/// What a load has brought so far.
struct Loading {
    generation: u64,
    /// Rows, and ops of others on the same sources, in order.
    staged: Vec<Op>,
    open: BTreeSet<u32>,
    /// A `Freeze` came behind one of its rows.
    is_frozen: bool,
}

struct World {
    schema: Arc<Schema>,
    log: Vec<wire::Record>,
    processes: Vec<Process>,
    model: Model,
    loading: Option<Loading>,
    loaded: bool,
    generation: u64,
    /// Ops on fields since the first query op of the first load.
    deferred: Vec<Op>,
    cursors: BTreeMap<&'static str, String>,
    caught_up: BTreeSet<&'static str>,
    ids: u32,
    steps: [u32; 12],
}

impl World {
    fn new(schema: Schema, ids: u32) -> Self {
        let schema = Arc::new(schema);
        let mut world = Self {
            log: Vec::new(),
            processes: (0..3).map(|_| Process::new(&schema)).collect(),
            model: Model::default(),
            loading: None,
            loaded: false,
            generation: 0,
            deferred: Vec::new(),
            cursors: BTreeMap::new(),
            caught_up: BTreeSet::new(),
            ids,
            steps: [0; 12],
            schema,
        };
        world.apply(genesis(&world.schema));
        world
    }

    fn apply(&mut self, record: wire::Record) {
        self.processes.iter_mut().for_each(|process| process.apply(&record));
        self.log.push(record);
    }

    fn is_loaded_source(&self, op: &Op) -> bool {
        match op {
            Op::Upsert { source, .. }
            | Op::Member { source, .. }
            | Op::Truncate { source }
            | Op::Retain { source, .. } => self.schema.sources[*source].is_postgres(),
            Op::Field { .. } | Op::QueryOpSet { .. } => false,
        }
    }

    fn batch(&mut self, rng: &mut ChaCha8Rng, source: &'static str, fits: impl Fn(&Self, &Op) -> bool) {
        let ops: Vec<_> = (0..rng.random_range(0..40)).map(|_| model::random_op(rng, &self.schema, self.ids)).collect();
        let ops: Vec<_> = ops.into_iter().filter(|op| fits(self, op)).collect();
        let previous = self.cursors.get(source).cloned().unwrap_or_default();
        let cursor = format!("{source} {}", self.log.len());
        let mut batch = batch(&self.schema, source, &previous, &cursor, &ops);
        batch.caught_up = rng.random_range(0..3) == 0;
        if batch.caught_up {
            self.caught_up.insert(source);
        }
        self.apply(record(batch));
        self.cursors.insert(source, cursor);
        for op in ops {
            let is_loaded_source = self.is_loaded_source(&op);
            if let Some(loading) = &mut self.loading {
                if is_loaded_source {
                    loading.staged.push(op.clone());
                }
                if !self.loaded {
                    // There are no documents yet that it could be applied to, or that a query op could find.
                    let is_query = matches!(op, Op::QueryOpSet { .. });
                    if is_query || matches!(op, Op::Field { .. }) && !self.deferred.is_empty() {
                        self.deferred.push(op);
                        continue;
                    }
                    if is_loaded_source {
                        continue;
                    }
                }
            }
            self.model.apply(&self.schema, &op);
        }
    }

    fn begin_load(&mut self) {
        let generation = self.processes[0].state.next_generation();
        let Some(Kind::LoadBegin(begin)) = load_begin(&generation.to_string(), 0).kind else { unreachable!() };
        // Two parts of each source.
        let parts = (0..14).map(|part| wire::LoadPart { source: part / 2, lo: 0, hi: 1 << 32 }).collect();
        let load = wire::LoadOpen { parts, ..begin.load.unwrap() };
        self.apply(wire::Record { kind: Some(Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation })) });
        let loading = Loading { generation, staged: Vec::new(), open: (0..14).collect(), is_frozen: false };
        self.loading = Some(loading);
    }

    /// Rows of some parts, those that are complete too: a sender may not know.
    fn rows(&mut self, rng: &mut ChaCha8Rng) {
        let Some(mut loading) = self.loading.take() else { return };
        let mut parts: BTreeMap<u32, (Vec<u8>, Vec<Op>)> = BTreeMap::new();
        for _ in 0..rng.random_range(1..150) {
            let op = model::random_op(rng, &self.schema, self.ids);
            if let Some((source, row)) = model::copy_row(&self.schema, &op) {
                let (rows, ops) = parts.entry(2 * source as u32 + rng.random_range(0..2)).or_default();
                rows.extend(row);
                ops.push(op);
            }
        }
        for (part, (rows, ops)) in parts {
            self.apply(load_rows(part, rows.into()));
            loading.staged.extend(ops);
        }
        self.loading = Some(loading);
    }

    fn end_part(&mut self, part: u32) {
        self.apply(part_done(part, 1));
        if let Some(loading) = &mut self.loading {
            loading.open.remove(&part);
        }
    }

    fn freeze(&mut self) {
        if let Some(loading) = &mut self.loading {
            loading.is_frozen |= !loading.staged.is_empty();
        }
        self.apply(freeze());
    }

    fn end_load(&mut self, rng: &mut ChaCha8Rng) {
        let open = self.loading.as_ref().map(|loading| loading.open.clone()).unwrap_or_default();
        open.into_iter().for_each(|part| self.end_part(part));
        let built = self.loading.as_ref().is_some_and(|loading| loading.is_frozen) || rng.random();
        if built {
            self.freeze();
            for process in &mut self.processes {
                process.flush();
            }
            for at in 0..self.processes.len() {
                while !self.processes[at].build(rng.random_range(0..4)) {
                    if rng.random_range(0..4) == 0 {
                        let Self { processes, log, .. } = self;
                        processes[at].open_again(log);
                    }
                }
            }
            // Others go on until the end is logged; what they did to other sources may be frozen, or in files.
            for _ in 0..rng.random_range(0..6) {
                match rng.random_range(0..4) {
                    0 if self.processes[0].state.staged_bytes().0 == 0 => self.freeze(),
                    1 => self.keep(rng),
                    2 => self.batch(rng, "service", |_, _| true),
                    _ => self.batch(rng, CLICKHOUSE, |world, op| !world.is_loaded_source(op)),
                }
            }
        }
        self.apply(load_end());
        let Some(loading) = self.loading.take() else { return };
        self.model.load(&self.schema, &loading.staged);
        std::mem::take(&mut self.deferred).iter().for_each(|op| self.model.apply(&self.schema, op));
        (self.loaded, self.generation) = (true, loading.generation);
        self.cursors.insert(POSTGRES, "S0".into());
        self.caught_up.remove(POSTGRES);
        self.steps[10 + usize::from(built)] += 1;
    }

    /// One process does something about its files.
    fn keep(&mut self, rng: &mut ChaCha8Rng) {
        let at = rng.random_range(0..self.processes.len());
        let process = &mut self.processes[at];
        match rng.random_range(0..6) {
            0 | 1 => process.flush(),
            2 => process.open_again(&self.log),
            3 => process.flush_late(rng.random()),
            4 => {
                // Opened before the load ended, and handed over behind it.
                if let Some(old) = process.old.take().filter(|_| process.state.files().checkpoint().is_none()) {
                    let files = process.state.files().clone();
                    process.state.adopt(old).unwrap();
                    assert!(Arc::ptr_eq(&files, process.state.files()), "files from before the load were adopted");
                }
            }
            _ => process.compact([0.0, 0.01][rng.random_range(0..2)]),
        }
    }

    fn step(&mut self, rng: &mut ChaCha8Rng) {
        let step = rng.random_range(0..10);
        match step {
            0 if self.loading.is_none() => self.batch(rng, POSTGRES, |_, _| true),
            0 | 1 => self.rows(rng),
            2 => self.batch(rng, "service", |_, _| true),
            3 => self.batch(rng, CLICKHOUSE, |_, op| !matches!(op, Op::QueryOpSet { .. })),
            4 | 5 => self.freeze(),
            6 if self.loading.is_some() && rng.random_range(0..3) > 0 => self.end_load(rng),
            6 if self.loading.is_none() || rng.random_range(0..3) == 0 => self.begin_load(),
            7 => {
                if let Some(part) = self
                    .loading
                    .as_ref()
                    .and_then(|loading| loading.open.iter().copied().collect::<Vec<_>>().choose(rng).copied())
                {
                    self.end_part(part);
                }
            }
            _ => self.keep(rng),
        }
        self.steps[step] += 1;
    }

    fn check(&self, rng: &mut ChaCha8Rng) {
        let thoroughly = rng.random_range(0..self.processes.len());
        for (at, process) in self.processes.iter().enumerate() {
            let state = &process.state;
            assert_eq!(state.sequence(), self.log.len() as u64);
            assert_eq!(
                (state.is_loaded(), state.generation()),
                (self.loaded && self.loading.is_none(), self.generation)
            );
            let ready = self.loaded && [POSTGRES, CLICKHOUSE].iter().all(|source| self.caught_up.contains(source));
            assert_eq!(state.readiness().ready, ready, "{}", state.readiness().progress);
            let load = state.load().map(|load| (load.load_id, load.done.len()));
            let wanted = self.loading.as_ref().map(|load| (load.generation.to_string(), 14 - load.open.len()));
            assert_eq!(load, wanted);
            for (source, cursor) in &self.cursors {
                assert_eq!(state.cursor(source), cursor);
            }
            assert_eq!(state.hash(), self.processes[0].state.hash());
            if at == thoroughly {
                model::assert_is(state, &self.model);
                model::assert_same(state, &self.processes[0].state);
            }
        }
    }
}

#[test]
fn random_loads_equal_the_model_whatever_the_files() {
    let mut rng = seeded();
    let mut steps = [0; 12];
    for round in 0..scaled(10) {
        let schema = if round % 2 == 0 { schema() } else { schema_by_column() };
        let mut world = World::new(schema, [20, 300][rng.random_range(0..2)]);
        for _ in 0..80 {
            world.step(&mut rng);
            world.check(&mut rng);
        }
        for (sum, steps) in steps.iter_mut().zip(world.steps) {
            *sum += steps;
        }
    }
    println!("steps by kind, loads in memory, loads built: {steps:?}");
}
