//! The plans against a model of the services that can be interrupted after any step, and in the middle of one.

use super::*;

fn nothing() -> Found {
    Found {
        owner: Owner::Missing,
        files: false,
        policy: Allows::Missing,
        keys: vec![],
        database: false,
        pending: None,
        bundle: None,
    }
}

/// What the services and the disk are like, and what must never happen to them.
struct Model {
    found: Found,
    keys_made: usize,
    /// A token that was made after the last `InvalidateTokens` is in the pending file.
    tokens_end: usize,
    tried: bool,
}

impl Model {
    fn of(found: Found) -> Model {
        Model {
            found,
            keys_made: 0,
            tokens_end: 0,
            tried: false,
        }
    }

    /// `lost`: the service has done it, and the answer never came.
    fn done(&mut self, step: &Step, lost: bool) {
        let found = &mut self.found;
        match step {
            Step::CreateBucket => found.owner = Owner::Unmarked { empty: true },
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
                    found.pending = Some(Held { key: id, token: false });
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
            Step::InvalidateTokens => self.tokens_end += 1,
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
    let states = interrupted(&nothing(), |found| create(found, false));
    assert!(states.len() > 15, "{}", states.len());
    for state in states {
        let steps = create(&state, false).unwrap();
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
    assert_eq!(steps[..2], [Step::DeleteKey("lost".to_owned()), Step::CreateKey]);
    assert!(!steps.contains(&Step::DeleteKey("key1".to_owned())), "{steps:?}");
    assert!(finish(&found).is_err(), "nobody knows which one is in use");
    found.keys[1].settled = false;
    assert_eq!(
        create(&found, false).unwrap()[0],
        Step::CreateKey,
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
    let strange: [(Change, bool); 6] = [
        (|found| found.owner = Owner::Other("tenant other".to_owned()), false),
        (|found| found.owner = Owner::Unmarked { empty: false }, true),
        (|found| found.owner = Owner::Unmarked { empty: true }, true),
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
