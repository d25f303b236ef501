//! Whatever gets lost in whatever order: at the end both sides are the same.
//!
//! Answers are lost, supervisors and machines die, disks are new or old. A seed gives the same life again;
//! `TENANT_INIT_LIVES=100` tries more of them.

use fastrand::Rng;
use serde_json::json;
use tenant_init::index::{LeaseError, ShipError, ShipLimits, Shipper, lease};

use crate::fixture::{App, LIMIT, Machine, claimant, ship};
use crate::proxy::Proxy;
use crate::support;

#[tokio::test]
async fn whatever_happens_both_sides_are_the_same_in_the_end() {
    let lives = std::env::var("TENANT_INIT_LIVES").map_or(6, |lives| lives.parse().unwrap());
    for seed in 0..lives {
        println!("seed {seed}");
        life(seed).await;
    }
}

const LIMITS: ShipLimits = ShipLimits {
    statements: 12,
    bytes: 1 << 20,
    call_limit: LIMIT,
    outbox_bytes: 60_000,
};

async fn life(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let server = support::sqld(None);
    let proxy = Proxy::to(server.address);
    let mut machine = Machine::new(&proxy.url(), "a").await;
    let (mut shipper, mut app) = start(&machine).await;
    let mut next = 0;
    for _ in 0..80 {
        match rng.u8(0..12) {
            0..5 => write(&app, &mut rng, &mut next),
            5..9 => {
                if rng.u8(0..3) == 0 {
                    proxy.let_pass(rng.i64(0..4));
                }
                round(&mut shipper).await;
                proxy.let_all_pass();
            }
            // The supervisor dies; the app goes on writing until the next one ends it.
            9 => {
                drop(shipper);
                write(&app, &mut rng, &mut next);
                (shipper, app) = again(&mut machine, &proxy, &mut rng).await;
            }
            // The machine dies, its disk as well.
            10 => {
                drop((shipper, app));
                let dir = tempfile::TempDir::new().unwrap();
                machine.path = dir.path().join("memory.db");
                machine.dir = dir;
                (shipper, app) = again(&mut machine, &proxy, &mut rng).await;
            }
            // Another machine has its turn.
            _ => {
                machine.release().await;
                let other = Machine::new(&proxy.url(), "b").await;
                let (mut others, its) = start(&other).await;
                write(&its, &mut rng, &mut next);
                settle(&mut others).await;
                other.release().await;
                drop(shipper);
                (shipper, app) = again(&mut machine, &proxy, &mut rng).await;
            }
        }
    }
    settle(&mut shipper).await;
    let rows = app.count("SELECT (SELECT count(*) FROM entity) + (SELECT count(*) FROM search) + (SELECT count(*) FROM pairs) + (SELECT count(*) FROM project) + (SELECT count(*) FROM alembic_version)");
    machine.same(rows as u64).await;
}

/// Opens, and lets the app make its tables where there are none.
async fn start(machine: &Machine) -> (Shipper, App) {
    let opened = machine.open().await;
    let app = machine.app();
    if app.count("SELECT count(*) FROM sqlite_master WHERE name = 'pairs'") == 0 {
        app.schema();
    }
    (machine.limited(&opened, LIMITS), app)
}

/// The next start on the same disk; some attempts fail half-way.
async fn again(machine: &mut Machine, proxy: &Proxy, rng: &mut Rng) -> (Shipper, App) {
    while rng.bool() {
        proxy.let_pass(rng.i64(0..6));
        match lease::acquire(&machine.remote, &claimant("a"), None, LIMIT).await {
            Ok(granted) => machine.granted = granted,
            Err(LeaseError::Index(_)) => {}
            Err(other) => panic!("{other}"),
        }
        let _ = machine.try_open().await;
        proxy.let_all_pass();
    }
    machine.again("a").await;
    start(machine).await
}

async fn round(shipper: &mut Shipper) {
    match shipper.round().await {
        Ok(_) | Err(ShipError::Index(_)) => {}
        Err(error) if error.seed_needed() => match shipper.reseed(|_| ()).await {
            Ok(_) | Err(ShipError::Index(_)) => {}
            Err(other) => panic!("{other}"),
        },
        Err(other) => panic!("{other}"),
    }
}

async fn settle(shipper: &mut Shipper) {
    if let Err(error) = ship(shipper).await {
        assert!(error.seed_needed(), "{error}");
        shipper.reseed(|_| ()).await.unwrap();
        ship(shipper).await.unwrap();
    }
}

fn write(app: &App, rng: &mut Rng, next: &mut u64) {
    match rng.u8(0..5) {
        0 => {
            let count = rng.u64(1..20);
            app.notes(*next..*next + count);
            *next += count;
        }
        // Twice would be seen.
        1 => app.write(&[("INSERT INTO project(name) VALUES (NULL)", json!([[]]))]),
        2 => app.write(&[
            (
                "UPDATE entity SET title = title || ? WHERE id % 3 = ?",
                json!([["+", rng.u8(0..3)]]),
            ),
            ("DELETE FROM search WHERE rowid % 7 = ?", json!([[rng.u8(0..7)]])),
        ]),
        3 => {
            let from = *next;
            *next += 40;
            let many: Vec<_> = (from..*next)
                .map(|id| ("INSERT INTO pairs VALUES ('m', ?, ?)", json!([[id, id]])))
                .collect();
            app.write(&many);
        }
        _ => app.write(&[(
            "DELETE FROM entity WHERE id IN (SELECT id FROM entity ORDER BY id LIMIT 2)",
            json!([[]]),
        )]),
    }
}
