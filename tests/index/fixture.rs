//! A tenant with its local file and its database, and the app that writes to the file.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tenant_init::credentials::Index;
use tenant_init::index::{
    Claimant, Granted, OpenError, Opened, Remote, Round, ShipError, ShipLimits, Shipper, compare, lease, open,
};

use crate::support::{self, Server};

pub const LIMIT: Duration = Duration::from_secs(10);
pub const TTL: Duration = Duration::from_secs(60);

/// Some of basic-memory's shapes, and some more.
pub const SCHEMA: &[&str] = &[
    "CREATE TABLE alembic_version(version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    "CREATE TABLE project(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE)",
    "CREATE TABLE entity(id INTEGER PRIMARY KEY, project INTEGER REFERENCES project(id) ON DELETE CASCADE, title TEXT,
        meta TEXT, mtime FLOAT, data BLOB, tags AS (json_extract(meta, '$.tags')) STORED)",
    "CREATE INDEX entity_title ON entity(title)",
    "CREATE VIRTUAL TABLE search USING fts5(title, body, kind UNINDEXED, tokenize='unicode61 tokenchars 0x2F')",
    "CREATE TABLE pairs(a TEXT, b INTEGER, v, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE VIEW titles AS SELECT title FROM entity",
    "CREATE TRIGGER stamp AFTER UPDATE OF title ON entity BEGIN UPDATE entity SET meta = '{\"tags\":1}' WHERE id = new.id; END",
];

pub fn remote(url: &str, token: Option<&str>) -> Remote {
    Remote::connect(&Index {
        url: url.into(),
        auth_token: token.map(|token| token.to_owned().into()),
    })
    .unwrap()
}

pub fn claimant(holder: &str) -> Claimant {
    Claimant {
        tenant: "t1".into(),
        bucket: "notes".into(),
        holder: holder.into(),
        ttl: TTL,
    }
}

/// One machine: a disk, and the lease.
pub struct Machine {
    pub remote: Remote,
    pub path: PathBuf,
    pub granted: Granted,
    pub dir: TempDir,
}

impl Machine {
    /// Takes the lease with an empty disk.
    pub async fn new(url: &str, holder: &str) -> Machine {
        Machine::with_token(url, holder, None).await
    }

    pub async fn with_token(url: &str, holder: &str, token: Option<&str>) -> Machine {
        let remote = remote(url, token);
        let granted = lease::acquire(&remote, &claimant(holder), None, LIMIT).await.unwrap();
        let dir = TempDir::new().unwrap();
        Machine {
            remote,
            path: dir.path().join("memory.db"),
            granted,
            dir,
        }
    }

    /// Starts once more with the same disk.
    pub async fn again(&mut self, holder: &str) {
        self.granted = lease::acquire(&self.remote, &claimant(holder), None, LIMIT)
            .await
            .unwrap();
    }

    pub async fn release(&self) {
        lease::release(&self.remote, self.granted.epoch, LIMIT).await.unwrap();
    }

    pub async fn try_open(&self) -> Result<Opened, OpenError> {
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        open::open(&self.path, owner, &self.remote, &self.granted, LIMIT).await
    }

    pub async fn open(&self) -> Opened {
        self.try_open().await.unwrap()
    }

    pub fn shipper(&self, opened: &Opened) -> Shipper {
        self.limited(opened, ShipLimits::default())
    }

    pub fn limited(&self, opened: &Opened, limits: ShipLimits) -> Shipper {
        let limits = ShipLimits {
            call_limit: LIMIT,
            ..limits
        };
        Shipper::new(self.remote.clone(), &self.path, &self.granted, opened, TTL, limits)
    }

    pub fn app(&self) -> App {
        App::start(&self.path)
    }

    /// Both sides are the same, as far as `compare` sees, and it sees the rows.
    pub async fn same(&self, rows: u64) {
        let report = compare::compare(&self.remote, &self.path, LIMIT).await.unwrap();
        assert_eq!(report.differences, Vec::<String>::new());
        assert_eq!(report.rows, rows);
    }
}

/// A database and a machine whose app has made its tables.
pub async fn tenant() -> (Server, Machine, Opened, App) {
    let server = support::sqld(None);
    let machine = Machine::new(&server.url(), "a").await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    (server, machine, opened, app)
}

/// Ships until nothing is left.
pub async fn ship(shipper: &mut Shipper) -> Result<Round, ShipError> {
    loop {
        let round = shipper.round().await?;
        if round.left.rows == 0 {
            return Ok(round);
        }
    }
}

/// A value of the server, as text.
pub async fn there(machine: &Machine, sql: &str) -> String {
    // With a file of its own, so that what is read is what is really there.
    let body = json!({"baton": null, "requests": [{"type": "execute", "stmt": {"sql": sql}}, {"type": "close"}]});
    let url = format!("{}/v3/pipeline", machine.remote.url());
    let answer: Json = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(std::iter::empty())
        .build()
        .unwrap()
        .post(url)
        .json(&body)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let rows = &answer["results"][0]["response"]["result"]["rows"];
    assert!(rows.is_array(), "{sql}: {answer}");
    match &rows[0][0]["value"] {
        Json::String(value) => value.clone(),
        other => other.to_string(),
    }
}

/// The app with the adapter.
pub struct App {
    pub connection: Connection,
}

impl App {
    fn start(path: &std::path::Path) -> App {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000")
            .unwrap();
        App { connection }
    }

    pub fn schema(&self) {
        self.write(&SCHEMA.iter().map(|sql| (*sql, json!([[]]))).collect::<Vec<_>>());
    }

    /// One transaction: each statement once for each of its rows.
    pub fn write(&self, statements: &[(&str, Json)]) {
        self.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for (at, (sql, rows)) in statements.iter().enumerate() {
            let mut changes = Some(0);
            for row in rows.as_array().unwrap() {
                let changed = self.run(sql, row);
                changes = changes.and_then(|changes: i64| Some(changes + changed?));
            }
            self.record(at == 0, sql, rows, changes);
        }
        self.connection.execute_batch("COMMIT").unwrap();
    }

    /// Records a statement.
    pub fn record(&self, starts: bool, sql: &str, rows: &Json, changes: Option<i64>) {
        let keys: i64 = self
            .connection
            .query_row("PRAGMA foreign_keys", (), |row| row.get(0))
            .unwrap();
        self.connection
            .execute(
                "INSERT INTO _tenant_init_outbox(starts, foreign_keys, made_ms, changes, sql, rows) VALUES (?, ?, ?, ?, ?, ?)",
                (starts, keys, jiff::Timestamp::now().as_millisecond(), changes, sql, rows.to_string()),
            )
            .unwrap();
    }

    fn run(&self, sql: &str, row: &Json) -> Option<i64> {
        let mut statement = self.connection.prepare(sql).unwrap();
        let changed = match row {
            Json::Array(values) => statement.execute(params_from_iter(values.iter().map(value))),
            Json::Object(values) => {
                for (name, given) in values {
                    let at = statement.parameter_index(&format!(":{name}")).unwrap().unwrap();
                    statement.raw_bind_parameter(at, value(given)).unwrap();
                }
                statement.raw_execute()
            }
            _ => panic!("{row}"),
        };
        let changed = changed.unwrap() as i64;
        // What the adapter knows: a count for rows, none for definitions.
        let word = sql.split_whitespace().next().unwrap().to_uppercase();
        ["INSERT", "UPDATE", "DELETE", "REPLACE"]
            .contains(&word.as_str())
            .then_some(changed)
    }

    /// `rows` notes with all there is: text, blobs, floats, NULL, full text.
    pub fn notes(&self, ids: std::ops::Range<u64>) {
        let entities: Vec<Json> = ids
            .clone()
            .map(|id| {
                let blob = STANDARD.encode([0, 255, id as u8]);
                let mtime = 1_732_550_000.0 + id as f64 / 7.0;
                json!([id, 1, format!("Nöte '{id}' \u{0}\""), format!("{{\"tags\":[{id}]}}"), mtime, {"b": blob}])
            })
            .collect();
        let texts: Vec<Json> = ids
            .clone()
            .map(|id| json!({"id": id, "title": format!("note {id}"), "body": format!("word{id} common notes/n{id}"), "kind": null}))
            .collect();
        let pairs: Vec<Json> = ids
            .map(|id| json!([format!("k{}", id % 10), id, i64::MIN + id as i64]))
            .collect();
        self.write(&[
            (
                "INSERT OR IGNORE INTO project(id, name) VALUES (?, ?)",
                json!([[1, "main"]]),
            ),
            (
                "INSERT INTO entity(id, project, title, meta, mtime, data) VALUES (?, ?, ?, ?, ?, ?)",
                json!(entities),
            ),
            (
                "INSERT INTO search(rowid, title, body, kind) VALUES (:id, :title, :body, :kind)",
                json!(texts),
            ),
            ("INSERT INTO pairs VALUES (?, ?, ?)", json!(pairs)),
        ]);
    }

    pub fn count(&self, sql: &str) -> i64 {
        self.connection.query_row(sql, (), |row| row.get(0)).unwrap()
    }
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::String(text) => Value::Text(text.clone()),
        Json::Number(number) => number
            .as_i64()
            .map_or_else(|| Value::Real(number.as_f64().unwrap()), Value::Integer),
        Json::Object(object) => Value::Blob(STANDARD.decode(object["b"].as_str().unwrap()).unwrap()),
        _ => panic!("{json}"),
    }
}
