//! The definition as written → the definition with every name resolved and every type checked.

use super::{
    Definition, MemberSource, MetricsSource, RowSource, SourceColumn, Table, canonical,
    error::{DefinitionErrors, Errors, Position},
    lexer,
    parse::{self, Written, WrittenDerived, WrittenField, WrittenLookup, WrittenMemberKind, WrittenTable},
    yaml::{self, At},
};
use crate::{
    schema::{
        Column, DOCUMENT_SOURCE, Field, FieldId, Function, Hop, NamedFilter, Origin, Path, Schema, Source, SourceId,
        SourceKind,
    },
    value::FieldType,
};

pub(super) fn resolve(text: &str) -> Result<Definition, DefinitionErrors> {
    let root = yaml::read(text)?;
    let mut errors = Errors::default();
    let written = parse::parse(&root, &mut errors);
    let mut resolver = Resolver { errors, fields: Vec::new(), known: Vec::new(), sources: Vec::new() };
    let definition = resolver.definition(&written, root.at);
    resolver.errors.finish()?;
    Ok(definition)
}

/// What is known of a field besides its entry in the schema.
struct Known {
    what: &'static str,
    at: Position,
    /// `None`: its type is wrong, which is reported already.
    ty: Option<FieldType>,
    /// From Postgres: what derived fields may build on.
    from_postgres: bool,
}

/// Where a lookup's key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A column of the document's row.
    Document(usize),
    /// A column of another lookup's row.
    Lookup { parent: usize, column: usize },
    /// Reached by member values only.
    Nothing,
    /// Wrong, and reported.
    Broken,
}

struct Resolver {
    errors: Errors,
    fields: Vec<Field>,
    /// One for each of `fields`.
    known: Vec<Known>,
    sources: Vec<Source>,
}

impl Resolver {
    fn definition(&mut self, written: &Written, top: Position) -> Definition {
        self.index_name(written);
        let mut document = self.document(written, top);
        let by = self.lookup_keys(written, &mut document);
        let lookups = self.lookups(written, &by);
        let members = self.members(written, &by);
        self.derived(&written.derived);
        let metrics = self.metrics(written);
        for field in &written.external {
            self.written_field(field, "external field", false, Origin::External);
        }
        let visible_at = written.visible_at.as_ref().and_then(|name| self.visible_at(name));
        let mut schema = Schema {
            index: written.index.as_ref().map(|index| index.value.clone()).unwrap_or_default(),
            hash: String::new(),
            sources: std::mem::take(&mut self.sources),
            fields: std::mem::take(&mut self.fields),
            visible_at,
            filters: Vec::new(),
        };
        self.filters(&written.filters, &mut schema);
        canonical::hashed(schema, document, lookups, members, metrics)
    }

    /// A filter may use those that stand before it.
    fn filters(&mut self, written: &[(At<String>, At<String>)], schema: &mut Schema) {
        for (name, text) in written {
            if schema.field(&name.value).is_some() {
                let message = format!("filter {0}: there is a field {0}; take another name", name.value);
                self.errors.add(name.at, message);
                continue;
            }
            match NamedFilter::parse(&name.value, &text.value, schema) {
                Ok(filter) => schema.filters.push(filter),
                Err(error) => {
                    let message = error.to_string().replace('\n', "\n    ");
                    self.errors.add(text.at, format!("filter {}: {message}", name.value));
                }
            }
        }
    }

    fn index_name(&mut self, written: &Written) {
        let Some(index) = &written.index else { return };
        let name = &index.value;
        let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && name.len() <= 40;
        if !valid {
            self.errors.add(
                index.at,
                format!("index {name:?}: a name is small letters, digits and _, starts with a letter, at most 40 long"),
            );
        }
    }

    /// Adds a field, unless its name is taken.
    fn field(&mut self, name: &At<String>, known: Known, field: Field) {
        if let Some((_, other)) = self.find(&name.value) {
            let message = format!(
                "field {} stands twice: here as a {}, in line {} as a {}; names of fields must differ",
                name.value, known.what, other.at.line, other.what
            );
            self.errors.add(name.at, message);
            return;
        }
        self.fields.push(field);
        self.known.push(known);
    }

    fn written_field(&mut self, field: &WrittenField, what: &'static str, from_postgres: bool, origin: Origin) {
        self.field(
            &field.name,
            Known { what, at: field.name.at, ty: field.ty, from_postgres },
            Field {
                name: field.name.value.clone(),
                ty: field.ty.unwrap_or(FieldType::Int),
                many: field.many,
                filter: field.filters(),
                sort: field.sorts(),
                origin,
            },
        );
    }

    fn find(&self, name: &str) -> Option<(FieldId, &Known)> {
        let id = self.fields.iter().position(|field| field.name == name)?;
        Some((id, &self.known[id]))
    }

    /// Adds a source, unless its name is taken.
    fn source(&mut self, name: &At<String>, kind: SourceKind) {
        if self.sources.iter().any(|source| source.name == name.value) {
            self.errors.add(
                name.at,
                format!("source {} stands twice: lookups, members and metrics need names that differ", name.value),
            );
        }
        self.sources.push(Source { name: name.value.clone(), kind });
    }

    fn document(&mut self, written: &Written, top: Position) -> RowSource {
        let name = At { value: "document".to_owned(), at: top };
        let empty = WrittenTable::default();
        let table = written.document.as_ref().unwrap_or(&empty);
        if let Some(key) = &table.key {
            let valid = key.value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && key.value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !valid {
                self.errors.add(
                    key.at,
                    format!("the document key {:?} is also the first field's name: letters, digits and _", key.value),
                );
            }
            self.field(
                key,
                Known { what: "document key", at: key.at, ty: Some(FieldType::Int), from_postgres: true },
                Field {
                    name: key.value.clone(),
                    ty: FieldType::Int,
                    many: false,
                    filter: true,
                    sort: true,
                    origin: Origin::Key,
                },
            );
        }
        for (column, field) in written.fields.iter().enumerate() {
            self.written_field(field, "document field", true, Origin::Document { column });
        }
        self.source(&name, SourceKind::Document { columns: columns(&written.fields) });
        row_source(&name.value, table, &written.fields)
    }

    /// Where each lookup's key comes from. A lookup by the document's key makes the key a column of the document's row.
    fn lookup_keys(&mut self, written: &Written, document: &mut RowSource) -> Vec<By> {
        let mut keys: Vec<By> =
            written.lookups.iter().map(|lookup| self.lookup_key(lookup, written, document)).collect();
        for start in 0..keys.len() {
            let mut chain = vec![start];
            let mut at = start;
            while let By::Lookup { parent, .. } = keys[at] {
                if parent == start {
                    let names: Vec<_> =
                        chain.iter().chain([&start]).map(|i| written.lookups[*i].name.value.as_str()).collect();
                    let lookup = &written.lookups[start];
                    let place = lookup.by.as_ref().map_or(lookup.name.at, |by| by.at);
                    self.errors.add(place, format!("lookups refer to each other in a circle: {}", names.join(" → ")));
                    keys[start] = By::Broken;
                    break;
                }
                if chain.contains(&parent) {
                    // A circle further up, reported there.
                    break;
                }
                chain.push(parent);
                at = parent;
            }
        }
        // Whoever leads into a broken chain is broken as well.
        for _ in 0..keys.len() {
            for i in 0..keys.len() {
                if let By::Lookup { parent, .. } = keys[i]
                    && keys[parent] == By::Broken
                {
                    keys[i] = By::Broken;
                }
            }
        }
        keys
    }

    fn lookup_key(&mut self, lookup: &WrittenLookup, written: &Written, document: &mut RowSource) -> By {
        let Some(by) = &lookup.by else { return By::Nothing };
        let name = &lookup.name.value;
        let must_be_int = |ty: Option<FieldType>, errors: &mut Errors| match ty {
            None | Some(FieldType::Int) => {}
            Some(ty) => {
                errors
                    .add(by.at, format!("lookup {name}: `by` must be an int, which {} of type {ty} is not", by.value));
            }
        };
        if let Some((parent, field)) = by.value.split_once('.') {
            return match self.lookup_field(parent, field, by, &format!("`by` of lookup {name}"), written) {
                Some((parent, column)) => {
                    must_be_int(written.lookups[parent].fields[column].ty, &mut self.errors);
                    By::Lookup { parent, column }
                }
                None => By::Broken,
            };
        }
        if let Some(column) = written.fields.iter().position(|field| field.name.value == by.value) {
            must_be_int(written.fields[column].ty, &mut self.errors);
            return By::Document(column);
        }
        if by.value == document.key {
            let known = document.columns.iter().position(|column| column.name == by.value);
            return By::Document(known.unwrap_or_else(|| {
                document.columns.push(SourceColumn {
                    name: by.value.clone(),
                    ty: FieldType::Int,
                    sql: lexer::quote(&by.value),
                    line: by.at.line,
                });
                if let SourceKind::Document { columns } = &mut self.sources[DOCUMENT_SOURCE].kind {
                    columns.push(Column { name: by.value.clone(), ty: FieldType::Int });
                }
                document.columns.len() - 1
            }));
        }
        self.errors.add(
            by.at,
            format!(
                "lookup {name}: `by` refers to {}, which is no field of the document: declare it under `fields` with \
                 type int, or write lookup.field",
                by.value
            ),
        );
        By::Broken
    }

    /// The lookup and its column that `lookup.field` means.
    fn lookup_field(
        &mut self,
        lookup: &str,
        field: &str,
        at: &At<String>,
        what: &str,
        written: &Written,
    ) -> Option<(usize, usize)> {
        let Some(id) = written.lookups.iter().position(|known| known.name.value == lookup) else {
            self.errors.add(at.at, format!("{what}: there is no lookup {lookup}"));
            return None;
        };
        let column = written.lookups[id].fields.iter().position(|known| known.name.value == field);
        if column.is_none() {
            self.errors.add(at.at, format!("{what}: lookup {lookup} has no field {field}: declare it there"));
        }
        column.map(|column| (id, column))
    }

    fn lookups(&mut self, written: &Written, by: &[By]) -> Vec<RowSource> {
        let mut used = vec![false; by.len()];
        let through = written.members.iter().filter_map(|member| match &member.kind {
            WrittenMemberKind::Through { through: Some(through), .. } => through.value.split_once('.'),
            _ => None,
        });
        for (lookup, _) in through {
            let mut next = written.lookups.iter().position(|known| known.name.value == lookup);
            while let Some(at) = next.filter(|at| !used[*at]) {
                used[at] = true;
                next = match by[at] {
                    By::Lookup { parent, .. } => Some(parent),
                    _ => None,
                };
            }
        }
        let mut sources = Vec::new();
        for (i, lookup) in written.lookups.iter().enumerate() {
            self.source(&lookup.name, SourceKind::Lookup { columns: columns(&lookup.fields) });
            sources.push(row_source(&lookup.name.value, &lookup.table, &lookup.fields));
            self.distinct_columns(&lookup.fields, &format!("lookup {}", lookup.name.value));
            match lookup_path(i, by) {
                Some((Some(by), path)) => {
                    for (column, field) in lookup.fields.iter().enumerate() {
                        let origin = Origin::Lookup { by, path: path.clone(), column };
                        self.written_field(field, "lookup field", true, origin);
                    }
                }
                Some((None, _)) => self.detached_lookup(lookup, used[i]),
                // Known by name, so that what refers to them is not reported as well.
                None => {
                    for field in &lookup.fields {
                        self.written_field(field, "lookup field", true, Origin::External);
                    }
                }
            }
        }
        sources
    }

    fn detached_lookup(&mut self, lookup: &WrittenLookup, used: bool) {
        let name = &lookup.name.value;
        if !used {
            self.errors.add(
                lookup.name.at,
                format!("lookup {name} is reached by nothing: give it `by`, or use it in a member's `through`"),
            );
        }
        for field in &lookup.fields {
            for (option, flag) in [("filter", &field.filter), ("sort", &field.sort)] {
                if let Some(At { value: true, at }) = flag {
                    let message = format!(
                        "field {} of lookup {name} is no field of the document, because the lookup has no `by`: set \
                         `{option}` on the member field that goes through it",
                        field.name.value
                    );
                    self.errors.add(*at, message);
                }
            }
        }
    }

    /// Columns of one source need names that differ, also where they are no fields of the document.
    fn distinct_columns(&mut self, fields: &[WrittenField], what: &str) {
        for (i, field) in fields.iter().enumerate() {
            if fields[..i].iter().any(|other| other.name.value == field.name.value) {
                self.errors.add(field.name.at, format!("{what} has two fields {}", field.name.value));
            }
        }
    }

    fn members(&mut self, written: &Written, by: &[By]) -> Vec<MemberSource> {
        let mut sources = Vec::new();
        // A member may go through one that stands further down, so the tables come first.
        let mut ids: Vec<(&str, SourceId, Option<FieldType>)> = Vec::new();
        for member in &written.members {
            if let WrittenMemberKind::Table { table, value, ty } = &member.kind {
                ids.push((&member.name.value, self.sources.len(), *ty));
                self.source(&member.name, SourceKind::Members { ty: ty.unwrap_or(FieldType::Int) });
                sources.push(MemberSource {
                    name: member.name.value.clone(),
                    table: table.table.clone().unwrap_or_else(no_table),
                    key: table.key.as_ref().map(|key| key.value.clone()).unwrap_or_default(),
                    value: value.clone().unwrap_or_default(),
                    ty: ty.unwrap_or(FieldType::Int),
                    where_: table.where_.clone(),
                    line: table.line,
                });
            }
        }
        for member in &written.members {
            let name = &member.name;
            let (ty, origin) = match &member.kind {
                WrittenMemberKind::Table { ty, .. } => {
                    let source = ids.iter().find(|(known, ..)| *known == name.value).map_or(0, |(_, id, _)| *id);
                    (*ty, Origin::Members { source })
                }
                WrittenMemberKind::Through { from: Some(from), through: Some(through) } => {
                    match self.through(name, from, through, &ids, written, by) {
                        Some(resolved) => resolved,
                        // Known by name, so that what refers to it is not reported as well.
                        None => (None, Origin::External),
                    }
                }
                WrittenMemberKind::Through { .. } => (None, Origin::External),
            };
            self.field(
                name,
                Known { what: "member field", at: name.at, ty, from_postgres: true },
                Field {
                    name: name.value.clone(),
                    ty: ty.unwrap_or(FieldType::Int),
                    many: true,
                    filter: member.filter,
                    sort: false,
                    origin,
                },
            );
        }
        sources
    }

    fn through(
        &mut self,
        name: &At<String>,
        from: &At<String>,
        through: &At<String>,
        ids: &[(&str, SourceId, Option<FieldType>)],
        written: &Written,
        by: &[By],
    ) -> Option<(Option<FieldType>, Origin)> {
        let name = &name.value;
        let members = ids.iter().find(|(known, ..)| *known == from.value);
        match members {
            None => self.errors.add(
                from.at,
                format!(
                    "member field {name}: `from` must name a member field with a table, which {} is not",
                    from.value
                ),
            ),
            Some((_, _, Some(ty))) if *ty != FieldType::Int => self.errors.add(
                from.at,
                format!("member field {name}: `through` needs values of type int, {} has {ty}", from.value),
            ),
            Some(_) => {}
        }
        let what = format!("`through` of member field {name}");
        let Some((lookup, field)) = through.value.split_once('.') else {
            self.errors.add(through.at, format!("{what} must be lookup.field, not {}", through.value));
            return None;
        };
        let (lookup, column) = self.lookup_field(lookup, field, through, &what, written)?;
        let (_, path) = lookup_path(lookup, by)?;
        let ty = written.lookups[lookup].fields[column].ty;
        Some((ty, Origin::Through { members: members?.1, path, column }))
    }

    /// Derived fields, each after its inputs.
    fn derived(&mut self, derived: &[WrittenDerived]) {
        let mut state = vec![Visit::New; derived.len()];
        for i in 0..derived.len() {
            self.derive(i, derived, &mut state, &mut Vec::new());
        }
    }

    fn derive(&mut self, i: usize, derived: &[WrittenDerived], state: &mut [Visit], stack: &mut Vec<usize>) {
        let this = &derived[i];
        let name = &this.name.value;
        if state[i] != Visit::New {
            return;
        }
        state[i] = Visit::Open;
        stack.push(i);
        let mut ids = Vec::new();
        let mut ty: Option<FieldType> = None;
        for input in &this.inputs {
            if self.find(&input.value).is_none()
                && let Some(next) = derived.iter().position(|other| other.name.value == input.value)
            {
                if state[next] == Visit::Open {
                    let circle = stack.iter().skip_while(|at| **at != next).chain([&next]);
                    let names: Vec<_> = circle.map(|at| derived[*at].name.value.as_str()).collect();
                    self.errors.add(
                        input.at,
                        format!("derived fields refer to each other in a circle: {}", names.join(" → ")),
                    );
                    continue;
                }
                self.derive(next, derived, state, stack);
            }
            let Some((id, known)) = self.find(&input.value) else {
                let circular = derived.iter().any(|other| other.name.value == input.value);
                if !circular {
                    let message = format!(
                        "derived field {name}: {} is no field of the document, a lookup with `by`, or derived",
                        input.value
                    );
                    self.errors.add(input.at, message);
                }
                continue;
            };
            let (many, input_ty) = (self.fields[id].many, known.ty);
            if !known.from_postgres || (many && this.function != Some(Function::Exists)) {
                let message = format!(
                    "derived field {name}: {} is a {}; it takes fields of the document, of lookups and derived ones{}",
                    input.value,
                    known.what,
                    if many { " (a member field only in `exists`)" } else { "" }
                );
                self.errors.add(input.at, message);
                continue;
            }
            if let (Some(first), Some(this_ty)) = (ty, input_ty)
                && first != this_ty
                && this.function != Some(Function::Exists)
            {
                let message =
                    format!("derived field {name}: {} is of type {this_ty}, the first field is {first}", input.value);
                self.errors.add(input.at, message);
            }
            ty = ty.or(input_ty);
            ids.push(id);
        }
        stack.pop();
        state[i] = Visit::Done;
        let ty = if this.function == Some(Function::Exists) { Some(FieldType::Bool) } else { ty };
        self.field(
            &this.name,
            Known { what: "derived field", at: this.name.at, ty, from_postgres: true },
            Field {
                name: name.clone(),
                ty: ty.unwrap_or(FieldType::Int),
                many: false,
                filter: this.filter,
                sort: this.sort,
                origin: Origin::Derived { function: this.function.unwrap_or(Function::Exists), inputs: ids },
            },
        );
    }

    fn metrics(&mut self, written: &Written) -> Vec<MetricsSource> {
        let mut sources = Vec::new();
        for group in &written.metrics {
            let source = self.sources.len();
            self.source(&group.name, SourceKind::Metrics { columns: columns(&group.fields) });
            for (column, field) in group.fields.iter().enumerate() {
                if field.ty == Some(FieldType::String) {
                    let message = format!("metric {} cannot be a string: metrics are numbers", field.name.value);
                    self.errors.add(field.name.at, message);
                }
                let origin = Origin::Metric { source, column, default: field.default.clone() };
                self.written_field(field, "metric", false, origin);
            }
            sources.push(MetricsSource {
                name: group.name.value.clone(),
                table: group.table.clone().unwrap_or_default(),
                key: group.key.clone().unwrap_or_default(),
                inserted_at: group.inserted_at.clone(),
                where_: group.where_.clone(),
                columns: source_columns(&group.fields),
                line: group.name.at.line,
            });
        }
        sources
    }

    fn visible_at(&mut self, name: &At<String>) -> Option<FieldId> {
        let Some((id, known)) = self.find(&name.value) else {
            self.errors.add(name.at, format!("visible_at: there is no field {}", name.value));
            return None;
        };
        let problem = if !known.from_postgres || self.fields[id].many {
            format!("is a {}; it must be a field of the document, of a lookup or derived", known.what)
        } else {
            match known.ty {
                None | Some(FieldType::Timestamp) => return Some(id),
                Some(ty) => format!("is of type {ty}; it must be a timestamp"),
            }
        };
        self.errors.add(name.at, format!("visible_at: {} {problem}", name.value));
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    New,
    Open,
    Done,
}

/// The walk to a lookup from its chain's first one, and the document's column that holds the first key, where the chain
/// starts at the document. `None`: the chain is broken.
fn lookup_path(lookup: usize, by: &[By]) -> Option<(Option<usize>, Path)> {
    let source = |lookup: usize| DOCUMENT_SOURCE + 1 + lookup;
    let mut hops = Vec::new();
    let mut at = lookup;
    while let By::Lookup { parent, column } = by[at] {
        hops.push(Hop { by: column, source: source(at) });
        at = parent;
    }
    hops.reverse();
    let path = Path { first: source(at), hops };
    match by[at] {
        By::Document(column) => Some((Some(column), path)),
        By::Nothing => Some((None, path)),
        By::Lookup { .. } | By::Broken => None,
    }
}

fn columns(fields: &[WrittenField]) -> Vec<Column> {
    fields
        .iter()
        .map(|field| Column { name: field.name.value.clone(), ty: field.ty.unwrap_or(FieldType::Int) })
        .collect()
}

fn source_columns(fields: &[WrittenField]) -> Vec<SourceColumn> {
    fields
        .iter()
        .map(|field| SourceColumn {
            name: field.name.value.clone(),
            ty: field.ty.unwrap_or(FieldType::Int),
            sql: field.sql.clone().unwrap_or_else(|| lexer::quote(&field.name.value)),
            line: field.name.at.line,
        })
        .collect()
}

fn row_source(name: &str, table: &WrittenTable, fields: &[WrittenField]) -> RowSource {
    RowSource {
        name: name.into(),
        table: table.table.clone().unwrap_or_else(no_table),
        key: table.key.as_ref().map(|key| key.value.clone()).unwrap_or_default(),
        where_: table.where_.clone(),
        columns: source_columns(fields),
        line: table.line,
    }
}

/// Stands in for a table that is missing or wrong, which is reported.
fn no_table() -> Table {
    Table { schema: String::new(), name: String::new() }
}
