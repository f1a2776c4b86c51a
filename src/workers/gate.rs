//! One call at a time for each path: a second one for the same target or staging path is turned away.
//!
//! CSI asks a plugin to answer ABORTED when it is called for a volume on which another call is under way (CSI,
//! "Error Scheme"). The guard is per *path*, not per volume: ten pods that mount one volume are ten targets, which
//! the kernel handles side by side, and turning nine of them away would cost each a retry with back-off.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The paths on which a call is under way.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<HashMap<Arc<OsStr>, Holder>>>);

/// Who has a [`Pass`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A call.
    Call,
    /// The plugin itself, which looks after what it has published. That takes a moment, as a rule.
    Own,
}

/// Another call for the same path is under way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another call for {} is under way: try again when it has ended", path.display())]
pub struct Busy {
    /// The path.
    pub path: PathBuf,
    /// Whose work it is.
    pub holder: Holder,
}

/// The right to work on a path, until it is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    path: Arc<OsStr>,
}

impl Gate {
    /// Enters, or is turned away.
    ///
    /// # Errors
    /// [`Busy`] while somebody else's [`Pass`] for the path exists.
    pub fn enter(&self, path: &Path, holder: Holder) -> Result<Pass, Busy> {
        // As they were parsed, paths are equal only if their bytes are.
        let bytes: Arc<OsStr> = path.as_os_str().into();
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(Arc::clone(&bytes)) {
            Entry::Occupied(other) => return Err(Busy { path: path.to_owned(), holder: *other.get() }),
            Entry::Vacant(free) => free.insert(holder),
        };
        Ok(Pass { gate: self.clone(), path: bytes })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_for_each_path() {
        let gate = Gate::default();
        let enter = |path: &str, holder| gate.enter(Path::new(path), holder);
        let pass = enter("/a", Holder::Own).unwrap();
        assert_eq!(enter("/a", Holder::Call).unwrap_err(), Busy { path: "/a".into(), holder: Holder::Own });
        assert!(enter("/b", Holder::Call).is_ok());
        drop(pass);
        assert!(enter("/a", Holder::Call).is_ok());
    }
}
