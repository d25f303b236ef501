//! One writer at a time, and only to its own database.

use std::time::Duration;

use tenant_init::exit::Exit;
use tenant_init::index::{Claimant, Granted, LeaseError, Remote, RemoteState, lease};

use crate::fixture::{LIMIT, Machine, claimant, remote, there};
use crate::support::{self, Issuer};

async fn acquire(remote: &Remote, claimant: &Claimant) -> Result<Granted, LeaseError> {
    lease::acquire(remote, claimant, None, LIMIT).await
}

fn with_ttl(holder: &str, ttl: Duration) -> Claimant {
    Claimant {
        ttl,
        ..claimant(holder)
    }
}

#[tokio::test]
async fn a_lease_is_taken_held_given_back_and_taken_again() {
    let server = support::sqld(None);
    let remote = remote(&server.url(), None);
    let first = acquire(&remote, &claimant("a")).await.unwrap();
    assert_eq!((first.epoch, first.previous.clone(), first.expired), (1, None, false));
    assert_eq!(
        (first.state, first.position, first.lineage.as_str()),
        (RemoteState::Empty, 0, "")
    );

    match acquire(&remote, &claimant("b")).await.unwrap_err() {
        LeaseError::Held { holder, expires_in } => {
            assert_eq!(holder, "a");
            assert!(
                expires_in > Duration::from_secs(50) && expires_in <= Duration::from_secs(60),
                "{expires_in:?}"
            );
        }
        other => panic!("{other}"),
    }

    lease::renew(&remote, first.epoch, Duration::from_secs(120), LIMIT)
        .await
        .unwrap();
    let LeaseError::Held { expires_in, .. } = acquire(&remote, &claimant("b")).await.unwrap_err() else {
        panic!("not held")
    };
    assert!(expires_in > Duration::from_secs(110), "{expires_in:?}");

    lease::release(&remote, first.epoch, LIMIT).await.unwrap();
    let second = acquire(&remote, &claimant("b")).await.unwrap();
    assert_eq!(
        (second.epoch, second.previous.as_deref(), second.expired),
        (2, Some("a"), false)
    );
    assert_eq!(second.database_id, first.database_id);

    for lost in [
        lease::renew(&remote, first.epoch, Duration::from_secs(9), LIMIT).await,
        lease::release(&remote, first.epoch, LIMIT).await,
    ] {
        assert_eq!(lost, Err(LeaseError::Lost { holder: "b".into() }));
    }
    assert!(
        acquire(&remote, &claimant("c")).await.is_err(),
        "the old holder's release gave nothing back"
    );
}

#[tokio::test]
async fn a_lease_that_ran_out_can_be_taken_and_a_crashed_holder_gets_its_own_back() {
    let server = support::sqld(None);
    let remote = remote(&server.url(), None);
    acquire(&remote, &with_ttl("a", Duration::ZERO)).await.unwrap();
    let taken = acquire(&remote, &claimant("b")).await.unwrap();
    assert_eq!(
        (taken.epoch, taken.previous.as_deref(), taken.expired),
        (2, Some("a"), true)
    );
    let own = acquire(&remote, &claimant("b")).await.unwrap();
    assert_eq!((own.epoch, own.previous.as_deref(), own.expired), (3, Some("b"), true));
}

#[tokio::test]
async fn who_took_it_last_can_be_asked_without_taking_it() {
    let server = support::sqld(None);
    let remote = remote(&server.url(), None);
    assert_eq!(lease::last_taken(&remote, LIMIT).await, Ok(None));
    let granted = acquire(&remote, &claimant("a")).await.unwrap();
    for _ in 0..2 {
        let last = lease::last_taken(&remote, LIMIT).await.unwrap().unwrap();
        assert_eq!(
            (last.database_id, last.epoch, last.holder.as_str()),
            (granted.database_id.clone(), 1, "a")
        );
    }
}

#[tokio::test]
async fn one_of_many_gets_it() {
    let server = support::sqld(None);
    let claims = (0..6).map(|number| {
        let remote = remote(&server.url(), None);
        tokio::spawn(async move { acquire(&remote, &claimant(&format!("m{number}"))).await })
    });
    let (mut granted, mut held) = (0, 0);
    for claim in claims.collect::<Vec<_>>() {
        match claim.await.unwrap() {
            Ok(lease) => {
                assert_eq!(lease.epoch, 1);
                granted += 1;
            }
            Err(LeaseError::Held { .. }) => held += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((granted, held), (1, 5));
}

#[tokio::test]
async fn a_database_of_somebody_else_is_left_alone() {
    let server = support::sqld(None);
    let machine = Machine::new(&server.url(), "a").await;
    machine.open().await;
    machine.release().await;
    let row = "SELECT group_concat(v, '|') FROM (SELECT tenant || bucket || epoch || holder || expires_ms || lineage AS v FROM _tenant_init_lease)";
    let before = there(&machine, row).await;
    for (other, names) in [
        (
            Claimant {
                tenant: "t2".into(),
                ..claimant("b")
            },
            ["t1", "t2"],
        ),
        (
            Claimant {
                bucket: "other".into(),
                ..claimant("b")
            },
            ["notes", "other"],
        ),
    ] {
        match acquire(&machine.remote, &other).await.unwrap_err() {
            LeaseError::OtherTenant(words) => {
                assert!(words.contains(&server.url()), "{words}");
                assert!(names.iter().all(|name| words.contains(name)), "{words}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(there(&machine, row).await, before);
    }
    // A side without a tenant id says nothing about it.
    let nameless = Claimant {
        tenant: String::new(),
        ..claimant("b")
    };
    acquire(&machine.remote, &nameless).await.unwrap();
}

#[tokio::test]
async fn the_buckets_memory_of_its_database_counts_unless_the_database_is_empty() {
    let server = support::sqld(None);
    let machine = Machine::new(&server.url(), "a").await;
    let bound = |to: String| {
        let remote = machine.remote.clone();
        async move { lease::acquire(&remote, &claimant("a"), Some(&to), LIMIT).await }
    };
    let id = machine.granted.database_id.clone();
    bound("another".into())
        .await
        .expect("an empty database may be bound anew");
    machine_fills_it(&machine).await;
    bound(id.clone()).await.unwrap();
    match bound("another".into()).await.unwrap_err() {
        LeaseError::OtherTenant(words) => {
            assert!(words.contains("another") && words.contains(&id), "{words}");
            assert!(words.contains("binding.json"), "{words}");
        }
        other => panic!("{other}"),
    }
}

async fn machine_fills_it(machine: &Machine) {
    let mut machine = Machine {
        remote: machine.remote.clone(),
        path: machine.path.clone(),
        granted: machine.granted.clone(),
        dir: tempfile::TempDir::new().unwrap(),
    };
    machine.again("a").await;
    let opened = machine.open().await;
    machine.app().schema();
    machine.shipper(&opened).round().await.unwrap();
}

#[tokio::test]
async fn tables_of_a_stranger_are_refused_and_those_of_basic_memory_are_not() {
    let server = support::sqld(None);
    let remote = remote(&server.url(), None);
    let probe = Machine {
        remote: remote.clone(),
        path: "unused".into(),
        granted: Granted {
            epoch: 0,
            database_id: String::new(),
            previous: None,
            expired: false,
            lineage: String::new(),
            position: 0,
            state: RemoteState::Empty,
        },
        dir: tempfile::TempDir::new().unwrap(),
    };
    there(&probe, "CREATE TABLE invoices(id)").await;
    match acquire(&remote, &claimant("a")).await.unwrap_err() {
        LeaseError::OtherTenant(words) => assert!(words.contains("invoices"), "{words}"),
        other => panic!("{other}"),
    }
    let tables = "SELECT count(*) FROM sqlite_master WHERE name LIKE '%tenant_init%'";
    assert_eq!(there(&probe, tables).await, "0", "nothing was written");
    for table in ["alembic_version", "entity", "project"] {
        there(&probe, &format!("CREATE TABLE {table}(id INTEGER PRIMARY KEY)")).await;
    }
    let granted = acquire(&remote, &claimant("a")).await.unwrap();
    assert_eq!((granted.state, granted.position), (RemoteState::Complete, 0));
}

#[tokio::test]
async fn an_outage_and_a_newer_format_are_no_refusals() {
    let nobody = remote(&format!("http://{}", support::free_address()), None);
    match acquire(&nobody, &claimant("a")).await.unwrap_err() {
        LeaseError::Index(error) => assert_eq!(error.exit(), Exit::Unavailable),
        other => panic!("{other}"),
    }
    let server = support::sqld(None);
    let machine = Machine::new(&server.url(), "a").await;
    there(&machine, "UPDATE _tenant_init_lease SET format = 2").await;
    match acquire(&machine.remote, &claimant("a")).await.unwrap_err() {
        LeaseError::Index(error) => {
            assert_eq!(error.exit(), Exit::Config);
            assert!(error.to_string().contains("newer tenant-init"), "{error}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_token_counts_for_everything_and_is_never_shown() {
    let issuer = Issuer::new();
    let server = support::sqld(Some(&issuer.public()));
    let good = remote(&server.url(), Some(&issuer.token(3600)));
    let granted = acquire(&good, &claimant("a")).await.unwrap();
    lease::renew(&good, granted.epoch, Duration::from_secs(60), LIMIT)
        .await
        .unwrap();
    for (what, token) in [
        ("expired", issuer.token(-3600)),
        ("of another issuer", Issuer::new().token(3600)),
        ("may only read", issuer.token_for("ro", 3600)),
    ] {
        let bad = remote(&server.url(), Some(&token));
        for error in [
            acquire(&bad, &claimant("a")).await.unwrap_err(),
            lease::renew(&bad, granted.epoch, Duration::from_secs(60), LIMIT)
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.exit(), Exit::Refused, "{what}: {error}");
            assert!(matches!(error, LeaseError::Index(_)), "{what}: {error}");
            assert!(!format!("{error} {error:?}").contains(&token), "{what}: {error}");
        }
    }
}
