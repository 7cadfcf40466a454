//! Sets of ids within a block of 65 536, and what is done with them.
//!
//! Nothing here allocates once a [`BlockBuffer`] has its room, and nothing panics on blocks that are not what they
//! should be (an unsorted array out of a damaged file gives some set).

/// Words of a block's bitmap.
pub const WORDS: usize = 1024;

/// Blocks in files are arrays up to this many ids, and bits beyond: then both forms take at most 8 KiB.
pub const ARRAY_MAX: usize = 4096;

/// Arrays of up to so many ids are gone through, rather than put into words.
const LOOKED_UP: usize = 192;

/// The ids (without their upper 16 bits) of one block.
#[derive(Debug, Clone, Copy)]
pub enum Block<'a> {
    Empty,
    /// Ascending, without duplicates, not empty.
    Array(&'a [u16]),
    /// In sets in files always more than [`ARRAY_MAX`] ids; elsewhere any number, also none.
    Bits(&'a [u64; WORDS]),
}

/// Word of an id, and its bit there.
fn place(id: u16) -> (usize, u64) {
    (usize::from(id >> 6), 1 << (id & 63))
}

fn has(words: &[u64; WORDS], id: u16) -> bool {
    words[usize::from(id >> 6)] >> (id & 63) & 1 == 1
}

impl<'a> Block<'a> {
    /// Of ids as the invariant wants them; none at all give `Empty`.
    pub fn of(ids: &'a [u16]) -> Self {
        if ids.is_empty() { Self::Empty } else { Self::Array(ids) }
    }

    pub fn contains(&self, id: u16) -> bool {
        match self {
            Self::Empty => false,
            Self::Array(ids) => ids.binary_search(&id).is_ok(),
            Self::Bits(words) => has(words, id),
        }
    }

    /// Bytes that the ids take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Array(ids) => size_of_val(*ids),
            Self::Bits(words) => size_of_val(*words),
        }
    }

    /// Number of ids. Counts the bits.
    pub fn len(&self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Array(ids) => ids.len() as u32,
            Self::Bits(words) => ones(|n| words[n]),
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Array(ids) => ids.is_empty(),
            Self::Bits(words) => words.iter().all(|word| *word == 0),
        }
    }

    /// Ascending. The fastest way through a whole block.
    pub fn for_each(&self, mut each: impl FnMut(u16)) {
        match self {
            Self::Empty => {}
            Self::Array(ids) => ids.iter().copied().for_each(each),
            Self::Bits(words) => {
                for (n, word) in words.iter().enumerate() {
                    let mut word = *word;
                    while word != 0 {
                        each((n * 64) as u16 | word.trailing_zeros() as u16);
                        word &= word - 1;
                    }
                }
            }
        }
    }

    /// Words that are not zero, ascending, with their numbers.
    pub fn for_each_word(&self, mut each: impl FnMut(usize, u64)) {
        match self {
            Self::Empty => {}
            Self::Array(ids) => {
                let (mut current, mut bits) = (0, 0);
                for (n, bit) in ids.iter().copied().map(place) {
                    if n != current {
                        if bits != 0 {
                            each(current, bits);
                        }
                        (current, bits) = (n, 0);
                    }
                    bits |= bit;
                }
                if bits != 0 {
                    each(current, bits);
                }
            }
            Self::Bits(words) => {
                for (n, word) in words.iter().enumerate() {
                    if *word != 0 {
                        each(n, *word);
                    }
                }
            }
        }
    }

    /// Ascending; `rev()` descending.
    pub fn iter(&self) -> Ids<'a> {
        match *self {
            Self::Empty => Ids::Array([].iter()),
            Self::Array(ids) => Ids::Array(ids.iter()),
            Self::Bits(words) => Ids::Bits { words, first: 0, low: words[0], last: WORDS - 1, high: words[WORDS - 1] },
        }
    }

    /// The n-th id, ascending.
    pub fn nth(&self, n: u32) -> Option<u16> {
        match self {
            Self::Empty => None,
            Self::Array(ids) => ids.get(n as usize).copied(),
            Self::Bits(words) => {
                let mut left = n;
                for (at, word) in words.iter().enumerate() {
                    let count = word.count_ones();
                    if left < count {
                        let word = (0..left).fold(*word, |word, _| word & (word - 1));
                        return Some((at * 64) as u16 | word.trailing_zeros() as u16);
                    }
                    left -= count;
                }
                None
            }
        }
    }
}

/// A block that is kept in memory.
#[derive(Debug, Clone)]
pub enum OwnedBlock {
    Array(Box<[u16]>),
    Bits(Box<[u64; WORDS]>),
}

impl OwnedBlock {
    #[inline]
    pub fn as_block(&self) -> Block<'_> {
        match self {
            Self::Array(ids) => Block::of(ids),
            Self::Bits(words) => Block::Bits(words),
        }
    }
}

impl From<Block<'_>> for OwnedBlock {
    fn from(block: Block<'_>) -> Self {
        match block {
            Block::Empty => Self::Array(Box::default()),
            Block::Array(ids) => Self::Array(ids.into()),
            Block::Bits(words) => Self::Bits(Box::new(*words)),
        }
    }
}

/// See [`Block::iter`].
#[derive(Debug, Clone)]
pub enum Ids<'a> {
    Array(std::slice::Iter<'a, u16>),
    /// `low` and `high` are what is left of the words at `first` and `last`; where both are one, only `low` counts.
    Bits {
        words: &'a [u64; WORDS],
        first: usize,
        low: u64,
        last: usize,
        high: u64,
    },
}

impl Iterator for Ids<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        match self {
            Self::Array(ids) => ids.next().copied(),
            Self::Bits { words, first, low, last, high } => {
                while *low == 0 {
                    if *first >= *last {
                        return None;
                    }
                    *first += 1;
                    *low = if *first == *last { *high } else { words[*first] };
                }
                let id = (*first * 64) as u16 | low.trailing_zeros() as u16;
                *low &= *low - 1;
                Some(id)
            }
        }
    }
}

impl DoubleEndedIterator for Ids<'_> {
    fn next_back(&mut self) -> Option<u16> {
        match self {
            Self::Array(ids) => ids.next_back().copied(),
            Self::Bits { words, first, low, last, high } => {
                while *first < *last {
                    if *high != 0 {
                        let bit = 63 - high.leading_zeros();
                        *high &= !(1 << bit);
                        return Some((*last * 64) as u16 | bit as u16);
                    }
                    *last -= 1;
                    *high = words[*last];
                }
                if *low == 0 {
                    return None;
                }
                let bit = 63 - low.leading_zeros();
                *low &= !(1 << bit);
                Some((*first * 64) as u16 | bit as u16)
            }
        }
    }
}

/// Number of ids in both.
pub fn and_len(a: Block<'_>, b: Block<'_>) -> u32 {
    match (a, b) {
        (Block::Empty, _) | (_, Block::Empty) => 0,
        (Block::Array(a), Block::Array(b)) => {
            let mut count = 0;
            common(a, b, |_| count += 1);
            count
        }
        (Block::Array(ids), Block::Bits(words)) | (Block::Bits(words), Block::Array(ids)) => {
            ids.iter().map(|id| u32::from(has(words, *id))).sum()
        }
        (Block::Bits(a), Block::Bits(b)) => ones(|n| a[n] & b[n]),
    }
}

/// Number of ids in `a` that are not in `b`.
pub fn and_not_len(a: Block<'_>, b: Block<'_>) -> u32 {
    match (a, b) {
        (Block::Bits(a), Block::Bits(b)) => ones(|n| a[n] & !b[n]),
        _ => a.len() - and_len(a, b),
    }
}

/// Number of ids in either.
pub fn or_len(a: Block<'_>, b: Block<'_>) -> u32 {
    match (a, b) {
        (Block::Bits(a), Block::Bits(b)) => ones(|n| a[n] | b[n]),
        _ => a.len() + b.len() - and_len(a, b),
    }
}

/// Whether any id is in both. Stops at the first.
pub fn intersects(a: Block<'_>, b: Block<'_>) -> bool {
    match (a, b) {
        (Block::Empty, _) | (_, Block::Empty) => false,
        (Block::Array(a), Block::Array(b)) => and_len(Block::Array(a), Block::Array(b)) > 0,
        (Block::Array(ids), Block::Bits(words)) | (Block::Bits(words), Block::Array(ids)) => {
            ids.iter().any(|id| has(words, *id))
        }
        (Block::Bits(a), Block::Bits(b)) => a.iter().zip(b).any(|(a, b)| a & b != 0),
    }
}

/// Bits set in all 1 024 words that `word` gives. Counts 16 at a time with carry-save adders, so that only one word in
/// 16 is counted bit by bit: the machine's own instruction for that is not there on every x86-64. Each step is done for
/// eight words at once, which the compiler makes vectors of.
#[inline(always)]
fn ones(word: impl Fn(usize) -> u64) -> u32 {
    type Lanes = [u64; 8];
    /// Sum and carry of three.
    #[inline(always)]
    fn add(a: Lanes, b: Lanes, c: Lanes) -> (Lanes, Lanes) {
        let (mut sum, mut carry) = ([0; 8], [0; 8]);
        for n in 0..8 {
            let half = a[n] ^ b[n];
            sum[n] = half ^ c[n];
            carry[n] = a[n] & b[n] | half & c[n];
        }
        (sum, carry)
    }
    let lanes = |at: usize| -> Lanes { std::array::from_fn(|n| word(at * 8 + n)) };
    let count = |lanes: Lanes| lanes.iter().map(|word| word.count_ones()).sum::<u32>();
    let (mut ones, mut twos, mut fours, mut eights) = ([0; 8], [0; 8], [0; 8], [0; 8]);
    let mut sixteens = 0;
    for at in (0..WORDS / 8).step_by(16) {
        let mut carries = [[0; 8]; 2];
        for (half, carry) in carries.iter_mut().enumerate() {
            let mut fours_carries = [[0; 8]; 2];
            for (quarter, carry) in fours_carries.iter_mut().enumerate() {
                let at = at + half * 8 + quarter * 4;
                let first;
                let second;
                (ones, first) = add(ones, lanes(at), lanes(at + 1));
                (ones, second) = add(ones, lanes(at + 2), lanes(at + 3));
                (twos, *carry) = add(twos, first, second);
            }
            (fours, *carry) = add(fours, fours_carries[0], fours_carries[1]);
        }
        let carry;
        (eights, carry) = add(eights, carries[0], carries[1]);
        sixteens += count(carry);
    }
    sixteens * 16 + count(eights) * 8 + count(fours) * 4 + count(twos) * 2 + count(ones)
}

/// Calls `each` with what two ascending arrays have in common.
#[inline]
fn common(a: &[u16], b: &[u16], mut each: impl FnMut(u16)) {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.len() * 32 < long.len() {
        let mut rest = long;
        for id in short {
            rest = rest.get(skip(rest, *id)..).unwrap_or_default();
            match rest.first() {
                None => return,
                Some(first) if first == id => each(*id),
                Some(_) => {}
            }
        }
        return;
    }
    let (mut i, mut j) = (0, 0);
    while let (Some(&x), Some(&y)) = (short.get(i), long.get(j)) {
        if x == y {
            each(x);
        }
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
}

/// How many ids at the beginning are below `id`; doubles its steps.
fn skip(ids: &[u16], id: u16) -> usize {
    let mut step = 1;
    while ids.get(step).is_some_and(|one| *one < id) {
        step *= 2;
    }
    let low = step / 2;
    let window = ids.get(low..ids.len().min(step + 1)).unwrap_or_default();
    low + window.partition_point(|one| *one < id)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Form {
    #[default]
    Empty,
    Array,
    Bits,
}

/// A set of one block that is changed in place, and room to combine blocks in; kept and used again from block to
/// block.
#[derive(Debug, Clone)]
pub struct BlockBuffer {
    pub words: Box<[u64; WORDS]>,
    pub ids: Vec<u16>,
    /// Which of the two is the set.
    form: Form,
    spare: Vec<u16>,
}

impl Default for BlockBuffer {
    fn default() -> Self {
        Self { words: Box::new([0; WORDS]), ids: Vec::new(), form: Form::Empty, spare: Vec::new() }
    }
}

impl BlockBuffer {
    /// The set.
    pub fn block(&self) -> Block<'_> {
        match self.form {
            Form::Empty => Block::Empty,
            Form::Array => Block::of(&self.ids),
            Form::Bits => Block::Bits(&self.words),
        }
    }

    pub fn clear(&mut self) {
        self.form = Form::Empty;
    }

    pub fn set(&mut self, block: Block<'_>) {
        match block {
            Block::Empty => self.form = Form::Empty,
            Block::Array(ids) => {
                self.ids.clear();
                self.ids.extend_from_slice(ids);
                self.form = Form::Array;
            }
            Block::Bits(words) => {
                self.words.copy_from_slice(words);
                self.form = Form::Bits;
            }
        }
    }

    /// All 65 536 ids.
    pub fn fill(&mut self) {
        self.words.fill(u64::MAX);
        self.form = Form::Bits;
    }

    /// The set as words, to be changed in place.
    pub fn bits(&mut self) -> &mut [u64; WORDS] {
        match self.form {
            Form::Empty => self.words.fill(0),
            Form::Array => {
                self.words.fill(0);
                put(&mut self.words, &self.ids);
            }
            Form::Bits => {}
        }
        self.form = Form::Bits;
        &mut self.words
    }

    pub fn insert(&mut self, id: u16) {
        match self.form {
            Form::Bits => {
                let (n, bit) = place(id);
                self.words[n] |= bit;
            }
            Form::Array if self.ids.len() < ARRAY_MAX => {
                if let Err(at) = self.ids.binary_search(&id) {
                    self.ids.insert(at, id);
                }
            }
            Form::Array => {
                let (n, bit) = place(id);
                self.bits()[n] |= bit;
            }
            Form::Empty => {
                self.ids.clear();
                self.ids.push(id);
                self.form = Form::Array;
            }
        }
    }

    pub fn remove(&mut self, id: u16) {
        match self.form {
            Form::Empty => {}
            Form::Array => {
                if let Ok(at) = self.ids.binary_search(&id) {
                    self.ids.remove(at);
                }
            }
            Form::Bits => {
                let (n, bit) = place(id);
                self.words[n] &= !bit;
            }
        }
    }

    /// Keeps what is in `block` too.
    pub fn and(&mut self, block: Block<'_>) {
        match (self.form, block) {
            (Form::Empty, _) => {}
            (_, Block::Empty) => self.form = Form::Empty,
            (Form::Array, Block::Array(other)) if are_long(&self.ids, other) => {
                self.words.fill(0);
                if other.len() < self.ids.len() {
                    put(&mut self.words, other);
                } else {
                    put(&mut self.words, &self.ids);
                    self.ids.clear();
                    self.ids.extend_from_slice(other);
                }
                keep(&mut self.ids, |id| has(&self.words, id));
            }
            (Form::Array, Block::Array(other)) => {
                self.spare.clear();
                self.spare.resize(self.ids.len().min(other.len()), 0);
                let (mut kept, spare) = (0, &mut self.spare);
                common(&self.ids, other, |id| {
                    if let Some(to) = spare.get_mut(kept) {
                        *to = id;
                        kept += 1;
                    }
                });
                self.spare.truncate(kept);
                std::mem::swap(&mut self.ids, &mut self.spare);
            }
            (Form::Array, Block::Bits(words)) => keep(&mut self.ids, |id| has(words, id)),
            (Form::Bits, Block::Array(other)) => {
                let words = &self.words;
                self.ids.clear();
                self.ids.extend_from_slice(other);
                keep(&mut self.ids, |id| has(words, id));
                self.form = Form::Array;
            }
            (Form::Bits, Block::Bits(words)) => {
                for (to, word) in self.words.iter_mut().zip(words) {
                    *to &= word;
                }
            }
        }
        self.empty_if_none();
    }

    /// Keeps what is in any of `blocks`.
    pub fn and_any(&mut self, blocks: &[Block<'_>]) {
        match self.form {
            Form::Empty => {}
            Form::Array => keep(&mut self.ids, |id| blocks.iter().any(|block| block.contains(id))),
            Form::Bits => {
                const CHUNK: usize = 64;
                for at in (0..WORDS).step_by(CHUNK) {
                    let mut any = [0_u64; CHUNK];
                    for block in blocks {
                        match block {
                            Block::Empty => {}
                            Block::Bits(words) => {
                                any.iter_mut().zip(&words[at..at + CHUNK]).for_each(|(to, word)| *to |= word);
                            }
                            Block::Array(ids) => {
                                let ids = ids.get(ids.partition_point(|id| usize::from(*id) < at * 64)..);
                                let ids = ids.unwrap_or_default().iter().copied();
                                for (n, bit) in ids.map(place).take_while(|(n, _)| *n < at + CHUNK) {
                                    if let Some(to) = any.get_mut(n.wrapping_sub(at)) {
                                        *to |= bit;
                                    }
                                }
                            }
                        }
                    }
                    self.words[at..at + CHUNK].iter_mut().zip(&any).for_each(|(to, any)| *to &= any);
                }
            }
        }
        self.empty_if_none();
    }

    /// Keeps the ids that `is` lets through.
    pub fn keep(&mut self, is: impl Fn(u16) -> bool) {
        match self.form {
            Form::Empty => {}
            Form::Array => keep(&mut self.ids, is),
            Form::Bits => {
                for (n, word) in self.words.iter_mut().enumerate() {
                    let mut rest = *word;
                    while rest != 0 {
                        let bit = rest & rest.wrapping_neg();
                        rest ^= bit;
                        if !is((n * 64) as u16 | bit.trailing_zeros() as u16) {
                            *word ^= bit;
                        }
                    }
                }
            }
        }
        self.empty_if_none();
    }

    /// Takes out what is in `block`.
    pub fn and_not(&mut self, block: Block<'_>) {
        match (self.form, block) {
            (Form::Empty, _) | (_, Block::Empty) => {}
            (Form::Array, Block::Array(other)) if are_long(&self.ids, other) => {
                self.words.fill(0);
                put(&mut self.words, other);
                keep(&mut self.ids, |id| !has(&self.words, id));
            }
            (Form::Array, Block::Array(other)) => {
                self.spare.clear();
                subtract(&self.ids, other, &mut self.spare);
                std::mem::swap(&mut self.ids, &mut self.spare);
            }
            (Form::Array, Block::Bits(words)) => keep(&mut self.ids, |id| !has(words, id)),
            (Form::Bits, Block::Array(other)) => {
                for (n, bit) in other.iter().copied().map(place) {
                    self.words[n] &= !bit;
                }
            }
            (Form::Bits, Block::Bits(words)) => {
                for (to, word) in self.words.iter_mut().zip(words) {
                    *to &= !word;
                }
            }
        }
        self.empty_if_none();
    }

    /// Takes in what is in `block`.
    pub fn or(&mut self, block: Block<'_>) {
        match (self.form, block) {
            (_, Block::Empty) => {}
            (Form::Empty, block) => self.set(block),
            (Form::Array, Block::Array(other)) if self.ids.len() + other.len() <= ARRAY_MAX => {
                self.spare.clear();
                merge(&self.ids, other, &mut self.spare);
                std::mem::swap(&mut self.ids, &mut self.spare);
            }
            (_, Block::Array(other)) => put(self.bits(), other),
            (Form::Array, Block::Bits(words)) => {
                self.words.copy_from_slice(words);
                put(&mut self.words, &self.ids);
                self.form = Form::Bits;
            }
            (Form::Bits, Block::Bits(words)) => {
                for (to, word) in self.words.iter_mut().zip(words) {
                    *to |= word;
                }
            }
        }
    }

    /// `a` and `b`.
    pub fn set_and(&mut self, a: Block<'_>, b: Block<'_>) {
        match (a, b) {
            (Block::Empty, _) | (_, Block::Empty) => self.form = Form::Empty,
            (Block::Bits(a), Block::Bits(b)) => {
                for ((to, a), b) in self.words.iter_mut().zip(a).zip(b) {
                    *to = a & b;
                }
                self.form = Form::Bits;
            }
            (Block::Bits(_), ids) => {
                self.set(ids);
                self.and(a);
            }
            (ids, other) => {
                self.set(ids);
                self.and(other);
            }
        }
    }

    /// `a` without `b`.
    pub fn set_and_not(&mut self, a: Block<'_>, b: Block<'_>) {
        if let (Block::Bits(a), Block::Bits(b)) = (a, b) {
            for ((to, a), b) in self.words.iter_mut().zip(a).zip(b) {
                *to = a & !b;
            }
            self.form = Form::Bits;
        } else {
            self.set(a);
            self.and_not(b);
        }
    }

    /// `a` or `b`.
    pub fn set_or(&mut self, a: Block<'_>, b: Block<'_>) {
        if let (Block::Bits(a), Block::Bits(b)) = (a, b) {
            for ((to, a), b) in self.words.iter_mut().zip(a).zip(b) {
                *to = a | b;
            }
            self.form = Form::Bits;
        } else {
            self.set(a);
            self.or(b);
        }
    }

    /// Takes in all of many blocks: by bits as soon as there is more than a handful of ids.
    pub fn or_all<'b>(&mut self, blocks: impl IntoIterator<Item = Block<'b>>) {
        const MERGED: usize = 64;
        for block in blocks {
            match block {
                Block::Array(other) if self.form == Form::Array && self.ids.len() + other.len() > MERGED => {
                    put(self.bits(), other);
                }
                block => self.or(block),
            }
        }
    }

    /// Makes the set an array where it has at most [`ARRAY_MAX`] ids, and bits otherwise. Answers their number.
    pub fn shrink(&mut self) -> u32 {
        let count = self.block().len();
        match self.form {
            Form::Bits if count as usize <= ARRAY_MAX => {
                self.ids.clear();
                let Self { words, ids, .. } = self;
                Block::Bits(words).for_each(|id| ids.push(id));
                self.form = if count == 0 { Form::Empty } else { Form::Array };
            }
            Form::Array if count as usize > ARRAY_MAX => {
                self.bits();
            }
            _ => {}
        }
        count
    }

    fn empty_if_none(&mut self) {
        if self.form == Form::Array && self.ids.is_empty() {
            self.form = Form::Empty;
        }
    }
}

/// Adds ids to words.
pub fn put(words: &mut [u64; WORDS], ids: &[u16]) {
    for (n, bit) in ids.iter().copied().map(place) {
        words[n] |= bit;
    }
}

/// Whether it is quicker to put one array into words, and to look the ids of the other up there, than to go through both.
fn are_long(a: &[u16], b: &[u16]) -> bool {
    a.len().min(b.len()) > LOOKED_UP
}

/// As `retain`, without a branch for each id.
#[inline]
fn keep(ids: &mut Vec<u16>, is: impl Fn(u16) -> bool) {
    let mut kept = 0;
    for n in 0..ids.len() {
        let id = ids[n];
        ids[kept] = id;
        kept += usize::from(is(id));
    }
    ids.truncate(kept);
}

fn merge(a: &[u16], b: &[u16], to: &mut Vec<u16>) {
    to.resize(a.len() + b.len(), 0);
    let (mut i, mut j, mut n) = (0, 0, 0);
    while let (Some(&x), Some(&y)) = (a.get(i), b.get(j)) {
        to[n] = x.min(y);
        n += 1;
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    to.truncate(n);
    to.extend_from_slice(a.get(i..).unwrap_or_default());
    to.extend_from_slice(b.get(j..).unwrap_or_default());
}

fn subtract(a: &[u16], b: &[u16], to: &mut Vec<u16>) {
    if a.len() * 32 < b.len() {
        let mut rest = b;
        for id in a {
            rest = rest.get(skip(rest, *id)..).unwrap_or_default();
            if rest.first() != Some(id) {
                to.push(*id);
            }
        }
        return;
    }
    to.resize(a.len(), 0);
    let (mut i, mut j, mut n) = (0, 0, 0);
    while let (Some(&x), Some(&y)) = (a.get(i), b.get(j)) {
        to[n] = x;
        n += usize::from(x < y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    to.truncate(n);
    to.extend_from_slice(a.get(i..).unwrap_or_default());
}
