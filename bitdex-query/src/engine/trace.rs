//! What a query did, step by step, for [`super::explain`].
//!
//! A matcher that carries a [`Trace`] evaluates blocks, and tests ids, one step of the filter after the other, and takes
//! their times; the ids that pass are the same. One that carries none takes no times and counts nothing.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use bitdex_proto::{
    query::{Comparator, Filter},
    schema::{Field, Schema},
    value::{FieldType, Literal, Value},
};

use super::{
    evaluate::{Begin, Pool},
    filter::Test,
    plan::Estimates,
    set::Set,
    tree::{And, Child, Node},
};
use crate::{log::Result, segment::sets::Block};

/// Runs that are told one by one; of those that follow only how many there were.
const RUNS: usize = 4;
/// Values of a list that are shown.
const VALUES: usize = 6;

/// Number of a step in its run, from 1; 0: none, as nothing is traced.
pub(super) type StepId = u32;

/// All that one call does.
#[derive(Debug, Default)]
pub(super) struct Trace(RefCell<Traced>);

#[derive(Debug, Default)]
pub(super) struct Traced {
    pub(super) runs: Vec<Run>,
    /// Runs behind those.
    pub(super) more: u64,
}

/// One use of a filter: for a page, for a count.
#[derive(Debug)]
pub(super) struct Run {
    began: Instant,
    pub(super) planning: Duration,
    pub(super) all: Duration,
    /// What is hidden, and by what that is told.
    pub(super) hidden: Option<String>,
    /// What is done, in words.
    pub(super) plan: String,
    pub(super) estimates: Option<Estimates>,
    /// Blocks of the index, and those where the filter may hold.
    pub(super) blocks: (usize, usize),
    pub(super) evaluated: u64,
    pub(super) walked: u64,
    pub(super) rows: u64,
    pub(super) steps: Vec<Step>,
    /// The steps that all have to let an id pass, in their order.
    pub(super) roots: Vec<StepId>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Step {
    pub(super) what: String,
    pub(super) how: &'static str,
    pub(super) excludes: bool,
    pub(super) estimate: u64,
    pub(super) parts: Vec<StepId>,
    pub(super) did: Did,
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Did {
    pub(super) blocks: u64,
    pub(super) rows_in: u64,
    pub(super) rows: u64,
    pub(super) tested: u64,
    pub(super) passed: u64,
    pub(super) time: Duration,
}

impl Trace {
    pub(super) fn finish(self) -> Traced {
        self.0.into_inner()
    }

    pub(super) fn begin(&self) {
        let mut traced = self.0.borrow_mut();
        if traced.runs.len() > RUNS {
            traced.runs.pop();
            traced.more += 1;
        }
        traced.runs.push(Run {
            began: Instant::now(),
            planning: Duration::ZERO,
            all: Duration::ZERO,
            hidden: None,
            plan: String::new(),
            estimates: None,
            blocks: (0, 0),
            evaluated: 0,
            walked: 0,
            rows: 0,
            steps: Vec::new(),
            roots: Vec::new(),
        });
    }

    /// Changes what is known of the run under way.
    pub(super) fn run(&self, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.0.borrow_mut().runs.last_mut() {
            change(run);
        }
    }

    /// What was decided before the first block.
    pub(super) fn planned(&self, blocks: (usize, usize)) {
        self.run(|run| {
            run.blocks = blocks;
            run.planning = run.began.elapsed();
        });
    }

    pub(super) fn end(&self) {
        self.run(|run| run.all = run.began.elapsed());
    }

    /// A step of the run under way.
    pub(super) fn step(&self, what: String, how: &'static str, estimate: u64, parts: Vec<StepId>) -> StepId {
        let mut id = 0;
        self.run(|run| {
            run.steps.push(Step { what, how, estimate, parts, ..Step::default() });
            id = run.steps.len() as StepId;
        });
        id
    }

    /// The steps of a filter that is resolved.
    pub(super) fn resolved(&self, root: &And<'_>) {
        self.run(|run| {
            run.roots = steps(root);
            mark(run, root);
        });
    }

    /// One more step that takes ids out.
    pub(super) fn exclusion(&self, step: StepId) {
        self.run(|run| {
            run.roots.push(step);
            run.exclude(step);
        });
    }

    pub(super) fn did(&self, step: StepId, did: Did) {
        self.run(|run| {
            if let Some(step) = run.step_mut(step) {
                step.did.blocks += did.blocks;
                step.did.rows_in += did.rows_in;
                step.did.rows += did.rows;
                step.did.tested += did.tested;
                step.did.passed += did.passed;
                step.did.time += did.time;
            }
        });
    }

    /// A step that took a set of one block to another.
    pub(super) fn timed(&self, step: StepId, set: &mut Set, apply: impl FnOnce(&mut Set) -> Result<()>) -> Result<()> {
        let rows_in = u64::from(set.len());
        let start = Instant::now();
        apply(set)?;
        let time = start.elapsed();
        self.did(step, Did { blocks: 1, rows_in, rows: set.len().into(), time, ..Did::default() });
        Ok(())
    }

    /// A block that is evaluated.
    pub(super) fn block(
        &self,
        and: &And<'_>,
        number: u16,
        set: &mut Set,
        pool: &mut Pool,
        begin: Begin<'_>,
    ) -> Result<()> {
        self.run(|run| run.evaluated += 1);
        self.evaluate(and, number, set, pool, begin)
    }

    /// As [`And::evaluate`].
    fn evaluate(&self, and: &And<'_>, number: u16, set: &mut Set, pool: &mut Pool, begin: Begin<'_>) -> Result<()> {
        set.clear();
        let Some((first, mut rest)) = and.positives.split_first() else { return Ok(()) };
        if let Begin::Of(ids) = begin {
            set.or(ids);
            rest = &and.positives;
        } else {
            self.timed(first.step, set, |set| self.unite(first, number, set, pool))?;
        }
        if let Begin::Narrowed(narrow) = begin
            && !set.is_empty()
        {
            narrow(set)?;
        }
        for child in rest {
            if set.is_empty() {
                return Ok(());
            }
            self.timed(child.step, set, |set| self.restrict(child, number, set, pool))?;
        }
        for child in &and.negatives {
            if set.is_empty() {
                return Ok(());
            }
            self.timed(child.step, set, |set| self.exclude(child, number, set, pool))?;
        }
        Ok(())
    }

    fn unite(&self, child: &Child<'_>, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match &child.node {
            Node::Or(children) => {
                for child in children {
                    self.timed(child.step, set, |set| self.unite(child, number, set, pool))?;
                }
                Ok(())
            }
            Node::And(and) => {
                let mut own = pool.set();
                self.evaluate(and, number, &mut own, pool, Begin::All)?;
                set.or(own.as_block());
                pool.put_set(own);
                Ok(())
            }
            node => node.unite(number, set, pool),
        }
    }

    /// Makes the ids of a step of several parts by themselves.
    fn apart(&self, child: &Child<'_>, number: u16, pool: &mut Pool, take: impl FnOnce(Block<'_>)) -> Result<()> {
        let mut own = pool.set();
        self.unite(child, number, &mut own, pool)?;
        take(own.as_block());
        pool.put_set(own);
        Ok(())
    }

    fn restrict(&self, child: &Child<'_>, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match &child.node {
            Node::Or(_) | Node::And(_) => self.apart(child, number, pool, |ids| set.and(ids)),
            node => node.restrict(number, set, pool),
        }
    }

    fn exclude(&self, child: &Child<'_>, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match &child.node {
            Node::Or(_) | Node::And(_) => self.apart(child, number, pool, |ids| set.and_not(ids)),
            node => node.exclude(number, set, pool),
        }
    }

    /// As [`And::contains`].
    pub(super) fn contains(&self, and: &And<'_>, id: u32) -> Result<bool> {
        let all = and.positives.iter().map(|child| (child, true));
        for (child, wanted) in all.chain(and.negatives.iter().map(|child| (child, false))) {
            if !self.passes(child.step, || Ok(child.node.contains(id)? == wanted))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A step that tests an id.
    pub(super) fn passes(&self, step: StepId, test: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let start = Instant::now();
        let passes = test()?;
        let time = start.elapsed();
        self.did(step, Did { tested: 1, passed: passes.into(), time, ..Did::default() });
        Ok(passes)
    }

    /// Says anew in what form the ids of a step lie.
    pub(super) fn lies(&self, step: StepId, how: &'static str) {
        self.run(|run| {
            if let Some(step) = run.step_mut(step) {
                step.how = how;
            }
        });
    }
}

impl Run {
    fn step_mut(&mut self, step: StepId) -> Option<&mut Step> {
        self.steps.get_mut((step as usize).checked_sub(1)?)
    }

    pub(super) fn step(&self, step: StepId) -> Option<&Step> {
        self.steps.get((step as usize).checked_sub(1)?)
    }

    fn exclude(&mut self, step: StepId) {
        if let Some(step) = self.step_mut(step) {
            step.excludes = true;
        }
    }
}

/// Marks the steps that take ids out.
fn mark(run: &mut Run, and: &And<'_>) {
    and.negatives.iter().for_each(|child| run.exclude(child.step));
    for child in and.positives.iter().chain(&and.negatives) {
        let parts = match &child.node {
            Node::Or(children) => children.as_slice(),
            Node::And(_) => std::slice::from_ref(child),
            _ => &[],
        };
        for part in parts {
            if let Node::And(and) = &part.node {
                mark(run, and);
            }
        }
    }
}

/// The steps of an intersection, in their order.
pub(super) fn steps(and: &And<'_>) -> Vec<StepId> {
    and.positives.iter().chain(&and.negatives).map(|child| child.step).collect()
}

/// A test, as text.
pub(super) fn told(schema: &Schema, field: usize, test: &Test) -> String {
    let Some(field) = schema.fields.get(field) else { return String::new() };
    let compare = |comparator, value: &Value| Filter::Compare {
        field: field.name.clone(),
        comparator,
        value: literal(value, field),
    };
    match test {
        Test::IsNull => Filter::Not(Box::new(Filter::IsNull { field: field.name.clone() })).to_text(),
        Test::AnyOf(values) => match values.as_slice() {
            [value] => compare(Comparator::Eq, value).to_text(),
            values => {
                let shown = values.iter().take(VALUES).map(|value| literal(value, field)).collect();
                let text = Filter::any_of(&field.name, shown).to_text();
                match values.len().checked_sub(VALUES) {
                    None | Some(0) => text,
                    Some(more) => format!("{}, … {more} more]", text.trim_end_matches(']')),
                }
            }
        },
        Test::Range((first, last)) => {
            use std::ops::Bound::{Excluded, Included, Unbounded};
            let first = match first {
                Included(value) => Some(compare(Comparator::Ge, value)),
                Excluded(value) => Some(compare(Comparator::Gt, value)),
                Unbounded => None,
            };
            let last = match last {
                Included(value) => Some(compare(Comparator::Le, value)),
                Excluded(value) => Some(compare(Comparator::Lt, value)),
                Unbounded => None,
            };
            Filter::And(first.into_iter().chain(last).collect()).to_text()
        }
    }
}

fn literal(value: &Value, field: &Field) -> Literal {
    match (value, field.ty) {
        (Value::Bool(bool), _) => Literal::Bool(*bool),
        (Value::Int(us), FieldType::Timestamp) => Literal::TimestampUs(*us),
        (Value::Int(unscaled), FieldType::Decimal(scale)) => {
            Literal::Decimal { unscaled: *unscaled, scale: scale.into() }
        }
        (Value::Int(int), _) => Literal::Int(*int),
        (Value::Float(float), _) => Literal::Float(float.get()),
        (Value::Text(text), _) => Literal::Text(text.to_string()),
    }
}
