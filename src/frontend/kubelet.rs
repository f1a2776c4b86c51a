//! The kubelet's directory: where it has volumes mounted, and what it writes beside them.

mod layout;
mod vol_data;

pub use layout::layout;
pub use vol_data::VolData;
