//! What of a database is the index: its tables, how to read and write their rows, and what comes after the rows.
//!
//! The list of objects is sorted out the same way on both sides (`Catalog::of`). Not part of it: our own tables,
//! SQLite's and libSQL's, those of semantic search (`embeddings` says why), the shadow tables of a virtual table (making
//! the virtual table makes them), and virtual tables of other modules than fts5.
//!
//! A full-text table is copied by content: rowid and columns, as an application inserts them. One without content of
//! its own is rebuilt from the table that it names.

use rusqlite::{Connection, OptionalExtension};

/// One row of `sqlite_master`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) table: String,
    pub(super) sql: String,
}

/// Reads `kind, name, table, sql`, in the order in which they were made.
pub(super) const OBJECTS: &str =
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid";

/// Tables with such names are not recorded, so they are on this disk only. The adapter has the same prefix.
const LOCAL: &str = "search_vector_";

/// The index's objects, in an order in which they can be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Catalog {
    /// Tables, the virtual ones included.
    pub(super) tables: Vec<Object>,
    /// Names of full-text tables without content of their own.
    pub(super) rebuilt: Vec<String>,
    /// Indexes, views and triggers: made after the rows.
    pub(super) later: Vec<Object>,
}

impl Catalog {
    /// Sorts out `objects`.
    pub(super) fn of(objects: Vec<Object>) -> Catalog {
        let virtuals: Vec<(String, bool)> = objects
            .iter()
            .filter_map(|object| Some((object.name.clone(), module(&object.sql)? == "fts5")))
            .collect();
        let hidden = |name: &str| {
            let name = name.to_lowercase();
            ["sqlite_", "libsql_", "_tenant_init_", LOCAL]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                || virtuals.iter().any(|(of, fts5)| {
                    let of = of.to_lowercase();
                    let suffix = name.strip_prefix(&of).and_then(|rest| rest.strip_prefix('_'));
                    match (suffix, fts5) {
                        (Some("data" | "idx" | "content" | "docsize" | "config"), true) => true,
                        (Some(_), true) | (None, true) => false,
                        (suffix, false) => suffix.is_some() || name == of,
                    }
                })
        };
        let has_content = |of: &str| {
            let wanted = format!("{of}_content").to_lowercase();
            objects.iter().any(|object| object.name.to_lowercase() == wanted)
        };
        let rebuilt = virtuals.iter().filter(|(name, fts5)| *fts5 && !has_content(name));
        let rebuilt = rebuilt.map(|(name, _)| name.clone()).collect();
        let (tables, later) = objects
            .into_iter()
            .filter(|object| !hidden(&object.name) && !hidden(&object.table))
            .partition(|object| object.kind == "table");
        Catalog { tables, rebuilt, later }
    }

    /// The catalog of an open file.
    pub(super) fn local(connection: &Connection) -> rusqlite::Result<Catalog> {
        let mut statement = connection.prepare(OBJECTS)?;
        let rows = statement.query_map((), |row| {
            Ok(Object {
                kind: row.get(0)?,
                name: row.get(1)?,
                table: row.get(2)?,
                sql: row.get(3)?,
            })
        })?;
        Ok(Catalog::of(rows.collect::<Result<_, _>>()?))
    }

    /// The tables whose rows are copied.
    pub(super) fn copied(&self) -> impl Iterator<Item = &Object> {
        self.tables.iter().filter(|table| !self.rebuilt.contains(&table.name))
    }
}

/// The lower-case module of a `CREATE VIRTUAL TABLE`.
fn module(sql: &str) -> Option<String> {
    let lower = sql.to_lowercase();
    let mut words = lower.split_whitespace();
    if (words.next(), words.next(), words.next()) != (Some("create"), Some("virtual"), Some("table")) {
        return None;
    }
    let after = words.skip_while(|word| *word != "using").nth(1)?;
    Some(after.split('(').next().unwrap_or_default().to_owned())
}

/// How a table's rows are read in order, page by page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// By rowid, under the name that no column hides.
    Rowid(&'static str),
    /// By these columns, counting: there is no rowid.
    Counted(Vec<String>),
}

/// A table of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// Without generated and hidden ones.
    pub(super) columns: Vec<String>,
    pub(super) key: Key,
}

/// Where the next page of a table starts: a rowid, or how many rows were read.
pub(super) const START: i64 = i64::MIN;

impl Table {
    /// The shape of a table of an open file.
    pub(super) fn of(connection: &Connection, name: &str) -> rusqlite::Result<Table> {
        let list = |sql: &str| {
            let mut statement = connection.prepare(sql)?;
            let names = statement.query_map((name,), |row| row.get::<_, String>(0))?;
            names.collect::<rusqlite::Result<Vec<_>>>()
        };
        let columns = list("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid")?;
        let without: Option<bool> = connection
            .query_row(
                "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1",
                (name,),
                |row| row.get(0),
            )
            .optional()?;
        let all = list("SELECT lower(name) FROM pragma_table_xinfo(?1)")?;
        let free = ["rowid", "_rowid_", "oid"]
            .into_iter()
            .find(|alias| !all.iter().any(|name| name == alias));
        let key = match (free, without) {
            (Some(alias), Some(false) | None) => Key::Rowid(alias),
            (_, Some(true)) => Key::Counted(list(
                "SELECT name FROM pragma_table_xinfo(?1) WHERE pk > 0 ORDER BY pk",
            )?),
            (None, _) => Key::Counted(columns.clone()),
        };
        Ok(Table {
            name: name.to_owned(),
            columns,
            key,
        })
    }

    /// The columns of a page and of an insert; the rowid first, if there is one.
    fn list(&self) -> String {
        let mut names: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
        if let Key::Rowid(alias) = self.key {
            names.insert(0, alias.to_owned());
        }
        names.join(", ")
    }

    /// Values in a row of a page.
    pub(super) fn width(&self) -> usize {
        self.columns.len() + usize::from(matches!(self.key, Key::Rowid(_)))
    }

    /// `?1`: where the page starts, `?2`: how many rows.
    pub(super) fn page(&self) -> String {
        let (list, name) = (self.list(), quoted(&self.name));
        match &self.key {
            Key::Rowid(key) => format!("SELECT {list} FROM {name} WHERE {key} >= ?1 ORDER BY {key} LIMIT ?2"),
            Key::Counted(by) => {
                let by: Vec<String> = by.iter().map(|name| quoted(name)).collect();
                format!(
                    "SELECT {list} FROM {name} ORDER BY {} LIMIT ?2 OFFSET max(?1, 0)",
                    by.join(", ")
                )
            }
        }
    }

    /// Where the page after one with `rows` rows starts; `last` is the first value of its last row. `None`: nowhere.
    pub(super) fn next(&self, start: i64, rows: usize, last: Option<i64>) -> Option<i64> {
        match self.key {
            Key::Rowid(_) => last?.checked_add(1),
            Key::Counted(_) => start.max(0).checked_add(i64::try_from(rows).ok()?),
        }
    }

    /// Inserts one row; an expression for each value of a page.
    pub(super) fn insert(&self, expressions: &[&str]) -> String {
        format!(
            "INSERT INTO {}({}) VALUES ({})",
            quoted(&self.name),
            self.list(),
            expressions.join(", ")
        )
    }
}

/// Builds a full-text table from the table that it names.
pub(super) fn rebuild(name: &str) -> String {
    format!("INSERT INTO {0}({0}) VALUES ('rebuild')", quoted(name))
}

/// Fails when a full-text table and its own index do not agree.
pub(super) fn integrity(name: &str) -> String {
    format!("INSERT INTO {0}({0}) VALUES ('integrity-check')", quoted(name))
}

/// An SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The full-text tables of a catalog.
pub(super) fn full_text(catalog: &Catalog) -> impl Iterator<Item = &Object> {
    catalog.tables.iter().filter(|table| module(&table.sql).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(objects: &[Object]) -> Vec<&str> {
        objects.iter().map(|object| object.name.as_str()).collect()
    }

    #[test]
    fn only_the_index_is_in_the_catalog() {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, x, y AS (x + 1), z AS (x) STORED);
            CREATE INDEX a_x ON a(x);
            CREATE TABLE \"we\"\"ird\"(rowid, v);
            CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
            create virtual  table F using fts5(body, tag UNINDEXED);
            CREATE TABLE f_other(x);
            CREATE VIRTUAL TABLE linked USING fts5(x, content='a', content_rowid='id');
            CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
            CREATE VIEW v AS SELECT 1;
            CREATE TABLE _tenant_init_outbox(id INTEGER PRIMARY KEY);
            CREATE TABLE search_vector_chunks(id INTEGER PRIMARY KEY AUTOINCREMENT, x);
            CREATE INDEX chunks_x ON search_vector_chunks(x);
            CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END;
            CREATE TRIGGER ours AFTER INSERT ON _tenant_init_outbox BEGIN SELECT 1; END;";
        connection.execute_batch(sql).unwrap();
        let catalog = Catalog::local(&connection).unwrap();
        assert_eq!(names(&catalog.tables), ["a", "we\"ird", "w", "F", "f_other", "linked"]);
        assert_eq!(names(&catalog.later), ["a_x", "v", "t"]);
        assert_eq!(catalog.rebuilt, ["linked"]);

        let table = |name| Table::of(&connection, name).unwrap();
        assert_eq!(table("a").columns, ["id", "x"], "generated columns cannot be inserted");
        assert_eq!(table("a").key, Key::Rowid("rowid"));
        assert_eq!(table("we\"ird").key, Key::Rowid("_rowid_"));
        assert_eq!(table("w").key, Key::Counted(vec!["k".into()]));
        assert_eq!(table("F").columns, ["body", "tag"]);
        for object in catalog.copied() {
            let table = table(&object.name);
            connection.prepare(&table.page()).unwrap();
            connection.prepare(&table.insert(&vec!["?"; table.width()])).unwrap();
        }
    }

    #[test]
    fn pages_follow_each_other_to_the_last_rowid() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t(x); CREATE TABLE w(k PRIMARY KEY) WITHOUT ROWID")
            .unwrap();
        let table = Table::of(&connection, "t").unwrap();
        assert_eq!(table.next(START, 3, Some(7)), Some(8));
        assert_eq!(table.next(8, 1, Some(i64::MAX)), None);
        let counted = Table::of(&connection, "w").unwrap();
        assert_eq!(counted.next(START, 3, None), Some(3));
        assert_eq!(counted.next(3, 3, None), Some(6));
    }
}
