//! The queue between requests and the worker threads.
//!
//! Jobs leave by their [`Turn`]. Among jobs of one turn, callers take turns, and the jobs of one caller leave in the order
//! they came. The queue has no capacity of its own: an
//! image's job counts against `engine.work_bytes`, and texts against `engine.max_waiting_texts`. While nobody can work,
//! the queue refuses jobs, so that none waits for work that may never come.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;

use super::caller::Caller;
use crate::support::lock;

/// Images that may go before waiting texts, one after the other. Then a chunk of texts gets its turn, so that texts are
/// delayed by a stream of images and not starved.
const IMAGES_IN_A_ROW: usize = 8;

/// When a waiting job gets its turn. The smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Nobody waits for the job, so it costs nothing to be rid of it and frees what it holds.
    Unwanted,
    /// An image.
    Image,
    /// Texts that a request waits for.
    Texts,
    /// Texts that are embedded ahead.
    TextsAhead,
}

/// A job that knows its turn.
pub trait Queued {
    /// Returns the job's turn, which may change while it waits.
    fn turn(&self) -> Turn;

    /// Returns whose job it is.
    fn caller(&self) -> &Caller;
}

/// A queue that can be closed. Consumers block until a job comes.
#[derive(Debug)]
pub struct JobQueue<T> {
    state: Mutex<State<T>>,
    /// Wakes consumers when a job arrives or the queue closes.
    changed: Condvar,
    /// Wakes those who wait for the queue to close. Jobs do not wake them: a job's one wake-up belongs to a consumer.
    closing: Condvar,
    /// Shows the number of waiting jobs.
    depth: IntGauge,
}

#[derive(Debug)]
struct State<T> {
    jobs: VecDeque<T>,
    /// Whether jobs are refused until [`JobQueue::accept`].
    refuses: bool,
    closed: bool,
    /// Images that were taken since the last texts.
    images_in_a_row: usize,
}

impl<T: Queued> State<T> {
    /// Takes the job whose turn it is.
    fn next(&mut self) -> Option<T> {
        let turns = self.jobs.iter().enumerate();
        let turns: Vec<(usize, Turn, u64)> = turns
            .map(|(place, job)| (place, job.turn(), job.caller().latest_turn()))
            .collect();
        // Whose caller has waited longest goes first. Among equals, that is the oldest job.
        type Place = (usize, Turn, u64);
        let first = |turns: &mut dyn Iterator<Item = Place>| turns.min_by_key(|&(_, turn, latest)| (turn, latest));
        let mut next = first(&mut turns.iter().copied())?;
        if next.1 == Turn::Image && self.images_in_a_row >= IMAGES_IN_A_ROW {
            let mut texts = turns.iter().copied().filter(|&(_, turn, _)| turn > Turn::Image);
            next = first(&mut texts).unwrap_or(next);
        }
        match next.1 {
            Turn::Unwanted => {}
            Turn::Image => self.images_in_a_row += 1,
            Turn::Texts | Turn::TextsAhead => self.images_in_a_row = 0,
        }
        let job = self.jobs.remove(next.0)?;
        if next.1 != Turn::Unwanted {
            job.caller().has_turn();
        }
        Some(job)
    }
}

impl<T: Queued> JobQueue<T> {
    /// Creates an empty, open queue. `depth` always shows the number of waiting jobs.
    pub fn new(depth: IntGauge) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                refuses: false,
                closed: false,
                images_in_a_row: 0,
            }),
            changed: Condvar::new(),
            closing: Condvar::new(),
            depth,
        }
    }

    /// Adds a job at the end.
    ///
    /// # Errors
    /// Gives the job back when the queue is closed or refuses jobs.
    pub fn push(&self, job: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.refuses {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.depth.set(state.jobs.len() as i64);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job and takes the one whose turn it is. Returns `None` once the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.next() {
                self.depth.set(state.jobs.len() as i64);
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns how many jobs wait.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
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

    /// Puts jobs that a consumer took, but could not do, back before all others. Their order stays. They come back even
    /// if the queue has been closed in the meantime.
    pub fn put_back(&self, jobs: impl DoubleEndedIterator<Item = T>) {
        let mut state = self.lock();
        for job in jobs.rev() {
            state.jobs.push_front(job);
        }
        self.depth.set(state.jobs.len() as i64);
        drop(state);
        self.changed.notify_all();
    }

    /// Refuses further jobs until [`JobQueue::accept`]. Returns those that wait.
    pub fn refuse(&self) -> Vec<T> {
        let mut state = self.lock();
        state.refuses = true;
        self.depth.set(0);
        state.jobs.drain(..).collect()
    }

    /// Takes jobs again after [`JobQueue::refuse`].
    pub fn accept(&self) {
        self.lock().refuses = false;
    }

    /// Refuses further jobs for good. Jobs that wait already are still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.closing.notify_all();
    }

    /// Returns whether the queue is closed, at the latest when `limit` has passed.
    pub fn is_closed_within(&self, limit: Duration) -> bool {
        let closing = self
            .closing
            .wait_timeout_while(self.lock(), limit, |state| !state.closed);
        let (state, _) = closing.unwrap_or_else(PoisonError::into_inner);
        state.closed
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use super::super::caller::Callers;
    use super::*;

    /// Jobs below 100 are images, those below 200 texts, those below 300 texts ahead. They have the caller without a
    /// name.
    impl Queued for u32 {
        fn turn(&self) -> Turn {
            [Turn::Image, Turn::Texts, Turn::TextsAhead, Turn::Unwanted][*self as usize / 100]
        }

        fn caller(&self) -> &Caller {
            static NOBODY: LazyLock<Caller> = LazyLock::new(Caller::default);
            &NOBODY
        }
    }

    /// The job of a caller.
    impl Queued for (Caller, u32) {
        fn turn(&self) -> Turn {
            self.1.turn()
        }

        fn caller(&self) -> &Caller {
            &self.0
        }
    }

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
    fn images_go_before_texts_and_what_requests_wait_for_before_the_rest() {
        let queue = queue();
        for job in [200, 100, 1, 201, 101, 300, 2] {
            queue.push(job).expect("open");
        }
        assert_eq!(
            [(); 7].map(|()| queue.pop().expect("there are seven")),
            [300, 1, 2, 100, 101, 200, 201]
        );
    }

    #[test]
    fn callers_take_turns_and_each_ones_jobs_leave_in_their_order() {
        let callers = Callers::default();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| callers.named(name));
        let queue = JobQueue::new(IntGauge::new("depth", "test").expect("a valid name"));
        let push = |caller: &Caller, jobs: &[u32]| {
            for &job in jobs {
                assert!(queue.push((caller.clone(), job)).is_ok(), "open");
            }
        };
        push(&alice, &[1, 2, 3, 4, 100, 101]);
        let pop = || queue.pop().expect("there is one").1;
        assert_eq!([pop(), pop()], [1, 2]);
        push(&bob, &[10, 11, 110]);
        push(&carol, &[20]);
        assert_eq!([(); 5].map(|()| pop()), [10, 20, 3, 11, 4]);
        // The turns for images count for texts as well.
        assert_eq!([(); 3].map(|()| pop()), [110, 100, 101]);
    }

    #[test]
    fn texts_get_a_turn_in_a_stream_of_images() {
        let queue = queue();
        for job in (0..20).chain([200, 100, 101]) {
            queue.push(job).expect("open");
        }
        let jobs: Vec<u32> = (0..23).map(|_| queue.pop().expect("there are 23")).collect();
        assert_eq!(jobs[..9], [0, 1, 2, 3, 4, 5, 6, 7, 100]);
        assert_eq!((jobs[17], jobs[18], jobs[22]), (101, 16, 200));
        // Without texts, nothing is held back.
        for job in 0..20 {
            queue.push(job).expect("open");
        }
        assert!((0..20).all(|job| queue.pop() == Some(job)));
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
    fn jobs_that_are_put_back_leave_first_and_in_their_order() {
        let queue = queue();
        for job in 1..=4 {
            queue.push(job).expect("open");
        }
        let taken = queue.take(2, |_| true);
        queue.put_back(taken.into_iter());
        assert_eq!(queue.depth.get(), 4);
        assert_eq!([(); 4].map(|()| queue.pop()), [1, 2, 3, 4].map(Some));
    }

    #[test]
    fn while_jobs_are_refused_none_waits() {
        let queue = queue();
        queue.push(1).expect("open");
        assert_eq!(queue.refuse(), [1]);
        assert_eq!(queue.depth.get(), 0);
        assert_eq!(queue.push(2), Err(2));
        queue.accept();
        queue.push(3).expect("jobs are taken again");
        assert_eq!(queue.pop(), Some(3));
    }

    #[test]
    fn who_waits_for_the_end_learns_of_it_at_once_and_is_not_woken_by_a_job() {
        let queue = Arc::new(queue());
        assert!(!queue.is_closed_within(Duration::ZERO));
        let waits = |limit| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.is_closed_within(limit))
        };
        let patient = waits(Duration::from_secs(3600));
        let consumer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.pop()
        });
        queue.push(1).expect("open");
        assert_eq!(consumer.join().expect("the consumer does not panic"), Some(1));
        queue.close();
        assert!(patient.join().expect("who waits does not panic"));
        assert!(queue.is_closed_within(Duration::from_secs(3600)));
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
