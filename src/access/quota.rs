//! How much a client may ask for: requests a second, and requests under way at once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};

use crate::support::ExceededLimit;

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct QuotaLimits {
    /// Requests a second; 0 for any number.
    pub(super) requests_per_second: f64,
    /// Requests under way at once; 0 for any number.
    pub(super) in_flight: u32,
}

/// What a client has asked for lately, beside what it may.
#[derive(Debug)]
pub(super) struct Quota {
    limits: QuotaLimits,
    rate: Option<DefaultDirectRateLimiter>,
    under_way: Arc<AtomicU32>,
}

/// A request under way. It counts until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU32>);

/// A client asks for more than it may.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum QuotaError {
    /// Too many requests in too short a time.
    #[error("this client may send {limit} requests a second (access.requests_per_second, or the line of its key)")]
    Rate {
        /// Requests a second.
        limit: f64,
        /// How long until the next request is in time.
        wait: Duration,
    },
    /// Too many requests at once.
    #[error("this client may have {limit} requests under way at once (access.in_flight, or the line of its key)")]
    InFlight {
        /// Requests under way.
        limit: u32,
    },
}

impl QuotaError {
    /// Returns the limit in the settings that the client exceeds.
    pub fn limit(&self) -> ExceededLimit {
        match *self {
            Self::Rate { limit, .. } => ExceededLimit::fractional("access.requests_per_second", limit),
            Self::InFlight { limit } => ExceededLimit::whole("access.in_flight", limit.into()),
        }
    }
}

impl Quota {
    /// A client that has asked for nothing yet.
    pub(super) fn new(limits: QuotaLimits) -> Self {
        Self::with_under_way(limits, Arc::default())
    }

    /// The same client under other limits. What it has under way still counts.
    pub(super) fn changed(&self, limits: QuotaLimits) -> Self {
        Self::with_under_way(limits, Arc::clone(&self.under_way))
    }

    fn with_under_way(limits: QuotaLimits, under_way: Arc<AtomicU32>) -> Self {
        Self {
            limits,
            rate: rate_limiter(limits.requests_per_second),
            under_way,
        }
    }

    /// Returns the limits.
    pub(super) fn limits(&self) -> QuotaLimits {
        self.limits
    }

    /// Counts a request that is under way until the result is dropped. Never waits.
    ///
    /// # Errors
    /// [`QuotaError`] when it is one too many.
    pub(super) fn admit(&self) -> Result<InFlight, QuotaError> {
        let limit = self.limits.in_flight;
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let request = InFlight(Arc::clone(&self.under_way));
        if limit > 0 && before >= limit {
            return Err(QuotaError::InFlight { limit });
        }
        self.count()?;
        Ok(request)
    }

    /// Counts what is as much work as a request, as part of one that is under way. Never waits.
    ///
    /// # Errors
    /// [`QuotaError::Rate`] when it is too soon for it.
    pub(super) fn count(&self) -> Result<(), QuotaError> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check().map_err(|refused| QuotaError::Rate {
            limit: self.limits.requests_per_second,
            wait: refused.wait_time_from(DefaultClock::default().now()),
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A limiter that lets requests through at a mean rate, and at once as many as belong to a second.
fn rate_limiter(requests_per_second: f64) -> Option<DefaultDirectRateLimiter> {
    let period = Duration::try_from_secs_f64(requests_per_second.recip()).ok()?;
    let at_once = NonZeroU32::new(requests_per_second.ceil() as u32)?;
    let quota = governor::Quota::with_period(period)?.allow_burst(at_once);
    Some(RateLimiter::direct(quota))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn quota(requests_per_second: f64, in_flight: u32) -> Quota {
        Quota::new(QuotaLimits {
            requests_per_second,
            in_flight,
        })
    }

    #[test]
    fn without_limits_everything_passes() {
        let quota = quota(0.0, 0);
        let requests: Vec<_> = (0..10_000).map(|_| quota.admit().unwrap()).collect();
        assert_eq!(quota.under_way.load(Ordering::Relaxed), 10_000);
        drop(requests);
        assert_eq!(quota.under_way.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn as_many_as_belong_to_a_second_pass_at_once_and_the_next_learns_when() {
        // So few a second that none comes free while the test runs.
        let quota = quota(0.01, 0);
        drop(quota.admit().unwrap());
        let Err(QuotaError::Rate { limit, wait }) = quota.admit() else {
            panic!("one request belongs to a second");
        };
        assert_eq!(limit, 0.01);
        assert!(
            (Duration::from_secs(50)..=Duration::from_secs(100)).contains(&wait),
            "{wait:?}"
        );
        assert!(
            rate_limiter(2.5)
                .unwrap()
                .check_n(NonZeroU32::new(3).unwrap())
                .unwrap()
                .is_ok()
        );
        assert!(rate_limiter(2.5).unwrap().check_n(NonZeroU32::new(4).unwrap()).is_err());
    }

    #[test]
    fn requests_under_way_count_until_their_end_also_under_other_limits() {
        let quota = quota(0.0, 2);
        let first = quota.admit().unwrap();
        let _second = quota.admit().unwrap();
        for _ in 0..3 {
            assert_eq!(quota.admit().unwrap_err(), QuotaError::InFlight { limit: 2 });
        }
        let changed = quota.changed(QuotaLimits {
            requests_per_second: 0.0,
            in_flight: 3,
        });
        let third = changed.admit().unwrap();
        assert!(changed.admit().is_err());
        drop((first, third));
        assert!(quota.admit().is_ok());
    }
}
