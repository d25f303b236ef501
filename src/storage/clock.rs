//! Compares our clock with the one in every answer's `Date` header.
//!
//! S3 refuses a signature more than 15 minutes off (AWS Signature Version 4), and a virtual machine that was suspended
//! wakes up with an old clock. A service that is reached says what time it is, so nothing else has to be asked.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use jiff::{SignedDuration, Timestamp};

/// The skew seen in the last answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Option<SignedDuration>>>);

impl Watch {
    pub(super) fn skew(&self) -> Option<SignedDuration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "ClockWatch"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(skew) = context
            .response()
            .headers()
            .get("date")
            .and_then(|date| skew(date, Timestamp::now()))
        {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(skew);
        }
        Ok(())
    }
}

/// The date of an HTTP answer (RFC 9110, section 5.6.7) minus `now`.
fn skew(date: &str, now: Timestamp) -> Option<SignedDuration> {
    let date = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?;
    Some(Timestamp::from_second(date.secs()).ok()?.duration_since(now))
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
