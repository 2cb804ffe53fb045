//! The queue between requests and the worker threads.
//!
//! Jobs leave in the order they came. The queue has no capacity of its own: every job belongs to a request that holds
//! one of the engine's `engine.queue_capacity` slots.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use prometheus::IntGauge;

/// A queue that can be closed. Consumers block until a job comes.
#[derive(Debug)]
pub struct JobQueue<T> {
    state: Mutex<State<T>>,
    /// Wakes consumers when a job arrives or the queue closes.
    changed: Condvar,
    /// Shows the number of waiting jobs.
    depth: IntGauge,
}

#[derive(Debug)]
struct State<T> {
    jobs: VecDeque<T>,
    closed: bool,
}

impl<T> JobQueue<T> {
    /// Creates an empty, open queue. `depth` always shows the number of waiting jobs.
    pub fn new(depth: IntGauge) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
            depth,
        }
    }

    /// Adds a job at the end.
    ///
    /// # Errors
    /// Gives the job back when the queue is closed.
    pub fn push(&self, job: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.depth.set(state.jobs.len() as i64);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job and takes the oldest one. Returns `None` once the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                self.depth.set(state.jobs.len() as i64);
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .expect("no consumer panics while it holds the lock");
        }
    }

    /// Returns how many waiting jobs satisfy `matches`.
    pub fn count(&self, matches: impl Fn(&T) -> bool) -> usize {
        self.lock().jobs.iter().filter(|job| matches(job)).count()
    }

    /// Takes the oldest waiting jobs that satisfy `matches`, at most `most`. Never waits.
    pub fn take(&self, most: usize, matches: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        let (jobs, depth) = (&mut state.jobs, &self.depth);
        let mut place = 0;
        while taken.len() < most && place < jobs.len() {
            if matches(&jobs[place]) {
                taken.extend(jobs.remove(place));
            } else {
                place += 1;
            }
        }
        depth.set(jobs.len() as i64);
        taken
    }

    /// Refuses further jobs. Jobs that wait already are still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nobody panics while holding the lock")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn queue() -> JobQueue<u32> {
        JobQueue::new(IntGauge::new("depth", "test").expect("a valid name"))
    }

    #[test]
    fn jobs_leave_in_the_order_they_came_and_depth_follows() {
        let queue = queue();
        queue.push(1).expect("open");
        queue.push(2).expect("open");
        assert_eq!(queue.depth.get(), 2);
        assert_eq!((queue.pop(), queue.pop()), (Some(1), Some(2)));
        assert_eq!(queue.depth.get(), 0);
    }

    #[test]
    fn jobs_of_a_kind_are_taken_oldest_first_and_others_keep_their_places() {
        let queue = queue();
        for job in 1..=6 {
            queue.push(job).expect("open");
        }
        let is_even = |job: &u32| job.is_multiple_of(2);
        assert_eq!(queue.count(is_even), 3);
        assert_eq!(queue.take(2, is_even), [2, 4]);
        assert_eq!(queue.depth.get(), 4);
        assert_eq!([(); 4].map(|()| queue.pop()), [1, 3, 5, 6].map(Some));
        assert_eq!(queue.take(2, is_even), [0; 0]);
    }

    #[test]
    fn a_closed_queue_hands_out_what_waits_and_takes_no_more() {
        let queue = queue();
        queue.push(1).expect("open");
        queue.close();
        assert_eq!(queue.push(2), Err(2));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
    }

    #[test]
    fn closing_wakes_a_waiting_consumer() {
        let queue = Arc::new(queue());
        let consumer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.pop()
        });
        queue.close();
        assert_eq!(consumer.join().expect("the consumer does not panic"), None);
    }
}
