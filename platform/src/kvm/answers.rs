//! What a guest thread's calls are answered with in ring 0: words of its own, and a copy of them where
//! its vCPU's entries look.

use std::sync::Arc;

use parking_lot::Mutex;

use super::entries::{VALID, WORDS};
use super::vcpu::Vcpu;
use crate::{Answer, Answers, InPlace};

/// The last word: for calls without a value.
const OTHER: usize = WORDS - 1;

pub(super) struct Published(Mutex<State>);

struct State {
    words: [u64; WORDS],
    /// Where the thread runs.
    on: Option<Arc<Vcpu>>,
}

impl Published {
    pub fn new() -> Published {
        let mut words = [0; WORDS];
        words[OTHER] = VALID;
        Published(Mutex::new(State { words, on: None }))
    }

    /// Whatever was published for another thread there is gone.
    pub fn runs_on(&self, vcpu: Option<Arc<Vcpu>>) {
        let mut state = self.0.lock();
        if let Some(vcpu) = &vcpu {
            for (n, word) in state.words.iter().enumerate() {
                vcpu.publish(n, *word);
            }
        }
        state.on = vcpu;
    }

    fn put(&self, n: usize, word: impl FnOnce(u64) -> u64) {
        let mut state = self.0.lock();
        let word = word(state.words[n]);
        state.words[n] = word;
        if let Some(vcpu) = &state.on {
            vcpu.publish(n, word);
        }
    }
}

impl Answers for Published {
    fn publish(&self, answer: Answer, value: Option<u32>) {
        // Ring 0 looks at VALID and then at the value: a thread between the two is told what was true
        // just before.
        self.put(answer as usize, |old| match value {
            Some(value) => VALID | u64::from(value),
            None => old & !VALID,
        });
    }

    fn answer_other_calls(&self, how: InPlace) {
        let word = match how {
            InPlace::Answer => VALID,
            InPlace::Never => 0,
        };
        self.put(OTHER, |_| word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withdrawn_is_still_no_other_value() {
        let published = Published::new();
        published.publish(Answer::Getuid, Some(1000));
        published.publish(Answer::Getuid, None);
        let word = published.0.lock().words[Answer::Getuid as usize];
        assert_eq!((word & VALID, word as u32), (0, 1000));
    }
}
