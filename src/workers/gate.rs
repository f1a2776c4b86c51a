//! One call at a time for each path: a second one for the same target or staging path is refused.
//!
//! CSI wants ABORTED when another call is under way for the same volume (CSI, "Error Scheme"). The guard is per *path*,
//! not per volume. Ten pods that mount one volume have ten targets, which the kernel handles side by side. Refusing
//! nine of them would cost each a retry with back-off.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The paths on which a call is under way.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<HashMap<Arc<OsStr>, Holder>>>);

/// The holder of a [`Pass`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A call.
    Call,
    /// The plugin itself, to look after published volumes. That usually takes a moment.
    Own,
}

/// Another call for the same path is under way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another call for {} is under way: try again when it has ended", path.display())]
pub struct Busy {
    /// The path.
    pub path: PathBuf,
    /// Who is working on it.
    pub holder: Holder,
}

/// The right to work on a path. It ends when this is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    path: Arc<OsStr>,
}

impl Gate {
    /// Enters, or is refused.
    ///
    /// # Errors
    /// [`Busy`] while somebody else's [`Pass`] for the path exists.
    pub fn enter(&self, path: &Path, holder: Holder) -> Result<Pass, Busy> {
        // Parsed paths are equal only if their bytes are.
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
