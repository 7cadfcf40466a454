//! A bound filter, resolved against one version: each leaf knows where its sets or codes lie, each operand about how
//! many ids it holds.

use std::ops::Bound;

use bitdex_proto::{
    schema::{FieldId, KEY_FIELD},
    value::Value,
};

use super::{
    cells::CellTests,
    codes::ColumnTest,
    filter::{self, Test},
    named::NamedSet,
    set::Set,
    trace::{self, StepId, Trace, told},
    valued::Valued,
    watch,
};
use crate::{
    log::Result,
    segment::value::{Term, ValueRef},
    state::{Bounds, Operand, State},
};

/// Unions of more terms than this know which of them are in which block.
const MANY_TERMS: usize = 8;
/// Tests for so many values are left as they are.
const WANTED_LEAST: usize = 2;
/// Of so many documents at most one has a value that such a test keeps out, if it is to be read as what it keeps out.
const OTHERS: u64 = 48;
/// A range over more terms than this is united once for the whole query, that many terms at a time.
const TERMS_AT_ONCE: usize = 1024;

#[derive(Debug)]
pub(super) enum Node<'s> {
    Nothing,
    Term(Box<Operand<'s>>),
    Union(Union<'s>),
    Column(Box<ColumnTest<'s>>),
    /// Ids from first to last, ascending; present or not.
    Keys(Vec<(u32, u32)>),
    /// By number, ascending.
    Stored(Vec<(u16, Set)>),
    /// A filter of the definition.
    Named(Box<NamedSet<'s>>),
    /// Nearly all documents.
    Valued(Box<Valued<'s>>),
    And(And<'s>),
    Or(Vec<Child<'s>>),
}

#[derive(Debug)]
pub(super) struct Child<'s> {
    pub(super) node: Node<'s>,
    /// Number of ids, about.
    pub(super) estimate: u64,
    /// In a query that is traced.
    pub(super) step: StepId,
    /// Whether the cells of documents tell too what it lets through; see [`And::cells`].
    pub(super) told: bool,
}

/// The ids that are in all of the one and in none of the others. In at least one of `positives` there are present
/// documents only.
#[derive(Debug, Default)]
pub(super) struct And<'s> {
    /// The smallest first.
    pub(super) positives: Vec<Child<'s>>,
    /// The largest first.
    pub(super) negatives: Vec<Child<'s>>,
    /// What stands for those that are `told`, where few ids are tested.
    pub(super) cells: Option<Box<CellTests<'s>>>,
}

#[derive(Debug)]
pub(super) struct Union<'s> {
    pub(super) terms: Vec<Operand<'s>>,
    /// (block, position of a term that is in it), ascending; empty where there are few terms.
    pub(super) by_block: Vec<(u16, u32)>,
}

impl<'s> Union<'s> {
    pub(super) fn new(terms: Vec<Operand<'s>>) -> Self {
        let mut by_block = Vec::new();
        if terms.len() > MANY_TERMS {
            for (position, term) in terms.iter().enumerate() {
                by_block.extend(term.blocks().into_iter().map(|block| (block, position as u32)));
            }
            by_block.sort_unstable();
        }
        Self { terms, by_block }
    }

    /// The terms that may have ids in a block.
    pub(super) fn of_block(&self, block: u16) -> impl Iterator<Item = &Operand<'s>> {
        let few = if self.by_block.is_empty() { self.terms.as_slice() } else { &[] };
        let from = self.by_block.partition_point(|(number, _)| *number < block);
        let listed = self.by_block.get(from..).unwrap_or_default().iter();
        let listed = listed.take_while(move |(number, _)| *number == block);
        few.iter().chain(listed.filter_map(|(_, position)| self.terms.get(*position as usize)))
    }
}

impl<'s> And<'s> {
    fn push(&mut self, child: Child<'s>, positive: bool) {
        match (child.node, positive) {
            (Node::Nothing, false) => {}
            (Node::And(and), true) => {
                let apart = |child| Child { told: false, ..child };
                self.positives.extend(and.positives.into_iter().map(apart));
                self.negatives.extend(and.negatives.into_iter().map(apart));
            }
            (node, true) => self.positives.push(Child { node, ..child }),
            (node, false) => self.negatives.push(Child { node, ..child }),
        }
    }

    /// Has cells tell what a test lets through; see [`CellTests::tell`].
    fn tell(&mut self, state: &'s State, node: &'s filter::Node) {
        self.cells.get_or_insert_with(|| Box::new(CellTests::new(state))).add(node);
    }

    /// Those that cells do not tell, or all of them.
    pub(super) fn children(&self, with_told: bool) -> impl Iterator<Item = (&Child<'s>, bool)> {
        let all = self.positives.iter().map(|child| (child, true)).chain(self.negatives.iter().map(|it| (it, false)));
        all.filter(move |(child, _)| with_told || !child.told)
    }

    /// Seeks sets in all segments, for whoever will come to most of these; see [`Operand::seek`]. Those of a wide union are
    /// left to each block.
    pub(super) fn seek(&self) {
        for (child, _) in self.children(false) {
            match &child.node {
                Node::Term(operand) => operand.seek(),
                Node::Union(union) if union.terms.len() <= MANY_TERMS => union.terms.iter().for_each(Operand::seek),
                _ => {}
            }
        }
    }

    /// Number of ids, taking its parts for independent of each other.
    pub(super) fn estimate(&self, documents: u64) -> u64 {
        let share = |child: &Child<'_>| (child.estimate as f64 / documents.max(1) as f64).min(1.0);
        let within: f64 = self.positives.iter().map(share).product();
        let without: f64 = self.negatives.iter().map(|child| 1.0 - share(child)).product();
        (documents as f64 * within * without) as u64
    }

    /// The codes of the test of a field's column that a walk over that column can do by where it begins and ends, and
    /// where that test stands.
    fn find_range(&self, field: FieldId) -> Option<(usize, (u64, u64))> {
        self.positives.iter().enumerate().find_map(|(at, child)| match &child.node {
            Node::Column(test) if test.field == field && test.unsure.is_empty() => match test.ranges.as_slice() {
                [range] => Some((at, *range)),
                _ => None,
            },
            _ => None,
        })
    }

    /// Whether a child is the test of [`And::range`].
    pub(super) fn is_range(&self, child: &Child<'s>, field: FieldId) -> bool {
        let at = self.find_range(field).map(|(at, _)| at);
        at.and_then(|at| self.positives.get(at)).is_some_and(|of| std::ptr::eq(of, child))
    }

    pub(super) fn range(&self, field: FieldId) -> Option<(u64, u64)> {
        self.find_range(field).map(|(_, range)| range)
    }

    /// Takes the test of [`And::range`] out. Answers with where it stood, and its step.
    pub(super) fn take_range(&mut self, field: FieldId, resolver: Resolver<'s, '_>) -> Result<Option<(usize, StepId)>> {
        let Some((at, _)) = self.find_range(field) else { return Ok(None) };
        let child = self.positives.remove(at);
        resolver.complete(self)?;
        Ok(Some((at, child.step)))
    }

    /// Fields whose columns it tests.
    pub(super) fn tested(&self) -> impl Iterator<Item = FieldId> {
        self.positives.iter().filter_map(|child| match &child.node {
            Node::Column(test) => Some(test.field),
            _ => None,
        })
    }

    /// Lets no code of a field above `most` pass where it is tested. Whether it is.
    pub(super) fn cap(&mut self, field: FieldId, most: u64) -> bool {
        let mut tested = false;
        for child in &mut self.positives {
            if let Node::Column(test) = &mut child.node
                && test.field == field
            {
                test.cap(most);
                tested = true;
                if test.ranges.is_empty() && test.unsure.is_empty() {
                    child.node = Node::Nothing;
                    child.estimate = 0;
                }
            }
        }
        self.positives.sort_by_key(|child| child.estimate);
        tested
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Resolver<'s, 't> {
    state: &'s State,
    trace: Option<&'t Trace>,
    /// Whether filters of the definition are looked for.
    named: bool,
}

impl<'s, 't> Resolver<'s, 't> {
    pub(super) fn new(state: &'s State, trace: Option<&'t Trace>) -> Self {
        Self { state, trace, named: true }
    }

    /// `told`: what it is, in words.
    fn child(self, node: Node<'s>, estimate: u64, told: impl FnOnce() -> String) -> Child<'s> {
        let step = self.trace.map_or(0, |trace| trace.step(told(), how(&node), estimate, parts(&node)));
        Child { node, estimate, step, told: false }
    }

    fn name(self, field: FieldId) -> &'s str {
        self.state.schema().fields.get(field).map_or("", |field| &field.name)
    }

    /// Makes sure that what passes is present, and orders the parts.
    fn complete(self, and: &mut And<'s>) -> Result<()> {
        if and.positives.iter().all(|child| matches!(child.node, Node::Keys(_) | Node::Valued(_))) {
            let present = Node::Term(Box::new(self.state.operand(KEY_FIELD, Term::Exists)?));
            let present = self.child(present, self.state.documents(), || "all documents".into());
            // Only documents have cells.
            and.positives.push(Child { told: and.cells.is_some(), ..present });
        }
        and.positives.sort_by_key(|child| child.estimate);
        and.negatives.sort_by_key(|child| std::cmp::Reverse(child.estimate));
        Ok(())
    }

    /// The whole filter, as one intersection.
    pub(super) fn root(self, node: &'s filter::Node) -> Result<And<'s>> {
        let mut and = And::default();
        self.all(&mut and, std::slice::from_ref(node))?;
        self.complete(&mut and)?;
        Ok(and)
    }

    /// What a filter of the definition consists of.
    pub(super) fn parts(self, node: &'s filter::Node) -> Result<And<'s>> {
        Self { named: false, ..self }.root(node)
    }

    /// The ids that have a value in a field.
    pub(super) fn exists(self, field: FieldId) -> Result<Child<'s>> {
        let operand = self.state.operand(field, Term::Exists)?;
        let estimate = operand.estimate();
        Ok(self.child(Node::Term(Box::new(operand)), estimate, || format!("{} EXISTS", self.name(field))))
    }

    /// The ids whose code in the field passes; `None` where it has no column.
    pub(super) fn column(self, field: FieldId, test: &Test) -> Result<Option<Box<ColumnTest<'s>>>> {
        let Some(column) = self.state.column(field) else { return Ok(None) };
        let (mut ranges, mut unsure) = (Vec::new(), Vec::new());
        let exact = column.is_exact();
        match test {
            Test::AnyOf(values) => {
                let codes = values.iter().map(|value| ValueRef::of(value).code());
                if exact {
                    ranges.extend(codes.map(|code| (code, code)));
                } else {
                    unsure.extend(codes);
                }
            }
            Test::Range(bounds) => {
                let mut unsure_of = |code| {
                    if !exact {
                        unsure.push(code)
                    }
                };
                ranges.extend(code_range(bounds, exact, &mut unsure_of));
            }
            Test::IsNull => {}
        }
        ranges.sort_unstable();
        ranges.dedup();
        unsure.sort_unstable();
        unsure.dedup();
        let exists = self.state.operand(field, Term::Exists)?;
        Ok(Some(Box::new(ColumnTest { field, column, exists, ranges, unsure, test: test.clone(), state: self.state })))
    }

    /// Adds conjuncts; the sets of the definition's filters in place of those that they stand for.
    fn all(self, and: &mut And<'s>, nodes: &'s [filter::Node]) -> Result<()> {
        let mut taken = 0_u64;
        if self.named {
            for (n, stands_for) in self.state.layout().named().within(nodes) {
                if let Some(set) = NamedSet::new(self.state, n) {
                    taken |= stands_for;
                    let (estimate, name) = (set.estimate()?, set.name());
                    let child = self.child(Node::Named(Box::new(set)), estimate, || name.into());
                    let stood_for = || nodes.iter().enumerate().take(64).filter(|(n, _)| stands_for >> n & 1 == 1);
                    let told = stood_for().all(|(_, node)| CellTests::tell(self.state, node));
                    if told {
                        stood_for().for_each(|(_, node)| and.tell(self.state, node));
                    }
                    and.push(Child { told, ..child }, true);
                }
            }
        }
        for (n, node) in nodes.iter().enumerate() {
            if n >= 64 || taken >> n & 1 == 0 {
                let told = self.named && CellTests::tell(self.state, node);
                let (positives, negatives) = (and.positives.len(), and.negatives.len());
                self.add(and, node, true)?;
                if told {
                    and.tell(self.state, node);
                    let made = and.positives.iter_mut().skip(positives).chain(and.negatives.iter_mut().skip(negatives));
                    made.for_each(|child| child.told = true);
                }
            }
        }
        Ok(())
    }

    fn add(self, and: &mut And<'s>, node: &'s filter::Node, positive: bool) -> Result<()> {
        match (node, positive) {
            (filter::Node::And(nodes), true) => self.all(and, nodes),
            (filter::Node::Or(nodes), false) => nodes.iter().try_for_each(|node| self.add(and, node, false)),
            (filter::Node::Not(node), _) => self.add(and, node, !positive),
            (filter::Node::Leaf(KEY_FIELD, Test::IsNull), _) => {
                and.push(self.child(Node::Nothing, 0, || format!("{} IS NULL", self.name(KEY_FIELD))), positive);
                Ok(())
            }
            (filter::Node::Leaf(field, Test::IsNull), _) => {
                and.push(self.exists(*field)?, !positive);
                Ok(())
            }
            (filter::Node::Leaf(field, test), _) => {
                let others = if positive { self.others(*field, test)? } else { None };
                let Some(others) = others else {
                    and.push(self.leaf(*field, test)?, positive);
                    return Ok(());
                };
                let valued = Valued::new(self.state, *field)?;
                let estimate = valued.operand.estimate();
                let told_as = || told(self.state.schema(), *field, test);
                and.push(self.child(Node::Valued(Box::new(valued)), estimate, told_as), true);
                for (operand, value) in others {
                    let estimate = operand.estimate();
                    let told_as = || told(self.state.schema(), *field, &Test::AnyOf(vec![value]));
                    and.push(self.child(Node::Term(Box::new(operand)), estimate, told_as), false);
                }
                Ok(())
            }
            (filter::Node::And(_), false) => {
                let child = self.intersection(node)?;
                and.push(child, false);
                Ok(())
            }
            (filter::Node::Or(nodes), true) => {
                let child = self.union(nodes)?;
                and.push(child, true);
                Ok(())
            }
        }
    }

    fn intersection(self, node: &'s filter::Node) -> Result<Child<'s>> {
        let and = self.root(node)?;
        let estimate = and.estimate(self.state.documents());
        Ok(self.child(Node::And(and), estimate, || "all of".into()))
    }

    fn union(self, nodes: &'s [filter::Node]) -> Result<Child<'s>> {
        let children = nodes.iter().map(|node| match node {
            filter::Node::Or(nodes) => self.union(nodes),
            filter::Node::Leaf(field, test) if *field != KEY_FIELD && *test != Test::IsNull => self.leaf(*field, test),
            node => self.intersection(node),
        });
        let children = children.collect::<Result<Vec<_>>>()?;
        let estimate = any(children.iter().map(|child| child.estimate), self.state.documents());
        Ok(self.child(Node::Or(children), estimate, || "any of".into()))
    }

    /// The sets of the values that a test keeps out, where these are all known, and hold so few ids that they are sooner
    /// taken out than those of all the others are united.
    fn others(self, field: FieldId, test: &Test) -> Result<Option<Vec<(Operand<'s>, Value)>>> {
        let Test::AnyOf(wanted) = test else { return Ok(None) };
        let single = field != KEY_FIELD && self.state.schema().fields.get(field).is_some_and(|field| !field.many);
        if !single || wanted.len() <= WANTED_LEAST || self.state.column(field).is_some() {
            return Ok(None);
        }
        let is_other = |value: &Value| wanted.binary_search(value).is_err();
        let Some(values) = self.state.few_terms(field, is_other)? else { return Ok(None) };
        let (mut others, mut ids) = (Vec::with_capacity(values.len()), 0);
        for value in values {
            let operand = self.state.operand(field, Term::Value(ValueRef::of(&value)))?;
            ids += operand.estimate();
            if ids > self.state.documents() / OTHERS {
                return Ok(None);
            }
            others.push((operand, value));
        }
        Ok(Some(others))
    }

    fn leaf(self, field: FieldId, test: &Test) -> Result<Child<'s>> {
        let (node, estimate) = self.test(field, test)?;
        Ok(self.child(node, estimate, || told(self.state.schema(), field, test)))
    }

    fn test(self, field: FieldId, test: &Test) -> Result<(Node<'s>, u64)> {
        if field == KEY_FIELD {
            let keys = keys(test);
            let ids = keys.iter().map(|(first, last)| u64::from(last - first) + 1).sum::<u64>();
            return Ok((Node::Keys(keys), ids.min(self.state.documents())));
        }
        if let Some(test) = self.column(field, test)? {
            let estimate = test.estimate()?;
            let nothing = test.ranges.is_empty() && test.unsure.is_empty();
            return Ok((if nothing { Node::Nothing } else { Node::Column(test) }, estimate));
        }
        match test {
            Test::AnyOf(values) => self.any_of(field, values),
            Test::Range(bounds) => self.terms(field, bounds),
            Test::IsNull => Ok((Node::Nothing, 0)),
        }
    }

    fn operands(self, field: FieldId, values: &[Value]) -> Result<(Vec<Operand<'s>>, u64)> {
        let mut operands = Vec::with_capacity(values.len());
        let mut sum = 0_u64;
        for value in values {
            watch::step()?;
            let operand = self.state.operand(field, Term::Value(ValueRef::of(value)))?;
            let estimate = operand.estimate();
            if estimate > 0 {
                sum = sum.saturating_add(estimate);
                operands.push(operand);
            }
        }
        Ok((operands, sum))
    }

    fn any_of(self, field: FieldId, values: &[Value]) -> Result<(Node<'s>, u64)> {
        let (mut operands, sum) = self.operands(field, values)?;
        let documents = self.state.documents();
        let many = self.state.schema().fields.get(field).is_some_and(|field| field.many);
        let estimate = if many { any(operands.iter().map(Operand::estimate), documents) } else { sum.min(documents) };
        let node = match operands.len() {
            0 => Node::Nothing,
            1 => operands.pop().map_or(Node::Nothing, |operand| Node::Term(Box::new(operand))),
            _ => Node::Union(Union::new(operands)),
        };
        Ok((node, estimate))
    }

    fn terms(self, field: FieldId, bounds: &Bounds) -> Result<(Node<'s>, u64)> {
        let mut values = self.state.terms_within(field, bounds, TERMS_AT_ONCE)?;
        if values.len() < TERMS_AT_ONCE {
            return self.any_of(field, &values);
        }
        let mut stored = std::collections::BTreeMap::<u16, Set>::new();
        let mut buffer = Default::default();
        loop {
            let (operands, _) = self.operands(field, &values)?;
            for operand in operands {
                for number in operand.blocks() {
                    let block = operand.block(number, &mut buffer)?;
                    stored.entry(number).or_default().or(block);
                }
            }
            let last = match values.pop() {
                Some(last) if values.len() + 1 >= TERMS_AT_ONCE => last,
                _ => break,
            };
            values = self.state.terms_within(field, &(Bound::Excluded(last), bounds.1.clone()), TERMS_AT_ONCE)?;
        }
        let stored: Vec<_> = stored.into_iter().collect();
        let estimate = stored.iter().map(|(_, set)| u64::from(set.len())).sum();
        Ok((Node::Stored(stored), estimate))
    }
}

/// Number of ids that are in any of several sets, taking these for independent of each other.
fn any(sets: impl Iterator<Item = u64>, documents: u64) -> u64 {
    let all = documents.max(1) as f64;
    let without: f64 = sets.map(|ids| 1.0 - (ids as f64 / all).min(1.0)).product();
    ((1.0 - without) * all).ceil() as u64
}

/// In what form the ids of a node lie, in words.
fn how(node: &Node<'_>) -> &'static str {
    match node {
        Node::Nothing => "nothing",
        Node::Term(_) => "set",
        Node::Union(_) => "sets",
        Node::Column(_) => "codes",
        Node::Keys(_) => "ids",
        Node::Stored(_) => "sets, united before",
        Node::Named(_) => "named filter",
        Node::Valued(_) => "what has a value",
        Node::And(_) | Node::Or(_) => "",
    }
}

fn parts(node: &Node<'_>) -> Vec<StepId> {
    match node {
        Node::And(and) => trace::steps(and),
        Node::Or(children) => children.iter().map(|child| child.step).collect(),
        _ => Vec::new(),
    }
}

/// The codes that are surely within bounds. Where codes are not exact, those of the ends are left out, and told of.
fn code_range(bounds: &Bounds, exact: bool, unsure: &mut dyn FnMut(u64)) -> Option<(u64, u64)> {
    let code = |value: &Value| ValueRef::of(value).code();
    let mut end = |value: &Value, included: bool| {
        let code = code(value);
        unsure(code);
        (code, included && exact)
    };
    let first = match &bounds.0 {
        Bound::Unbounded => Some(0),
        Bound::Included(value) => match end(value, true) {
            (code, true) => Some(code),
            (code, false) => code.checked_add(1),
        },
        Bound::Excluded(value) => end(value, false).0.checked_add(1),
    };
    let last = match &bounds.1 {
        Bound::Unbounded => Some(u64::MAX),
        Bound::Included(value) => match end(value, true) {
            (code, true) => Some(code),
            (code, false) => code.checked_sub(1),
        },
        Bound::Excluded(value) => end(value, false).0.checked_sub(1),
    };
    first.zip(last).filter(|(first, last)| first <= last)
}

/// The ids that a test of the key lets through.
fn keys(test: &Test) -> Vec<(u32, u32)> {
    match test {
        Test::AnyOf(values) => {
            let id = |value: &Value| match value {
                Value::Int(key) => u32::try_from(*key).ok(),
                _ => None,
            };
            values.iter().filter_map(id).map(|id| (id, id)).collect()
        }
        Test::Range(bounds) => {
            // One beyond the ids on either side, so that an excluded end can be stepped over without a special case.
            let clamp = |key: i64| key.clamp(-1, i64::from(u32::MAX) + 1);
            let lo = match &bounds.0 {
                Bound::Included(Value::Int(key)) => clamp(*key),
                Bound::Excluded(Value::Int(key)) => clamp(*key) + 1,
                _ => 0,
            };
            let hi = match &bounds.1 {
                Bound::Included(Value::Int(key)) => clamp(*key),
                Bound::Excluded(Value::Int(key)) => clamp(*key) - 1,
                _ => i64::from(u32::MAX),
            };
            let range = u32::try_from(lo.max(0)).ok().zip(u32::try_from(hi.min(i64::from(u32::MAX))).ok());
            range.filter(|(lo, hi)| lo <= hi).into_iter().collect()
        }
        Test::IsNull => Vec::new(),
    }
}
