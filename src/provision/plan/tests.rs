//! The plans against a model of the services that can be interrupted after any step, and in the middle of one.

use super::*;

fn nothing() -> Found {
    Found {
        owner: Owner::Missing,
        files: false,
        policy: Allows::Missing,
        keys: vec![],
        doubt: None,
        database: false,
        pending: None,
        bundle: None,
    }
}

/// What the services and the disk are like, and what must never happen to them.
struct Model {
    found: Found,
    keys_made: usize,
    tried: bool,
}

impl Model {
    fn of(found: Found) -> Model {
        Model {
            found,
            keys_made: 0,
            tried: false,
        }
    }

    /// `lost`: the service has done it, and the answer never came.
    fn done(&mut self, step: &Step, lost: bool) {
        let found = &mut self.found;
        match step {
            Step::CreateBucket => found.owner = Owner::Unmarked,
            Step::MarkBucket => {
                assert_ne!(found.owner, Owner::Missing);
                found.owner = Owner::Ours;
            }
            Step::CreatePolicy => found.policy = Allows::OneBucket,
            Step::CreateDatabase => found.database = true,
            Step::CreateKey => {
                self.keys_made += 1;
                let id = format!("key{}", self.keys_made);
                found.keys.push(Key {
                    id: id.clone(),
                    attached: false,
                    ours: true,
                    settled: true,
                });
                if !lost {
                    found.pending = Some(Held {
                        key: id,
                        token: false,
                        refused: false,
                    });
                }
            }
            Step::AttachPolicy(key) => {
                assert_eq!(found.policy, Allows::OneBucket);
                let key = key.clone().unwrap_or_else(|| found.pending.clone().unwrap().key);
                let held = [&found.pending, &found.bundle];
                assert!(
                    held.iter()
                        .any(|held| held.as_ref().is_some_and(|held| held.key == key)),
                    "no secret for {key}"
                );
                found.keys.iter_mut().find(|known| known.id == key).unwrap().attached = true;
            }
            // Tokens that the database refuses are like none.
            Step::InvalidateTokens => {
                for held in [&mut found.pending, &mut found.bundle].into_iter().flatten() {
                    held.token = false;
                }
            }
            Step::MintToken => {
                assert!(found.database);
                if !lost {
                    found.pending.as_mut().unwrap().token = true;
                }
            }
            Step::TryOut => {
                let held = found.pending.as_ref().unwrap();
                assert!(held.token && found.key(held).unwrap().attached);
                self.tried = true;
            }
            Step::PlaceBundle => {
                assert!(std::mem::take(&mut self.tried), "a bundle that was not tried");
                found.bundle = found.pending.take();
            }
            Step::DetachPolicy(id) => found.keys.retain(|key| key.id != *id || key.ours),
            Step::DeleteKey(id) => found.keys.retain(|key| key.id != *id),
            Step::CheckDetached => assert!(found.keys.iter().all(|key| !key.attached)),
            Step::DeleteFiles => {
                assert!(found.keys.is_empty(), "somebody may still write");
                found.files = false;
            }
            Step::DeleteDatabase => found.database = false,
            Step::DeletePolicy => {
                assert!(found.keys.iter().all(|key| !key.attached));
                found.policy = Allows::Missing;
            }
            Step::DeleteBucket => {
                assert!(!found.files && !found.database && found.keys.is_empty() && found.policy == Allows::Missing);
                found.owner = Owner::Missing;
            }
        }
    }

    fn all(&mut self, steps: &[Step]) {
        steps.iter().for_each(|step| self.done(step, false));
    }
}

fn is_complete(found: &Found) -> bool {
    create(found, false) == Ok(vec![]) && found.current().is_some_and(|(held, key)| held.token && key.attached)
}

fn complete() -> Found {
    let mut model = Model::of(nothing());
    model.all(&create(&nothing(), false).unwrap());
    assert!(is_complete(&model.found));
    model.found
}

/// Every state that a command can be interrupted in, once and twice: after any step, and with the answer of any lost.
fn interrupted(start: &Found, plan: impl Fn(&Found) -> Result<Vec<Step>, Refusal>) -> Vec<Found> {
    let mut all = vec![start.clone()];
    for round in 0..2 {
        for state in all.clone() {
            let steps = plan(&state).unwrap_or_else(|refusal| panic!("round {round}, {state:?}: {refusal:?}"));
            for at in 0..steps.len() {
                for lost in [false, true] {
                    let mut model = Model::of(state.clone());
                    // Names of keys are never used again.
                    model.keys_made = 10 * (round + 1) + state.keys.len();
                    model.all(&steps[..at]);
                    model.done(&steps[at], lost);
                    if !all.contains(&model.found) {
                        all.push(model.found);
                    }
                }
            }
        }
    }
    all
}

#[test]
fn a_tenant_is_made_in_this_order() {
    assert_eq!(
        create(&nothing(), false).unwrap(),
        [
            Step::CreateBucket,
            Step::MarkBucket,
            Step::CreatePolicy,
            Step::CreateDatabase,
            Step::CreateKey,
            Step::AttachPolicy(None),
            Step::MintToken,
            Step::TryOut,
            Step::PlaceBundle
        ]
    );
}

#[test]
fn create_goes_on_after_any_interruption() {
    // A bucket without its marker may be anybody's: that one state needs --adopt.
    let adopt = |found: &Found| found.owner == Owner::Unmarked;
    let states = interrupted(&nothing(), |found| create(found, adopt(found)));
    assert!(states.len() > 15, "{}", states.len());
    for state in states {
        assert_eq!(create(&state, false).is_err(), adopt(&state));
        let steps = create(&state, adopt(&state)).unwrap();
        let mut model = Model::of(state.clone());
        model.keys_made = 50;
        model.all(&steps);
        assert!(is_complete(&model.found), "{state:?} → {steps:?} → {:?}", model.found);
        assert_eq!(model.found.keys.len(), 1, "no key is left over: {state:?}");
        assert_eq!(model.found.pending, None);
    }
}

#[test]
fn rotate_goes_on_after_any_interruption_and_the_old_key_works_throughout() {
    let before = complete();
    let old = before.bundle.clone().unwrap().key;
    for state in interrupted(&before, |found| rotate(found, false, false)) {
        let opens = |found: &Found, id: &str| found.keys.iter().any(|key| key.id == id && key.attached);
        assert!(opens(&state, &old), "{state:?}");
        let mut model = Model::of(state.clone());
        model.keys_made = 50;
        model.all(&rotate(&state, false, false).unwrap());
        let new = model.found.bundle.clone().unwrap().key;
        assert!(new != old && opens(&model.found, &new) && opens(&model.found, &old));
        let steps = finish(&model.found).unwrap();
        model.all(&steps);
        assert_eq!(model.found.keys.len(), 1, "{:?}", model.found);
        assert!(is_complete(&model.found));
        assert_eq!(finish(&model.found).unwrap(), []);
    }
}

/// Once the tokens have ended, the bundle in its place is refused until there is another: by `rotate` or by `create`.
#[test]
fn ended_tokens_are_replaced_after_any_interruption() {
    let before = complete();
    let states = interrupted(&before, |found| rotate(found, false, true));
    assert!(
        states
            .iter()
            .any(|state| state.bundle.as_ref().is_some_and(|held| !held.token))
    );
    type Plan = fn(&Found) -> Result<Vec<Step>, Refusal>;
    let again: [Plan; 2] = [|found| rotate(found, false, false), |found| create(found, false)];
    for state in states {
        for plan in again {
            let mut model = Model::of(state.clone());
            model.keys_made = 50;
            model.all(&plan(&state).unwrap());
            assert!(model.found.bundle.clone().unwrap().token, "{state:?}");
            assert!(create(&model.found, false).unwrap().is_empty(), "{:?}", model.found);
        }
    }
}

#[test]
fn a_bundle_that_is_refused_is_made_anew() {
    let mut found = complete();
    found.bundle.as_mut().unwrap().refused = true;
    for state in interrupted(&found, |found| create(found, false)) {
        let mut model = Model::of(state.clone());
        model.keys_made = 50;
        model.all(&create(&state, false).unwrap());
        let held = model.found.bundle.clone().unwrap();
        assert!(
            is_complete(&model.found) && !held.refused && held.key != "key1",
            "{state:?}"
        );
        assert!(
            model.found.keys.iter().any(|key| key.id == "key1"),
            "it may be in use elsewhere"
        );
    }
    assert!(finish(&found).is_err(), "the others may be the ones in use");
    // Before it has the policy every key is refused.
    found.keys[0].attached = false;
    let attach = Step::AttachPolicy(Some("key1".to_owned()));
    assert_eq!(create(&found, false).unwrap(), [attach]);
    let mut found = complete();
    found.bundle.as_mut().unwrap().token = false;
    assert!(create(&found, false).unwrap().contains(&Step::MintToken));
}

/// What the service did not say is no reason to delete a key.
#[test]
fn in_doubt_no_key_is_deleted() {
    let mut found = complete();
    found.keys.push(Key {
        id: "lost".to_owned(),
        attached: false,
        ours: true,
        settled: true,
    });
    let gone = Step::DeleteKey("lost".to_owned());
    let plans = |found: &Found| [create(found, false).unwrap(), rotate(found, false, false).unwrap()];
    assert!(plans(&found).iter().all(|steps| steps.last() == Some(&gone)));
    found.doubt = Some("the numbers disagree".to_owned());
    assert!(plans(&found).iter().all(|steps| !steps.contains(&gone)));
    assert_eq!(found.unusable().len(), 1, "so that it can be said");
}

#[test]
fn a_refusal_for_the_marker_says_how_a_leaked_key_ends() {
    let mut found = complete();
    for owner in [Owner::Other("the tenant \"x\"".to_owned()), Owner::Unmarked] {
        found.owner = owner;
        for refusal in [
            rotate(&found, true, false).unwrap_err(),
            delete(&found, true, false).unwrap_err(),
        ] {
            let error = refusal.into_error("deleting".to_owned(), "tenant-acme-tenant-provision");
            assert!(
                error
                    .todo
                    .contains("delete the keys called tenant-acme-tenant-provision"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_rotation_that_was_begun_is_gone_on_with_by_rotate_and_left_alone_by_create_and_finish() {
    let mut found = complete();
    let mut model = Model::of(found.clone());
    model.keys_made = 5;
    let steps = rotate(&found, false, false).unwrap();
    model.all(&steps[..2]);
    found = model.found;
    assert_eq!(create(&found, false).unwrap(), []);
    assert!(finish(&found).is_err());
    let rest = [Step::MintToken, Step::TryOut, Step::PlaceBundle];
    assert_eq!(rotate(&found, false, false).unwrap(), rest);
}

#[test]
fn revoking_comes_after_the_new_bundle() {
    let found = complete();
    let steps = rotate(&found, true, false).unwrap();
    let at = |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap();
    assert!(at(&Step::PlaceBundle) < at(&Step::DeleteKey("key1".to_owned())));
    for state in interrupted(&found, |found| rotate(found, true, false)) {
        let works = state.bundle.as_ref().and_then(|held| state.key(held));
        assert!(
            works.is_some_and(|key| key.attached),
            "the bundle in its place works: {state:?}"
        );
    }
}

#[test]
fn tokens_end_before_the_new_one_is_made() {
    let steps = rotate(&complete(), false, true).unwrap();
    let at = |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap();
    assert!(at(&Step::InvalidateTokens) < at(&Step::MintToken));
    assert!(
        !rotate(&complete(), false, false)
            .unwrap()
            .contains(&Step::InvalidateTokens)
    );
    // A token that is pending may be one of those that end.
    let mut begun = complete();
    begun.pending = begun.bundle.clone();
    assert!(rotate(&begun, false, true).unwrap().contains(&Step::MintToken));
}

#[test]
fn delete_goes_on_after_any_interruption() {
    let mut found = complete();
    found.files = true;
    found.keys.push(Key {
        id: "by hand".to_owned(),
        attached: true,
        ours: false,
        settled: true,
    });
    assert!(delete(&found, false, false).is_err(), "files");
    let steps = delete(&found, true, false).unwrap();
    let at = |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap();
    assert!(at(&Step::CheckDetached) < at(&Step::DeleteFiles).min(at(&Step::DeleteDatabase)));
    for state in interrupted(&found, |found| delete(found, true, false)) {
        let mut model = Model::of(state.clone());
        model.all(&delete(&state, true, false).unwrap());
        assert_eq!(delete(&model.found, false, false).unwrap(), [], "{state:?}");
        assert_eq!(model.found.owner, Owner::Missing);
    }
}

/// A key with the policy may be in use; one without never was.
#[test]
fn create_without_the_bundle_makes_a_new_key_and_leaves_the_one_in_use() {
    let mut found = complete();
    found.bundle = None;
    found.keys.push(Key {
        id: "lost".to_owned(),
        attached: false,
        ours: true,
        settled: true,
    });
    let steps = create(&found, false).unwrap();
    assert_eq!(steps[0], Step::CreateKey);
    assert_eq!(
        steps[steps.len() - 2..],
        [Step::PlaceBundle, Step::DeleteKey("lost".to_owned())]
    );
    assert!(!steps.contains(&Step::DeleteKey("key1".to_owned())), "{steps:?}");
    assert!(finish(&found).is_err(), "nobody knows which one is in use");
    found.keys[1].settled = false;
    let last = Some(Step::PlaceBundle);
    assert_eq!(
        create(&found, false).unwrap().pop(),
        last,
        "it may have got the policy just now"
    );
}

#[test]
fn a_bundle_whose_key_or_database_is_gone_is_made_anew() {
    let mut found = complete();
    found.keys.clear();
    assert_eq!(create(&found, false).unwrap()[0], Step::CreateKey);
    let mut found = complete();
    found.database = false;
    let steps = create(&found, false).unwrap();
    assert!(steps.contains(&Step::CreateDatabase) && steps.contains(&Step::MintToken));
    let mut found = complete();
    found.keys[0].attached = false;
    assert_eq!(
        create(&found, false).unwrap(),
        [Step::AttachPolicy(Some("key1".to_owned()))]
    );
}

#[test]
fn what_belongs_to_others_is_not_touched() {
    type Change = fn(&mut Found);
    let strange: [(Change, bool); 5] = [
        (|found| found.owner = Owner::Other("tenant other".to_owned()), false),
        (|found| found.owner = Owner::Unmarked, true),
        (|found| found.owner = Owner::Missing, true),
        (|found| found.policy = Allows::Else, false),
        (
            |found| {
                *found = nothing();
                found.database = true;
            },
            true,
        ),
    ];
    let mut empty = nothing();
    empty.owner = Owner::Unmarked;
    assert!(
        create(&empty, false).is_err() && create(&empty, true).is_ok(),
        "an empty bucket is somebody's, too"
    );
    for (change, adoptable) in strange {
        let mut found = complete();
        change(&mut found);
        assert!(create(&found, false).is_err(), "{found:?}");
        assert!(delete(&found, true, false).is_err(), "{found:?}");
        assert!(
            rotate(&found, true, true).is_err() && finish(&found).is_err(),
            "{found:?}"
        );
        assert_eq!(create(&found, true).is_ok(), adoptable, "{found:?}");
        assert_eq!(delete(&found, true, true).is_ok(), adoptable, "{found:?}");
    }
}

#[test]
fn a_key_that_was_made_by_hand_is_never_deleted() {
    let mut found = complete();
    found.keys.push(Key {
        id: "by hand".to_owned(),
        attached: true,
        ours: false,
        settled: true,
    });
    let gone = Step::DeleteKey("by hand".to_owned());
    assert!(!rotate(&found, true, false).unwrap().contains(&gone));
    assert!(!finish(&found).unwrap().contains(&gone));
    let steps = delete(&found, false, false).unwrap();
    assert!(!steps.contains(&gone) && steps.contains(&Step::DetachPolicy("by hand".to_owned())));
}
