//! CSI over gRPC: messages become typed requests, and errors become statuses, each in one place.

pub mod admission;
pub mod caller;
pub mod connection;
pub mod identity;
pub mod node;
pub mod plugin;
pub mod request;
pub mod server;
pub mod status;
