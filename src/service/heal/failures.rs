//! The outcomes of healing: which are reported, and when healing is tried again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use allowlist::names::PodIdentity;
use tokio::sync::Notify;

use super::look::KnownVolumes;
use super::notice::Notice;
use super::{Error, LOOK};

/// Delay before the first retry. It doubles each time, up to [`LOOK`].
const AGAIN: Duration = Duration::from_millis(200);

/// Why volumes are not healed. Each reason is reported once, not at each retry; the first retries come soon.
#[derive(Default)]
pub(super) struct Failures {
    known: Mutex<HashMap<PathBuf, (Why, u32)>>,
    /// Notified when it is time to retry.
    pub(super) again: Notify,
}

/// What follows from an outcome.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Then {
    /// The delay before the next try, if there is one.
    pub(super) again: Option<Duration>,
    /// Whether it is reported, because it is new.
    pub(super) tell: bool,
}

impl Failures {
    /// Notes the outcome for a volume.
    pub(super) fn take(&self, path: &Path, outcome: Result<&Tried, &Error>) -> Then {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match outcome {
            Ok(Tried::Settled | Tried::Healed { .. }) => {
                known.remove(path);
                return Then::default();
            }
            // It was reported, and still holds.
            Ok(Tried::Busy) if matches!(known.get(path), Some((Why::Refused(_), _))) => {
                return Then { again: Some(LOOK), tell: false };
            }
            Ok(Tried::Busy) => Why::Busy,
            Ok(Tried::Refused { notice, .. }) => Why::Refused(notice.clone()),
            // The numbers in a message may change, such as a count of mounts. The problem is the same.
            Err(error) => Why::Failed(error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect()),
        };
        let times = match known.get(path) {
            Some((same, times)) if *same == why => times + 1,
            _ => 0,
        };
        // A refused volume is tried again when the table or the allow-list changes.
        let retried = !matches!(why, Why::Refused(_));
        known.insert(path.to_owned(), (why, times));
        let again = retried.then(|| (AGAIN * 2_u32.saturating_pow(times.min(16))).min(LOOK));
        Then { again, tell: times == 0 }
    }

    /// Forgets volumes that are gone.
    pub(super) fn keep(&self, known: &KnownVolumes) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|path, _| known.has(path));
    }
}

/// Why a volume is not healed.
#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// Another call or job works on it.
    Busy,
    /// It stays as it is.
    Refused(Notice),
    /// The error's text without its digits.
    Failed(String),
}

/// The outcome of an attempt to heal a volume.
pub(super) enum Tried {
    /// It doesn't need healing.
    Settled,
    /// It is healed.
    Healed { renewed: bool, took: Duration, pod: Option<Arc<PodIdentity>> },
    /// It stays as it is, although its source is back.
    Refused { notice: Notice, why: String, pod: Option<Arc<PodIdentity>> },
    /// Another call or job works on it.
    Busy,
}
