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

    fn put(&self, n: usize, word: u64) {
        let mut state = self.0.lock();
        state.words[n] = word;
        if let Some(vcpu) = &state.on {
            vcpu.publish(n, word);
        }
    }
}

impl Answers for Published {
    fn publish(&self, answer: Answer, value: Option<u32>) {
        let word = value.map_or(0, |value| VALID | u64::from(value));
        self.put(answer as usize, word);
    }

    fn answer_other_calls(&self, how: InPlace) {
        let word = match how {
            InPlace::Answer => VALID,
            InPlace::Never => 0,
        };
        self.put(OTHER, word);
    }
}
