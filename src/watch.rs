//! watch
pub mod diff;
pub mod ledger;
pub mod origin;
