//! The hand-over protocols, run through their interleavings by `loom`.
//!
//! What is here states the protocols once more, step by step and in the words and constants of
//! `shared`; a change of what is mirrored is a change here. The state machine of kicks is not
//! mirrored: it is the real one.
//!
//! | here         | mirrors                                                                      |
//! |--------------|------------------------------------------------------------------------------|
//! | [`machine`]  | the host: words as x86-64 has them, futexes, event descriptors, signals      |
//! | [`stub`]     | `code`: publish, wait, exit, and its handler where it meets a kick           |
//! | [`handover`] | `worker`: wait, stopped, hand_over, take_over, ring; `context`: resume       |
//! | [`kicks`]    | `context`: resume, fp_place; `common::kick` itself                           |
//! | [`changes`]  | `common::changes`, `space`: push, pending, carrying; `context`: resume's loop |
//! | [`mapper`]   | `process`: order, post, await_done, settled; `code`: mapper, state MAP       |
//!
//! No timeout of the Sentry's waits is mirrored, so a wake that is lost is a deadlock, which loom
//! reports. Whoever is left out of a protocol's rules on purpose ([`Break`]) must be found out:
//! every rule has a test that the model fails without it.
//!
//! Not covered: answers in place, births, deaths of stubs, and a guest that writes its area while
//! the Sentry waits. What the Sentry does with a hostile state is bounded by construction: it
//! compares it with constants, once a look; the waits for a change of a word that guest code may
//! write (`fp_place`, `await_done`, `Stub::thread`) end at a deadline.

mod changes;
mod handover;
mod kicks;
mod machine;
mod mapper;
mod stub;

/// What is left out of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Nothing,
    /// The worker sleeps without another look after saying so.
    NoSecondLook,
    /// The worker to ring is set when the other one may already have the context.
    BellAfterWatch,
    /// Whoever hands over does not look whether it stopped meanwhile.
    NoLookAfterHandOver,
    /// Whoever resumes a context for another worker does not ring it.
    NoRingAfterWatch,
    /// A dropped context ends the look for others.
    DroppedEndsLook,
    /// The stub looks for a sleeping worker before it publishes.
    BellBeforeState,
    /// The Sentry does not wake a parked thread.
    NoWake,
    /// A kick that finds the handler of another is not noted.
    KickInHandlerIgnored,
    /// A kick is not sent again with the answer.
    NoRepeat,
    /// A kick that finds the thread leaving is ignored.
    KickInExitIgnored,
    /// A kick that finds the thread waiting with its answer there is ignored.
    KickWithAnswerIgnored,
    /// A kick that finds the thread waiting for its mapper is ignored.
    KickWhileMappingIgnored,
    /// A kicked context at rest runs.
    RestKickForgotten,
    /// The stub does not wake the Sentry after it wrote down FP state.
    NoWakeAfterSave,
    /// Changes are not looked for once more after `Kick::start`.
    NoSecondPending,
    /// Changes are announced after the contexts that run were kicked.
    ShootDownFirst,
    /// Changes count as in force when they are taken from the queue.
    PendingClearedEarly,
    /// Changes are carried out by several threads at once.
    NoCarryingLock,
    /// The Sentry sleeps until an order is done and does not say so.
    NoWaiter,
    /// The mapper looks for a sleeper, and then says that the order is done.
    DoneAfterWaiter,
    /// The mapper is not woken.
    OrderWithoutWake,
    /// A mapper that sleeps is taken for done, though nobody has woken it for its order.
    SleeperIsDone,
    /// A thread that its mapper will let go on sleeps and still says that it looks.
    SleepsLooking,
    /// An order is written while the last one may be being carried out.
    NoQuiet,
}

/// Checks all interleavings with so many preemptions, or as many as LOOM_MAX_PREEMPTIONS says.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;

    builder.check(model);
}

/// Checks that the model fails.
fn fails(what: Break, preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check(preemptions, model);
    }));
    assert!(checked.is_err(), "{what:?} was not noticed");
}
