//! Event streams of operations: every history of states, watched by a client that is cut off and reconnects at any point.

use crate::operations_common;

use operations_common::*;
use penstock_core::OperationId;
use penstock_policy::operations::events::{Opening, Step, due, is_over, open};
use penstock_policy::operations::words::{Abandoned, OperationState};
use proptest::prelude::*;

/// One moment in the life of an operation: its state and its epoch.
type Moment = (OperationState, u32);

/// The histories of operations: each has some epochs, in each of which it may run, and an end.
fn history() -> impl Strategy<Value = Vec<Moment>> {
    let end = prop_oneof![
        Just(OperationState::Succeeded),
        Just(OperationState::Failed),
        Just(OperationState::Cancelled),
    ];
    // An end may count in an earlier epoch than the last one.
    (
        proptest::collection::vec(any::<bool>(), 1..5),
        end,
        1..5_u32,
    )
        .prop_map(|(epochs, end, counted)| {
            let mut history = Vec::new();
            for (epoch, runs) in (1..).zip(epochs) {
                history.push((OperationState::Queued, epoch));
                if runs {
                    history.push((OperationState::Running, epoch));
                }
            }
            history.push((end, counted));
            history
        })
}

/// One thing that happens to a stream.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// The operation reaches its next state.
    Next,
    /// The stream looks at the operation.
    Look,
    /// The connection breaks, and the client reconnects with the id of the last event that it has.
    Cut,
    /// The same for an event that was sent and did not arrive.
    Lose,
    /// The client begins anew, without an id, or with one that is none.
    Forget(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => Just(Happening::Next),
        4 => Just(Happening::Look),
        2 => Just(Happening::Cut),
        1 => Just(Happening::Lose),
        1 => any::<bool>().prop_map(Happening::Forget),
    ]
}

/// A client, and the connection that it has.
#[derive(Default)]
struct Client {
    /// The id of the last event that arrived.
    last: Option<String>,
    /// The step that the host keeps for the open stream; `None` for no stream.
    stream: Option<Option<Step>>,
    /// The steps that arrived on this connection.
    arrived: Vec<Step>,
    /// Whether it was told to ask no more.
    is_over: bool,
}

impl Client {
    fn connect(&mut self, present: Step, id: &OperationId) -> Result<(), TestCaseError> {
        self.arrived.clear();
        let last = (self.last.as_deref()).and_then(|last| Step::parse(last, id));
        match open(present, last) {
            Opening::Over => {
                prop_assert_eq!(last, Some(Step::ENDED));
                self.stream = None;
                self.is_over = true;
            }
            Opening::After(sent) => {
                // Events up to the named one are not sent again.
                if last.is_some_and(|last| last <= present) {
                    prop_assert_eq!(sent, last);
                }
                self.stream = Some(sent);
                self.look(present, id, true)?;
            }
        }
        Ok(())
    }

    fn look(
        &mut self,
        present: Step,
        id: &OperationId,
        arrives: bool,
    ) -> Result<(), TestCaseError> {
        let Some(sent) = self.stream else {
            return Ok(());
        };
        let event = due(present, sent);
        if let Some(step) = event {
            prop_assert!(sent.is_none_or(|sent| sent < step));
            if arrives {
                prop_assert!(self.arrived.last().is_none_or(|last| *last < step));
                self.arrived.push(step);
                self.last = Some(step.id(id));
            }
        }
        // After each look, the client has what is true now, or was told of it before.
        if arrives {
            let known = self.last.as_deref().and_then(|last| Step::parse(last, id));
            prop_assert_eq!(known, Some(present));
        }
        self.stream = match is_over(present) {
            true => None,
            false => Some(event.or(sent)),
        };
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_client_that_reconnects_at_any_point_learns_each_state_that_still_holds_and_the_end_once(
        history in history(),
        happenings in proptest::collection::vec(happening(), 0..40),
    ) {
        let id = OperationId::generate(NOW_MS, 7);
        let steps: Vec<Step> = history.iter().map(|(state, epoch)| Step::at(*state, *epoch)).collect();
        prop_assert!(steps.is_sorted_by(|a, b| a < b));
        let mut at = 0;
        let mut client = Client::default();
        client.connect(steps[0], &id)?;
        let all = happenings.into_iter().chain(
            // At last the operation ends, and the client asks until it is told to stop.
            (0..steps.len()).map(|_| Happening::Next).chain([Happening::Look, Happening::Cut, Happening::Cut]),
        );
        for happening in all {
            let present = steps[at];
            match happening {
                Happening::Next => at = (at + 1).min(steps.len() - 1),
                Happening::Look => client.look(present, &id, true)?,
                Happening::Cut => client.connect(present, &id)?,
                Happening::Lose => {
                    client.look(present, &id, false)?;
                    client.connect(present, &id)?;
                }
                Happening::Forget(garbled) => {
                    client.last = garbled.then(|| format!("{id}.x"));
                    client.is_over = false;
                    client.connect(present, &id)?;
                }
            }
            let ends = client.arrived.iter().filter(|step| **step == Step::ENDED).count();
            prop_assert!(ends <= 1);
        }
        prop_assert!(client.is_over, "{:?}", client.last);
    }

    #[test]
    fn any_text_is_an_id_or_none(text in "\\PC{0,60}") {
        let id = OperationId::generate(NOW_MS, 7);
        if let Some(step) = Step::parse(&text, &id) {
            prop_assert_eq!(&step.id(&id), &text);
        }
        let text = format!("{id}.{text}");
        if let Some(step) = Step::parse(&text, &id) {
            prop_assert_eq!(&step.id(&id), &text);
        }
    }
}

#[test]
fn the_steps_of_a_stored_operation_only_grow_through_lost_workers_stops_and_retries() {
    let mut world = World::new();
    let id = world.new_one();
    let mut seen = vec![Step::of(&world.get(&id, NOW_MS))];
    assert_eq!(seen, [Step::at(OperationState::Queued, 1)]);
    let mut look = |world: &World, now_ms: u64| {
        let step = Step::of(&world.get(&id, now_ms));
        assert!(seen.last() < Some(&step), "{seen:?} {step:?}");
        seen.push(step);
    };
    // A worker dies.
    world.run(&id, "dead", NOW_MS);
    look(&world, NOW_MS);
    let now_ms = NOW_MS + LEASE_MS;
    look(&world, now_ms);
    // The host of the next one stops, which counts no attempt.
    let run = world.run(&id, "stops", now_ms);
    assert_eq!(run.epoch, 2);
    look(&world, now_ms);
    world.abandon(&id, "stops", Abandoned::Stopping, now_ms);
    look(&world, now_ms);
    // The model has no room for the third.
    let run = world.run(&id, "refused", now_ms);
    look(&world, now_ms);
    let again_ms = world.give_back(&id, &run, now_ms);
    look(&world, now_ms);
    // The last one ends.
    let run = world.run(&id, "last", again_ms);
    look(&world, again_ms);
    assert!(world.complete(&id, &run, success(b"result"), again_ms));
    look(&world, again_ms);
    assert_eq!(seen.last(), Some(&Step::ENDED));
}
