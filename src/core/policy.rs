//! The numbers the core decides by, taken from the configuration once.

use std::time::Duration;

use crate::config::{Config, RestartPolicy};

/// A mount that fails this many probes in a row, with the bucket reachable, is recovered.
pub const STUCK_PROBES: u32 = 3;
/// An rclone that is proven to hang this many probes in a row is replaced behind the guard …
pub const HUNG_PROBES: u32 = 2;
/// … or, where that costs a restart of the app, after this many.
pub const HUNG_PROBES_FUSE: u32 = 3;
/// Between two such probes.
pub const HUNG_PAUSE: Duration = Duration::from_millis(500);
/// Kept back from the stop deadline for the verdict itself.
pub const VERDICT_RESERVE: Duration = Duration::from_secs(2);
/// An app that is stopped because its mount is gone gets this long before KILL: it may hang in the dead mount for ever.
pub const RECOVERY_APP_GRACE: Duration = Duration::from_secs(10);
/// A lost rclone is replaced behind the guard within this time, or the mount is made anew.
pub const RECONNECT_LIMIT: Duration = Duration::from_secs(10);
/// … and this much longer for each waiting upload: rclone looks each up in the bucket before it serves.
pub const RECONNECT_PER_UPLOAD: Duration = Duration::from_millis(50);
/// Between two tries of that.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Between two queue looks while something is queued.
pub const BUSY_QUEUE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two questions to a database that is unreachable, or to whoever refuses our key.
pub const OUTAGE_PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// A bucket that has not answered a question for this long is taken for unreachable; the question stands.
pub const STORAGE_PATIENCE: Duration = Duration::from_secs(2);
/// From one bucket probe to the next while it is unreachable, a fifth more or less: its return is noticed this fast.
pub const STORAGE_RETRY: Duration = Duration::from_secs(1);
/// … but this long after the end of the last one.
pub const STORAGE_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A store that has asked us to slow down gets one upload at a time until it has not done so for this long.
pub const SLOW_DOWN_PATIENCE: Duration = Duration::from_secs(10);
/// Uploads that failed in an outage wait longer and longer. After its end they are sent again this often …
pub const CATCH_UP_INTERVAL: Duration = Duration::from_secs(10);
/// … from this long after its end on …
pub const CATCH_UP_AFTER: Duration = Duration::from_secs(50);
/// … to this.
pub const CATCH_UP: Duration = Duration::from_secs(120);

/// See the fields of the same name in `Config`.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `limits.start_timeout`
    pub start_timeout: Duration,
    /// `limits.stop_timeout`
    pub stop_timeout: Duration,
    /// `limits.outage_limit`
    pub outage_limit: Option<Duration>,
    /// `limits.rejected_limit`
    pub rejected_limit: Duration,
    /// `limits.uploads_max_age`
    pub uploads_max_age: Duration,
    /// `limits.uploads_read_only_age`, at least `uploads_max_age`; `None`: never.
    pub uploads_read_only_age: Option<Duration>,
    /// `mount.cache_max_size`
    pub cache_max_bytes: u64,
    /// `mount.cache_min_free`
    pub cache_min_free_bytes: u64,
    /// `limits.restart_budget`
    pub restart_budget: u32,
    /// `limits.restart_window`
    pub restart_window: Duration,
    /// `health.mount_interval`
    pub mount_interval: Duration,
    /// `health.storage_interval`
    pub storage_interval: Duration,
    /// `index.lease_ttl`
    pub lease_ttl: Duration,
    /// `index.lease_wait`
    pub lease_wait: Duration,
    /// `index.max_lag`
    pub max_lag: Duration,
    /// `app.restart`, with `auto` resolved.
    pub restart: RestartPolicy,
    /// `app.start_timeout`
    pub app_start_timeout: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Policy {
    /// `auto` restarts basic-memory always, and a command given with `run -- CMD` never.
    #[must_use]
    pub fn new(config: &Config, seed: u64) -> Self {
        let restart = match config.app.restart {
            RestartPolicy::Auto if config.app.command.is_empty() => RestartPolicy::Always,
            RestartPolicy::Auto => RestartPolicy::Never,
            given => given,
        };
        Policy {
            start_timeout: config.limits.start_timeout,
            stop_timeout: config.limits.stop_timeout,
            outage_limit: config.limits.outage_limit,
            rejected_limit: config.limits.rejected_limit,
            uploads_max_age: config.limits.uploads_max_age,
            uploads_read_only_age: config
                .limits
                .uploads_read_only_age
                .map(|age| age.max(config.limits.uploads_max_age)),
            cache_max_bytes: config.mount.cache_max_bytes,
            cache_min_free_bytes: config.mount.cache_min_free_bytes,
            restart_budget: config.limits.restart_budget,
            restart_window: config.limits.restart_window,
            mount_interval: config.health.mount_interval,
            storage_interval: config.health.storage_interval,
            lease_ttl: config.index.lease_ttl,
            lease_wait: config.index.lease_wait,
            max_lag: config.index.max_lag,
            restart,
            app_start_timeout: config.app.start_timeout,
            seed,
        }
    }

    /// In a stop the app has this long before KILL: most of the deadline, but the drain needs a share too.
    #[must_use]
    pub fn app_stop_grace(&self) -> Duration {
        self.stop_timeout.mul_f64(0.6)
    }
}
