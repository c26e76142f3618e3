//! Datagrams that wait for the guest to read them: bounded, and one that was lost is told.

use std::collections::VecDeque;

use crate::errno::Errno;
use crate::net::buffer::Pool;

/// What a datagram costs besides its bytes.
const OVERHEAD: usize = 256;

#[derive(Clone)]
pub struct Datagram {
    /// The port it is from; 0 is the kernel.
    pub from: u32,
    /// The multicast group that it was for; 0: for this socket alone.
    pub group: u32,
    pub data: Vec<u8>,
}

impl Datagram {
    fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct Queue {
    datagrams: VecDeque<Datagram>,
    /// What they cost.
    cost: usize,
    /// One was lost: nothing more is taken until all is read, so that the reader learns of the gap
    /// at one place.
    congested: bool,
    /// What the next receive or SO_ERROR says.
    pub error: Option<Errno>,
    /// How many were lost.
    pub drops: u32,
    /// NETLINK_NO_ENOBUFS: losses are only counted.
    pub no_enobufs: bool,
    closed: bool,
}

impl Queue {
    /// Takes a datagram, or counts it as lost, with `room` for all of them.
    pub fn push(&mut self, datagram: Datagram, room: usize, pool: &Pool) {
        if self.closed {
            return;
        }
        let cost = datagram.cost();
        // One alone always has room, if the stack has.
        let full = self.congested || (self.cost + cost > room && !self.datagrams.is_empty());
        if !full && pool.charge(cost) {
            self.cost += cost;
            self.datagrams.push_back(datagram);
            return;
        }
        self.drops = self.drops.saturating_add(1);
        if !self.no_enobufs && !self.congested {
            self.error = Some(Errno::ENOBUFS);
            self.congested = !self.datagrams.is_empty();
        }
    }

    pub fn front(&self) -> Option<&Datagram> {
        self.datagrams.front()
    }

    pub fn pop(&mut self, pool: &Pool) -> Option<Datagram> {
        let datagram = self.datagrams.pop_front()?;
        self.cost -= datagram.cost();
        pool.uncharge(datagram.cost());
        self.congested &= !self.datagrams.is_empty();
        Some(datagram)
    }

    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes, as Linux accounts for them.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Nothing is taken any more.
    pub fn close(&mut self, pool: &Pool) {
        self.datagrams.clear();
        pool.uncharge(std::mem::take(&mut self.cost));
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(len: usize) -> Datagram {
        Datagram {
            from: 0,
            group: 1,
            data: vec![0; len],
        }
    }

    #[test]
    fn after_a_loss_nothing_comes_until_all_is_read() {
        let pool = Pool::default();
        for no_enobufs in [false, true] {
            let mut queue = Queue {
                no_enobufs,
                ..Queue::default()
            };
            let room = 3 * (100 + OVERHEAD);
            (0..5).for_each(|_| queue.push(datagram(100), room, &pool));
            assert_eq!(queue.drops, 2);
            let told = (!no_enobufs).then_some(Errno::ENOBUFS);
            assert_eq!(queue.error.take(), told);
            assert!(queue.pop(&pool).is_some());
            // There is room again.
            queue.push(datagram(100), room, &pool);
            assert_eq!(queue.drops, if no_enobufs { 2 } else { 3 });
            // That one is told once.
            assert_eq!(queue.error, None);
            while queue.pop(&pool).is_some() {}
            queue.push(datagram(100), room, &pool);
            assert!(queue.front().is_some());
            queue.close(&pool);
            queue.push(datagram(100), room, &pool);
            assert!(queue.is_empty() && queue.cost() == 0);
        }
    }

    #[test]
    fn one_alone_has_room() {
        let pool = Pool::default();
        let mut queue = Queue::default();
        queue.push(datagram(1000), 10, &pool);
        queue.push(datagram(1), 10, &pool);
        assert_eq!((queue.cost(), queue.drops), (1000 + OVERHEAD, 1));
    }
}
