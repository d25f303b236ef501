//! Compares our clock with the one in every answer's `Date` header.
//!
//! S3 refuses a signature more than 15 minutes off (AWS Signature Version 4), and a virtual machine that was suspended
//! wakes up with an old clock. A service that is reached says what time it is, so nothing else has to be asked.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use reqwest::header::{DATE, HeaderMap};

/// The skew seen in the last answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Option<SignedDuration>>>);

impl Watch {
    pub(super) fn skew(&self) -> Option<SignedDuration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The headers of an answer that has just come.
    pub(super) fn saw(&self, answer: &HeaderMap) {
        let date = answer.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(skew) = date.and_then(|date| skew(date, Timestamp::now())) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(skew);
        }
    }
}

/// The date of an HTTP answer (RFC 9110, section 5.6.7, which is one of RFC 2822) minus `now`.
fn skew(date: &str, now: Timestamp) -> Option<SignedDuration> {
    Some(rfc2822::parse(date).ok()?.timestamp().duration_since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_positive_when_our_clock_is_behind() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(skew(date, now), Some(SignedDuration::from_secs(37)));
        assert_eq!(
            skew(date, now + SignedDuration::from_secs(97)),
            Some(SignedDuration::from_secs(-60))
        );
        assert_eq!(skew("yesterday", now), None);
    }
}
