//! What came of trying to heal volumes: what is told, and when it is tried again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use allowlist::names::PodIdentity;
use tokio::sync::Notify;

use super::look::KnownVolumes;
use super::notice::Notice;
use super::{Error, LOOK};

/// When something that failed is tried again; twice as late each time, up to [`LOOK`].
const AGAIN: Duration = Duration::from_millis(200);

/// What keeps volumes from being healed: told once, not each time that it is tried again, and tried again soon at first.
#[derive(Default)]
pub(super) struct Failures {
    known: Mutex<HashMap<PathBuf, (Why, u32)>>,
    /// It is time to try again.
    pub(super) again: Notify,
}

/// What is to be done about what came of a volume.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Then {
    /// After how long it is to be tried again, if so.
    pub(super) again: Option<Duration>,
    /// Whether it is told: it wasn't so before.
    pub(super) tell: bool,
}

impl Failures {
    /// Takes down what came of a volume.
    pub(super) fn take(&self, path: &Path, outcome: Result<&Tried, &Error>) -> Then {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match outcome {
            Ok(Tried::Settled | Tried::Healed { .. }) => {
                known.remove(path);
                return Then::default();
            }
            // It was told, and is so still.
            Ok(Tried::Busy) if matches!(known.get(path), Some((Why::Refused(_), _))) => {
                return Then { again: Some(LOOK), tell: false };
            }
            Ok(Tried::Busy) => Why::Busy,
            Ok(Tried::Refused { notice, .. }) => Why::Refused(notice.clone()),
            // Numbers may be others each time, such as how many mounts there are; the trouble is the same.
            Err(error) => Why::Failed(error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect()),
        };
        let times = match known.get(path) {
            Some((same, times)) if *same == why => times + 1,
            _ => 0,
        };
        // What is refused is looked at again when the table or the allow-list changes.
        let retried = !matches!(why, Why::Refused(_));
        known.insert(path.to_owned(), (why, times));
        let again = retried.then(|| (AGAIN * 2_u32.saturating_pow(times.min(16))).min(LOOK));
        Then { again, tell: times == 0 }
    }

    /// Forgets those of volumes that are gone.
    pub(super) fn keep(&self, known: &KnownVolumes) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|path, _| known.has(path));
    }
}

/// Why a volume is not healed.
#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// Somebody else works on it.
    Busy,
    /// It is left as it is.
    Refused(Notice),
    /// The error, without the numbers in it.
    Failed(String),
}

/// What came of trying to heal a volume.
pub(super) enum Tried {
    /// It doesn't need it.
    Settled,
    /// It is healed.
    Healed { renewed: bool, took: Duration, pod: Option<Arc<PodIdentity>> },
    /// It is left as it is, although its source is there.
    Refused { notice: Notice, why: String, pod: Option<Arc<PodIdentity>> },
    /// Somebody else works on it.
    Busy,
}
